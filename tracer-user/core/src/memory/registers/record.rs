//! What the kernel writes into a ring (`include/uapi/linux/perf_event.h`: `enum perf_event_type`).

use super::event::{PC, REGISTERS, SP};
use crate::memory::ThreadRegisters;

/// `PERF_RECORD_LOST`: an id and how many.
const LOST: u32 = 2;
/// `PERF_RECORD_SAMPLE`: here the word size and the registers.
const SAMPLE: u32 = 9;
/// `PERF_SAMPLE_REGS_ABI_64`; 0 stands for a thread without user mode.
const ABI_64: u64 = 2;
/// Bytes of `struct perf_event_header`: the type, flags, and the length of all.
const HEADER: usize = 8;

/// Adds the samples of a thread. Returns how many the kernel says to have lost.
pub(super) fn parse(mut bytes: &[u8], tid: u32, samples: &mut Vec<ThreadRegisters>) -> u64 {
    let mut lost = 0u64;
    while let Some([kind0, kind1, kind2, kind3, _, _, len0, len1]) = bytes.first_chunk::<HEADER>().copied() {
        let len = usize::from(u16::from_le_bytes([len0, len1]));
        let Some((record, behind)) = bytes.split_at_checked(len) else { break };
        let Some(body) = record.get(HEADER..) else { break };
        let words: Vec<u64> = body.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        match (u32::from_le_bytes([kind0, kind1, kind2, kind3]), &words[..]) {
            (LOST, [_, count, ..]) => lost = lost.saturating_add(*count),
            (SAMPLE, [ABI_64, registers @ ..]) if registers.len() == REGISTERS => {
                samples.extend(thread(tid, registers));
            }
            _ => {}
        }
        bytes = behind;
    }
    lost
}

fn thread(tid: u32, registers: &[u64]) -> Option<ThreadRegisters> {
    let words = registers.iter().enumerate().filter(|(index, _)| ![PC, SP].contains(index));
    let (pc, sp) = (*registers.get(PC)?, *registers.get(SP)?);
    Some(ThreadRegisters { tid, pc, sp, words: words.map(|(_, word)| *word).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, words: &[u64]) -> Vec<u8> {
        let len = (HEADER + words.len() * 8) as u64;
        let header = u64::from(kind) | len << 48;
        [&[header], words].concat().iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn sample() -> Vec<u64> {
        [ABI_64].into_iter().chain((0..REGISTERS as u64).map(|number| 100 + number)).collect()
    }

    #[test]
    fn samples_and_losses_are_told_apart() {
        let bytes = [
            record(SAMPLE, &sample()),
            record(LOST, &[1, 5]),
            record(7, &[9; 3]),
            // A thread of the kernel.
            record(SAMPLE, &[0]),
            record(LOST, &[1, 2]),
            record(SAMPLE, &sample()),
        ];
        let mut samples = Vec::new();
        assert_eq!(parse(&bytes.concat(), 7, &mut samples), 7);
        assert_eq!(samples.len(), 2);
        let first = samples.first().unwrap();
        assert_eq!((first.tid, first.pc, first.sp), (7, 100 + PC as u64, 100 + SP as u64));
        assert_eq!(first.words.len(), REGISTERS - 2);
        assert!(!first.words.contains(&first.pc) && first.words.contains(&100));
    }

    #[test]
    fn what_is_no_record_ends_it() {
        let mut samples = Vec::new();
        let whole = record(SAMPLE, &sample());
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len], 1, &mut samples), 0);
        }
        // Of length 0, shorter than itself, and longer than all there is.
        for len in [0u64, 4, 7, 8, 16, 0xffff] {
            let header = u64::from(SAMPLE) | len << 48;
            assert_eq!(parse(&[header, header].map(u64::to_le_bytes).concat(), 1, &mut samples), 0);
        }
        assert_eq!(samples, []);
    }
}

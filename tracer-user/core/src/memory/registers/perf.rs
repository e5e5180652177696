//! The kernel's profiler: the event that interrupts a thread and records its registers, the ring that the event
//! shares with the kernel, and the format of the records. All unsafe code of `registers` is in this file.

use crate::memory::ThreadRegisters;
use aya_obj::generated::{
    perf_event_attr, perf_event_mmap_page, perf_event_sample_format, perf_sw_ids, perf_type_id,
};
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::ptr::{copy_nonoverlapping, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

/// Nanoseconds of a thread's CPU time between two samples: 997 Hz, a prime, so that samples do not fall in step with
/// what a program does a thousand times a second.
const PERIOD_NS: u64 = 1_000_000_000 / 997;
/// `PERF_FLAG_FD_CLOEXEC` (`include/uapi/linux/perf_event.h`).
const FD_CLOEXEC: libc::c_ulong = 8;

/// The mask of general registers that are recorded, by their numbers; a sample has their values in that order. `SP`
/// and `PC` are indices into a sample. `enum perf_event_x86_regs` (`arch/x86/include/uapi/asm/perf_regs.h`): `ax` to
/// `ip` are 0 to 8, `r8` to `r15` 16 to 23.
#[cfg(target_arch = "x86_64")]
mod arch {
    pub(crate) const MASK: u64 = 0xff_01ff;
    pub(crate) const SP: usize = 7;
    pub(crate) const PC: usize = 8;
}

/// `enum perf_event_arm_regs` (`arch/arm64/include/uapi/asm/perf_regs.h`): `x0` to `x29`, `lr`, `sp`, `pc`.
#[cfg(target_arch = "aarch64")]
mod arch {
    pub(crate) const MASK: u64 = (1 << 33) - 1;
    pub(crate) const SP: usize = 31;
    pub(crate) const PC: usize = 32;
}

/// The number of registers in a sample.
const REGISTERS: usize = arch::MASK.count_ones() as usize;
const SP: usize = arch::SP;
const PC: usize = arch::PC;

/// Begins to sample a thread. Without the privilege to profile the kernel (`perf_event_paranoid`), samples are taken
/// only while the thread is in user mode.
fn open(tid: i32) -> Result<OwnedFd, Errno> {
    match open_with(tid, false) {
        Err(Errno::PERM | Errno::ACCESS) => open_with(tid, true),
        opened => opened,
    }
}

fn open_with(tid: i32, user_only: bool) -> Result<OwnedFd, Errno> {
    // SAFETY: a structure of numbers, for which 0 means that nothing is asked for.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.type_ = perf_type_id::PERF_TYPE_SOFTWARE as u32;
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.config = perf_sw_ids::PERF_COUNT_SW_CPU_CLOCK as u64;
    attr.__bindgen_anon_1.sample_period = PERIOD_NS;
    attr.sample_type = perf_event_sample_format::PERF_SAMPLE_REGS_USER as u64;
    attr.sample_regs_user = arch::MASK;
    attr.set_exclude_kernel(user_only.into());
    attr.set_exclude_hv(1);
    // SAFETY: the structure says its own size; the call writes nothing of ours.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, tid, -1, -1, FD_CLOEXEC) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Bytes of the ring: the samples of a third of a second of a thread that runs all the time. The kernel wants a power
/// of two of pages.
const DATA: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Ring {
    event: OwnedFd,
    start: *mut perf_event_mmap_page,
    page: usize,
}

impl Ring {
    pub(super) fn open(tid: i32) -> Result<Ring, Errno> {
        Ring::map(open(tid)?)
    }

    fn map(event: OwnedFd) -> Result<Ring, Errno> {
        let page = rustix::param::page_size();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap(null_mut(), page + DATA, access, MapFlags::SHARED, &event, 0)? };
        Ok(Ring { event, start: start.cast(), page })
    }

    /// The descriptor of the event.
    pub(super) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// Hands the bytes of all records since the last call to `read`. The kernel moves its position behind whole
    /// records only.
    pub(super) fn drain<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> T {
        let head = self.position(|start| {
            // SAFETY: within the mapping, of which `start` is the first page.
            unsafe { &raw mut (*start).data_head }
        });
        let tail = self.position(|start| {
            // SAFETY: as above.
            unsafe { &raw mut (*start).data_tail }
        });
        // Acquire: the records that `head` announces are read after this load. `tail` is written by nobody but us.
        let (end, begin) = (head.load(Ordering::Acquire), tail.load(Ordering::Relaxed));
        let len = end.wrapping_sub(begin).min(DATA as u64) as usize;
        let from = begin as usize % DATA;
        let until_end = len.min(DATA - from);
        let mut bytes = vec![0; len];
        let (first, rest) = bytes.split_at_mut(until_end);
        // SAFETY: the ring lies behind the first page, both parts lie within it, and the kernel does not
        // write between tail and head.
        unsafe {
            let data = self.start.cast::<u8>().add(self.page);
            copy_nonoverlapping(data.add(from), first.as_mut_ptr(), first.len());
            copy_nonoverlapping(data, rest.as_mut_ptr(), rest.len());
        }
        // Release: everything was copied before this store, after which the kernel may overwrite it.
        tail.store(end, Ordering::Release);
        read(&bytes)
    }

    /// One of the two positions: the kernel writes `data_head`, and we write `data_tail`.
    fn position(&self, of: impl FnOnce(*mut perf_event_mmap_page) -> *mut u64) -> &AtomicU64 {
        // SAFETY: the word is aligned and lives as long as the mapping does.
        unsafe { AtomicU64::from_ptr(of(self.start)) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left.
        let unmapped = unsafe { munmap(self.start.cast(), self.page + DATA) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// `PERF_RECORD_LOST`: an id, and the number of records that found no room.
const LOST: u32 = 2;
/// `PERF_RECORD_SAMPLE`: with our `sample_type` the word size (`PERF_SAMPLE_REGS_ABI_*`) and the registers.
const SAMPLE: u32 = 9;
/// `PERF_SAMPLE_REGS_ABI_64`. 0 in its place stands for a thread without user mode, and has no registers behind it.
const ABI_64: u64 = 2;
/// Bytes of `struct perf_event_header`: the type, flags, and the length of the whole record.
const HEADER: usize = 8;

/// Adds the samples of a thread in `bytes` to `samples`. Returns how many samples the kernel reports as lost.
pub(super) fn parse(mut bytes: &[u8], tid: u32, samples: &mut Vec<ThreadRegisters>) -> u64 {
    let mut lost = 0u64;
    while let Some([kind0, kind1, kind2, kind3, _, _, len0, len1]) = bytes.first_chunk::<HEADER>().copied() {
        let len = usize::from(u16::from_le_bytes([len0, len1]));
        let Some((record, behind)) = bytes.split_at_checked(len) else { break };
        // A length below that of a header is no record, and one of 0 would never end the loop.
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

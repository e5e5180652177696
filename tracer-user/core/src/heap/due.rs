//! Finalizers and cleanups that are due: how many have not ended.

use super::roots::{ALL_CLEANUPS, Blocks, MAX_BLOCKS};
use crate::binary::bytes::{u32_at, u64_at};
use crate::snapshot::View;
use serde::{Deserialize, Serialize};

/// Offset of `cleanupQueue.running`, how many are being run (four bytes; `mcleanup.go`, 1.25 to 1.27).
const RUNNING: u64 = 220;

/// How many finalizers and cleanups are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// Finalizers, with the one that is being run; in Go 1.24 cleanups are among them.
    pub finalizers: u64,
    /// Cleanups that have not begun (Go 1.25 and later).
    pub cleanups: u64,
}

impl Due {
    /// All of them.
    pub fn all(self) -> u64 {
        self.finalizers.saturating_add(self.cleanups)
    }
}

/// Counts them. `None`: the queue is not known, or makes no sense.
pub fn due(view: &View<'_>) -> Option<Due> {
    let globals = view.binary.globals().ok()?;
    let first = |addr: u64| view.word(addr.wrapping_add(view.bias));
    let finalizers = count(view, first(globals.finalizers?.all)?, &Blocks::FINALIZERS, |_| true)?;
    let cleanups = match globals.cleanups {
        Some(addr) => {
            let release = view.binary.version().release;
            let all = first(addr.wrapping_add(ALL_CLEANUPS))?;
            // One that has ended, or begun, is taken out of its place.
            let left = count(view, all, &Blocks::cleanups(release), |entry| u64_at(entry, 0) != Some(0))?;
            let running = match release.takes_cleanups_out_first() {
                true => 0,
                false => first(addr.wrapping_add(RUNNING))? & u64::from(u32::MAX),
            };
            left.saturating_sub(running)
        }
        None => 0,
    };
    Some(Due { finalizers, cleanups })
}

/// Counts the entries of blocks, from this one on, that are like this.
fn count(view: &View<'_>, first: u64, blocks: &Blocks, is: impl Fn(&[u8]) -> bool) -> Option<u64> {
    let (mut next, mut bytes, mut all) = (first, vec![0; blocks.size], 0);
    for _ in 0..MAX_BLOCKS {
        if next == 0 {
            return Some(all);
        }
        view.memory.read(next, &mut bytes).ok()?;
        let used = u32_at(&bytes, blocks.count)? as usize;
        let entries = bytes.get(blocks.first..)?.chunks_exact(blocks.entry);
        // More than there is room for is no count.
        if used > entries.len() {
            return None;
        }
        all += entries.take(used).filter(|entry| is(entry)).count() as u64;
        next = u64_at(&bytes, blocks.next)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Clock;
    use crate::testing::{binary::small_binary, memory::Image};

    const BLOCK: u64 = 0xc000_0000;

    fn counted(blocks: &[(u64, u32, u64)]) -> Option<u64> {
        let mut image = Image::default();
        for (at, count, next) in blocks {
            let mut words = vec![*next, 0, u64::from(*count)];
            words.resize(4064 / 8, 1);
            image.put_words(*at, &words);
        }
        let binary = small_binary();
        let view = View { memory: &image, binary: &binary, bias: 0, clock: Clock::Stopped };
        count(&view, blocks.first()?.0, &Blocks::FINALIZERS, |_| true)
    }

    #[test]
    fn what_is_due_is_counted_in_all_blocks() {
        assert_eq!(counted(&[(BLOCK, 3, BLOCK + 0x1000), (BLOCK + 0x1000, 101, 0)]), Some(104));
        assert_eq!(counted(&[(BLOCK, 102, 0)]), None, "more than a block has room for");
        assert_eq!(counted(&[(BLOCK, 1, BLOCK)]), None, "no end");
        assert_eq!(counted(&[(BLOCK, 1, 0x1000)]), None, "nothing is there");
    }

    #[test]
    fn what_has_begun_is_not_counted() {
        let mut image = Image::default();
        let mut words = vec![0, 0, 0, 3, 0, 0, 0, 7, 7, 7, 8, 8, 8];
        words.resize(512 / 8, 1);
        image.put_words(BLOCK, &words);
        let binary = small_binary();
        let view = View { memory: &image, binary: &binary, bias: 0, clock: Clock::Stopped };
        let blocks = Blocks::cleanups(binary.version().release);
        assert_eq!(count(&view, BLOCK, &blocks, |entry| u64_at(entry, 0) != Some(0)), Some(2));
    }
}

//! One ring of events: its records, and up to when everything that was put into it has been read.
//!
//! A program takes its place in the ring first and reads the clock then (`tracer-ebpf/src/emit.rs`), and the ring gives
//! records only in the order of their places. So whatever comes into a ring that was empty is younger than that
//! moment, however long the program's processor was taken away from it (by an interrupt, the scheduler, a hypervisor).

use aya::maps::{MapData, RingBuf};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

/// In a ring that is never empty: how much older a record may be than one that has an earlier place, nanoseconds.
const SLACK_NS: u64 = 1_000_000;

/// How a ring was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Left {
    /// Empty.
    Empty,
    /// The next record has its place and is not complete.
    Busy,
    /// There is more.
    More,
}

/// See above.
pub(super) struct Ring {
    records: RingBuf<MapData>,
    positions: Positions,
    /// The latest time of a record.
    last: u64,
}

impl Ring {
    /// Of a map of type `BPF_MAP_TYPE_RINGBUF`.
    pub(super) fn new(records: RingBuf<MapData>) -> Result<Ring, Errno> {
        let positions = Positions::map(&records)?;
        Ok(Ring { records, positions, last: 0 })
    }

    /// Hands over at most so many records; `read` gives the time of each. Says how it left the ring, and
    /// up to when nothing will come any more, if this began at `began_ts`.
    pub(super) fn drain(
        &mut self,
        began_ts: u64,
        most: usize,
        mut read: impl FnMut(&[u8]) -> Option<u64>,
    ) -> (Left, u64) {
        let mut left = Left::More;
        for _ in 0..most {
            let Some(record) = self.records.next() else {
                left = if self.positions.are_equal() { Left::Empty } else { Left::Busy };
                break;
            };
            self.last = self.last.max(read(&record).unwrap_or(0));
        }
        let complete = match left {
            Left::Empty => began_ts,
            Left::Busy | Left::More => self.last.saturating_sub(SLACK_NS).min(began_ts),
        };
        (left, complete)
    }
}

/// How far the reader and the writers are: the first two pages of the map (`kernel/bpf/ringbuf.c: struct bpf_ringbuf`).
struct Positions {
    start: *mut c_void,
    page: usize,
}

// SAFETY: only atomic words of a mapping that lives as long as this are read.
unsafe impl Send for Positions {}

impl Positions {
    fn map(ring: &RingBuf<MapData>) -> Result<Positions, Errno> {
        let page = rustix::param::page_size();
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap(null_mut(), 2 * page, ProtFlags::READ, MapFlags::SHARED, ring, 0)? };
        Ok(Positions { start, page })
    }

    /// Whether every place that was taken has been read.
    fn are_equal(&self) -> bool {
        // SAFETY: the first word of each page, aligned, within the mapping, and only read.
        let at = |page: usize| unsafe {
            let word = self.start.cast::<u8>().add(page * self.page).cast::<usize>();
            AtomicUsize::from_ptr(word).load(Ordering::Acquire)
        };
        at(0) == at(1)
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left.
        let unmapped = unsafe { munmap(self.start, 2 * self.page) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

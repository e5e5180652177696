//! Rings of events: the records of one, up to when everything that was put into it has been read, and the order of
//! several.
//!
//! A program takes its place in the ring first and reads the clock then (`tracer-ebpf/src/emit.rs`), and the ring gives
//! records only in the order of their places. So whatever comes into a ring that was empty is younger than that
//! moment, however long the program's processor was taken away from it (by an interrupt, the scheduler, a hypervisor).

use aya::maps::{MapData, RingBuf};
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};
use sfgi_core::event::Event;
use std::{
    ffi::c_void,
    ptr::null_mut,
    sync::atomic::{AtomicUsize, Ordering},
};

/// In a ring that is never empty: how much older a record may be than one that has an earlier place, nanoseconds.
const SLACK_NS: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Left {
    Empty,
    /// The next record has its place and is not complete.
    Busy,
    More,
}

/// The reading side of one ring.
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

/// Sorts events by time across rings and drains.
#[derive(Default)]
pub(super) struct Merger {
    held: Vec<Event>,
}

impl Merger {
    /// Adds one event, in the order of its ring.
    pub(super) fn push(&mut self, event: Event) {
        self.held.push(event);
    }

    /// Moves everything up to `watermark` (time stamps, inclusive) to `out`, oldest first.
    pub(super) fn release(&mut self, watermark: u64, out: &mut Vec<Event>) {
        // Stable: events of one ring with the same time stamp keep their order.
        self.held.sort_by_key(|event| event.ts);
        let ready = self.held.partition_point(|event| event.ts <= watermark);
        out.extend(self.held.drain(..ready));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sfgi_core::event::{Kind, Payload};

    fn at(ts: u64, goid: u64) -> Event {
        Event {
            ts,
            g: 1,
            goid,
            tid: 1,
            kind: Kind::Status,
            from: 1,
            to: 2,
            reason: 0,
            payload: Payload::None,
        }
    }

    #[test]
    fn merges_rings_and_holds_back_the_young() {
        let (mut merger, mut out) = (Merger::default(), Vec::new());
        for event in [at(10, 1), at(30, 1), at(20, 2), at(40, 2)] {
            merger.push(event);
        }
        merger.release(25, &mut out);
        assert_eq!(out.iter().map(|e| e.ts).collect::<Vec<_>>(), [10, 20]);
        merger.push(at(28, 3));
        merger.release(u64::MAX, &mut out);
        assert_eq!(out.iter().map(|e| e.ts).collect::<Vec<_>>(), [10, 20, 28, 30, 40]);
    }
}

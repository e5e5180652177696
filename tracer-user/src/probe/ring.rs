//! Rings of events: draining one, the time up to which a ring has been read completely, and the order of events across
//! rings.
//!
//! A program reserves its place in the ring first and reads the clock then (`tracer-ebpf/src/emit.rs`), and a ring
//! hands out records only in the order of their places. So every record that enters a ring after it was found empty
//! is younger than that look, however long an interrupt, the scheduler or a hypervisor held up the CPU of the
//! program.

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

/// For a ring that was not found empty: how much older than a record the next ones are taken to be at most,
/// nanoseconds. Two CPUs can reserve in one order and read the clock in the other; 1 ms is far above such a race, but
/// no proof, so a CPU that is held up longer in that instant can bring an event out of order.
const SLACK_NS: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
/// How a drain left a ring; the greatest of several rings counts.
pub(super) enum Left {
    Empty,
    /// The next record is reserved and not submitted yet: a program is at work on it.
    Busy,
    More,
}

/// The reading side of one ring.
pub(super) struct Ring {
    records: RingBuf<MapData>,
    positions: Positions,
    /// The latest time stamp that was read, nanoseconds.
    last: u64,
}

impl Ring {
    /// Maps the positions of a `BPF_MAP_TYPE_RINGBUF`.
    pub(super) fn new(records: RingBuf<MapData>) -> Result<Ring, Errno> {
        let positions = Positions::map(&records)?;
        Ok(Ring { records, positions, last: 0 })
    }

    /// Hands at most `most` records to `read`, which returns the time stamp of each (`None`: not decodable).
    /// `began_ts` is a time before the call. Returns how the ring was left, and the time up to which no record will
    /// come any more.
    pub(super) fn drain(
        &mut self,
        began_ts: u64,
        most: usize,
        mut read: impl FnMut(&[u8]) -> Option<u64>,
    ) -> (Left, u64) {
        let mut left = Left::More;
        for _ in 0..most {
            let Some(record) = self.records.next() else {
                // `next` returns nothing for an empty ring and for one whose next record is not submitted; only the
                // positions tell them apart.
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

/// The positions of the reader and of the writers: the first words of the first two pages of the map
/// (`kernel/bpf/ringbuf.c: struct bpf_ringbuf`). Aya does not show them, so they are mapped a second time.
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

    /// Whether every reserved place has been read.
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

/// Sorts events by time, across rings and across drains.
#[derive(Default)]
pub(super) struct Merger {
    held: Vec<Event>,
}

impl Merger {
    /// Adds one event. Events of one ring must come in the order of the ring.
    pub(super) fn push(&mut self, event: Event) {
        self.held.push(event);
    }

    /// Moves every event with a time stamp up to and including `watermark` to `out`, oldest first.
    pub(super) fn release(&mut self, watermark: u64, out: &mut Vec<Event>) {
        // A stable sort: events of one ring with the same time stamp keep their order.
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

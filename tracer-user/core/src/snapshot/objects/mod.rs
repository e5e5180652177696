//! What goroutines wait for: channels, and what package `sync` makes of semaphores.
//!
//! A waiting goroutine is in a queue with a `sudog` (`src/runtime/runtime2.go`), which names the goroutine and what it
//! waits for. `g.waiting` leads to the `sudog`s of channel waits, since Go 1.26 to those of all waits. Before,
//! semaphores are found from `runtime.semtable` only, and a `sync.Cond` from the stack only.
//!
//! The target runs meanwhile. So a `sudog` counts only if it names the goroutine that it was found for, or one of the
//! waiting ones; others are left out.

mod channels;
mod sync;
#[cfg(test)]
mod tests;

pub(crate) use channels::of_one_time;
pub use sync::waited_for;

use super::{Snapshot, View, Wants};
use crate::binary::bytes::u64_at;
use crate::binary::{Globals, Layout};
use crate::goruntime::WaitReason;
use crate::memory::{Memory, Range};
use hashbrown::HashMap;

/// Largest size and offset of a `sudog` or `hchan` that is believed; the largest real one (`hchan`) has 112 bytes.
const MAX_SIZE: u32 = 1 << 10;
/// Records that are read together: few calls, and at most some MB of memory. Then the most bytes of one record.
const BATCH: usize = 16 << 10;
const MAX_LEN: usize = 4 << 10;
/// Bytes of a block of [`Blocks`]: a page of the runtime's heap (`_PageSize` of `src/runtime/sizeclasses.go`).
const BLOCK: u64 = 8 << 10;
/// Most blocks that are kept: 32 MiB.
const MAX_BLOCKS: usize = 4 << 10;

/// How to find the object that a goroutine waits for, by its wait reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// A channel, and the direction if the reason says it (a select's does not).
    Channel(Wants),
    Semaphore,
    Cond,
}

impl Sort {
    /// `None`: a wait without an object (also for nil channels and `select {}`).
    fn of(reason: WaitReason) -> Option<Sort> {
        use WaitReason::*;
        match reason.outside_of_bubbles() {
            ChanReceive => Some(Sort::Channel(Wants::Receive)),
            ChanSend => Some(Sort::Channel(Wants::Send)),
            Select => Some(Sort::Channel(Wants::Unknown)),
            Semacquire | SyncMutexLock | SyncRwMutexRLock | SyncRwMutexLock | SyncWaitGroupWait => {
                Some(Sort::Semaphore)
            }
            SyncCondWait => Some(Sort::Cond),
            _ => None,
        }
    }
}

/// Whether who waits with this reason waits for an object: a channel, or something of package `sync`.
pub fn has_object(reason: WaitReason) -> bool {
    Sort::of(reason).is_some()
}

/// The function that parks who waits with this reason for one object, which is its first argument; `None`: it waits for several,
/// or for none (`src/runtime/chan.go`, `sema.go`; `notifyListWait` has the name by which package sync knows it).
pub fn parking_function(reason: WaitReason) -> Option<&'static str> {
    match Sort::of(reason)? {
        Sort::Channel(Wants::Send) => Some("runtime.chansend"),
        Sort::Channel(Wants::Receive) => Some("runtime.chanrecv"),
        Sort::Channel(_) => None,
        Sort::Semaphore => Some("runtime.semacquire1"),
        Sort::Cond => Some("sync.runtime_notifyListWait"),
    }
}

/// A goroutine that waits for something with an object.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// Index into [`Snapshot::goroutines`].
    goroutine: u32,
    /// Address of the `g`, which its `sudog`s must name.
    g: u64,
    sort: Sort,
    /// `g.waiting`: the first `sudog`; 0: none.
    sudog: u64,
    /// `g.sched.sp`.
    sp: u64,
    /// `g.stack.hi`.
    stack_end: u64,
}

/// Fills [`Snapshot::objects`] and [`Goroutine::waits`](super::Goroutine::waits). What cannot be read or makes no sense
/// is left out without an error.
pub(super) fn find(view: &View, globals: &Globals, snapshot: &mut Snapshot) {
    let Some(fields) = Fields::of(view.binary.layout()) else { return };
    let waiting = waiting(view, snapshot).unwrap_or_default();
    channels::find(view, &fields, &waiting, snapshot);
    sync::find(view, globals, &fields, &waiting, snapshot);
}

/// The goroutines whose wait may have an object, with their `g`s read anew. `None`: the layout lacks a field.
fn waiting(view: &View, snapshot: &Snapshot) -> Option<Vec<Waiting>> {
    let reasons = view.binary.wait_reasons();
    let candidates: Vec<_> = (snapshot.goroutines.iter().zip(0u32..))
        .filter(|(goroutine, _)| goroutine.state.waits())
        .filter_map(|(goroutine, index)| Some((goroutine.g, index, Sort::of(reasons.get(goroutine.reason))?)))
        .collect();
    // The `g`s are read anew: a snapshot keeps neither `g.waiting` nor the stack pointer.
    let field = |field| view.binary.layout().field("g", field).map(|at| at as usize);
    let (waiting, sp, stack_end) = (field("waiting")?, field("sched.sp")?, field("stack.hi")?);
    let len = waiting.max(sp).max(stack_end) + 8;
    let ranges: Vec<_> = candidates.iter().map(|(g, ..)| Range { addr: *g, len }).collect();
    let mut found = Vec::with_capacity(candidates.len());
    records(view.memory, &ranges, |at, bytes| {
        let (g, goroutine, sort) = *candidates.get(at)?;
        let word = |at| u64_at(bytes, at);
        let (sudog, sp, stack_end) = (word(waiting)?, word(sp)?, word(stack_end)?);
        found.push(Waiting { goroutine, g, sort, sudog, sp, stack_end });
        Some(())
    });
    Some(found)
}

/// Offsets in a `sudog`.
#[derive(Clone, Copy, Debug)]
struct Fields {
    size: usize,
    g: usize,
    next: usize,
    prev: usize,
    elem: usize,
    waitlink: usize,
    c: usize,
    /// Whether `g.waiting` leads to the `sudog`s of all waits (Go 1.26+), not only of channel waits.
    all_from_g: bool,
}

impl Fields {
    fn of(layout: &Layout) -> Option<Fields> {
        let field = |name| layout.field("sudog", name).filter(|at| *at < MAX_SIZE).map(|at| at as usize);
        let (elem, c) = (field("elem")?, field("c")?);
        // Since Go 1.26 both are two words (`maybeTraceablePtr`). The first is nil while the runtime looks for leaks;
        // the second (`vu`) always holds the pointer.
        let always = field("elem.vu");
        let into = always.map_or(0, |always| always.saturating_sub(elem));
        Some(Fields {
            size: field("_size")?,
            g: field("g")?,
            next: field("next")?,
            prev: field("prev")?,
            waitlink: field("waitlink")?,
            elem: elem + into,
            c: c + into,
            all_from_g: always.is_some(),
        })
    }

    fn range(&self, addr: u64) -> Range {
        Range { addr, len: self.size }
    }

    fn decode(&self, bytes: &[u8]) -> Option<Sudog> {
        let word = |at| u64_at(bytes, at);
        Some(Sudog {
            g: word(self.g)?,
            next: word(self.next)?,
            prev: word(self.prev)?,
            elem: word(self.elem)?,
            waitlink: word(self.waitlink)?,
            c: word(self.c)?,
        })
    }
}

/// The words of a `sudog`: a goroutine in a queue.
#[derive(Clone, Copy, Debug)]
struct Sudog {
    g: u64,
    /// The next in the queue of a channel or `sync.Cond`; a child in the tree of semaphores.
    next: u64,
    /// The one before in the queue of a channel; the other child in the tree of semaphores.
    prev: u64,
    /// The address of the value that is sent or received, or of the semaphore.
    elem: u64,
    /// The `sudog` of the goroutine's next select case, or the next waiter for the same semaphore.
    waitlink: u64,
    /// The `hchan`; 0 for other waits.
    c: u64,
}

/// Reads each of `ranges`, at most [`MAX_LEN`] bytes each, and hands it to `each` with its index. Unreadable ones are
/// left out, and all that follow when the target has ended. `each` returns an `Option` only so that it can use `?`.
fn records(memory: &dyn Memory, ranges: &[Range], mut each: impl FnMut(usize, &[u8]) -> Option<()>) {
    let (mut buffer, mut whole) = (Vec::new(), Vec::new());
    let mut index = 0;
    for batch in ranges.chunks(BATCH) {
        if batch.iter().any(|range| range.len > MAX_LEN)
            || memory.scatter(batch, &mut buffer, &mut whole).is_err()
        {
            return;
        }
        let mut rest = &buffer[..];
        for (range, whole) in batch.iter().zip(&whole) {
            let Some((record, behind)) = rest.split_at_checked(range.len) else { return };
            rest = behind;
            if *whole {
                let _ = each(index, record);
            }
            index += 1;
        }
    }
}

/// A cache of memory blocks for chains of small structs. The runtime allocates `sudog`s in the same few pages, so the
/// neighbours are read with each. A block is as old as its first use.
struct Blocks<'a> {
    memory: &'a dyn Memory,
    blocks: HashMap<u64, Option<Box<[u8]>>>,
    /// Buffer for a record that crosses the border of a block or whose block is not mapped as a whole.
    other: Vec<u8>,
}

impl<'a> Blocks<'a> {
    fn new(memory: &'a dyn Memory) -> Blocks<'a> {
        Blocks { memory, blocks: HashMap::new(), other: Vec::new() }
    }

    /// The bytes of a range that is no longer than a block.
    fn read(&mut self, range: Range) -> Option<&[u8]> {
        let start = range.addr - range.addr % BLOCK;
        let into = (range.addr - start) as usize;
        let part = into..into.checked_add(range.len)?;
        if part.end > BLOCK as usize {
            return self.read_alone(range);
        }
        // A hostile chain may touch any number of pages.
        if self.blocks.len() >= MAX_BLOCKS {
            self.blocks.clear();
        }
        let memory = self.memory;
        let there = self.blocks.entry(start).or_insert_with(|| {
            let mut block = vec![0; BLOCK as usize].into_boxed_slice();
            memory.read(start, &mut block).is_ok().then_some(block)
        });
        if there.is_none() {
            // The block is not mapped as a whole, but the record may be.
            return self.read_alone(range);
        }
        self.blocks.get(&start)?.as_deref()?.get(part)
    }

    fn read_alone(&mut self, range: Range) -> Option<&[u8]> {
        self.other.resize(range.len.min(BLOCK as usize), 0);
        self.memory.read(range.addr, &mut self.other).ok()?;
        Some(&self.other)
    }
}

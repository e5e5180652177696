//! Marks what can be reached, as the collector does: every object that a word of a reached object points into.
//!
//! Objects are scanned span by span, not one by one. A marked object puts its span into a queue, and when the span's
//! turn comes, one read scans all objects of it that were marked meanwhile. So the queue is never longer than the list
//! of spans, and an object needs two bits of memory.
//!
//! Within an object every word counts, whatever its type is. A word that only looks like a pointer keeps something
//! alive at worst, and so may hide a leak but never invents one.
//!
//! # Several threads
//! Threads mark without a lock. What keeps a mark from being missed is the order of two steps on either side:
//!
//! 1. A thread that marks sets the object's bit in `marks`, *then* swaps the span's `queued` to true (Release). The
//!    one thread that turns false into true puts the span into the queue: a span is in the queue at most once.
//! 2. A thread that scans takes the span out of the queue, swaps `queued` to false (Acquire), *then* loads `marks`.
//!
//! All swaps of one flag have one order. If the marking swap comes before the scanning one, it may have read true
//! and left the span to that scan: then the scan must see the bit. It does: the scanning swap reads what the
//! marking swap wrote, or what a later swap made of it, and a release sequence goes on through swaps. If the
//! marking swap comes after the scanning one, it reads false (or another marking swap since did) and the span is
//! scanned once more; the queue's mutex shows the bit to that scan.
//!
//! Were either swap Relaxed, a processor with weak order (arm64) could show the scan a word of `marks` from before.
//! The object would count as reached and never be scanned, and what only it leads to as unreachable: a false proof.
//!
//! `done` needs no order: its `fetch_or` decides which of two scans goes through an object, and the bytes of that
//! come from the target, not from another thread. The counters are read when all threads have ended, or for show.

#[cfg(test)]
mod tests;

use super::spans::{HeapError, ObjectId, Place, Span, Spans, words};
use crate::binary::Globals;
use crate::budget;
use crate::memory::{Fault, Memory, Range};
use crate::snapshot::View;
use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Condvar, Mutex, PoisonError};

/// Spans that a thread takes from the queue at once, and bytes that it reads at once.
const BATCH_SPANS: usize = 64;
const BATCH_BYTES: usize = 1 << 20;
/// Most addresses in no known span that are kept for [`Marker::misses`].
const MAX_MISSES: usize = 1 << 16;
/// How many times more bytes may be read of objects than the target has in memory, and how many more.
const MAX_READ: u64 = 4;
const MORE_READ: u64 = 1 << 30;

/// Where a pointer was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// In a variable, at this address in memory.
    Global(u64),
    /// On the stack or in the `g` of the goroutine with this index in the snapshot; `u32::MAX`: not in the snapshot.
    Goroutine(u32),
    /// In an object of the heap, at this address.
    Heap(u64),
    /// In the list of timers of a `p`, or in a timer.
    Timer,
    /// In the finalizer of the object at this address, or in that object; 0: in one that is due.
    Finalizer(u64),
    /// In a cleanup that is set or due.
    Cleanup,
    /// In a weak pointer.
    Weak,
    /// In a register, a `sudog`, or what the runtime notes of an object.
    Other,
}

/// An object of a watched span that was reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Woken {
    pub(super) object: ObjectId,
    pub(super) by: Source,
}

/// What one thread found and has not handed over yet, so that locks are taken once for a batch, not for each pointer.
#[derive(Default)]
pub(super) struct Found {
    queue: Vec<u32>,
    woken: Vec<Woken>,
    misses: Vec<u64>,
    /// There were more of them than are kept.
    dropped: bool,
    bytes: u64,
}

pub(super) struct Marker<'a> {
    memory: &'a (dyn Memory + Sync),
    spans: Spans,
    /// A bit for each object, at [`Span::bits`]: it was reached.
    marks: Vec<AtomicU64>,
    /// A bit for each object: it was scanned already, or never is to be.
    done: Vec<AtomicU64>,
    /// By the number of a span, whether it is in the queue.
    queued: Vec<AtomicBool>,
    queue: Mutex<Queue>,
    wake: Condvar,
    woken: Mutex<Vec<Woken>>,
    misses: Mutex<Vec<u64>>,
    /// There were more misses than are kept.
    dropped: AtomicBool,
    /// Bytes from which on large objects are not read any more.
    most_read: u64,
    read: AtomicU64,
    unread: AtomicU64,
    reached: AtomicU64,
}

#[derive(Default)]
struct Queue {
    spans: VecDeque<u32>,
    /// Number of threads that scan and may still find something.
    busy: usize,
}

/// Makes room among misses where there are too many: each counts once. Says whether some had to be dropped.
fn crowded(misses: &mut Vec<u64>) -> bool {
    if misses.len() <= MAX_MISSES {
        return false;
    }
    misses.sort_unstable();
    misses.dedup();
    let dropped = misses.len() > MAX_MISSES;
    misses.truncate(MAX_MISSES);
    dropped
}

impl Found {
    /// An address that lies in no span was found.
    fn miss(&mut self, word: u64) {
        // Twice as many, so that sorting is rare.
        if self.misses.len() >= 2 * MAX_MISSES {
            self.dropped |= crowded(&mut self.misses);
        }
        self.misses.push(word);
    }

    /// Whether so much was found that it should be handed over.
    pub(super) fn is_large(&self) -> bool {
        self.queue.len() + self.woken.len() + self.misses.len() >= BATCH_SPANS * 64
    }

    pub(super) fn is_any(&self) -> bool {
        !self.queue.is_empty() || !self.woken.is_empty()
    }
}

/// A thread that scans a batch, until this is dropped.
struct Busy<'m, 'a>(&'m Marker<'a>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).busy -= 1;
        self.0.wake.notify_all();
    }
}

/// Bytes from which on large objects are not read any more: pages that nobody wrote read as zeros.
pub(crate) fn most_read(memory: &dyn Memory) -> u64 {
    memory.resident().map_or(u64::MAX, |bytes| bytes * MAX_READ + MORE_READ)
}

impl<'a> Marker<'a> {
    /// # Errors
    /// The budget does not allow its bitmaps.
    pub(super) fn new(memory: &'a (dyn Memory + Sync), spans: Spans) -> Result<Marker<'a>, HeapError> {
        let most_read = most_read(memory);
        let mut marker = Marker {
            memory,
            spans,
            marks: Vec::new(),
            done: Vec::new(),
            queued: Vec::new(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            woken: Mutex::default(),
            misses: Mutex::default(),
            dropped: AtomicBool::new(false),
            most_read,
            read: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            reached: AtomicU64::new(0),
        };
        marker.grow()?;
        Ok(marker)
    }

    pub(super) fn spans(&self) -> &Spans {
        &self.spans
    }

    /// Whether addresses that lie in no span were dropped, because there were too many: what they lead to was not
    /// marked.
    pub(super) fn has_dropped(&self) -> bool {
        self.dropped.load(Relaxed)
    }

    /// Bytes of objects that were scanned.
    pub(super) fn bytes_read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes of reached objects that could not be read.
    pub(super) fn bytes_unread(&self) -> u64 {
        self.unread.load(Relaxed)
    }

    /// Bytes of all reached objects, with pointers or without.
    pub(super) fn bytes_reached(&self) -> u64 {
        self.reached.load(Relaxed)
    }

    /// Adds the spans that came into use since the table was made.
    pub(super) fn extend(&mut self, view: &View<'_>, globals: &Globals) -> Result<(), HeapError> {
        self.spans.extend(view, globals)?;
        self.grow()
    }

    fn grow(&mut self) -> Result<(), HeapError> {
        let words = (self.spans.bits() / 64) as usize;
        let more = words.saturating_sub(self.marks.len());
        budget::reserve(&mut self.marks, more)?;
        budget::reserve(&mut self.done, more)?;
        let more = self.spans.len().saturating_sub(self.queued.len());
        budget::reserve(&mut self.queued, more)?;
        self.marks.resize_with(words, AtomicU64::default);
        self.done.resize_with(words, AtomicU64::default);
        self.queued.resize_with(self.spans.len(), AtomicBool::default);
        Ok(())
    }

    /// Excludes the object at this address from scanning: it can be reached, but leads nowhere.
    pub(super) fn never_scan(&self, addr: u64) {
        if let Some((word, bit)) = self.spans.object(addr).and_then(|object| self.bit(object)) {
            self.done.get(word).map(|done| done.fetch_or(bit, Relaxed));
        }
    }

    /// Has [`Marker::woken`] report when this object is reached (with the other objects of its span).
    pub(super) fn watch(&mut self, object: ObjectId) {
        self.spans.watch(object.span);
    }

    /// Whether the object at this address was reached. An address in no object counts as reached.
    pub(super) fn is_reached(&self, addr: u64) -> bool {
        let at = self.spans.object(addr).and_then(|object| self.bit(object));
        at.is_none_or(|(word, bit)| self.marks.get(word).is_some_and(|marks| marks.load(Relaxed) & bit != 0))
    }

    fn bit(&self, object: ObjectId) -> Option<(usize, u64)> {
        let at = self.spans.get(object.span)?.bits + u64::from(object.index);
        Some(((at / 64) as usize, 1 << (at % 64)))
    }

    /// Marks the object that a word points into, if there is one.
    #[inline]
    pub(super) fn reach(&self, word: u64, by: Source, found: &mut Found) {
        match self.spans.find(word) {
            Place::Object(object) => self.mark(object, by, found),
            Place::Nowhere => found.miss(word),
            _ => {}
        }
    }

    /// As [`Marker::reach`], for a word that may also be a stale pointer to a freed object. The object counts only if
    /// the runtime has it allocated now.
    pub(super) fn reach_doubtful(&self, view: &View<'_>, word: u64, by: Source, found: &mut Found) {
        match self.spans.object(word) {
            Some(object) if self.is_marked(object) || !self.spans.is_used(view, object) => {}
            _ => self.reach(word, by, found),
        }
    }

    /// Whether the object at an address was reached; `None`: there is none.
    pub(super) fn has_reached(&self, addr: u64) -> Option<bool> {
        Some(self.is_marked(self.spans.object(addr)?))
    }

    fn is_marked(&self, object: ObjectId) -> bool {
        let word = self.bit(object).and_then(|(word, bit)| Some(self.marks.get(word)?.load(Relaxed) & bit));
        word.is_some_and(|word| word != 0)
    }

    #[inline]
    fn mark(&self, object: ObjectId, by: Source, found: &mut Found) {
        let Some(span) = self.spans.get(object.span) else { return };
        let at = span.bits + u64::from(object.index);
        let bit = 1 << (at % 64);
        let Some(marks) = self.marks.get((at / 64) as usize) else { return };
        // Only the thread that sets the bit goes on. The load before spares the `fetch_or` for objects marked already.
        if marks.load(Relaxed) & bit != 0 || marks.fetch_or(bit, Relaxed) & bit != 0 {
            return;
        }
        found.bytes += span.size;
        if span.watched {
            found.woken.push(Woken { object, by });
        }
        let queued = self.queued.get(object.span as usize);
        // Release, after the bit was set: the scan that clears the flag must see the bit.
        if !span.noscan && queued.is_some_and(|queued| !queued.swap(true, Release)) {
            found.queue.push(object.span);
        }
    }

    /// Hands what a thread found to the shared queue and lists, and empties it.
    pub(super) fn give(&self, found: &mut Found) {
        self.reached.fetch_add(std::mem::take(&mut found.bytes), Relaxed);
        if !found.queue.is_empty() {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.spans.extend(found.queue.drain(..));
            self.wake.notify_all();
        }
        if !found.woken.is_empty() {
            self.woken.lock().unwrap_or_else(PoisonError::into_inner).append(&mut found.woken);
        }
        if !found.misses.is_empty() {
            let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
            misses.append(&mut found.misses);
            found.dropped |= crowded(&mut misses);
        }
        if found.dropped {
            self.dropped.store(true, Relaxed);
        }
    }

    /// Scans with `threads` threads until the queue is empty. `progress` gets the bytes scanned so far.
    ///
    /// # Errors
    /// The target has ended, or may not be read.
    pub(super) fn drain(&self, threads: usize, progress: &mut dyn FnMut(u64)) -> Result<(), Fault> {
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(|| self.work(&mut |_| {}))).collect();
            let own = self.work(progress);
            // A thread that panicked has lost marks, and a mark that is missed is a false proof.
            let join = |other: std::thread::ScopedJoinHandle<'_, _>| {
                other.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            others.into_iter().map(join).fold(own, Result::and)
        })
    }

    fn work(&self, progress: &mut dyn FnMut(u64)) -> Result<(), Fault> {
        let mut scan = Scan::default();
        while let Some(batch) = self.take() {
            // Dropped on a panic, too: the other threads wait as long as one is busy.
            let busy = Busy(self);
            // What a batch finds at most, in each word an object that is waited for.
            let room = budget::check(BATCH_BYTES / 8 * size_of::<Woken>() * 2).map_err(Fault::from);
            let result = room.and_then(|()| self.scan(&batch, &mut scan));
            self.give(&mut scan.found);
            if result.is_err() {
                // The target is gone or unreadable: no other thread shall begin anything. The flags of these spans stay
                // set, so this marker must not be marked with again.
                self.queue.lock().unwrap_or_else(PoisonError::into_inner).spans.clear();
            }
            drop(busy);
            result?;
            progress(self.read.load(Relaxed));
        }
        Ok(())
    }

    /// The next spans to scan; waits while other threads may still find some. `None`: nothing is left, in any thread.
    fn take(&self) -> Option<Vec<u32>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if !queue.spans.is_empty() {
                // The oldest first: the longer a span waits, the more of its objects are marked and scanned with one
                // read.
                let count = queue.spans.len().min(BATCH_SPANS);
                queue.busy += 1;
                return Some(queue.spans.drain(..count).collect());
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn scan(&self, batch: &[u32], scan: &mut Scan) -> Result<(), Fault> {
        for &number in batch {
            let Some(span) = self.spans.get(number) else { continue };
            // Acquire, before `marks` is loaded: a bit that is set later puts the span into the queue again. A store
            // would not do, as it reads nothing that could be synchronized with.
            if let Some(queued) = self.queued.get(number as usize) {
                queued.swap(false, Acquire);
            }
            if span.count == 1 {
                self.collect(span, scan);
            } else {
                scan.shared.push((number, span.objects()));
                scan.bytes += span.objects().len;
            }
            if scan.bytes >= BATCH_BYTES {
                self.read_shared(scan)?;
                self.read(scan)?;
            }
        }
        self.read_shared(scan)?;
        self.read(scan)
    }

    /// Reads spans with several objects as a whole. An object often points to its neighbours; a list whose nodes lie
    /// side by side would otherwise need a read for each node.
    fn read_shared(&self, scan: &mut Scan) -> Result<(), Fault> {
        let shared = std::mem::take(&mut scan.shared);
        let ranges: Vec<_> = shared.iter().map(|(_, range)| *range).collect();
        self.memory.scatter(&ranges, &mut scan.buffer, &mut scan.whole)?;
        let (buffer, whole) = (std::mem::take(&mut scan.buffer), std::mem::take(&mut scan.whole));
        let mut rest = &buffer[..];
        for ((number, range), whole) in shared.iter().zip(&whole) {
            let Some((bytes, span)) = rest.split_off(..range.len).zip(self.spans.get(*number)) else { break };
            if *whole {
                self.scan_shared(span, bytes, &mut scan.found);
            } else {
                self.collect(span, scan);
            }
        }
        (scan.buffer, scan.whole) = (buffer, whole);
        Ok(())
    }

    /// Scans the marked objects of a span, and repeats that for those which the scan itself marks.
    fn scan_shared(&self, span: &Span, bytes: &[u8], found: &mut Found) {
        let first = (span.bits / 64) as usize;
        let mut again = true;
        while std::mem::take(&mut again) {
            for (at, index) in (first..).zip((0..span.count).step_by(64)) {
                for object in self.todo(at).map(|bit| index + bit) {
                    let from = object as usize * span.size as usize;
                    let Some(bytes) = bytes.get(from..).and_then(|rest| rest.get(..span.size as usize))
                    else {
                        return;
                    };
                    self.reach_all(span.base + from as u64, bytes, found);
                    again = true;
                }
            }
        }
    }

    /// Takes the objects of one word of the bitmaps that are marked and not done, as bit numbers, and sets them done.
    fn todo(&self, at: usize) -> impl Iterator<Item = u32> + use<> {
        let mut todo = 0;
        if let (Some(marks), Some(done)) = (self.marks.get(at), self.done.get(at)) {
            todo = marks.load(Relaxed) & !done.load(Relaxed);
            if todo != 0 {
                todo &= !done.fetch_or(todo, Relaxed);
            }
        }
        std::iter::from_fn(move || {
            let bit = (todo != 0).then(|| todo.trailing_zeros())?;
            todo &= todo - 1;
            Some(bit)
        })
    }

    /// Takes the objects of a span that are to be scanned; neighbours become one piece to read.
    fn collect(&self, span: &Span, scan: &mut Scan) {
        let first = (span.bits / 64) as usize;
        let mut run: Option<(u32, u32)> = None;
        for (at, index) in (first..).zip((0..span.count).step_by(64)) {
            for object in self.todo(at).map(|bit| index + bit) {
                match &mut run {
                    Some((_, end)) if *end == object => *end += 1,
                    _ => {
                        scan.add(span, run);
                        run = Some((object, object + 1));
                    }
                }
            }
        }
        scan.add(span, run);
    }

    /// Reads the collected pieces and marks from their words.
    fn read(&self, scan: &mut Scan) -> Result<(), Fault> {
        let pieces = std::mem::take(&mut scan.pieces);
        scan.bytes = 0;
        let is_large = |piece: &Range| piece.len > BATCH_BYTES;
        for group in pieces.chunk_by(|piece, next| !is_large(piece) && !is_large(next)) {
            if let [piece] = group
                && is_large(piece)
            {
                self.read_large(*piece, scan)?;
                continue;
            }
            self.memory.scatter(group, &mut scan.buffer, &mut scan.whole)?;
            let mut rest = &scan.buffer[..];
            for (piece, whole) in group.iter().zip(&scan.whole) {
                let Some(bytes) = rest.split_off(..piece.len) else { break };
                if *whole {
                    self.reach_all(piece.addr, bytes, &mut scan.found);
                } else {
                    self.unread.fetch_add(bytes.len() as u64, Relaxed);
                }
            }
        }
        Ok(())
    }

    /// Marks from the words that were read at this address.
    fn reach_all(&self, addr: u64, bytes: &[u8], found: &mut Found) {
        self.read.fetch_add(bytes.len() as u64, Relaxed);
        for (word, at) in words(bytes).zip((addr..).step_by(8)) {
            self.reach(word, Source::Heap(at), found);
        }
    }

    /// Reads an object that is larger than [`BATCH_BYTES`] in parts, and marks from its words.
    fn read_large(&self, Range { addr, len }: Range, scan: &mut Scan) -> Result<(), Fault> {
        for from in (0..len).step_by(BATCH_BYTES) {
            let size = (len - from).min(BATCH_BYTES);
            if self.read.load(Relaxed) > self.most_read {
                // A terabyte of pages that nobody wrote reads as zeros.
                self.unread.fetch_add((len - from) as u64, Relaxed);
                break;
            }
            scan.buffer.resize(size, 0);
            match self.memory.read(addr + from as u64, &mut scan.buffer) {
                Ok(()) => self.reach_all(addr + from as u64, &scan.buffer, &mut scan.found),
                Err(Fault::Unmapped(_)) => {
                    // A hostile span may claim a terabyte that is not mapped: do not go on page by page.
                    self.unread.fetch_add((len - from) as u64, Relaxed);
                    break;
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// The objects of watched spans that were reached since the last call.
    pub(super) fn woken(&self) -> Vec<Woken> {
        std::mem::take(&mut *self.woken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Words since the last call that point where the heap is or may grow, but into no known span.
    pub(super) fn misses(&self) -> Vec<u64> {
        std::mem::take(&mut *self.misses.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The buffers of one scanning thread.
#[derive(Default)]
struct Scan {
    /// Spans to read as a whole: number and range.
    shared: Vec<(u32, Range)>,
    /// Runs of objects to read.
    pieces: Vec<Range>,
    bytes: usize,
    buffer: Vec<u8>,
    whole: Vec<bool>,
    found: Found,
}

impl Scan {
    fn add(&mut self, span: &Span, run: Option<(u32, u32)>) {
        let Some((first, end)) = run else { return };
        let addr = span.base + u64::from(first) * span.size;
        let len = (u64::from(end - first) * span.size) as usize;
        self.bytes = self.bytes.saturating_add(len);
        self.pieces.push(Range { addr, len });
    }
}

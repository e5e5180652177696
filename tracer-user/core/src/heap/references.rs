//! What a goroutine refers to with its stack, its `g` and its deferred calls.
//!
//! The target runs meanwhile. A goroutine's `g` is read before and after its stack. If both are the same it stood
//! still, and the compiler's maps tell its live words precisely. A goroutine that moves is read again a few times; in
//! the end every word of its stack counts. A word that is no pointer may then keep something alive, but it invents no
//! leak.

use super::marker::{Found, Marker, Source};
use super::spans::words;
use super::stack::{LiveWords, Used};
use crate::binary::bytes::u64_at;
use crate::budget;
use crate::goruntime::State;
use crate::memory::{Fault, Range, ThreadRegisters};
use crate::snapshot::{Offsets, Pc, Raw, View};
use std::time::Duration;

/// Most goroutines that are read together, and most bytes of their stacks.
const BATCH: usize = 1024;
const BATCH_BYTES: u64 = 8 << 20;
/// Largest used part of a stack whose live words are found precisely; of a larger one every word counts.
const MAX_PRECISE: u64 = 1 << 20;
/// Largest stack (`maxstacksize` of `src/runtime/proc.go` is 1 GB on 64 bits), and bytes of one that are read at once.
const MAX_STACK: u64 = 1 << 30;
const PIECE: u64 = 1 << 20;
/// Attempts to read a goroutine that moves, and the pause between them.
const RETRIES: usize = 4;
const PAUSE: Duration = Duration::from_micros(50);
/// Most deferred calls of one goroutine that are read.
const MAX_DEFERS: usize = 1 << 12;
/// Bytes of a `_defer` that are read; no version has more (`src/runtime/runtime2.go`).
const DEFER: usize = 80;
/// Offsets of `_defer.pc` and `_defer.fn`, the same in Go 1.19 to 1.27.
const DEFER_PC: usize = 16;
const DEFER_FN: usize = 24;
/// Bytes of `xRegState`, the vector registers of a goroutine that was preempted (since 1.26).
const X_REGS: usize = 2112;
/// Most sampled stack pointers that are kept. Beyond that all are dropped, and stacks count as fully used until there
/// are enough samples again.
const MAX_DEPTHS: usize = 1 << 16;
/// Samples of one stack after which the deepest of them counts as the depth of the stack: fewer may all be of a shallow
/// moment.
const ENOUGH: usize = 8;
/// Bytes below the deepest sampled stack pointer that count as used, too, because no sample need be the deepest moment.
const MARGIN: u64 = 1 << 10;

/// A goroutine whose references are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Its index in the snapshot; `u32::MAX`: it is not in the snapshot.
    pub(crate) index: u32,
    /// Address of its `g`.
    pub(crate) g: u64,
    /// Whether it moved while the snapshot was taken, so that it is not read together with others.
    pub(crate) moved: bool,
}

/// A deferred call that a goroutine has still to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    /// The goroutine's index in the snapshot.
    pub(crate) goroutine: u32,
    /// Where the function that deferred it goes on.
    pub(crate) pc: Pc,
    /// Entry of the called closure's function, and the first word that the closure has captured.
    pub(crate) closure: (u64, u64),
}

pub(crate) struct References<'a> {
    view: View<'a>,
    at: Offsets,
    /// Bytes of a whole `g`: each of its words counts.
    size: usize,
    /// Offset of `g._defer`.
    defer: Option<usize>,
    /// Offset of `g.xRegs.state`; `None` up to Go 1.25.
    x_regs: Option<usize>,
    live: LiveWords<'a>,
    depths: Depths,
    /// Deferred calls of the goroutines that were read, if they are wanted.
    pending: Option<Vec<Pending>>,
    /// Buffer for `g`s before their stacks are read.
    gs: Vec<u8>,
    /// Buffer for the same `g`s after their stacks were read.
    again: Vec<u8>,
    stacks: Vec<u8>,
    whole: Vec<bool>,
}

impl<'a> References<'a> {
    /// `None`: the layout lacks a field.
    pub(crate) fn new(view: &View<'a>, depths: Depths) -> Option<References<'a>> {
        let layout = view.binary.layout();
        let at = Offsets::of(layout).ok()?;
        let size = layout.field("g", "_size").filter(|size| *size <= 4096)? as usize;
        let field = |name| layout.field("g", name).map(|at| at as usize);
        Some(References {
            view: *view,
            at,
            size: size.max(at.len),
            defer: field("_defer"),
            x_regs: field("xRegs.state"),
            live: LiveWords::new(view),
            depths,
            pending: None,
            gs: Vec::new(),
            again: Vec::new(),
            stacks: Vec::new(),
            whole: Vec::new(),
        })
    }

    /// Has [`References::each`] note the deferred calls of goroutines that stand still.
    pub(crate) fn note_pending(&mut self) {
        self.pending = Some(Vec::new());
    }

    /// The deferred calls that were noted.
    pub(crate) fn pending(self) -> Vec<Pending> {
        self.pending.unwrap_or_default()
    }

    /// Marks from the references of these goroutines.
    ///
    /// # Errors
    /// The target has ended, or may not be read.
    pub(super) fn mark(&mut self, wanted: &[Wanted], marker: &Marker<'_>) -> Result<(), Fault> {
        for batch in wanted.chunks(BATCH) {
            let mut found = Found::default();
            let view = self.view;
            self.each(batch, &mut |index, word, sure| {
                let by = Source::Goroutine(index);
                if sure {
                    marker.reach(word, by, &mut found);
                } else {
                    marker.reach_doubtful(&view, word, by, &mut found);
                }
            })?;
            marker.give(&mut found);
        }
        Ok(())
    }

    /// Hands each word with which one of these goroutines may refer to something to `sink`: the goroutine's index, the
    /// word, and whether the word is sure to be live.
    ///
    /// # Errors
    /// The target has ended, or may not be read.
    pub(crate) fn each(
        &mut self,
        wanted: &[Wanted],
        sink: &mut dyn FnMut(u32, u64, bool),
    ) -> Result<(), Fault> {
        let mut rest = wanted;
        while !rest.is_empty() {
            let done = self.batch(rest, sink)?;
            rest = rest.get(done.max(1)..).unwrap_or_default();
        }
        Ok(())
    }

    /// Handles the first of these goroutines, as many as can be read together, and returns how many.
    fn batch(&mut self, wanted: &[Wanted], sink: &mut dyn FnMut(u32, u64, bool)) -> Result<usize, Fault> {
        let mut gs = std::mem::take(&mut self.gs);
        let read = self.read_gs(wanted, &mut gs)?;
        let (size, at) = (self.size, self.at);
        let raw = |index: usize, gs: &[u8]| {
            let bytes = gs.get(index * size..)?.get(..size)?;
            Raw::parse(bytes, wanted.get(index)?.g, &at)
        };
        let (mut ranges, mut total) = (Vec::new(), 0);
        for index in 0..wanted.len() {
            let range = raw(index, &gs).map_or(NOTHING, |raw| used(&raw));
            total += range.len as u64;
            // A single stack may exceed the limit, so the first one is always taken.
            if index > 0 && total > BATCH_BYTES {
                break;
            }
            ranges.push(range);
        }
        let wanted = wanted.get(..ranges.len()).unwrap_or_default();
        let (mut stacks, mut whole) = (std::mem::take(&mut self.stacks), std::mem::take(&mut self.whole));
        self.view.memory.scatter(&ranges, &mut stacks, &mut whole)?;
        let mut again = std::mem::take(&mut self.again);
        self.read_gs(wanted, &mut again)?;
        let mut rest = &stacks[..];
        for (index, ((wanted, range), whole)) in wanted.iter().zip(&ranges).zip(&whole).enumerate() {
            let Some(bytes) = rest.split_off(..range.len) else { break };
            if !read.get(index).is_some_and(|read| *read) {
                continue;
            }
            let (first, second) = (raw(index, &gs), raw(index, &again));
            let mut sink = |word, sure| sink(wanted.index, word, sure);
            let Some(now) = second.or(first) else { continue };
            // Both images of the `g` count: a field that changed between the two reads may hold either reference.
            for image in [&gs, &again] {
                let bytes = image.get(index * self.size..).and_then(|rest| rest.get(..self.size));
                // Without the words that say where the stack lies: `stack.hi` may be the address of an object that
                // begins behind the stack.
                let (lo, hi) = now.still.stack;
                let words = words(bytes.unwrap_or_default()).filter(|word| !(lo..=hi).contains(word));
                words.for_each(|word| sink(word, true));
            }
            let still = first.zip(second).filter(|(first, second)| first.still == second.still);
            let precise = *whole && range.len > 0 && !wanted.moved;
            match still.filter(|_| precise) {
                Some((raw, _)) => {
                    let g = again.get(index * self.size..).unwrap_or_default();
                    self.precise(&raw, (range.addr, bytes), g, |word| sink(word, true));
                    self.add_pending(wanted.index, &raw, (range.addr, bytes), g);
                }
                None => self.unsteady(wanted.g, &mut sink)?,
            }
        }
        (self.gs, self.again, self.stacks, self.whole) = (gs, again, stacks, whole);
        Ok(ranges.len())
    }

    /// Where the stack of a goroutine refers to these addresses: a frame and the address of the word. `None`: nowhere, or
    /// the goroutine runs.
    pub(crate) fn place(&mut self, g: u64, to: &std::ops::Range<u64>) -> Option<(Pc, u64)> {
        let (raw, _) = self.read_one(g).ok()??;
        let range = used(&raw);
        budget::check(range.len).ok()?;
        let mut bytes = vec![0; range.len];
        self.view.memory.read(range.addr, &mut bytes).ok()?;
        let used = Used::new(range.addr, &bytes, raw.still.stack.0);
        self.live.place(raw.saved().registers(), &used, to)
    }

    fn read_gs(&self, wanted: &[Wanted], bytes: &mut Vec<u8>) -> Result<Vec<bool>, Fault> {
        let ranges: Vec<_> = wanted.iter().map(|wanted| Range { addr: wanted.g, len: self.size }).collect();
        let mut whole = Vec::new();
        self.view.memory.scatter(&ranges, bytes, &mut whole)?;
        Ok(whole)
    }

    /// The references of a goroutine that stood still, besides its `g`.
    fn precise(&mut self, raw: &Raw, (base, bytes): (u64, &[u8]), g: &[u8], sink: impl FnMut(u64)) {
        let also = self.elsewhere(g);
        let used = Used::new(base, bytes, raw.still.stack.0);
        self.live.each(raw.saved().registers(), &used, &also, sink);
    }

    /// Notes the deferred calls of a goroutine that stood still and whose stack was just walked ([`References::precise`]), if
    /// they are wanted.
    fn add_pending(&mut self, goroutine: u32, raw: &Raw, (base, bytes): (u64, &[u8]), g: &[u8]) {
        let Some(mut pending) = self.pending.take() else { return };
        let used = Used::new(base, bytes, raw.still.stack.0);
        let mut found = self.live.pending(&used);
        self.defers(g, |_, bytes| {
            let (pc, closure) = (u64_at(bytes, DEFER_PC).unwrap_or(0), u64_at(bytes, DEFER_FN).unwrap_or(0));
            found.push((Pc::of_return(pc), closure));
        });
        for (pc, closure) in found {
            let word = |at: u64| used.word(at).or_else(|| self.view.word(at));
            let closure = word(closure).map(|code| (code, word(closure.wrapping_add(8)).unwrap_or(0)));
            if let Some(closure) = closure
                && budget::reserve(&mut pending, 1).is_ok()
            {
                pending.push(Pending { goroutine, pc, closure });
            }
        }
        self.pending = Some(pending);
    }

    /// Hands over the `_defer`s that a `g` lists: their addresses and bytes.
    fn defers(&self, g: &[u8], mut each: impl FnMut(u64, &[u8])) {
        let mut next = self.defer.and_then(|at| u64_at(g, at)).unwrap_or(0);
        let link = self.view.binary.version().release.defer_link();
        for _ in 0..MAX_DEFERS {
            let mut bytes = [0; DEFER];
            if next == 0 || self.view.memory.read(next, &mut bytes).is_err() {
                break;
            }
            each(next, &bytes);
            next = u64_at(&bytes, link).unwrap_or(0);
        }
    }

    /// References that are neither on the stack nor in the `g`: deferred calls and saved vector registers.
    fn elsewhere(&self, g: &[u8]) -> Vec<u64> {
        let memory = self.view.memory;
        let mut also = Vec::new();
        if let Some(state @ 1..) = self.x_regs.and_then(|at| u64_at(g, at)) {
            let mut bytes = vec![0; X_REGS];
            if memory.read(state, &mut bytes).is_ok() {
                also.extend(words(&bytes));
            }
        }
        // `scanstack` (`src/runtime/mgcmark.go`) takes these for roots, too: they point into the stack, and no map of a
        // frame has them.
        self.defers(g, |addr, bytes| {
            also.extend(words(bytes));
            also.push(addr);
        });
        also
    }

    /// The references of a goroutine that runs or moved. It may stand still or have ended a moment later; else every
    /// word of its stack counts.
    fn unsteady(&mut self, g: u64, sink: &mut dyn FnMut(u64, bool)) -> Result<(), Fault> {
        let mut last = None;
        for _ in 0..RETRIES {
            let Some((raw, image)) = self.read_one(g)? else { return Ok(()) };
            let state = State::from_status(raw.still.status);
            if state.is_dead() || state == State::Idle {
                return Ok(());
            }
            let range = used(&raw);
            let mut bytes = vec![0; range.len];
            if range.len > 0
                && self.view.memory.read(range.addr, &mut bytes).is_ok()
                && self.read_one(g)?.is_some_and(|(now, _)| now.still == raw.still)
            {
                self.precise(&raw, (range.addr, &bytes), &image, |word| sink(word, true));
                return Ok(());
            }
            last = Some(raw);
            std::thread::sleep(PAUSE);
        }
        last.map_or(Ok(()), |raw| self.everything(&raw, &mut |word| sink(word, false)))
    }

    /// A `g` and its bytes; `None`: no `g` at this address.
    fn read_one(&self, g: u64) -> Result<Option<(Raw, Vec<u8>)>, Fault> {
        let mut bytes = vec![0; self.size];
        match self.view.memory.read(g, &mut bytes) {
            Ok(()) => Ok(Raw::parse(&bytes, g, &self.at).map(|raw| (raw, bytes))),
            Err(Fault::Unmapped(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Hands over every word of the used part of a stack. That includes words below the saved stack pointer: the
    /// goroutine has moved on since, and may have left there a copy of what it now holds in registers.
    fn everything(&self, raw: &Raw, sink: &mut dyn FnMut(u64)) -> Result<(), Fault> {
        let (lo, hi) = raw.still.stack;
        if hi <= lo || hi - lo > MAX_STACK {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for from in (self.depths.used_from((lo, hi))..hi).step_by(PIECE as usize) {
            bytes.resize((hi - from).min(PIECE) as usize, 0);
            match self.view.memory.read(from, &mut bytes) {
                Ok(()) => words(&bytes).filter(|word| !(lo..=hi).contains(word)).for_each(&mut *sink),
                // The stack was freed meanwhile.
                Err(Fault::Unmapped(_)) => break,
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }
}

const NOTHING: Range = Range { addr: 0, len: 0 };

/// The used part of the stack of a goroutine that stands still; nothing if it runs or its stack is too large.
fn used(raw: &Raw) -> Range {
    let sp = raw.saved().registers().sp;
    let (lo, hi) = raw.still.stack;
    let runs = matches!(State::from_status(raw.still.status), State::Running | State::CopyStack);
    if runs || sp < lo || sp >= hi || hi - sp > MAX_PRECISE {
        return NOTHING;
    }
    Range { addr: sp, len: (hi - sp) as usize }
}

/// How deep the stacks of running goroutines reach, by sampled stack pointers. What lies below is left over from calls
/// that have returned, often of another goroutine that had the stack before: stale pointers, which would hide leaks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Depths {
    /// The sampled stack pointers, ascending.
    sampled: Vec<u64>,
    /// Whether the target is stopped, so that one stack pointer tells the depth of a stack.
    exact: bool,
}

impl Depths {
    /// The depths of stopped threads.
    pub(crate) fn exact(registers: &[ThreadRegisters]) -> Depths {
        let mut depths = Depths { exact: true, ..Depths::default() };
        depths.add(registers);
        depths
    }

    pub(crate) fn add(&mut self, registers: &[ThreadRegisters]) {
        if self.sampled.len() + registers.len() > MAX_DEPTHS {
            self.sampled.clear();
        }
        self.sampled.extend(registers.iter().map(|thread| thread.sp));
        self.sampled.sort_unstable();
    }

    /// The lowest used address of a stack; its lowest address of all while there are too few samples.
    fn used_from(&self, (lo, hi): (u64, u64)) -> u64 {
        let first = self.sampled.partition_point(|sp| *sp < lo);
        let behind = self.sampled.partition_point(|sp| *sp < hi);
        let enough = behind.saturating_sub(first) >= if self.exact { 1 } else { ENOUGH };
        let deepest = self.sampled.get(first).filter(|_| enough);
        let margin = if self.exact { 0 } else { MARGIN };
        deepest.map_or(lo, |sp| sp.saturating_sub(margin).max(lo))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sp: u64) -> ThreadRegisters {
        ThreadRegisters { tid: 1, pc: 0, sp, words: Vec::new() }
    }

    #[test]
    fn the_deepest_of_enough_samples_tells_how_much_is_used() {
        let stack = (0x1_0000, 0x2_0000);
        let few: Vec<_> = (0..7).map(|n| at(0x1_f000 + n * 8)).collect();
        let mut depths = Depths::default();
        depths.add(&few);
        assert_eq!(depths.used_from(stack), 0x1_0000, "seven samples may all be of a shallow moment");
        depths.add(&[at(0x1_8000), at(0x2_0008), at(0xfff8)]);
        assert_eq!(depths.used_from(stack), 0x1_8000 - MARGIN);
        depths.add(&[at(0x1_0010)]);
        assert_eq!(depths.used_from(stack), 0x1_0000, "never below the stack");
        assert_eq!(Depths::exact(&[at(0x1_8000)]).used_from(stack), 0x1_8000);
        assert_eq!(Depths::exact(&[]).used_from(stack), 0x1_0000);
    }
}

//! What a goroutine refers to: with its stack, its `g`, the calls that it deferred.
//!
//! The target runs on. A goroutine's `g` is read before and after its stack; if both are the same it stood still,
//! and its live words are told precisely. One that moves is read again a few times, and counts with every word
//! of its stack in the end: what is not sure to be a pointer may keep something alive, but invents no leak.

use super::marker::{Found, Marker, Source};
use super::spans::words;
use super::stack::{LiveWords, Used};
use crate::binary::bytes::u64_at;
use crate::goruntime::State;
use crate::memory::{Fault, Range, ThreadRegisters};
use crate::snapshot::{Offsets, Raw, View};
use std::time::Duration;

/// Goroutines that are read together, and bytes of their stacks.
const BATCH: usize = 1024;
const BATCH_BYTES: u64 = 8 << 20;
/// Bytes of a stack that are told precisely; of a larger one every word counts.
const MAX_PRECISE: u64 = 1 << 20;
/// The largest stack (`maxstacksize` of `src/runtime/proc.go` on 64 bits is 1 GB), and what is read of one at once.
const MAX_STACK: u64 = 1 << 30;
const PIECE: u64 = 1 << 20;
/// How often a goroutine that moves is read again, and after which time.
const RETRIES: usize = 4;
const PAUSE: Duration = Duration::from_micros(50);
const MAX_DEFERS: usize = 1 << 12;
/// Bytes of a `_defer` (`src/runtime/runtime2.go`), in every version no more.
const DEFER: usize = 80;
/// Bytes of `xRegState`, the vector registers of a goroutine that was preempted (since 1.26).
const X_REGS: usize = 2112;
/// Stack pointers that are kept: about what the threads of the target had in the last minute.
const MAX_DEPTHS: usize = 1 << 16;
/// Samples of one stack from which on the deepest of them tells how much of it is used.
const ENOUGH: usize = 8;
/// Bytes below the deepest stack pointer that was sampled that count as used, too.
const MARGIN: u64 = 1 << 10;

/// A goroutine whose references are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Its index in the snapshot; `u32::MAX`: it is not in it.
    pub(super) index: u32,
    /// The address of its `g`.
    pub(super) g: u64,
    /// It moved while the snapshot was taken: it is read anew.
    pub(super) moved: bool,
}

pub(super) struct References<'a> {
    view: View<'a>,
    at: Offsets,
    /// Bytes of a `g`.
    size: usize,
    /// Offsets in a `g`.
    defer: Option<usize>,
    x_regs: Option<usize>,
    live: LiveWords<'a>,
    depths: Depths,
    /// Bytes of `g`s before and after their stacks were read.
    gs: Vec<u8>,
    again: Vec<u8>,
    stacks: Vec<u8>,
    whole: Vec<bool>,
}

impl<'a> References<'a> {
    /// `None`: the layout lacks a field.
    pub(super) fn new(view: &View<'a>, depths: Depths) -> Option<References<'a>> {
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
            gs: Vec::new(),
            again: Vec::new(),
            stacks: Vec::new(),
            whole: Vec::new(),
        })
    }

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

    /// Hands over each word with which one of these refers to anything: the index of the goroutine, the word, and
    /// whether it is sure to be live.
    ///
    /// # Errors
    /// The target has ended, or may not be read.
    pub(super) fn each(
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

    /// The first of these, as many as can be read together; says how many.
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
            // Both images: a field that was set between the two reads counts, and so does what it held before.
            for image in [&gs, &again] {
                let bytes = image.get(index * self.size..).and_then(|rest| rest.get(..self.size));
                // Every word of the `g` counts but those that say where its stack lies: one behind the end of the stack
                // an object of the heap may begin.
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
                }
                None => self.unsteady(wanted.g, &mut sink)?,
            }
        }
        (self.gs, self.again, self.stacks, self.whole) = (gs, again, stacks, whole);
        Ok(ranges.len())
    }

    fn read_gs(&self, wanted: &[Wanted], bytes: &mut Vec<u8>) -> Result<Vec<bool>, Fault> {
        let ranges: Vec<_> = wanted.iter().map(|wanted| Range { addr: wanted.g, len: self.size }).collect();
        let mut whole = Vec::new();
        self.view.memory.scatter(&ranges, bytes, &mut whole)?;
        Ok(whole)
    }

    /// What a goroutine that stood still refers to, besides its `g`.
    fn precise(&mut self, raw: &Raw, (base, bytes): (u64, &[u8]), g: &[u8], sink: impl FnMut(u64)) {
        let also = self.elsewhere(g);
        let used = Used::new(base, bytes, raw.still.stack.0);
        self.live.each(raw.saved().registers(), &used, &also, sink);
    }

    /// Words that are neither on the stack nor in the `g`: deferred calls and vector registers.
    fn elsewhere(&self, g: &[u8]) -> Vec<u64> {
        let memory = self.view.memory;
        let mut also = Vec::new();
        if let Some(state @ 1..) = self.x_regs.and_then(|at| u64_at(g, at)) {
            let mut bytes = vec![0; X_REGS];
            if memory.read(state, &mut bytes).is_ok() {
                also.extend(words(&bytes));
            }
        }
        let mut next = self.defer.and_then(|at| u64_at(g, at)).unwrap_or(0);
        let link = self.view.binary.version().release.defer_link();
        // `scanstack` (`src/runtime/mgcmark.go`) takes these for roots, too: they point into the stack, and no map of a
        // frame has them.
        for _ in 0..MAX_DEFERS {
            let mut bytes = [0; DEFER];
            if next == 0 || memory.read(next, &mut bytes).is_err() {
                break;
            }
            also.extend(words(&bytes));
            also.push(next);
            next = u64_at(&bytes, link).unwrap_or(0);
        }
        also
    }

    /// What a goroutine refers to that runs or moved. It may stand still a moment later, or have ended; else every word
    /// of its stack counts.
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

    /// A `g` and its bytes; `None`: this address has none.
    fn read_one(&self, g: u64) -> Result<Option<(Raw, Vec<u8>)>, Fault> {
        let mut bytes = vec![0; self.size];
        match self.view.memory.read(g, &mut bytes) {
            Ok(()) => Ok(Raw::parse(&bytes, g, &self.at).map(|raw| (raw, bytes))),
            Err(Fault::Unmapped(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Every word of its stack, as deep as it is used, also below the stack pointer that it saved last: it has moved on
    /// since, and what it now holds in registers it may have left a copy of.
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

/// The used part of the stack of a goroutine that stands still; nothing of one that runs, or is too large.
fn used(raw: &Raw) -> Range {
    let sp = raw.saved().registers().sp;
    let (lo, hi) = raw.still.stack;
    let runs = matches!(State::from_status(raw.still.status), State::Running | State::CopyStack);
    if runs || sp < lo || sp >= hi || hi - sp > MAX_PRECISE {
        return NOTHING;
    }
    Range { addr: sp, len: (hi - sp) as usize }
}

/// How deep the stacks of running goroutines were seen to reach. What lies below is left over from calls that
/// have returned, often of another goroutine that had the stack before: stale pointers, which would hide leaks.
#[derive(Clone, Debug, Default)]
pub(super) struct Depths {
    /// Stack pointers, ascending.
    sampled: Vec<u64>,
    /// The target is stopped: one stack pointer a stack tells its depth.
    exact: bool,
}

impl Depths {
    /// Those of threads that are stopped.
    pub(super) fn exact(registers: &[ThreadRegisters]) -> Depths {
        let mut depths = Depths { exact: true, ..Depths::default() };
        depths.add(registers);
        depths
    }

    pub(super) fn add(&mut self, registers: &[ThreadRegisters]) {
        if self.sampled.len() + registers.len() > MAX_DEPTHS {
            self.sampled.clear();
        }
        self.sampled.extend(registers.iter().map(|thread| thread.sp));
        self.sampled.sort_unstable();
    }

    /// The lowest address of a stack that is used.
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

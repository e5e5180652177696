//! Marks from the goroutines that can run: their stacks, their `g`, the calls they deferred, and what
//! they wait with.

use super::marker::{Found, Marker, Source};
use super::registers::Depths;
use super::spans::words;
use super::stack::{LiveWords, Used};
use crate::binary::bytes::u64_at;
use crate::goruntime::State;
use crate::memory::{Fault, Range};
use crate::snapshot::{Offsets, Raw, View};
use std::time::Duration;

/// Goroutines that are read together, and bytes of their stacks.
const BATCH: usize = 1024;
const BATCH_BYTES: u64 = 8 << 20;
/// Bytes of a stack that are looked at precisely; a larger one is scanned whole, piece by piece.
const MAX_PRECISE: u64 = 1 << 20;
/// The largest stack (`maxstacksize` of `src/runtime/proc.go` on 64 bits is 1 GB).
const MAX_STACK: u64 = 1 << 30;
const PIECE: u64 = 1 << 20;
/// How often a goroutine that moves is looked at again, and after which time.
const RETRIES: usize = 4;
const PAUSE: Duration = Duration::from_micros(50);
/// Deferred calls of one goroutine.
const MAX_DEFERS: usize = 1 << 12;
/// Bytes of a `_defer` (`src/runtime/runtime2.go`), in every version no more.
const DEFER: usize = 80;
/// Bytes of `xRegState`, the vector registers of a goroutine that was preempted (since 1.26).
const X_REGS: usize = 2112;

/// A goroutine to mark from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Its index in the snapshot.
    pub(super) index: u32,
    /// Its `g`.
    pub(super) g: u64,
    /// It moved: everything on its stack counts.
    pub(super) whole: bool,
}

/// Marks from goroutines.
pub(super) struct Alive<'a> {
    view: View<'a>,
    at: Offsets,
    /// Bytes of a `g`.
    size: usize,
    defer: Option<usize>,
    x_regs: Option<usize>,
    live: LiveWords<'a>,
    /// How deep running goroutines were seen to be.
    pub(super) depths: Depths,
    gs: Vec<u8>,
    again: Vec<u8>,
    stacks: Vec<u8>,
    whole: Vec<bool>,
}

impl<'a> Alive<'a> {
    /// `None`: the layout lacks a field.
    pub(super) fn new(view: &View<'a>) -> Option<Alive<'a>> {
        let layout = view.binary.layout();
        let at = Offsets::of(layout).ok()?;
        let size = layout.field("g", "_size").filter(|size| *size <= 4096)? as usize;
        let field = |name| layout.field("g", name).map(|at| at as usize);
        Some(Alive {
            view: *view,
            at,
            size: size.max(at.len),
            defer: field("_defer"),
            x_regs: field("xRegs.state"),
            live: LiveWords::new(view),
            depths: Depths::default(),
            gs: Vec::new(),
            again: Vec::new(),
            stacks: Vec::new(),
            whole: Vec::new(),
        })
    }

    /// Marks from all of these.
    ///
    /// # Errors
    /// The process has ended, or may not be read.
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

    /// Hands over each word that one of these refers to anything with, with the index of the goroutine, and
    /// whether it is a pointer for sure.
    ///
    /// # Errors
    /// The process has ended, or may not be read.
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

    /// Marks from the first of these; says how many.
    fn batch(&mut self, wanted: &[Wanted], sink: &mut dyn FnMut(u32, u64, bool)) -> Result<usize, Fault> {
        let mut gs = std::mem::take(&mut self.gs);
        let read = self.read_gs(wanted, &mut gs)?;
        let (size, at) = (self.size, self.at);
        let raw = |index: usize, gs: &[u8]| {
            let bytes = gs.get(index * size..)?.get(..size)?;
            Raw::parse(bytes, wanted.get(index)?.g, &at)
        };
        // As many as fit.
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
            for image in [&gs, &again] {
                let bytes = image.get(index * self.size..).and_then(|rest| rest.get(..self.size));
                // Not where its stack lies: behind its end may be an object.
                let (lo, hi) = now.still.stack;
                let words = words(bytes.unwrap_or_default()).filter(|word| !(lo..=hi).contains(word));
                words.for_each(|word| sink(word, true));
            }
            let still = first.zip(second).filter(|(first, second)| first.still == second.still);
            let precise = *whole && range.len > 0 && !wanted.whole;
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

    /// It stood still.
    fn precise(&mut self, raw: &Raw, (base, bytes): (u64, &[u8]), g: &[u8], sink: impl FnMut(u64)) {
        let also = self.elsewhere(g);
        let used = Used { base, bytes, lo: raw.still.stack.0 };
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
        let link = if self.view.binary.version().minor >= 22 { LINK_SINCE_22 } else { LINK };
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

    /// It runs or moved: it may stand still a moment later, or have ended. Else every word of its stack counts.
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

    /// A `g` and its bytes; `None`: there is none.
    fn read_one(&self, g: u64) -> Result<Option<(Raw, Vec<u8>)>, Fault> {
        let mut bytes = vec![0; self.size];
        match self.view.memory.read(g, &mut bytes) {
            Ok(()) => Ok(Raw::parse(&bytes, g, &self.at).map(|raw| (raw, bytes))),
            Err(Fault::Unmapped(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Every word of its stack counts, also below its stack pointer, where copies of
    /// what it now holds in registers may still lie.
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

/// Where a `_defer` has its link: `{ started, heap, openDefer bool; sp, pc, fn, _panic, link }` up to 1.21,
/// `{ heap, rangefunc bool; sp, pc, fn, link, head }` since.
const LINK: usize = 40;
const LINK_SINCE_22: usize = 32;
const NOTHING: Range = Range { addr: 0, len: 0 };

/// The used part of the stack of a goroutine that stands still.
fn used(raw: &Raw) -> Range {
    let sp = raw.saved().registers().sp;
    let (lo, hi) = raw.still.stack;
    let runs = matches!(State::from_status(raw.still.status), State::Running | State::CopyStack);
    if runs || sp < lo || sp >= hi || hi - sp > MAX_PRECISE {
        return NOTHING;
    }
    Range { addr: sp, len: (hi - sp) as usize }
}

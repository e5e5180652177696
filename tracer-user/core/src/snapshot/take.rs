//! Reads all goroutines: `runtime.allgs` in chunks, each `g`, then its stack, then the `g` again to see whether the
//! goroutine stood still meanwhile.
//!
//! Most goroutines wait and so stand still. One that moved is read again by itself, up to [`RETRIES`] times.

use super::labels::LabelSets;
use super::raw::{Offsets, Raw, SCAN};
use super::unwind::{Unwinder, Window, outer_frames};
use super::{Clock, Goroutine, Pc, Sampled, Snapshot, StackId, Trust, View, objects};
use crate::binary::Globals;
use crate::budget;
use crate::event::status;
use crate::goruntime::{State, starts_system};
use crate::memory::{Fault, Memory, Range};
use hashbrown::HashSet;
use std::collections::HashMap;

/// Goroutines that are read together: few enough that the second read of their `g`s follows within a millisecond or
/// two.
const CHUNK: usize = 1024;
/// Bytes of each stack that are read in one call with those of others. Few goroutines need more; `Window` reads the
/// rest.
const STACK_AHEAD: u64 = 1024;
/// Bytes of a running goroutine's stack, from its outer end, that are searched for frames.
const OUTER_AHEAD: u64 = 32 << 10;
/// Bytes of the arguments of all frames together; later goroutines have none. A million goroutines have about 20 MB.
const MAX_ARGS: usize = 1 << 30;
/// Most entries of `runtime.allgs` that are read, so that a hostile length cannot make us read without end. Sixteen
/// million goroutines need 40 GB. Entries behind count as unreadable.
const MAX_ENTRIES: u64 = 1 << 24;
/// Entries beyond what the memory of the target has room for, because the kernel counts that with a delay.
const MORE_ENTRIES: u64 = 1 << 16;
/// Bytes that we keep of one goroutine at most, and of what it waits for: what the budget is asked for. Deep stacks are
/// asked for by themselves.
const COST: usize = 400;
const OBJECT_COST: usize = 600;
/// The share of the memory that is left which goroutines may take: one in so many. Names and text come after them.
const SHARE: usize = 2;
/// How many chunks are read together of a sample, at most.
const MAX_STRIDE: u64 = 64;
/// Attempts to read a goroutine that moves before it is [`Trust::InMotion`].
const RETRIES: usize = 3;

/// What to read besides the `g`s themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The stacks: a second read of every `g`, and one of its stack.
    pub stacks: bool,
    /// The arguments of the frames, for a traceback; only with `stacks`.
    pub args: bool,
    /// The `runtime/pprof` labels.
    pub labels: bool,
    /// The objects that goroutines wait for: a read for each waiting goroutine.
    pub objects: bool,
    /// The most goroutines that are kept: of more, an even sample is ([`Snapshot::sampled`]). 0: as many as the budget
    /// has room for.
    pub most: usize,
}

impl Options {
    /// Bytes that a goroutine may cost.
    fn cost(self) -> usize {
        COST + if self.objects { OBJECT_COST } else { 0 }
    }

    /// The most goroutines that are kept.
    fn room(self) -> usize {
        let fit = budget::left() / SHARE / self.cost();
        if self.most == 0 { fit } else { fit.min(self.most) }.max(1)
    }
}

/// Why there is no snapshot at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The binary does not show where `runtime.allgs` lies; the text says why.
    #[error("the list of its goroutines cannot be found: {0}")]
    NoList(String),
    /// The layout lacks this field of `runtime.g`.
    #[error("where {0} lies in its runtime.g is not known: give its layout with --layout FILE")]
    NoField(&'static str),
    /// The length of `runtime.allgs` cannot be read.
    #[error("the list of its goroutines cannot be read: {0}")]
    Unreadable(Fault),
}

/// Reads all goroutines. `progress` gets the entries of `runtime.allgs` read so far and their number, after each chunk.
///
/// # Errors
/// Nothing could be read. A later fault is [`Snapshot::incomplete`].
pub fn take(
    view: &View<'_>,
    options: Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Snapshot, SnapshotError> {
    let mut reading = Reading::begin(view, options)?;
    while reading.chunk() {
        progress(reading.next, reading.total);
    }
    Ok(reading.finish())
}

/// Reads only the goroutines whose `g`s are at these addresses. An address without a `g` counts as unreadable.
///
/// # Errors
/// As [`take`].
pub fn take_only(view: &View<'_>, options: Options, addrs: &[u64]) -> Result<Snapshot, SnapshotError> {
    let mut reading = Reading::begin(view, options)?;
    for addrs in addrs.chunks(CHUNK) {
        if let Err(fault) = reading.read_goroutines(addrs) {
            reading.snapshot.incomplete = Some(fault);
            break;
        }
    }
    Ok(reading.finish())
}

/// A snapshot in progress, for a caller that must do something else between chunks (a trace drains its ring buffers).
pub struct Reading<'a> {
    view: View<'a>,
    options: Options,
    globals: &'a Globals,
    at: Offsets,
    unwinder: Unwinder<'a>,
    snapshot: Snapshot,
    /// Index of the next entry of `runtime.allgs`.
    next: u64,
    /// Number of entries when the reading began: goroutines that are created later are not read.
    total: u64,
    /// The goroutines of one chance in so many are kept; 0: not known yet. A power of two, so that a list that has
    /// grown is sampled alike, and looks see the same goroutines again.
    stride: u64,
    /// The `g`s that are in the snapshot: a hostile list has one a million times.
    known: HashSet<u64>,
    label_sets: LabelSets,
    threads: Threads,
    buffers: Buffers,
    pcs: Vec<Pc>,
}

/// Buffers that every chunk uses again.
#[derive(Default)]
struct Buffers {
    gs: Scattered,
    stacks: Scattered,
}

impl<'a> Reading<'a> {
    /// Finds `runtime.allgs` and reads its length.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn begin(view: &View<'a>, options: Options) -> Result<Reading<'a>, SnapshotError> {
        let globals = view.binary.globals().map_err(|error| SnapshotError::NoList(error.to_string()))?;
        let at = Offsets::of(view.binary.layout()).map_err(SnapshotError::NoField)?;
        // The length before the array: `allgadd` (`src/runtime/proc.go`) stores them in the other order, and the array
        // only grows, so no index lies behind its end.
        let total = view.memory.word(globals.allglen.wrapping_add(view.bias));
        let listed = total.map_err(SnapshotError::Unreadable)?;
        // Each entry takes a word, and its `g` lies in memory that was written.
        let each = at.len as u64 + 8;
        let most = view.memory.resident().map_or(MAX_ENTRIES, |bytes| bytes / each * 2 + MORE_ENTRIES);
        let total = listed.min(MAX_ENTRIES).min(most);
        let mut snapshot = Snapshot { unreadable: listed - total, ..Snapshot::default() };
        snapshot.taken_ns.0 = view.now_ns();
        Ok(Reading {
            view: *view,
            options,
            globals,
            at,
            unwinder: Unwinder::new(view.binary, view.bias),
            snapshot,
            next: 0,
            total,
            stride: 0,
            known: HashSet::new(),
            label_sets: LabelSets::default(),
            threads: Threads::default(),
            buffers: Buffers::default(),
            pcs: Vec::new(),
        })
    }

    /// Reads the next chunk of goroutines. `false`: all have been read, or a fault ended the reading.
    pub fn chunk(&mut self) -> bool {
        if self.next >= self.total {
            return false;
        }
        match self.read_chunk() {
            Ok(()) => self.next < self.total,
            Err(fault) => {
                self.snapshot.incomplete = Some(fault);
                false
            }
        }
    }

    /// Finds the objects, if asked for, and returns the snapshot of what was read so far.
    pub fn finish(mut self) -> Snapshot {
        self.known = HashSet::new();
        if let Some(sampled) = &mut self.snapshot.sampled {
            sampled.kept = self.snapshot.goroutines.len() as u64;
        }
        if self.options.objects {
            objects::find(&self.view, self.globals, &mut self.snapshot);
        }
        self.snapshot.taken_ns.1 = self.view.now_ns();
        if self.view.clock == Clock::Stopped {
            // A core file does not say when it was written on the clock of `waitsince`. The latest time that the
            // runtime noted in its own memory is the nearest to that.
            let latest = self.snapshot.goroutines.iter().map(|goroutine| goroutine.waiting_since_ns).max();
            let polled = self.last_poll();
            self.snapshot.taken_ns =
                [latest, polled].into_iter().flatten().max().map_or((0, 0), |ns| (ns, ns));
        }
        self.snapshot
    }

    fn read_chunk(&mut self) -> Result<(), Fault> {
        if self.stride == 0 {
            self.stride = self.choose_stride()?;
        }
        let (first, stride) = (self.next, self.stride);
        let mut addrs = self.entries(CHUNK as u64 * stride.min(MAX_STRIDE))?;
        self.next += addrs.len() as u64;
        if stride > 1 {
            let mut index = first;
            addrs.retain(|_| {
                index += 1;
                is_chosen(index - 1, stride)
            });
        }
        addrs.chunks(CHUNK).try_for_each(|addrs| self.read_goroutines(addrs))
    }

    /// One goroutine in how many is kept. All of them where they fit, which costs nothing to tell unless the list is
    /// long; it also has the dead.
    fn choose_stride(&mut self) -> Result<u64, Fault> {
        let room = self.options.room() as u64;
        if self.total <= room {
            return Ok(1);
        }
        let alive = self.count_alive()?;
        let stride = alive.div_ceil(room).max(1).next_power_of_two();
        if stride > 1 {
            self.snapshot.sampled = Some(Sampled { kept: 0, total: alive });
        }
        Ok(stride)
    }

    /// How many entries are those of goroutines that have not ended, by their states alone.
    fn count_alive(&mut self) -> Result<u64, Fault> {
        let (mut alive, mut last) = (0, 0);
        let mut statuses = std::mem::take(&mut self.buffers.gs);
        while self.next < self.total {
            let addrs = self.entries(CHUNK as u64 * MAX_STRIDE)?;
            self.next += addrs.len() as u64;
            let status = self.at.status as u64;
            let ranges = addrs.iter().map(|addr| Range { addr: addr.wrapping_add(status), len: 4 });
            statuses.read(self.view.memory, ranges)?;
            for (addr, (_, bytes)) in addrs.iter().zip(statuses.parts()) {
                let flags =
                    bytes.and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_le_bytes(*bytes));
                // The same one again is a made-up list.
                alive += u64::from(*addr != last && flags.is_some_and(is_alive));
                last = *addr;
            }
        }
        (self.buffers.gs, self.next) = (statuses, 0);
        Ok(alive)
    }

    /// `sched.lastpoll`: when the runtime last polled the network, `CLOCK_MONOTONIC` nanoseconds.
    fn last_poll(&self) -> Option<u64> {
        let sched = self.globals.sched?.wrapping_add(self.view.bias);
        self.view.field(sched, "schedt", "lastpoll")
    }

    /// The next entries of `runtime.allgs`. The address of the array is read anew each time, because the array moves
    /// when it grows and its old place is then reused.
    fn entries(&self, most: u64) -> Result<Vec<u64>, Fault> {
        let array = self.view.memory.word(self.globals.allgptr.wrapping_add(self.view.bias))?;
        let count = (self.total - self.next).min(most) as usize;
        let mut bytes = vec![0; count * 8];
        self.view.memory.read(array.wrapping_add(self.next * 8), &mut bytes)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }

    fn read_goroutines(&mut self, addrs: &[u64]) -> Result<(), Fault> {
        budget::check(addrs.len() * self.options.cost())?;
        // A `g` counts once, however often it is in the list.
        let new: Vec<u64> = addrs.iter().copied().filter(|addr| self.known.insert(*addr)).collect();
        let addrs = &new[..];
        let mut buffers = std::mem::take(&mut self.buffers);
        let first = self.read_gs(addrs, &mut buffers.gs)?;
        self.snapshot.unreadable += first.iter().filter(|raw| raw.is_none()).count() as u64;
        self.threads.read(self.view.memory, self.at.m_procid, &first)?;
        if self.options.stacks {
            self.read_stacks(addrs, &first, &mut buffers)?;
        } else {
            for (&addr, raw) in addrs.iter().zip(&first) {
                if let Some(raw) = raw {
                    self.add(addr, raw, None)?;
                }
            }
        }
        self.buffers = buffers;
        Ok(())
    }

    fn read_gs(&self, addrs: &[u64], buffers: &mut Scattered) -> Result<Vec<Option<Raw>>, Fault> {
        let len = self.at.len;
        buffers.read(self.view.memory, addrs.iter().map(|&addr| Range { addr, len }))?;
        Ok((addrs.iter().zip(buffers.parts()))
            .map(|(&addr, (_, bytes))| bytes.and_then(|bytes| Raw::parse(bytes, addr, &self.at)))
            .collect())
    }

    /// Reads the stacks of goroutines whose `g`s have been read, and then the `g`s again.
    fn read_stacks(
        &mut self,
        addrs: &[u64],
        first: &[Option<Raw>],
        buffers: &mut Buffers,
    ) -> Result<(), Fault> {
        let ahead = first.iter().map(|raw| raw.as_ref().map_or(NOTHING, ahead));
        buffers.stacks.read(self.view.memory, ahead)?;
        // After the stacks: what is the same before and after did not move in between.
        let second = self.read_gs(addrs, &mut buffers.gs)?;
        for (((&addr, first), second), (range, bytes)) in
            addrs.iter().zip(first).zip(&second).zip(buffers.stacks.parts())
        {
            let Some(first) = first else { continue };
            let still = second.as_ref().is_some_and(|second| second.still == first.still);
            match bytes {
                Some(bytes) if still && self.add(addr, first, Some((range.addr, bytes)))? => {}
                // A stack that could not be read at once may have been freed: read that goroutine by itself.
                _ => self.one_by_one(addr, first)?,
            }
        }
        Ok(())
    }

    /// Reads a goroutine that moved while it was read together with the others.
    fn one_by_one(&mut self, addr: u64, first: &Raw) -> Result<(), Fault> {
        let mut last = *first;
        let mut bytes = Vec::new();
        for _ in 0..RETRIES {
            let Some(raw) = self.read_one(addr)? else { break };
            last = raw;
            let range = ahead(&raw);
            bytes.resize(range.len, 0);
            let whole = range.len == 0 || self.view.memory.read(range.addr, &mut bytes).is_ok();
            if whole && self.is_still(addr, &raw)? && self.add(addr, &raw, Some((range.addr, &bytes)))? {
                return Ok(());
            }
        }
        // A snapshot must count every goroutine, so one that moves is there without a stack.
        if exists(&last) {
            self.push(addr, &last, Trust::InMotion, (StackId::default(), (0, 0)));
        }
        Ok(())
    }

    /// Whether the goroutine has not moved since it was read.
    fn is_still(&self, addr: u64, before: &Raw) -> Result<bool, Fault> {
        Ok(self.read_one(addr)?.is_some_and(|now| now.still == before.still))
    }

    fn read_one(&self, addr: u64) -> Result<Option<Raw>, Fault> {
        let mut bytes = vec![0; self.at.len];
        match self.view.memory.read(addr, &mut bytes) {
            Ok(()) => Ok(Raw::parse(&bytes, addr, &self.at)),
            Err(Fault::Unmapped(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Adds a goroutine that stood still, or runs. `ahead`: address and bytes of the innermost part of its stack.
    /// `false`: it moved after all, and was not added.
    fn add(&mut self, addr: u64, raw: &Raw, ahead: Option<(u64, &[u8])>) -> Result<bool, Fault> {
        if !exists(raw) {
            return Ok(true);
        }
        let (mut trust, mut stack, mut args) = (Trust::Still, StackId::default(), (0, 0));
        if runs(raw) {
            trust = Trust::Running;
            if self.options.stacks {
                stack = self.outer_frames(raw);
            }
        } else if let Some((base, bytes)) = ahead {
            let window = Window::new(self.view.memory, base, bytes, raw.still.stack.1);
            let text = self.snapshot.args.len();
            let into = (self.options.args && text < MAX_ARGS).then_some(&mut self.snapshot.args);
            self.pcs.clear();
            let walked = self.unwinder.unwind(&window, raw.saved().registers(), &mut self.pcs, into);
            // What `Window` read only now was not covered by the second read of the `g`, and a stack that makes no
            // sense may be one that moved: look at the `g` a third time.
            if (walked.is_err() || window.went_beyond()) && !self.is_still(addr, raw)? {
                // The text of an abandoned attempt must not stay: `args` are ranges of one text.
                self.snapshot.args.truncate(text);
                return Ok(false);
            }
            let interned = self.snapshot.stacks.intern(&self.pcs);
            if walked.is_err() || interned.is_none() {
                trust = Trust::Broken;
            }
            stack = interned.unwrap_or_default();
            args = (text, self.snapshot.args.len() - text);
        }
        self.push(addr, raw, trust, (stack, args));
        Ok(true)
    }

    /// The outer frames of a goroutine that runs, as far as its stack shows them.
    fn outer_frames(&mut self, raw: &Raw) -> StackId {
        let (lo, top) = (raw.still.stack.0, raw.stktopsp);
        let base = lo.max(top.saturating_sub(OUTER_AHEAD));
        let mut bytes = vec![0; usize::try_from(top.saturating_sub(base)).unwrap_or(0)];
        if self.view.memory.read(base, &mut bytes).is_err() {
            return StackId::default();
        }
        let window = Window::new(self.view.memory, base, &bytes, top);
        let View { binary, bias, .. } = self.view;
        let frames = outer_frames(&window, binary, bias, raw.startpc, top);
        self.snapshot.stacks.intern(&frames).unwrap_or_default()
    }

    fn push(&mut self, g: u64, raw: &Raw, trust: Trust, (stack, args): (StackId, (usize, usize))) {
        let state = State::from_status(raw.still.status);
        let labels = if self.options.labels { raw.labels } else { 0 };
        let labels = self.label_sets.id(&self.view, labels, &mut self.snapshot.labels);
        let system = is_system(&self.view, raw.startpc, self.snapshot.stacks.get(stack));
        let goroutine = Goroutine {
            goid: raw.still.goid,
            g,
            state,
            scan: raw.scan,
            trust,
            reason: if state.waits() { raw.still.reason } else { 0 },
            waiting_since_ns: if state.stays() { raw.waitsince } else { 0 },
            parent_goid: raw.parent_goid,
            gopc: raw.gopc,
            startpc: raw.startpc,
            tid: self.threads.tid(raw.m),
            locked: raw.lockedm != 0,
            system,
            labels,
            resume_pc: raw.still.sched.1,
            stack_bounds: raw.still.stack,
            stack,
            args,
            waits: Vec::new(),
            waits_known: false,
            stamp: raw.still.stamp(),
        };
        self.snapshot.goroutines.push(goroutine);
    }
}

/// Whether the goroutine of this entry is one of the sample. Not every so many-th: programs make goroutines in turn,
/// one to read and one to write.
fn is_chosen(entry: u64, stride: u64) -> bool {
    // The highest bits of a multiplicative hash (Knuth's, with the golden ratio) are even for numbers in a row.
    (entry.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) & (stride - 1) == 0
}

/// Whether `g.atomicstatus` is that of a goroutine that has not ended.
fn is_alive(flags: u32) -> bool {
    let state = State::from_status(u8::try_from(flags & !SCAN).unwrap_or(status::UNSAID));
    !state.is_dead() && state != State::Idle
}

const NOTHING: Range = Range { addr: 0, len: 0 };

/// Whether the `g` belongs to a goroutine: `allgs` keeps the `g`s of dead ones for reuse.
fn exists(raw: &Raw) -> bool {
    let state = State::from_status(raw.still.status);
    !state.is_dead() && state != State::Idle
}

/// Whether the goroutine's registers are in the processor, so that those saved in the `g` are stale.
fn runs(raw: &Raw) -> bool {
    matches!(State::from_status(raw.still.status), State::Running | State::CopyStack)
}

/// The innermost part of a goroutine's stack; nothing for one that runs, or whose stack pointer is not on its stack.
fn ahead(raw: &Raw) -> Range {
    let sp = raw.saved().registers().sp;
    let (lo, hi) = raw.still.stack;
    if runs(raw) || sp < lo || sp > hi {
        return NOTHING;
    }
    Range { addr: sp, len: (hi - sp).min(STACK_AHEAD) as usize }
}

/// Whether the goroutine that starts at `startpc` is the runtime's own.
fn is_system(view: &View<'_>, startpc: u64, stack: &[Pc]) -> bool {
    let name = |pc: u64| view.binary.functions().function_at(pc.wrapping_sub(view.bias)).map(|f| f.name);
    name(startpc).is_some_and(|start| starts_system(start, stack.iter().filter_map(|pc| name(pc.lookup()))))
}

/// Ranges that were read with one call, and the buffers for them.
#[derive(Default)]
struct Scattered {
    ranges: Vec<Range>,
    bytes: Vec<u8>,
    whole: Vec<bool>,
}

impl Scattered {
    /// Reads these ranges in place of the former ones.
    fn read(&mut self, memory: &dyn Memory, ranges: impl Iterator<Item = Range>) -> Result<(), Fault> {
        self.ranges.clear();
        self.ranges.extend(ranges);
        memory.scatter(&self.ranges, &mut self.bytes, &mut self.whole)
    }

    /// Each range with its bytes; `None`: it could not be read.
    fn parts(&self) -> impl Iterator<Item = (Range, Option<&[u8]>)> {
        let mut rest = &self.bytes[..];
        self.ranges.iter().zip(&self.whole).map(move |(range, whole)| {
            let bytes = rest.split_off(..range.len).unwrap_or_default();
            (*range, whole.then_some(bytes))
        })
    }
}

/// Thread ids (`m.procid`, in the target's PID namespace) by the address of the `m`.
#[derive(Default)]
struct Threads(HashMap<u64, u32>);

impl Threads {
    /// Reads the thread ids of `m`s that are not known yet. `procid` is the offset of the field.
    fn read(&mut self, memory: &dyn Memory, procid: u64, raws: &[Option<Raw>]) -> Result<(), Fault> {
        let mut unknown: Vec<u64> = raws.iter().flatten().map(|raw| raw.m).filter(|m| *m != 0).collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown.retain(|m| !self.0.contains_key(m));
        let ranges: Vec<Range> =
            unknown.iter().map(|m| Range { addr: m.wrapping_add(procid), len: 8 }).collect();
        let (mut bytes, mut whole) = (Vec::new(), Vec::new());
        memory.scatter(&ranges, &mut bytes, &mut whole)?;
        for (m, word) in unknown.iter().zip(bytes.as_chunks::<8>().0) {
            self.0.insert(*m, u32::try_from(u64::from_le_bytes(*word)).unwrap_or(0));
        }
        Ok(())
    }

    /// The thread of an `m`; 0: no `m`, or its `procid` could not be read.
    fn tid(&self, m: u64) -> u32 {
        self.0.get(&m).copied().unwrap_or(0)
    }
}

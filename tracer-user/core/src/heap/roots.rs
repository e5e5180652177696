//! Roots that belong to no goroutine: variables, timers, finalizers and the like, as in `src/runtime/mgcmark.go:
//! markroot` of 1.19 to 1.27.
//!
//! Memory that the runtime keeps outside of its heap is not scanned: it refers only to the runtime's own objects.

use super::marker::Source;
use super::spans::{Spans, words};
use crate::binary::Globals;
use crate::binary::bytes::{array, u32_at, u64_at};
use crate::budget;
use crate::goruntime::{Release, SpecialKinds};
use crate::memory::{Fault, Range};
use crate::snapshot::View;

/// Most modules of a target: the executable and its plugins.
const MAX_MODULES: usize = 256;
/// Bytes of the variables of all modules, and what is read at once.
const MAX_ALL_DATA: u64 = 1 << 33;
const CHUNK: u64 = 1 << 20;
/// Most `p`s, which is `GOMAXPROCS`.
const MAX_PS: u64 = 1 << 16;
/// Most specials of all spans together.
const MAX_SPECIALS: usize = 1 << 22;
/// Bytes of a special that are read: no kind that holds pointers has more.
const SPECIAL: usize = 64;
/// Specials that are read together.
const BATCH: usize = 1 << 14;
/// Most blocks of one queue: six million finalizers that are due.
pub(super) const MAX_BLOCKS: usize = 1 << 16;
/// Offset of `cleanupQueue.all` (`mcleanup.go`, 1.25 to 1.27; the runtime pads the fields before it to a cache line).
pub(super) const ALL_CLEANUPS: u64 = 128;

/// Blocks in which finalizers and cleanups that are due wait for their goroutine. All blocks are in one list, also those
/// that a goroutine works on, and an entry is counted until it has been run.
pub(super) struct Blocks {
    /// Bytes of a block.
    pub(super) size: usize,
    /// Offsets of the next block, of the number of entries (four bytes) and of the first entry.
    pub(super) next: usize,
    pub(super) count: usize,
    pub(super) first: usize,
    /// Bytes of an entry.
    pub(super) entry: usize,
}

impl Blocks {
    /// `finblock { alllink, next, cnt, fin }` with entries `{ fn, arg, nret, fint, ot }` (`mfinal.go`, 1.19 to 1.27).
    pub(super) const FINALIZERS: Blocks = Blocks { size: 4064, next: 0, count: 16, first: 24, entry: 40 };

    /// `cleanupBlock { lfnode, alllink, n, cleanups }` (`mcleanup.go`, since 1.25).
    pub(super) fn cleanups(release: Release) -> Blocks {
        Blocks { size: 512, next: 16, count: 24, first: 32, entry: release.cleanup_size() }
    }
}

/// Gets each word that is a root, and where it was found.
pub(crate) type Sink<'s> = dyn FnMut(u64, Source) + 's;

/// Reads the roots of one target.
pub(crate) struct Roots<'a> {
    view: &'a View<'a>,
    globals: &'a Globals,
    spans: &'a Spans,
    opaque: &'a [(u64, u64)],
}

impl<'a> Roots<'a> {
    /// `opaque`: ranges among the variables that are not scanned (`m0` and `g0`).
    pub(crate) fn new(
        view: &'a View<'a>,
        globals: &'a Globals,
        spans: &'a Spans,
        opaque: &'a [(u64, u64)],
    ) -> Roots<'a> {
        Roots { view, globals, spans, opaque }
    }

    /// Hands over variables, specials and what is due of these. Timers come later, by [`Roots::timers`].
    ///
    /// # Errors
    /// A root could not be read, so that nothing can be proven; as a clause for the user.
    pub(crate) fn each(&self, sink: &mut Sink<'_>) -> Result<(), String> {
        self.variables(sink)?;
        self.specials(sink).map_err(|error| format!("its finalizers cannot be read: {error}"))?;
        // After the specials: what becomes due leaves them and comes into a queue.
        self.due(sink).map_err(|error| format!("its queue of finalizers cannot be read: {error}"))
    }

    /// The variables of every module, by the pointer masks that the collector uses.
    fn variables(&self, sink: &mut Sink<'_>) -> Result<(), String> {
        let mut left = MAX_ALL_DATA;
        let first = self.globals.first_module.ok_or("where its variables lie is not known")?;
        let mut module = first.wrapping_add(self.view.bias);
        for _ in 0..MAX_MODULES {
            for [start, end, mask] in
                [["data", "edata", "gcdatamask.bytedata"], ["bss", "ebss", "gcbssmask.bytedata"]]
            {
                let field = |name| self.view.field(module, "moduledata", name);
                let bounds = field(start).zip(field(end)).zip(field(mask));
                let ((start, end), mask) = bounds.ok_or("where its variables lie cannot be read")?;
                left = left
                    .checked_sub(end.saturating_sub(start))
                    .ok_or("it has more variables than any program")?;
                self.block(start, end, mask, sink)
                    .map_err(|fault| format!("its variables cannot be read: {fault}"))?;
            }
            match self.view.field(module, "moduledata", "next") {
                Some(0) => return Ok(()),
                Some(next) => module = next,
                None => return Err("the list of its modules cannot be read".to_owned()),
            }
        }
        Err("the list of its modules has no end".to_owned())
    }

    fn block(&self, start: u64, end: u64, mask: u64, sink: &mut Sink<'_>) -> Result<(), Fault> {
        let len = end.saturating_sub(start);
        let (mut bytes, mut bits) = (Vec::new(), Vec::new());
        for from in (0..len).step_by(CHUNK as usize) {
            // A bit of the mask stands for a word of the block, so a byte of the mask for 64 bytes.
            let size = (len - from).min(CHUNK);
            bytes.resize(size as usize, 0);
            bits.resize(size.div_ceil(64) as usize, 0);
            self.view.memory.read(start + from, &mut bytes)?;
            self.view.memory.read(mask.wrapping_add(from / 64), &mut bits)?;
            for (index, word) in words(&bytes).enumerate() {
                let addr = start + from + index as u64 * 8;
                let pointer = bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 != 0);
                if pointer && word != 0 && !self.opaque.iter().any(|(lo, hi)| (*lo..*hi).contains(&addr)) {
                    sink(word, Source::Global(addr));
                }
            }
        }
        Ok(())
    }

    /// The timers of the `p`s. Their other fields do not count: a `p` also holds stale pointers (the
    /// write-barrier buffer).
    ///
    /// # Errors
    /// The list of `p`s or a timer heap could not be read.
    pub(crate) fn timers(&self, sink: &mut Sink<'_>) -> Result<(), Fault> {
        let layout = self.view.binary.layout();
        let Some(at) = layout.field("p", "timers.heap").or_else(|| layout.field("p", "timers")) else {
            return Ok(());
        };
        for p in processors(self.view, self.globals)? {
            sink(self.view.memory.word(p.wrapping_add(u64::from(at)))?, Source::Timer);
        }
        Ok(())
    }

    /// Finalizers, cleanups, weak pointers (`markrootSpans`): the special's own words, and of a finalizer all
    /// that its object leads to, but not the object itself. The object of a weak pointer is no root for the
    /// collector; it is one here.
    fn specials(&self, sink: &mut Sink<'_>) -> Result<(), String> {
        let unreadable = |fault: Fault| fault.to_string();
        let release = self.view.binary.version().release;
        // `special { next; offset; kind }`.
        let wide = release.special_offset_is_a_word();
        let kind_at = if wide { 16 } else { 10 };
        let SpecialKinds { finalizer, weak, cleanup } = release.special_kinds();
        let mut todo: Vec<(u64, u64, u64)> = (self.spans.iter())
            .filter(|span| span.specials != 0)
            .map(|span| (span.specials, span.base, span.size * u64::from(span.count)))
            .collect();
        let (mut bytes, mut whole, mut seen) = (Vec::new(), Vec::new(), 0);
        // The lists of all spans side by side: first the first special of each, then the second of each, and so on. A
        // million specials are few reads so.
        while !todo.is_empty() {
            seen += todo.len();
            if seen > MAX_SPECIALS {
                return Err("there are more of them than in any program".to_owned());
            }
            budget::check(todo.len() * 2 * size_of::<(u64, u64, u64)>())
                .map_err(|error| error.to_string())?;
            let mut later = Vec::new();
            for todo in todo.chunks(BATCH) {
                let ranges: Vec<_> =
                    todo.iter().map(|(addr, ..)| Range { addr: *addr, len: SPECIAL }).collect();
                self.view.memory.scatter(&ranges, &mut bytes, &mut whole).map_err(unreadable)?;
                for ((record, whole), (_, base, len)) in bytes.chunks_exact(SPECIAL).zip(&whole).zip(todo) {
                    if !*whole {
                        continue;
                    }
                    let offset = if wide {
                        u64_at(record, 8).unwrap_or(u64::MAX)
                    } else {
                        array(record, 8).map_or(u64::MAX, |bytes| u64::from(u16::from_le_bytes(bytes)))
                    };
                    let kind = record.get(kind_at).copied();
                    let source = match kind {
                        Some(kind) if kind == finalizer => Source::Finalizer(base.wrapping_add(offset)),
                        kind if kind == weak => Source::Weak,
                        kind if kind == cleanup => Source::Cleanup,
                        _ => Source::Other,
                    };
                    // The first word is `next`, which the loop itself follows.
                    words(record).skip(1).for_each(|word| sink(word, source));
                    if offset < *len {
                        match source {
                            Source::Finalizer(addr) => self.within(addr, sink).map_err(unreadable)?,
                            // A goroutine that has the weak pointer can make a strong one of it at any time.
                            Source::Weak => sink(base + offset, source),
                            _ => {}
                        }
                    }
                    if let Some(next @ 1..) = u64_at(record, 0) {
                        later.push((next, *base, *len));
                    }
                }
            }
            todo = later;
        }
        Ok(())
    }

    /// The words of the object at an address, but not the object itself, as finalizers need it.
    fn within(&self, addr: u64, sink: &mut Sink<'_>) -> Result<(), Fault> {
        let range =
            self.spans.object(addr).and_then(|id| Some((self.spans.get(id.span)?, self.spans.range(id)?)));
        let Some((_, (addr, len))) = range.filter(|(span, _)| !span.noscan) else { return Ok(()) };
        let (mut bytes, source) = (Vec::new(), Source::Finalizer(addr));
        for from in (0..len).step_by(CHUNK as usize) {
            bytes.resize((len - from).min(CHUNK) as usize, 0);
            match self.view.memory.read(addr + from, &mut bytes) {
                Ok(()) => words(&bytes).for_each(|word| sink(word, source)),
                // The object was freed meanwhile, and its pages given back.
                Err(Fault::Unmapped(_)) => break,
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Finalizers and cleanups that are due (`markroot` scans the same blocks). A finalizer that never ends
    /// holds up all that wait behind it, and what these lead to may still be closed or unlocked.
    fn due(&self, sink: &mut Sink<'_>) -> Result<(), String> {
        let release = self.view.binary.version().release;
        let cleanups = self.globals.cleanups.map(|addr| addr.wrapping_add(ALL_CLEANUPS));
        let queues = [
            (self.globals.finalizers.map(|queue| queue.all), Blocks::FINALIZERS, Source::Finalizer(0)),
            (cleanups, Blocks::cleanups(release), Source::Cleanup),
        ];
        for (list, blocks, source) in queues {
            let Some(list) = list else { continue };
            let first = self.view.memory.word(list.wrapping_add(self.view.bias));
            let first = first.map_err(|fault| fault.to_string())?;
            self.blocks(first, &blocks, &mut |word| sink(word, source))?;
        }
        Ok(())
    }

    fn blocks(&self, first: u64, blocks: &Blocks, sink: &mut dyn FnMut(u64)) -> Result<(), String> {
        let (mut next, mut bytes) = (first, vec![0; blocks.size]);
        for _ in 0..MAX_BLOCKS {
            if next == 0 {
                return Ok(());
            }
            self.view.memory.read(next, &mut bytes).map_err(|fault| fault.to_string())?;
            // Entries behind these have been run; what they still say would keep objects that nothing keeps.
            let count = u32_at(&bytes, blocks.count).unwrap_or(0) as usize;
            let entries = bytes.get(blocks.first..).unwrap_or_default();
            let used = count.saturating_mul(blocks.entry).min(entries.len());
            let used = entries.get(..used).unwrap_or_default();
            words(used).for_each(&mut *sink);
            next = u64_at(&bytes, blocks.next).unwrap_or(0);
        }
        Err("it has no end".to_owned())
    }
}

/// The addresses of the `p`s; empty if the binary does not show `runtime.allp`.
///
/// # Errors
/// `runtime.allp` cannot be read.
pub(crate) fn processors(view: &View<'_>, globals: &Globals) -> Result<Vec<u64>, Fault> {
    let Some(slice) = globals.allp.map(|addr| addr.wrapping_add(view.bias)) else { return Ok(Vec::new()) };
    let (array, len) = (view.memory.word(slice)?, view.memory.word(slice.wrapping_add(8))?);
    let mut bytes = vec![0; len.min(MAX_PS) as usize * 8];
    view.memory.read(array, &mut bytes)?;
    Ok(words(&bytes).filter(|p| *p != 0).collect())
}

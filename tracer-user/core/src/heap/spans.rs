//! The spans of the heap: finds the object that an address lies in.
//!
//! `runtime.mheap_.allspans` has every `mspan` that ever was (`src/runtime/mheap.go`; the runtime keeps free `mspan`s
//! for reuse). A span in use is a run of pages of 8 KiB, cut into objects of one size.

#[cfg(test)]
pub(super) mod tests;

use crate::binary::Globals;
use crate::binary::bytes::{array, u64_at};
use crate::budget::{self, Exhausted};
use crate::memory::{Fault, Range};
use crate::snapshot::View;

/// `_PageSize` and `heapArenaBytes` (`src/runtime/malloc.go`), as shifts.
const PAGE_SHIFT: u32 = 13;
const ARENA_SHIFT: u32 = 26;
const PAGES_OF_ARENA: usize = 1 << (ARENA_SHIFT - PAGE_SHIFT);
/// Arenas in a user address space of 48 bits, on both processors.
const MAX_ARENAS: u64 = 1 << (48 - ARENA_SHIFT);
/// Most `mspan`s: a heap of 128 GiB of one-page spans.
const MAX_SPANS: u64 = 1 << 24;
/// Most pages of all spans together: 1 TiB.
const MAX_PAGES: u64 = 1 << 27;
/// Arenas behind the last one in which a heap may grow while it is read: 4 GiB. The runtime takes the next arena if it
/// can (`src/runtime/malloc.go: sysAlloc`).
const GROWTH: u64 = 64;
/// Most arenas with a span, and most objects of all spans together. An arena costs us a table and an object two bits,
/// even if a hostile target has no memory behind them.
const MAX_TABLES: usize = 1 << 14;
const MAX_OBJECTS: u64 = 1 << 32;
/// Most pages of a span with more than one object; the runtime's have ten at most in every version.
const MAX_SHARED_PAGES: u64 = 128;
/// How many times more bytes spans of several objects may have than the target has in memory, and how many bytes more.
/// The runtime gives out such a span when an object is needed, so one page of it has been written, and most have ten at
/// most.
const MAX_CLAIM: u64 = 4;
const MORE_CLAIM: u64 = 256 << 20;
/// `mspan`s beyond what the memory of the target has room for, because the kernel counts that with a delay.
const MORE_SPANS: u64 = 1 << 16;
/// How often the array of spans is looked for.
const ATTEMPTS: usize = 4;
/// `mspan`s that are read together.
const BATCH: u64 = 1 << 16;
/// `mSpanInUse` of `mspan.state`: objects of the collector's heap.
pub(crate) const IN_USE: u8 = 1;
/// `mSpanManual`: stacks and the like, without objects.
const MANUAL: u8 = 2;
/// Entry of the page table for a page without a span.
const NONE: u32 = 0;
/// Entry of the page table for a page of a [`MANUAL`] span.
const NO_OBJECTS: u32 = u32::MAX;

/// Why the heap cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeapError {
    /// The binary does not show `runtime.mheap_`, or the layout lacks a field.
    #[error("where its heap lies is not known (runtime.mheap_ or the layout of its structures)")]
    NoHeap,
    /// One of the bounds [`MAX_SPANS`], [`MAX_OBJECTS`], [`MAX_PAGES`] or [`MAX_TABLES`] is exceeded.
    #[error("its heap has more than {MAX_SPANS} spans, {MAX_OBJECTS} objects or 1 TiB")]
    TooLarge,
    /// Its spans have more objects than it can have written: bytes that they claim, and that it has.
    #[error("its heap claims {} MiB of small objects, and the program has {} MiB in memory", .0 >> 20, .1 >> 20)]
    Unbelievable(u64, u64),
    #[error("the tables of its heap cannot be read: {0}")]
    Unreadable(#[from] Fault),
    #[error("its heap cannot be read: {0}")]
    Exhausted(#[from] Exhausted),
}

/// A span in use: `count` objects of `size` bytes from `base` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) base: u64,
    pub(crate) size: u64,
    pub(crate) count: u32,
    /// Factor for dividing by `size` with a multiplication (`mspan.divMul`): every word of the heap needs the division.
    magic: u32,
    /// Where the bits of its objects begin in a bitmap of all objects. A multiple of 64: a scan of the span
    /// takes whole words.
    pub(crate) bits: u64,
    /// Whether its objects hold no pointers.
    pub(crate) noscan: bool,
    /// Number of its size class (`src/runtime/sizeclasses.go`); 0: one large object.
    pub(crate) class: u8,
    /// Whether a candidate waits for one of its objects.
    pub(crate) watched: bool,
    /// Address of its first special; 0: none.
    pub(crate) specials: u64,
    /// Address of its `mspan`.
    pub(crate) record: u64,
}

/// An object: the number of its span, and its index in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectId {
    pub(crate) span: u32,
    pub(crate) index: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Object(ObjectId),
    /// Where the heap is or may grow, but in no span that was in use when the table was made.
    Nowhere,
    /// Anywhere else, also in a stack or behind the last object of a span.
    Outside,
}

/// All spans in use, with a page table to find them by address.
#[derive(Default)]
pub(crate) struct Spans {
    /// By number; number 0 stands for no span.
    spans: Vec<Span>,
    /// Length of a bitmap of all objects.
    bits: u64,
    pages: u64,
    /// By arena from `first_arena` on, the number of its table in `tables` + 1; 0: none.
    arenas: Vec<u32>,
    first_arena: u64,
    /// Arenas from the first that has a table to [`GROWTH`] behind the last: a pointer to one of these may lead to a
    /// span that came into use meanwhile.
    near: std::ops::Range<u64>,
    /// By page of an arena, the number of its span, [`NONE`] or [`NO_OBJECTS`].
    tables: Vec<u32>,
    /// Bytes of all objects that may hold pointers.
    scannable: u64,
    /// Bytes of spans of several objects.
    shared: u64,
    /// What the target has in memory, as far as that is known.
    resident: Option<u64>,
}

struct Fields {
    size: usize,
    start: usize,
    npages: usize,
    nelems: usize,
    /// Whether `nelems` has two bytes.
    short: bool,
    spanclass: usize,
    state: usize,
    elemsize: usize,
    specials: usize,
}

impl Fields {
    fn of(view: &View) -> Option<Fields> {
        let field =
            |name| view.binary.layout().field("mspan", name).filter(|at| *at < 1024).map(|at| at as usize);
        Some(Fields {
            size: field("_size")?,
            start: field("startAddr")?,
            npages: field("npages")?,
            nelems: field("nelems")?,
            short: view.binary.version().release.counts_span_objects_in_16_bits(),
            spanclass: field("spanclass")?,
            state: field("state")?,
            elemsize: field("elemsize")?,
            specials: field("specials")?,
        })
    }
}

impl Spans {
    /// Reads all spans in use. The target runs meanwhile, so these are spans of different moments.
    pub(crate) fn read(view: &View, globals: &Globals) -> Result<Spans, HeapError> {
        let mut spans = Spans { spans: vec![Span::NONE], ..Spans::default() };
        spans.extend(view, globals)?;
        Ok(spans)
    }

    /// Reads `allspans` again and adds spans that came into use where none was before.
    pub(crate) fn extend(&mut self, view: &View, globals: &Globals) -> Result<(), HeapError> {
        for _ in 1..ATTEMPTS {
            match self.extend_once(view, globals) {
                // A heap that grows has a larger array made, and the one that was just found is unmapped
                // (`src/runtime/mheap.go`: `recordspan`).
                Err(HeapError::Unreadable(Fault::Unmapped(_))) => {}
                result => return result,
            }
        }
        self.extend_once(view, globals)
    }

    fn extend_once(&mut self, view: &View, globals: &Globals) -> Result<(), HeapError> {
        let fields = Fields::of(view).ok_or(HeapError::NoHeap)?;
        let heap = globals.mheap.ok_or(HeapError::NoHeap)?.wrapping_add(view.bias);
        let slice = view.at(heap, "mheap", "allspans").ok_or(HeapError::NoHeap)?;
        let (array, len) = (view.memory.word(slice)?, view.memory.word(slice.wrapping_add(8))?);
        self.resident = view.memory.resident();
        let room =
            self.resident.map_or(MAX_SPANS, |bytes| bytes / fields.size.max(1) as u64 * 2 + MORE_SPANS);
        if len > MAX_SPANS.min(room) {
            return Err(HeapError::TooLarge);
        }
        let (mut bytes, mut whole) = (Vec::new(), Vec::new());
        for from in (0..len).step_by(BATCH as usize) {
            let count = (len - from).min(BATCH) as usize;
            budget::check(count * (size_of::<Range>() + 8 + fields.size))?;
            let mut addrs = vec![0; count * 8];
            view.memory.read(array.wrapping_add(from * 8), &mut addrs)?;
            let addrs = addrs.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
            let ranges: Vec<_> = addrs.map(|addr| Range { addr, len: fields.size }).collect();
            view.memory.scatter(&ranges, &mut bytes, &mut whole)?;
            for ((record, whole), range) in bytes.chunks_exact(fields.size).zip(&whole).zip(&ranges) {
                if *whole {
                    self.add(record, range.addr, &fields)?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, record: &[u8], addr: u64, fields: &Fields) -> Result<(), HeapError> {
        let Some((state, base, pages)) = record
            .get(fields.state)
            .zip(u64_at(record, fields.start))
            .and_then(|(state, base)| Some((*state, base, u64_at(record, fields.npages)?)))
        else {
            return Ok(());
        };
        let plausible = base.is_multiple_of(1 << PAGE_SHIFT)
            && pages > 0
            // Arena 0 holds the first page, which is never mapped: a null base is no span.
            && base >> ARENA_SHIFT > 0
            && base.checked_add(pages << PAGE_SHIFT).is_some_and(|end| end >> 48 == 0)
            && pages <= MAX_PAGES;
        // A place that is taken stays as it is. `extend` reads the whole list again, and a span may have been freed and
        // its pages given to another one while the list was read.
        if !plausible || !matches!(state, IN_USE | MANUAL) || self.at(base) != NONE {
            return Ok(());
        }
        self.pages += pages;
        if self.pages > MAX_PAGES || self.spans.len() as u64 > MAX_SPANS {
            return Err(HeapError::TooLarge);
        }
        let number = match (state, self.span((record, addr), fields, (base, pages))) {
            (IN_USE, Some(span)) => {
                // Rounded up so that each span begins at a word of the bitmaps.
                self.bits += u64::from(span.count).next_multiple_of(64);
                if self.bits > MAX_OBJECTS {
                    return Err(HeapError::TooLarge);
                }
                if span.count > 1 {
                    self.shared += pages << PAGE_SHIFT;
                }
                if let Some(resident) = self.resident
                    && self.shared > resident.saturating_mul(MAX_CLAIM).saturating_add(MORE_CLAIM)
                {
                    return Err(HeapError::Unbelievable(self.shared, resident));
                }
                budget::reserve(&mut self.spans, 1)?;
                self.scannable += if span.noscan { 0 } else { span.size * u64::from(span.count) };
                self.spans.push(span);
                (self.spans.len() - 1) as u32
            }
            // Stacks are read by goroutine (`references.rs`), not as objects.
            (MANUAL, _) => NO_OBJECTS,
            _ => return Ok(()),
        };
        self.enter(base, pages, number)
    }

    fn span(&self, (record, addr): (&[u8], u64), fields: &Fields, (base, pages): (u64, u64)) -> Option<Span> {
        let size = u64_at(record, fields.elemsize)?;
        let count = if fields.short {
            u64::from(u16::from_le_bytes(array(record, fields.nelems)?))
        } else {
            u64_at(record, fields.nelems)?
        };
        let bytes = pages << PAGE_SHIFT;
        // A `magic` is exact for small spans only, and the bitmaps grow with `count`: a hostile span could make us keep
        // a bit for every eight bytes of a terabyte.
        let fits = size >= 8 && count > 0 && count.checked_mul(size).is_some_and(|all| all <= bytes);
        if !fits || count > 1 && pages > MAX_SHARED_PAGES {
            return None;
        }
        let magic = if count == 1 { 0 } else { (u64::from(u32::MAX) / size + 1) as u32 };
        Some(Span {
            base,
            size,
            count: count as u32,
            magic,
            bits: self.bits,
            // The lowest bit of the span class says noscan (`src/runtime/mheap.go: spanClass`).
            noscan: record.get(fields.spanclass)? & 1 != 0,
            class: record.get(fields.spanclass)? >> 1,
            watched: false,
            specials: u64_at(record, fields.specials)?,
            record: addr,
        })
    }

    fn enter(&mut self, base: u64, pages: u64, number: u32) -> Result<(), HeapError> {
        let first = base >> PAGE_SHIFT;
        for page in first..first + pages {
            let table = self.table(page >> (ARENA_SHIFT - PAGE_SHIFT))?;
            if let Some(entry) = self.tables.get_mut(table + page as usize % PAGES_OF_ARENA) {
                *entry = number;
            }
        }
        Ok(())
    }

    /// The index in `tables` at which the table of an arena begins; makes the table if there is none.
    fn table(&mut self, arena: u64) -> Result<usize, HeapError> {
        self.cover(arena)?;
        let entry = self.arenas.get_mut((arena - self.first_arena) as usize).ok_or(HeapError::TooLarge)?;
        if *entry == 0 {
            if self.tables.len() >= MAX_TABLES * PAGES_OF_ARENA {
                return Err(HeapError::TooLarge);
            }
            budget::reserve(&mut self.tables, PAGES_OF_ARENA)?;
            self.tables.resize(self.tables.len() + PAGES_OF_ARENA, NONE);
            *entry = (self.tables.len() / PAGES_OF_ARENA) as u32;
            let first = if self.near.is_empty() { arena } else { self.near.start.min(arena) };
            self.near = first..self.near.end.max(arena + GROWTH);
        }
        Ok((*entry as usize - 1) * PAGES_OF_ARENA)
    }

    /// Makes room in `arenas`. A heap has its arenas beside each other unless the kernel refuses; then all of them between
    /// the first and the last have an entry, 16 MiB at most.
    fn cover(&mut self, arena: u64) -> Result<(), HeapError> {
        if arena >= MAX_ARENAS {
            return Err(HeapError::TooLarge);
        }
        if self.arenas.is_empty() {
            self.first_arena = arena;
        }
        if arena < self.first_arena {
            // As many again, or a target that goes down arena by arena makes us move all entries each time.
            let first = arena.min(self.first_arena.saturating_sub(self.arenas.len() as u64));
            let more = (self.first_arena - first) as usize;
            budget::reserve(&mut self.arenas, more)?;
            self.arenas.splice(0..0, std::iter::repeat_n(0, more));
            self.first_arena = first;
        }
        let len = (arena - self.first_arena) as usize + 1;
        if len > self.arenas.len() {
            let more = len - self.arenas.len();
            budget::reserve(&mut self.arenas, more)?;
            self.arenas.resize(len, 0);
        }
        Ok(())
    }

    /// The entry of the page table for an address; `NONE` also for an arena without a table.
    #[inline]
    fn at(&self, addr: u64) -> u32 {
        // Below the first arena this wraps to behind the last.
        match self.arenas.get((addr >> ARENA_SHIFT).wrapping_sub(self.first_arena) as usize) {
            Some(0) | None => NONE,
            Some(table) => {
                let page = (addr >> PAGE_SHIFT) as usize % PAGES_OF_ARENA;
                self.tables.get((*table as usize - 1) * PAGES_OF_ARENA + page).copied().unwrap_or(NONE)
            }
        }
    }

    #[inline]
    pub(crate) fn find(&self, addr: u64) -> Place {
        match self.at(addr) {
            NONE if self.near.contains(&(addr >> ARENA_SHIFT)) => Place::Nowhere,
            NONE => Place::Outside,
            NO_OBJECTS => Place::Outside,
            number => match self.spans.get(number as usize).and_then(|span| span.object(addr)) {
                Some(index) => Place::Object(ObjectId { span: number, index }),
                None => Place::Outside,
            },
        }
    }

    /// The object that an address lies in; `None`: in no object.
    pub(crate) fn object(&self, addr: u64) -> Option<ObjectId> {
        match self.find(addr) {
            Place::Object(object) => Some(object),
            Place::Nowhere | Place::Outside => None,
        }
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&Span> {
        self.spans.get(number as usize)
    }

    /// Marks a span as one with awaited objects, whose marks must be reported.
    pub(crate) fn watch(&mut self, number: u32) {
        if let Some(span) = self.spans.get_mut(number as usize) {
            span.watched = true;
        }
    }

    pub(crate) fn scannable(&self) -> u64 {
        self.scannable
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().skip(1)
    }

    /// One more than the highest number of a span.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Length of a bitmap of all objects, a multiple of 64.
    pub(crate) fn bits(&self) -> u64 {
        self.bits
    }

    /// Whether the runtime has this object allocated now, as `mspan.isFree` decides (`src/runtime/mbitmap.go`): an
    /// object that was allocated since the last sweep lies below `freeindex`, one that the sweep found in use is in
    /// `allocBits`. If that cannot be read the object counts as allocated, which hides a leak at worst.
    pub(crate) fn is_used(&self, view: &View, object: ObjectId) -> bool {
        let free = || {
            let span = self.get(object.span)?;
            let at = |field| view.at(span.record, "mspan", field);
            let next = view.word(at("freeindex")?)?;
            let next = if view.binary.version().release.counts_span_objects_in_16_bits() {
                next & 0xffff
            } else {
                next
            };
            let bits = view.word(at("allocBits")?)?;
            let mut byte = [0];
            view.memory.read(bits.checked_add(u64::from(object.index / 8))?, &mut byte).ok()?;
            Some(u64::from(object.index) >= next && byte[0] >> (object.index % 8) & 1 == 0)
        };
        !free().unwrap_or(false)
    }

    /// The object whose bit in a bitmap of all objects is this one; `None`: the bit is one between two spans.
    pub(crate) fn at_bit(&self, bit: u64) -> Option<ObjectId> {
        // Spans get their bits in the order of their numbers; number 0 has none.
        let behind = self.spans.partition_point(|span| span.bits <= bit);
        let number = behind.checked_sub(1).filter(|number| *number > 0)?;
        let span = self.spans.get(number)?;
        let index = u32::try_from(bit - span.bits).ok().filter(|index| *index < span.count)?;
        Some(ObjectId { span: number as u32, index })
    }

    /// Address and size of an object.
    pub(crate) fn range(&self, object: ObjectId) -> Option<(u64, u64)> {
        let span = self.get(object.span)?;
        Some((span.base + u64::from(object.index) * span.size, span.size))
    }
}

impl Span {
    const NONE: Span = Span {
        base: 0,
        size: 0,
        count: 0,
        magic: 0,
        bits: 0,
        noscan: true,
        class: 0,
        watched: false,
        specials: 0,
        record: 0,
    };

    /// The range of all its objects, without the rest behind the last one.
    pub(crate) fn objects(&self) -> Range {
        Range { addr: self.base, len: (self.size * u64::from(self.count)) as usize }
    }

    /// The index of the object at an address within the span; `None`: behind the last object.
    #[inline]
    fn object(&self, addr: u64) -> Option<u32> {
        let into = addr.wrapping_sub(self.base);
        // As `mspan.objIndex`; exact because the runtime's spans with several objects have ten pages at most.
        let index = ((into * u64::from(self.magic)) >> 32) as u32;
        if self.count == 1 {
            return (into < self.size).then_some(0);
        }
        (index < self.count).then_some(index)
    }
}

/// The little-endian words of some bytes; up to seven bytes at the end are left out.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
}

/// What the runtime itself counts of its heap: two words, so the agent can ask often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of spans in use: `HeapInuse` of `runtime.MemStats`.
    pub bytes: u64,
    /// Number of collections whose marking has ended: `NumGC` of `runtime.MemStats`.
    pub cycles: u64,
}

/// Reads the two words. `None`: the binary does not show where they are, or they make no sense.
///
/// `mheap.pagesInUse` counts the pages of spans with objects; `mheap.sweepgen` rises by two at the end of each
/// collection's marking (`src/runtime/mheap.go`, `mgc.go: gcMarkTermination`; Go 1.19 to 1.27).
pub fn usage(view: &View) -> Option<Usage> {
    let heap = view.binary.globals().ok()?.mheap?.wrapping_add(view.bias);
    let pages = view.field(heap, "mheap", "pagesInUse")?;
    let mut sweepgen = [0; 4];
    view.memory.read(view.at(heap, "mheap", "sweepgen")?, &mut sweepgen).ok()?;
    Usage::of(pages, u32::from_le_bytes(sweepgen))
}

impl Usage {
    fn of(pages: u64, sweepgen: u32) -> Option<Usage> {
        let sensible = pages <= MAX_PAGES && sweepgen.is_multiple_of(2);
        sensible.then_some(Usage { bytes: pages << PAGE_SHIFT, cycles: u64::from(sweepgen / 2) })
    }
}

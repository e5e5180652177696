//! Which words of an object are pointers, as the collector's own bitmap says. It refutes a type that was guessed: a
//! pointer where the bitmap has none, or none where it has one.
//!
//! Go 1.19 keeps two bits a word in the arena (`src/runtime/mbitmap.go`), 1.20 and 1.21 one bit a word there, and since
//! 1.22 the span of objects of up to 512 bytes has the bits behind its last object. Larger objects begin with their
//! descriptor then, which is no guess.

use super::edges::Edges;
use crate::binary::Arch;
use crate::budget;
use crate::goruntime::{HeapBitmap, Release};
use crate::heap::{ObjectId, Span, Spans};
use crate::memory::{Range, read_each};
use crate::snapshot::View;
use hashbrown::HashMap;

/// Bytes of a page, and of an arena (`src/runtime/malloc.go`).
const PAGE: u64 = 8192;
const ARENA: u64 = 64 << 20;
/// The number of the arena at address 0: on amd64 the lower half of all addresses is taken for the upper one
/// (`src/runtime/malloc.go`: `arenaBaseOffset`).
const AMD64_FIRST_ARENA: u64 = (1 << 47) / ARENA;
/// Largest object whose bits lie in its span.
const MOST: u64 = 512;
/// Words of an object that are compared; a type of more is compared in its first ones.
const WORDS: usize = 64;
/// Spans whose bits are read together.
const TOGETHER: u32 = 64;
/// Spans whose bits are kept.
const MAX_SPANS: usize = 1 << 18;

/// Whether the bits of the objects of a span lie in it.
fn has_bits(span: &Span) -> bool {
    span.size <= MOST && !span.noscan
}

/// The bitmaps of one target.
pub(super) struct Pointers {
    bitmap: HeapBitmap,
    /// Address of the array of arenas, of the one that begins at address 0; 0: not known.
    arenas: u64,
    /// Bits of spans, by number; empty where they cannot be read.
    spans: HashMap<u32, Box<[u8]>>,
}

impl Pointers {
    pub(super) fn new(view: &View<'_>) -> Pointers {
        let release: Release = view.binary.version().release;
        let heap = view.binary.globals().ok().and_then(|globals| globals.mheap);
        // `arenas [1][1 << 22]*heapArena`: one pointer to the array.
        let arenas = heap.and_then(|heap| view.field(heap.wrapping_add(view.bias), "mheap", "arenas"));
        let first = match view.binary.arch() {
            Arch::Amd64 => AMD64_FIRST_ARENA * 8,
            Arch::Arm64 => 0,
        };
        let arenas = arenas.filter(|addr| *addr != 0).and_then(|addr| addr.checked_add(first));
        Pointers { bitmap: release.heap_bitmap(), arenas: arenas.unwrap_or(0), spans: HashMap::new() }
    }

    /// Whether the bitmap says that there cannot be a value with these pointers, of so many bytes, at so many bytes in
    /// the object.
    pub(super) fn refute(
        &mut self,
        view: &View<'_>,
        spans: &Spans,
        object: ObjectId,
        (at, size): (u64, u64),
        edges: &Edges,
    ) -> bool {
        let Some(span) = spans.get(object.span).copied() else { return true };
        if edges.cut || !at.is_multiple_of(8) {
            return !at.is_multiple_of(8);
        }
        let Some(bits) = self.bits(view, spans, &span, object) else { return false };
        let first = (at / 8) as usize;
        let words = ((size / 8) as usize).min(WORDS.saturating_sub(first));
        if words == 0 {
            // Behind the words that are compared.
            return false;
        }
        // What is never a pointer into the heap may have a bit or not.
        let mask = if words >= 64 { u64::MAX } else { ((1_u64 << words) - 1) << first };
        (bits ^ edges.pointers << first) & mask != 0
    }

    /// Reads the bits of a span, and of those with the next numbers: they were made one after the other, and a read for
    /// each would cost more than the rest. `None`: the budget is used up.
    fn read(&mut self, view: &View<'_>, spans: &Spans, number: u32, inline_marks: bool) -> Option<()> {
        if self.spans.len() >= MAX_SPANS {
            self.spans.clear();
        }
        let mut wanted: Vec<(u32, Range)> = Vec::new();
        for number in number..number.saturating_add(TOGETHER) {
            let Some(span) = spans.get(number) else { break };
            if !has_bits(span) || self.spans.contains_key(&number) {
                continue;
            }
            let pages = (span.base + span.size * u64::from(span.count)).next_multiple_of(PAGE);
            let len = (pages - span.base) / 64;
            // Since the collector marks in the span itself, its marks come last.
            let marks = if inline_marks && span.size >= 16 { 128 } else { 0 };
            wanted.push((number, Range { addr: pages - len - marks, len: len as usize }));
        }
        budget::check(2 * wanted.iter().map(|(_, range)| range.len).sum::<usize>()).ok()?;
        let ranges: Vec<_> = wanted.iter().map(|(_, range)| *range).collect();
        // What cannot be read has no bits.
        wanted.iter().for_each(|(number, _)| drop(self.spans.insert(*number, Box::default())));
        let _ = read_each(view.memory, &ranges, |index, bytes| {
            if let Some((number, _)) = wanted.get(index) {
                self.spans.insert(*number, bytes.into());
            }
        });
        Some(())
    }

    /// The bits of the first words of an object; `None`: not known.
    fn bits(&mut self, view: &View<'_>, spans: &Spans, span: &Span, object: ObjectId) -> Option<u64> {
        let addr = span.base + u64::from(object.index) * span.size;
        match self.bitmap {
            HeapBitmap::InSpan { .. } if !has_bits(span) => None,
            HeapBitmap::InSpan { inline_marks } => {
                if !self.spans.contains_key(&object.span) {
                    self.read(view, spans, object.span, inline_marks)?;
                }
                let bytes = self.spans.get(&object.span)?;
                let first = ((addr - span.base) / 8) as usize;
                let words = ((span.size / 8) as usize).min(WORDS);
                let from = bytes.get(first / 8..).filter(|from| !from.is_empty())?;
                let mut window = [0; 16];
                window.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                Some((u128::from_le_bytes(window) >> (first % 8)) as u64 & low(words))
            }
            HeapBitmap::InArena { wide } => {
                let arena =
                    view.word(self.arenas.checked_add(addr / ARENA * 8)?).filter(|arena| *arena != 0)?;
                let word = addr % ARENA / 8;
                let words = ((span.size / 8) as usize).min(WORDS);
                if wide {
                    // One bit a word, in words of 64.
                    let mut bytes = [0; 16];
                    view.memory.read(arena.checked_add(word / 64 * 8)?, &mut bytes).ok()?;
                    let bits = u128::from_le_bytes(bytes) >> (word % 64);
                    return Some(bits as u64 & low(words));
                }
                // A byte has four words: their pointer bits low, and above them whether there is more to scan.
                let mut bytes = [0; WORDS / 4 + 1];
                view.memory.read(arena.checked_add(word / 4)?, &mut bytes).ok()?;
                let mut bits = 0;
                for index in 0..words {
                    let at = word as usize % 4 + index;
                    let byte = bytes.get(at / 4)?;
                    let (pointer, more) = (byte >> (at % 4) & 1, byte >> (4 + at % 4) & 1);
                    if more == 0 {
                        break;
                    }
                    bits |= u64::from(pointer) << index;
                }
                Some(bits)
            }
        }
    }
}

fn low(words: usize) -> u64 {
    if words >= 64 { u64::MAX } else { (1 << words) - 1 }
}

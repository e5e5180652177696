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
/// Spans whose bits are kept.
const MAX_SPANS: usize = 1 << 16;

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
        let Some(bits) = self.bits(view, &span, object) else { return false };
        let first = (at / 8) as usize;
        let words = ((size / 8) as usize).min(WORDS.saturating_sub(first));
        if words == 0 {
            // Behind the words that are compared.
            return false;
        }
        let mut expected = 0_u64;
        for edge in &edges.list {
            let word = first + (edge.offset / 8) as usize;
            if word < WORDS {
                expected |= 1 << word;
            }
        }
        // What is never a pointer into the heap may have a bit or not.
        let mask = if words >= 64 { u64::MAX } else { ((1_u64 << words) - 1) << first };
        (bits ^ expected) & mask != 0
    }

    /// The bits of the first words of an object; `None`: not known.
    fn bits(&mut self, view: &View<'_>, span: &Span, object: ObjectId) -> Option<u64> {
        let addr = span.base + u64::from(object.index) * span.size;
        match self.bitmap {
            HeapBitmap::InSpan { .. } if span.size > MOST || span.noscan => None,
            HeapBitmap::InSpan { inline_marks } => {
                if !self.spans.contains_key(&object.span) {
                    let pages = (span.base + span.size * u64::from(span.count)).next_multiple_of(PAGE);
                    let len = (pages - span.base) / 64;
                    // Since the collector marks in the span itself, its marks come last.
                    let marks = if inline_marks && span.size >= 16 { 128 } else { 0 };
                    if self.spans.len() >= MAX_SPANS {
                        self.spans.clear();
                    }
                    budget::check(len as usize).ok()?;
                    let mut bytes = vec![0; len as usize];
                    let read = view.memory.read(pages - len - marks, &mut bytes);
                    self.spans.insert(object.span, if read.is_ok() { bytes.into() } else { Box::default() });
                }
                let bytes = self.spans.get(&object.span)?;
                let first = ((addr - span.base) / 8) as usize;
                let words = ((span.size / 8) as usize).min(WORDS);
                let bit = |word: usize| {
                    Some(u64::from(*bytes.get((first + word) / 8)? >> ((first + word) % 8) & 1))
                };
                (0..words).try_fold(0, |bits, word| Some(bits | bit(word)? << word))
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

//! Spans that were read a moment ago. A list is gone through node by node, and the next node often lies beside the last
//! one: with whole spans, most nodes need no read of their own.

use crate::budget::{self, Exhausted};
use crate::heap::{Span, Spans};
use crate::memory::{Fault, Memory, Range};

/// Spans that are kept at most, and the share of what is left of the budget that they may take.
const SLOTS: usize = 2048;
const SHARE: usize = 8;
/// Largest span that is kept; those of small objects have 8 KiB.
const MAX_SPAN: usize = 16 << 10;
/// Bytes that are read at once.
const BATCH_BYTES: usize = 1 << 20;

/// What was read of spans, each where its number says.
pub(super) struct Recent {
    slots: Vec<Slot>,
    /// Number of the present batch: its spans stay until all their objects were looked through.
    batch: u32,
    missing: Vec<(usize, u32)>,
    missing_bytes: usize,
    buffer: Vec<u8>,
}

#[derive(Default)]
struct Slot {
    /// 0: none.
    span: u32,
    /// The batch that needed it last.
    batch: u32,
    /// Empty where it could not be read.
    bytes: Vec<u8>,
}

impl Recent {
    /// # Errors
    /// The budget does not allow it.
    pub(super) fn new() -> Result<Recent, Exhausted> {
        let count = (budget::left() / SHARE / MAX_SPAN).clamp(16, SLOTS);
        budget::check(count * size_of::<Slot>() + 2 * BATCH_BYTES)?;
        let slots = std::iter::repeat_with(Slot::default).take(count).collect();
        Ok(Recent { slots, batch: 0, missing: Vec::new(), missing_bytes: 0, buffer: Vec::new() })
    }

    /// The slot of a span.
    fn at(&self, number: u32) -> usize {
        number as usize % self.slots.len()
    }

    /// Whether the objects of a span are read this way.
    pub(super) fn takes(span: &Span) -> bool {
        span.count > 1 && span.objects().len <= MAX_SPAN
    }

    /// Begins another batch: nothing of the last one is needed any more.
    pub(super) fn begin(&mut self) {
        self.batch = self.batch.wrapping_add(1);
        self.missing.clear();
        self.missing_bytes = 0;
    }

    /// Takes a span into the batch; `false`: it has no room for it, and must be read first.
    pub(super) fn wants(&mut self, number: u32, span: &Span) -> bool {
        let at = self.at(number);
        let Some(slot) = self.slots.get_mut(at) else { return false };
        if slot.span == number {
            slot.batch = self.batch;
            return true;
        }
        if slot.batch == self.batch || self.missing_bytes >= BATCH_BYTES {
            return false;
        }
        (slot.span, slot.batch) = (number, self.batch);
        slot.bytes.clear();
        self.missing.push((at, number));
        self.missing_bytes += span.objects().len;
        true
    }

    /// Reads the spans of the batch that are not there yet; returns how many bytes.
    ///
    /// # Errors
    /// The target has ended or may not be read, or the budget is used up.
    pub(super) fn read(&mut self, memory: &dyn Memory, spans: &Spans) -> Result<usize, Fault> {
        let nothing = Range { addr: 0, len: 0 };
        let span = |number: &u32| spans.get(*number).map_or(nothing, Span::objects);
        let ranges: Vec<_> = self.missing.iter().map(|(_, number)| span(number)).collect();
        let mut whole = Vec::new();
        memory.scatter(&ranges, &mut self.buffer, &mut whole)?;
        let mut rest = &self.buffer[..];
        for (((at, _), range), whole) in self.missing.iter().zip(&ranges).zip(&whole) {
            let Some(bytes) = rest.split_off(..range.len) else { break };
            if let Some(slot) = self.slots.get_mut(*at).filter(|_| *whole) {
                budget::reserve(&mut slot.bytes, bytes.len())?;
                slot.bytes.extend_from_slice(bytes);
            }
        }
        Ok(self.buffer.len())
    }

    /// The bytes of a span of the batch; empty: it could not be read.
    pub(super) fn get(&self, number: u32) -> &[u8] {
        let slot = self.slots.get(self.at(number));
        slot.filter(|slot| slot.span == number).map_or(&[], |slot| &slot.bytes)
    }
}

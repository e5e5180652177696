//! Spans made by hand, as `mspan`s would describe them.

use super::*;
use proptest::prelude::*;

const FIELDS: Fields = Fields {
    size: 64,
    start: 0,
    npages: 8,
    nelems: 16,
    short: true,
    spanclass: 18,
    state: 19,
    elemsize: 24,
    specials: 32,
};
const BASE: u64 = 0xc000_0000_0000;
const PAGE: u64 = 1 << PAGE_SHIFT;

/// The bytes of an `mspan` as [`FIELDS`] lay it out.
pub(in crate::heap) fn record(base: u64, pages: u64, (size, count): (u64, u16), state: u8) -> Vec<u8> {
    let mut bytes = vec![0; FIELDS.size];
    let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    put(FIELDS.start, &base.to_le_bytes());
    put(FIELDS.npages, &pages.to_le_bytes());
    put(FIELDS.nelems, &count.to_le_bytes());
    put(FIELDS.elemsize, &size.to_le_bytes());
    put(FIELDS.state, &[state]);
    bytes
}

pub(in crate::heap) fn spans(records: &[Vec<u8>]) -> Spans {
    let mut spans = Spans { spans: vec![Span::NONE], ..Spans::default() };
    for record in records {
        spans.add(record, 0, &FIELDS).unwrap();
    }
    spans
}

#[test]
fn an_address_is_in_the_object_that_begins_before_it() {
    let records = [
        record(BASE, 1, (48, 170), IN_USE),
        record(BASE + PAGE, 4, (4 * PAGE, 1), IN_USE),
        record(BASE + 5 * PAGE, 2, (0, 0), MANUAL),
    ];
    let spans = spans(&records);
    let object = |span, index| Place::Object(ObjectId { span, index });
    assert_eq!(spans.find(BASE), object(1, 0));
    assert_eq!(spans.find(BASE + 47), object(1, 0));
    assert_eq!(spans.find(BASE + 48), object(1, 1));
    assert_eq!(spans.find(BASE + 48 * 170), Place::Outside, "behind the last object");
    assert_eq!(spans.find(BASE + 5 * PAGE - 1), object(2, 0));
    assert_eq!(spans.find(BASE + 5 * PAGE), Place::Outside, "a stack");
    assert_eq!(spans.find(BASE + 8 * PAGE), Place::Nowhere, "no span yet");
    assert_eq!(spans.find(0x40_0000), Place::Outside);
    assert_eq!(spans.range(ObjectId { span: 1, index: 2 }), Some((BASE + 96, 48)));
    assert_eq!(spans.bits(), 192 + 64, "each span begins at a word of the bitmaps");
}

#[test]
fn arenas_come_in_any_order() {
    let arena = |number: u64| BASE + (number << ARENA_SHIFT);
    let order = [5, 6, 2, 900, 1];
    let records: Vec<_> = order.iter().map(|number| record(arena(*number), 1, (48, 170), IN_USE)).collect();
    let spans = spans(&records);
    for (number, span) in order.iter().zip(1..) {
        assert_eq!(spans.find(arena(*number)), Place::Object(ObjectId { span, index: 0 }), "{number}");
    }
    assert_eq!(spans.find(arena(0)), Place::Outside);
    assert_eq!(spans.find(arena(3)), Place::Nowhere);
    assert_eq!(spans.find(0), Place::Outside);
    assert_eq!(spans.find(u64::MAX), Place::Outside);
}

#[test]
fn what_cannot_be_a_span_is_none() {
    let lies = [
        record(BASE + 8, 1, (48, 170), IN_USE),
        record(BASE, 0, (48, 170), IN_USE),
        record(BASE, 1, (48, 171), IN_USE),
        record(BASE, 1, (0, 170), IN_USE),
        record(BASE, u64::MAX, (48, 170), IN_USE),
        record(!(PAGE - 1), 1, (48, 170), IN_USE),
        record(BASE, 1 << 20, (8, u16::MAX), IN_USE),
        record(BASE, 1, (48, 170), 0),
    ];
    for lie in &lies {
        assert_eq!(spans(std::slice::from_ref(lie)).len(), 1, "{lie:?}");
    }
    let too_much = record(BASE, MAX_PAGES, (MAX_PAGES << PAGE_SHIFT, 1), IN_USE);
    let mut spans = spans(&[record(BASE - PAGE, 1, (8192, 1), IN_USE)]);
    assert_eq!(spans.add(&too_much, 0, &FIELDS), Err(HeapError::TooLarge));
}

proptest! {
    /// Dividing by multiplication is exact for every size that a span of several objects can have.
    #[test]
    fn objects_are_found_by_division(size in 1u64..=4096, pages in 1u64..=10, into in any::<u64>()) {
        let size = size * 8;
        let count = pages * PAGE / size;
        prop_assume!(count > 1);
        let spans = spans(&[record(BASE, pages, (size, u16::try_from(count).unwrap()), IN_USE)]);
        let into = into % (count * size);
        let found = ObjectId { span: 1, index: (into / size) as u32 };
        prop_assert_eq!(spans.find(BASE + into), Place::Object(found));
    }
}

#[test]
fn more_spans_than_the_program_can_have_written() {
    let mut spans = spans(&[]);
    spans.resident = Some(64 << 20);
    let records = (0..32_000u64).map(|number| {
        record(BASE + number * MAX_SHARED_PAGES * PAGE, MAX_SHARED_PAGES, (16, u16::MAX), IN_USE)
    });
    let records: Vec<_> = records.collect();
    let (added, used) =
        crate::testing::peak::peak(|| records.iter().try_for_each(|record| spans.add(record, 0, &FIELDS)));
    assert!(matches!(added, Err(HeapError::Unbelievable(..))), "{added:?}");
    assert!(used < 4 << 20, "{used}");
}

#[test]
fn what_no_runtime_counts_is_not_believed() {
    assert_eq!(Usage::of(3, 14), Some(Usage { bytes: 24_576, cycles: 7 }));
    assert_eq!(Usage::of(MAX_PAGES + 1, 14), None);
    assert_eq!(Usage::of(u64::MAX, 14), None);
    assert_eq!(Usage::of(3, 15), None, "the runtime adds two at a time");
}

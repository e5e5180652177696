//! Marking by several threads, against the same search done by one with nothing but a set.

use super::*;
use crate::heap::spans::IN_USE;
use crate::heap::spans::tests::{record, spans};
use std::collections::HashSet;

const BASE: u64 = 0xc000_0000_0000;
const PAGE: u64 = 1 << 13;
/// Few spans with many objects: threads then mark within a span just when another one begins to scan it.
const SPANS: u64 = 24;
const SIZE: u64 = 64;
const OBJECTS: u64 = SPANS * PAGE / SIZE;

struct Pages(Vec<u8>);

impl Memory for Pages {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let from = addr.checked_sub(BASE).and_then(|at| self.0.get(at as usize..)?.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(Fault::Unmapped(addr))?);
        Ok(())
    }
}

/// Objects with one pointer or two to any others, and a third into the middle of one: long ways through all spans,
/// back and forth.
fn pages(seed: u64) -> Pages {
    let mut state = seed;
    let mut random = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = vec![0; (SPANS * PAGE) as usize];
    for object in bytes.chunks_exact_mut(SIZE as usize) {
        for word in object.chunks_exact_mut(8).take(1 + (random() % 3) as usize) {
            let to = BASE + random() % OBJECTS * SIZE + random() % SIZE;
            word.copy_from_slice(&to.to_le_bytes());
        }
    }
    Pages(bytes)
}

/// The first addresses of the objects that the one at `root` leads to.
fn reachable(pages: &Pages, root: u64) -> HashSet<u64> {
    let mut reached = HashSet::from([root]);
    let mut todo = vec![root];
    while let Some(addr) = todo.pop() {
        let at = (addr - BASE) as usize;
        for to in words(&pages.0[at..at + SIZE as usize]).filter(|word| *word != 0) {
            let to = to - to % SIZE;
            if reached.insert(to) {
                todo.push(to);
            }
        }
    }
    reached
}

#[test]
fn no_mark_is_missed_by_any_number_of_threads() {
    let records: Vec<_> =
        (0..SPANS).map(|span| record(BASE + span * PAGE, 1, (SIZE, (PAGE / SIZE) as u16), IN_USE)).collect();
    for seed in 1..=10 {
        let pages = pages(seed * 0x9e37_79b9);
        let expected = reachable(&pages, BASE);
        for threads in [1, 2, 4] {
            let marker = Marker::new(&pages, spans(&records)).unwrap();
            let mut found = Found::default();
            marker.reach(BASE, Source::Other, &mut found);
            marker.give(&mut found);
            marker.drain(threads, &mut |_| {}).unwrap();
            assert!(
                (0..OBJECTS)
                    .map(|object| BASE + object * SIZE)
                    .all(|addr| marker.is_reached(addr) == expected.contains(&addr))
            );
            assert_eq!(marker.reached.load(Relaxed), expected.len() as u64 * SIZE, "counted once each");
            assert_eq!(marker.read.load(Relaxed), expected.len() as u64 * SIZE, "scanned once each");
        }
    }
}

#[test]
fn addresses_beyond_those_that_are_kept_are_a_doubt() {
    let pages = pages(1);
    let marker = Marker::new(&pages, spans(&[record(BASE, 1, (SIZE, 128), IN_USE)])).unwrap();
    let miss = |count: u64, different: u64| {
        let mut found = Found::default();
        for number in 0..count {
            marker.reach(BASE + PAGE + number % different * 8, Source::Other, &mut found);
        }
        marker.give(&mut found);
    };
    miss(400_000, 60_000);
    assert!(!marker.has_dropped(), "each counts once");
    assert_eq!(marker.misses().len(), 60_000);
    miss(400_000, MAX_MISSES as u64 + 1);
    assert!(marker.has_dropped());
    assert!(marker.misses().len() <= MAX_MISSES);
}

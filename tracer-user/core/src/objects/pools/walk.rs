//! The lists of pools, and what lies in the slots of each, as memory has it.
//!
//! | struct | bytes | what it has | Go |
//! | --- | --- | --- | --- |
//! | `Pool` | 40 | `local` 0, `localSize` 8, `victim` 16, `victimSize` 24, `New` 32 | 1.19 to 1.27 |
//! | `poolLocal` | 128 | `private` (an interface) 0, `shared.tail` 24 | 1.19 to 1.27 |
//! | `poolChainElt` | 48 | `headTail` 0, `vals` (a slice) 8, `next` 32 | 1.19 to 1.27 |
//!
//! (`src/sync/pool.go`, `poolqueue.go`.) A ring has the values from `tail` to `head`, 32 bits each, at `vals[i % len]`.
//! The first word of an interface in a slot is 0 as long as the slot is free, and while its value is taken out.
//!
//! # Motion
//! The target runs on. Arrays of a pool are exchanged by a collection and where `GOMAXPROCS` changes: a pool whose
//! words are not the same behind as before is read again. Of a ring those values count that its `headTail` has both
//! before and behind.

use crate::binary::bytes::{array, u64_at};
use crate::budget::{self, Exhausted};
use crate::memory::{Fault, Memory};

/// Bytes of a `Pool`, a `poolLocal`, a `poolChainElt` and an interface.
const POOL: usize = 40;
const LOCAL: usize = 128;
const RING: usize = 48;
const SLOT: usize = 16;
/// Offsets in them.
const NEW: usize = 32;
const SHARED_TAIL: usize = 24;
const VALS: usize = 8;
const NEXT: usize = 32;
/// Most pools, and most values in all of them together.
pub(super) const MAX_POOLS: usize = 1 << 16;
pub(super) const MAX_VALUES: usize = 1 << 20;
/// Most rings of a chain: each has twice as many slots as the one before, from 8 to 2^30 (`dequeueLimit`).
const MAX_RINGS: usize = 40;
const MAX_RING: u64 = 1 << 30;
/// How often a list or a pool is read until it is the same behind as before.
const ATTEMPTS: usize = 8;

/// The memory of a target, and how many bytes of an object of the heap begin at an address; 0: there is no object.
#[derive(Clone, Copy)]
pub(super) struct Heap<'a> {
    pub(super) memory: &'a dyn Memory,
    pub(super) room: &'a dyn Fn(u64) -> u64,
}

/// A value in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// Address of its slot.
    pub(super) slot: u64,
    /// Number of the P, and whether it is left over from before the last collection.
    pub(super) p: u32,
    pub(super) victim: bool,
    /// The ring that it is in, and its place there; 0: it is private to the P.
    pub(super) ring: u64,
    pub(super) index: u32,
    /// The words of the interface: descriptor and data.
    pub(super) of: u64,
    pub(super) data: u64,
}

/// A pool as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) addr: u64,
    /// Address of the closure `New`; 0: it has none.
    pub(super) new: u64,
    /// How many Ps its arrays are for: `local` and `victim`.
    pub(super) ps: [u64; 2],
    pub(super) values: Vec<Value>,
    /// Values that there was no room for.
    pub(super) left_out: u64,
    /// Why its values are not known, or not all of them, as a clause.
    pub(super) trouble: Option<&'static str>,
}

/// The words of a slice of pointers that can be true.
fn slice(heap: Heap<'_>, addr: u64) -> Result<(u64, u64), Fault> {
    let mut bytes = [0; 16];
    heap.memory.read(addr, &mut bytes)?;
    Ok((u64_at(&bytes, 0).unwrap_or(0), u64_at(&bytes, 8).unwrap_or(0)))
}

/// The addresses of all pools, without repetition, from the slices at these addresses (`allPools`, `oldPools`).
///
/// # Errors
/// They cannot be read, are not lists of pools, or the budget does not allow it.
pub(super) fn pools(heap: Heap<'_>, slices: [u64; 2]) -> Result<Vec<u64>, ListError> {
    let mut found = Vec::new();
    for _ in 0..ATTEMPTS {
        found.clear();
        let before = [slice(heap, slices[0])?, slice(heap, slices[1])?];
        let mut sensible = true;
        for (array, len) in before.into_iter().filter(|(_, len)| *len > 0) {
            let fits = len <= MAX_POOLS as u64 && len * 8 <= (heap.room)(array);
            if !fits {
                sensible = false;
                break;
            }
            budget::check(len as usize * 16)?;
            let mut bytes = vec![0; len as usize * 8];
            heap.memory.read(array, &mut bytes)?;
            found.extend(crate::heap::words(&bytes).filter(|pool| *pool != 0));
        }
        if before == [slice(heap, slices[0])?, slice(heap, slices[1])?] {
            if !sensible {
                return Err(ListError::Senseless);
            }
            found.sort_unstable();
            found.dedup();
            return Ok(found);
        }
    }
    Err(ListError::Moves)
}

/// Why the pools of a target are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error("its list of pools is not one: it is longer than what it lies in")]
    Senseless,
    #[error("its list of pools changed whenever it was read; stop it meanwhile (--freeze)")]
    Moves,
    #[error("its list of pools cannot be read: {0}")]
    Unreadable(#[from] Fault),
    #[error("its pools cannot be read: {0}")]
    Exhausted(#[from] Exhausted),
}

/// Reads a pool. `most`: how many values there is room for.
pub(super) fn pool(heap: Heap<'_>, addr: u64, most: usize) -> Raw {
    let mut raw = Raw { addr, ..Raw::default() };
    for _ in 0..ATTEMPTS {
        raw = Raw { addr, ..Raw::default() };
        let mut before = [0; POOL];
        if heap.memory.read(addr, &mut before).is_err() {
            raw.trouble = Some("it cannot be read");
            return raw;
        }
        raw.new = u64_at(&before, NEW).unwrap_or(0);
        for (victim, at) in [(false, 0), (true, 16)] {
            let (locals, ps) = (u64_at(&before, at).unwrap_or(0), u64_at(&before, at + 8).unwrap_or(0));
            if let Some(count) = raw.ps.get_mut(usize::from(victim)) {
                *count = ps;
            }
            if let Err(trouble) = locals_of(heap, (locals, ps), victim, most, &mut raw) {
                raw.trouble = Some(trouble);
            }
        }
        let mut behind = [0; POOL];
        if heap.memory.read(addr, &mut behind).is_ok() && before == behind {
            return raw;
        }
    }
    raw.trouble = Some("it changed whenever it was read");
    raw
}

/// Reads what the Ps have in a pool: an array of `poolLocal`.
fn locals_of(
    heap: Heap<'_>,
    (locals, ps): (u64, u64),
    victim: bool,
    most: usize,
    raw: &mut Raw,
) -> Result<(), &'static str> {
    const NOT: &str = "what its Ps have cannot be read";
    if locals == 0 || ps == 0 {
        return Ok(());
    }
    let len = ps.checked_mul(LOCAL as u64).filter(|len| *len <= (heap.room)(locals)).ok_or(NOT)?;
    budget::check(len as usize).map_err(|_| "there is no memory left for it")?;
    let mut bytes = vec![0; len as usize];
    heap.memory.read(locals, &mut bytes).map_err(|_| NOT)?;
    for ((local, addr), p) in bytes.chunks_exact(LOCAL).zip((locals..).step_by(LOCAL)).zip(0_u32..) {
        let own = Value { slot: addr, p, victim, ring: 0, index: 0, of: 0, data: 0 };
        keep(local, own, most, raw)?;
        let tail = u64_at(local, SHARED_TAIL).unwrap_or(0);
        chain(heap, tail, own, most, raw)?;
    }
    Ok(())
}

/// Adds the value of a slot, if it has one.
fn keep(slot: &[u8], value: Value, most: usize, raw: &mut Raw) -> Result<(), &'static str> {
    let (of, data) = (u64_at(slot, 0).unwrap_or(0), u64_at(slot, 8).unwrap_or(0));
    if of == 0 {
        return Ok(());
    }
    if raw.values.len() >= most {
        raw.left_out += 1;
        return Ok(());
    }
    budget::reserve(&mut raw.values, 1).map_err(|_| "there is no memory left for it")?;
    raw.values.push(Value { of, data, ..value });
    Ok(())
}

/// Reads a chain of rings, from the oldest one on.
fn chain(heap: Heap<'_>, tail: u64, own: Value, most: usize, raw: &mut Raw) -> Result<(), &'static str> {
    let (mut next, mut longest) = (tail, 0);
    for _ in 0..MAX_RINGS {
        if next == 0 {
            return Ok(());
        }
        let mut bytes = [0; RING];
        heap.memory.read(next, &mut bytes).map_err(|_| "a ring of it cannot be read")?;
        let (vals, len) = (u64_at(&bytes, VALS).unwrap_or(0), u64_at(&bytes, VALS + 8).unwrap_or(0));
        // Each has more slots than the one before, so no chain leads back to itself.
        let sensible = len.is_power_of_two() && len <= MAX_RING && len > longest;
        let size = len.saturating_mul(SLOT as u64);
        if !sensible || size > (heap.room)(vals) {
            return Err("a ring of it makes no sense");
        }
        longest = len;
        ring(heap, (next, head_tail(&bytes)), (vals, len), own, most, raw)?;
        next = u64_at(&bytes, NEXT).unwrap_or(0);
    }
    Err("a chain of it has no end")
}

/// `head` and `tail` of a ring.
fn head_tail(ring: &[u8]) -> (u32, u32) {
    let half = |at| array(ring, at).map_or(0, u32::from_le_bytes);
    (half(4), half(0))
}

/// Reads the values of a ring.
fn ring(
    heap: Heap<'_>,
    (addr, before): (u64, (u32, u32)),
    (vals, len): (u64, u64),
    own: Value,
    most: usize,
    raw: &mut Raw,
) -> Result<(), &'static str> {
    // What is not in it before it is read does not count.
    if both(before, before, len).1 == 0 {
        return Ok(());
    }
    budget::check(len as usize * SLOT).map_err(|_| "there is no memory left for it")?;
    let mut bytes = vec![0; len as usize * SLOT];
    heap.memory.read(vals, &mut bytes).map_err(|_| "a ring of it cannot be read")?;
    let mut now = [0; 8];
    heap.memory.read(addr, &mut now).map_err(|_| "a ring of it cannot be read")?;
    let (start, count) = both(before, head_tail(&now), len);
    for index in (0..count).map(|step| start.wrapping_add(step)) {
        let at = u64::from(index) & (len - 1);
        let slot = bytes.get(at as usize * SLOT..).unwrap_or_default();
        keep(slot, Value { slot: vals + at * SLOT as u64, ring: addr, index, ..own }, most, raw)?;
    }
    Ok(())
}

/// From where on, and how many values a ring of so many slots has at both times, by its `head` and `tail`. Both count
/// up and wrap.
fn both(one: (u32, u32), other: (u32, u32), len: u64) -> (u32, u32) {
    let held = |(head, tail): (u32, u32)| {
        let count = head.wrapping_sub(tail);
        if u64::from(count) <= len { count } else { 0 }
    };
    let (first, second) = (held(one), held(other));
    let ((one, two), (early, late)) = ((one.1, other.1), (first, second));
    // The tail only goes on.
    let gone = two.wrapping_sub(one);
    if gone > early {
        return (two, 0);
    }
    (two, (early - gone).min(late))
}

/// Whether a ring has the value with this number, by the eight bytes of its `headTail`.
pub(super) fn has(head_tail_bytes: &[u8], index: u32) -> bool {
    let (head, tail) = head_tail(head_tail_bytes);
    index.wrapping_sub(tail) < head.wrapping_sub(tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory::Image;

    const POOL_AT: u64 = 0x10_0000;
    const LOCALS: u64 = 0x20_0000;
    const VICTIMS: u64 = 0x21_0000;
    const RING_AT: u64 = 0x30_0000;
    const VALS_AT: u64 = 0x40_0000;
    const OF: u64 = 0x50_0000;

    /// Everything in it is an object of its own, as far as it goes.
    fn heap(image: &Image) -> Heap<'_> {
        fn room(addr: u64) -> u64 {
            match addr >> 16 {
                0x20 | 0x21 => 4 * 128,
                0x40 => 8 * 16,
                0x41 => 16 * 16,
                0x60 => 64,
                _ => 0,
            }
        }
        Heap { memory: image, room: &room }
    }

    fn local(private: u64, tail: u64) -> Vec<u64> {
        let mut words = vec![if private == 0 { 0 } else { OF }, private, tail, tail];
        words.resize(LOCAL / 8, 0);
        words
    }

    /// A pool for two Ps: the first has one of its own and a ring of three, the second one left over.
    fn image() -> Image {
        let mut image = Image::default();
        image.put_words(POOL_AT, &[LOCALS, 2, VICTIMS, 2, 0x70_0000]);
        image.put_words(LOCALS, &[local(0xa0, RING_AT), local(0, 0)].concat());
        image.put_words(VICTIMS, &[local(0, 0), local(0xb0, 0)].concat());
        // From 7 to 10: the places 7, 0 and 1 of eight.
        image.put_words(RING_AT, &[10 << 32 | 7, VALS_AT, 8, 8, 0, 0]);
        let vals = (0..8).flat_map(|at| [OF, 0xc0 + at]);
        image.put_words(VALS_AT, &vals.collect::<Vec<_>>());
        image
    }

    fn data(raw: &Raw) -> Vec<u64> {
        raw.values.iter().map(|value| value.data).collect()
    }

    #[test]
    fn values_are_private_shared_and_left_over() {
        let image = image();
        let raw = pool(heap(&image), POOL_AT, 100);
        assert_eq!(raw.trouble, None);
        assert_eq!(data(&raw), [0xa0, 0xc7, 0xc0, 0xc1, 0xb0]);
        assert_eq!((raw.new, raw.ps), (0x70_0000, [2, 2]));
        let last = raw.values.last().unwrap();
        assert_eq!((last.p, last.victim, last.ring), (1, true, 0));
        let shared = &raw.values[1];
        assert_eq!((shared.slot, shared.index, shared.ring), (VALS_AT + 7 * 16, 7, RING_AT));
        let few = pool(heap(&image), POOL_AT, 2);
        assert_eq!((few.values.len(), few.left_out), (2, 3));
    }

    #[test]
    fn what_makes_no_sense_is_said_and_bounded() {
        let with = |words: &[(u64, &[u64])]| {
            let mut image = image();
            words.iter().for_each(|(at, words)| image.put_words(*at, words));
            pool(heap(&image), POOL_AT, 100)
        };
        // As many Ps as no machine has.
        for ps in [1 << 60, 5, u64::MAX] {
            let raw = with(&[(POOL_AT, &[LOCALS, ps, VICTIMS, 2, 0])]);
            assert!(raw.trouble.is_some() && data(&raw) == [0xb0], "{ps}: {raw:?}");
        }
        // A ring that comes after itself.
        let raw = with(&[(RING_AT, &[10 << 32 | 7, VALS_AT, 8, 8, RING_AT, 0])]);
        assert_eq!(raw.trouble, Some("a ring of it makes no sense"));
        // More slots than there are, none, and no power of two.
        for len in [16, 0, 7, 1 << 60] {
            let raw = with(&[(RING_AT, &[10 << 32 | 7, VALS_AT, len, len, 0, 0])]);
            assert_eq!(raw.trouble, Some("a ring of it makes no sense"), "{len}");
        }
        // More values than slots.
        let raw = with(&[(RING_AT, &[100 << 32 | 7, VALS_AT, 8, 8, 0, 0])]);
        assert_eq!(data(&raw), [0xa0, 0xb0]);
        // Nothing is mapped there.
        let raw = pool(heap(&Image::default()), POOL_AT, 100);
        assert_eq!(raw.trouble, Some("it cannot be read"));
    }

    #[test]
    fn values_count_that_are_there_before_and_behind() {
        for (one, other, is) in [
            ((10, 7), (10, 7), (7, 3)),
            // One was taken by its own P, and put back.
            ((10, 7), (9, 7), (7, 2)),
            ((10, 7), (12, 7), (7, 3)),
            // Two were stolen.
            ((10, 7), (10, 9), (9, 1)),
            ((10, 7), (10, 10), (10, 0)),
            // All have gone, and others have come.
            ((10, 7), (14, 12), (12, 0)),
            // Numbers wrap.
            ((1, u32::MAX), (1, u32::MAX), (u32::MAX, 2)),
            ((1, u32::MAX), (2, 0), (0, 1)),
        ] {
            assert_eq!(both(one, other, 8), is, "{one:?} {other:?}");
        }
        let word = |head: u64, tail: u64| (head << 32 | tail).to_le_bytes();
        assert!(has(&word(10, 7), 7) && has(&word(10, 7), 9));
        assert!(!has(&word(10, 7), 10) && !has(&word(10, 7), 6));
    }

    #[test]
    fn lists_are_no_longer_than_what_they_lie_in() {
        const ALL: u64 = 0x80_0000;
        const OLD: u64 = 0x80_0018;
        let list = |all: [u64; 3], old: [u64; 3]| {
            let mut image = Image::default();
            image.put_words(ALL, &[all, old].concat());
            image.put_words(0x60_0000, &[1, 2, 2, 3, 0, 0, 0, 0]);
            pools(heap(&image), [ALL, OLD])
        };
        assert_eq!(list([0x60_0000, 4, 8], [0, 0, 0]).unwrap(), [1, 2, 3]);
        assert_eq!(list([0x60_0000, 1, 8], [0x60_0008, 2, 2]).unwrap(), [1, 2]);
        assert_eq!(list([0, 0, 0], [0, 0, 0]).unwrap(), [] as [u64; 0]);
        for len in [9, 1 << 40, u64::MAX] {
            assert!(matches!(list([0x60_0000, len, len], [0, 0, 0]), Err(ListError::Senseless)), "{len}");
        }
    }
}

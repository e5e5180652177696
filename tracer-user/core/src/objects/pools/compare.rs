//! Values of pools side by side: whether each stands still, what each has in it, which are too large, which are there twice.

use super::content::{Content, Fill, Holds};
use super::walk::{self, Value};
use super::{BATCH, Filled, Pool, Pooled, Twice};
use crate::binary::TypeId;
use crate::binary::bytes::u64_at;
use crate::budget;
use crate::heap::Spans;
use crate::memory::{Range, read_each};
use crate::objects::{Objects, ObjectsError};
use hashbrown::HashSet;
use std::{collections::BTreeMap, rc::Rc};

/// A value is oversized if it has room for so many times as much as the median of its pool, and at least so many bytes:
/// from there on `fmt` and `log` drop a buffer.
const TIMES: u64 = 16;
const LEAST_OVERSIZED: u64 = 64 << 10;
/// A median counts as at least this much, and is one of at least so many values.
const LEAST_MEDIAN: u64 = 1 << 10;
const LEAST_VALUES: usize = 4;

/// A value that is compared.
pub(super) struct Compared {
    pub(super) value: Value,
    pub(super) content: Rc<Content>,
    /// How full its fields were in the first look.
    pub(super) fills: Vec<Fill>,
    pub(super) stands: bool,
}

impl Objects<'_> {
    /// Looks at values once more, and notes of each whether it is where and what it was.
    pub(super) fn look(&self, compared: &mut [Compared], first: bool) -> Result<(), ObjectsError> {
        for batch in compared.chunks_mut(BATCH) {
            // Of each its slot, its ring and itself; the words of maps come by themselves.
            let mut ranges = Vec::with_capacity(batch.len() * 3);
            for one in batch.iter() {
                let Value { slot, ring, data, .. } = one.value;
                let ring = if ring == 0 { slot } else { ring };
                let size = if one.stands { one.content.size } else { 0 };
                ranges.extend([
                    Range { addr: slot, len: 16 },
                    Range { addr: ring, len: 8 },
                    Range { addr: data, len: size },
                ]);
            }
            let mut seen = vec![(false, Vec::new()); batch.len()];
            read_each(self.view.memory, &ranges, |index, bytes| {
                let (Some(one), Some((there, fills))) = (batch.get(index / 3), seen.get_mut(index / 3))
                else {
                    return;
                };
                let Value { of, data, ring, index: number, .. } = one.value;
                match index % 3 {
                    0 => *there = u64_at(bytes, 0) == Some(of) && u64_at(bytes, 8) == Some(data),
                    1 => *there &= ring == 0 || walk::has(bytes, number),
                    _ => {
                        let own = data.to_le_bytes();
                        let bytes = if one.content.direct { &own[..] } else { bytes };
                        *fills = one.content.parts.iter().map(|part| part.fill(bytes)).collect();
                    }
                }
            })?;
            self.count_maps(batch, &mut seen)?;
            for (one, (there, fills)) in batch.iter_mut().zip(seen) {
                if first {
                    budget::check(size_of_val(fills.as_slice()))?;
                    one.fills = fills;
                    one.stands = there && one.fills.len() == one.content.parts.len();
                } else {
                    one.stands = one.stands && there && one.fills == fills;
                }
            }
        }
        Ok(())
    }

    /// Reads how many elements maps have: the first word of each.
    fn count_maps(&self, batch: &[Compared], seen: &mut [(bool, Vec<Fill>)]) -> Result<(), ObjectsError> {
        let mut maps: Vec<(usize, usize)> = Vec::new();
        let mut ranges = Vec::new();
        for ((one, (_, fills)), index) in batch.iter().zip(seen.iter()).zip(0..) {
            for ((part, fill), number) in one.content.parts.iter().zip(fills).zip(0..) {
                if part.holds == Holds::Map && fill.at != 0 {
                    maps.push((index, number));
                    ranges.push(Range { addr: fill.at, len: 8 });
                }
            }
        }
        let most = self.room();
        read_each(self.view.memory, &ranges, |index, bytes| {
            let fill = maps.get(index).and_then(|(one, part)| seen.get_mut(*one)?.1.get_mut(*part));
            // More than there are objects is no count.
            if let Some((fill, count)) = fill.zip(u64_at(bytes, 0)) {
                fill.len = if count <= most.saturating_mul(8) { count } else { 0 };
            }
        })?;
        Ok(())
    }
}

/// Bytes of an object from an address in it on; 0: it lies in none.
pub(super) fn rest(spans: &Spans, addr: u64) -> u64 {
    let range = spans.object(addr).and_then(|id| spans.range(id));
    range.map_or(0, |(base, size)| base + size - addr)
}

/// Bytes that slices and texts of a value have room for, as far as the heap has it there.
pub(super) fn room_of(spans: &Spans, one: &Compared) -> u64 {
    let room = |fill: &Fill| fill.bytes.min(rest(spans, fill.at));
    one.fills.iter().filter(|fill| fill.at != 0).map(room).fold(0, u64::saturating_add)
}

/// Values that are in several slots.
pub(super) fn twice(spans: &Spans, standing: &[(&Pooled, &Compared)]) -> Vec<Twice> {
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for (pooled, one) in standing {
        let slice = one.fills.first().filter(|fill| one.content.is_slice && fill.bytes > 0);
        let addr = match slice {
            Some(fill) => fill.at,
            None if one.content.is_one => pooled.addr,
            None => continue,
        };
        // What lies outside of the heap is there once, whoever puts it.
        if spans.object(addr).is_some() {
            *times.entry(addr).or_default() += 1;
        }
    }
    let more = times.into_iter().filter(|(_, times)| *times > 1);
    more.map(|(addr, times)| Twice { addr, times }).collect()
}

/// What fields of values have something in them.
pub(super) fn filled(standing: &[(&Pooled, &Compared)]) -> Vec<Filled> {
    let mut found: BTreeMap<(TypeId, usize), (Filled, u64)> = BTreeMap::new();
    let mut met = HashSet::new();
    for (pooled, one) in standing {
        let Some(of) = pooled.of.filter(|_| met.insert(pooled.addr)) else { continue };
        for ((part, fill), number) in one.content.parts.iter().zip(&one.fills).zip(0..) {
            let new = || Filled {
                of,
                path: part.path.clone(),
                holds: part.holds,
                full: 0,
                emptied: 0,
                unset: 0,
                varies: false,
                example: 0,
            };
            let (filled, len) = found.entry((of, number)).or_insert_with(|| (new(), fill.len));
            match (fill.len, fill.cap) {
                (0, 0) => filled.unset += 1,
                (0, _) => filled.emptied += 1,
                (now, _) => {
                    if filled.full == 0 {
                        (*len, filled.example) = (now, pooled.addr);
                    }
                    filled.full += 1;
                    filled.varies |= *len != now;
                }
            }
        }
    }
    found.into_values().map(|(filled, _)| filled).filter(|filled| filled.full > 0).collect()
}

/// Finds the values that have far more room than the others.
pub(super) fn measure(pool: &mut Pool) {
    let mut rooms: Vec<u64> = Vec::new();
    let mut met = HashSet::new();
    for value in pool.values.iter().filter(|value| value.stands && value.room > 0) {
        if met.insert(value.addr) {
            rooms.push(value.room);
        }
    }
    if rooms.len() < LEAST_VALUES {
        return;
    }
    rooms.sort_unstable();
    pool.median = rooms.get(rooms.len() / 2).copied().unwrap_or(0);
    let most = pool.median.max(LEAST_MEDIAN).saturating_mul(TIMES).max(LEAST_OVERSIZED);
    for value in pool.values.iter_mut().filter(|value| value.stands) {
        value.oversized = value.room >= most;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Place, content};
    use super::*;

    fn value(addr: u64, room: u64) -> Pooled {
        Pooled {
            addr,
            of: Some(TypeId(1)),
            p: 0,
            place: Place::Shared,
            bytes: 48,
            room,
            keeps: 0,
            stands: true,
            oversized: false,
        }
    }

    fn oversized(rooms: &[u64]) -> Vec<u64> {
        let values = rooms.iter().zip(1..).map(|(room, addr)| value(addr, *room));
        let mut pool = Pool { values: values.collect(), ..Pool::default() };
        measure(&mut pool);
        pool.oversized().map(|value| value.room).collect()
    }

    #[test]
    fn what_has_far_more_room_than_the_others_is_oversized() {
        const MIB: u64 = 1 << 20;
        assert_eq!(oversized(&[512, 700, 4 * MIB, 640]), [4 * MIB]);
        assert_eq!(oversized(&[512, 700, 4 * MIB]), [] as [u64; 0], "too few to tell");
        assert_eq!(oversized(&[512, 700, 9 << 10, 640]), [] as [u64; 0], "small");
        assert_eq!(oversized(&[MIB, MIB, 4 * MIB, 2 * MIB]), [] as [u64; 0], "all are large");
        assert_eq!(oversized(&[0, 0, 0, 4 * MIB]), [] as [u64; 0], "what was never used says nothing");
    }

    #[test]
    fn fields_are_full_empty_or_without_room() {
        let content = Rc::new(Content {
            direct: false,
            size: 24,
            parts: vec![content::Part::testing(".buf", Holds::Slice)],
            is_one: true,
            is_slice: false,
        });
        let slot = Value { slot: 0, p: 0, victim: false, ring: 0, index: 0, of: 0, data: 0 };
        let one = |len, cap| Compared {
            value: slot,
            content: Rc::clone(&content),
            fills: vec![Fill { len, cap, bytes: cap, at: 1 }],
            stands: true,
        };
        let all = [one(3, 8), one(0, 8), one(0, 0), one(5, 8), one(5, 8)];
        let pooled = [1, 2, 3, 4, 4].map(|addr| value(addr, 0));
        let standing: Vec<_> = pooled.iter().zip(&all).collect();
        let found = filled(&standing);
        let [one] = &found[..] else { panic!("{found:?}") };
        assert_eq!((one.full, one.emptied, one.unset, one.varies, one.example), (2, 1, 1, true, 1));
    }
}

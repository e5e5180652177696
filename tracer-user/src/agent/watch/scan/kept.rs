//! The part of a target's past that outlives a restart of the agent: how its creation sites grew, how often each
//! goroutine was seen and since when it waits, when a leak was first found. It is kept as bytes: postcard, which
//! spends none on names of fields, compressed by zstd.

use serde::{Deserialize, Serialize};
use sfgi_core::{
    detect::{Counts, Fingerprint},
    heap::Look,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

/// The most goroutines that are kept: those with the lowest goids, which tend to be the oldest. The ages of the others
/// begin anew.
pub(super) const MAX_GOROUTINES: usize = 1 << 16;
/// The most creation sites that are kept, the largest ones.
const MAX_SITES: usize = 2048;
/// The most bytes before compression. It also bounds what is read back, because the file may be damaged or another
/// program's.
const MAX_RAW: usize = 4 << 20;
/// The level of zstd. A cheap one: every fourth scan of each target packs, within the budget of the agent.
const LEVEL: i32 = 1;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The run of the program that this is about ([`crate::agent::watch::Target::run`]).
    pub(super) run: u32,
    /// Looks, the oldest first.
    pub(super) looks: Vec<Look>,
    /// Goroutines, by rising goid.
    pub(super) goroutines: Vec<Goroutine>,
    /// For each group of leaks, when it was first found (nanoseconds since 1970).
    pub(super) found: Vec<(Fingerprint, u64)>,
}

/// What is known of one goroutine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Goroutine {
    pub(super) goid: u64,
    /// The stamp of its wait, which changes when it runs; and when this wait was first seen (monotonic clock, ns).
    pub(super) stamp: u64,
    pub(super) since_ns: u64,
    pub(super) counts: Counts,
}

impl Kept {
    /// Packs it; `None`: it would be larger than [`MAX_RAW`].
    pub(super) fn pack(mut self) -> Option<Vec<u8>> {
        let largest = self.largest_sites();
        self.looks.iter_mut().for_each(|look| look.counts.retain(|site, _| largest.contains(site)));
        let raw = postcard::to_allocvec(&self).ok()?;
        if raw.len() > MAX_RAW { None } else { zstd::bulk::compress(&raw, LEVEL).ok() }
    }

    /// Unpacks it; `None`: these bytes are something else.
    pub(super) fn unpack(bytes: &[u8]) -> Option<Kept> {
        let raw = zstd::bulk::decompress(bytes, MAX_RAW).ok()?;
        match postcard::take_from_bytes(&raw) {
            // Bytes behind the value: written by another version, whose fields may mean something else.
            Ok((kept, [])) => Some(kept),
            Ok(_) | Err(_) => None,
        }
    }

    /// The [`MAX_SITES`] sites of which a look found the most goroutines.
    fn largest_sites(&self) -> BTreeSet<(u64, u64)> {
        let mut most: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for (site, count) in self.looks.iter().flat_map(|look| &look.counts) {
            let known = most.entry(*site).or_default();
            *known = (*known).max(*count);
        }
        let mut sites: Vec<_> = most.into_iter().collect();
        sites.sort_by_key(|(_, count)| Reverse(*count));
        sites.into_iter().take(MAX_SITES).map(|(site, _)| site).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kept(goroutines: u64) -> Kept {
        let look = |number: u64| Look {
            at_ns: 1_000_000_000 * number,
            counts: [((0x47_1000, 0x46_0000), number), ((0x47_2000, 0x46_1000), 7)].into(),
            after_gap: number == 3,
        };
        let goroutine = |goid: u64| Goroutine {
            goid,
            stamp: goid.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            since_ns: 1_000_000_000 * (goid % 7),
            counts: Counts { looks: 9, moved: 2, busy: 1, yielding: u32::MAX },
        };
        Kept {
            run: 0xfeed_beef,
            looks: (1..6).map(look).collect(),
            goroutines: (1..=goroutines).map(goroutine).collect(),
            found: vec![("0123456789abcdef".parse().unwrap(), 1_700_000_000_000_000_000)],
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        for goroutines in [0, 1, 1000] {
            let kept = kept(goroutines);
            assert_eq!(Kept::unpack(&kept.clone().pack().unwrap()), Some(kept));
        }
        let bytes = kept(10_000).pack().unwrap().len();
        assert!(bytes < 10_000 * 14, "{bytes} bytes for 10,000 goroutines");
    }

    #[test]
    fn of_very_many_sites_the_largest_are_kept() {
        let many = (0..2 * MAX_SITES as u64).map(|site| ((site, 0), site)).collect();
        let kept = Kept { looks: vec![Look { counts: many, ..Look::default() }], ..Kept::default() };
        let again = Kept::unpack(&kept.pack().unwrap()).unwrap();
        let smallest = again.looks[0].counts.values().min().copied();
        assert_eq!((again.looks[0].counts.len(), smallest), (MAX_SITES, Some(MAX_SITES as u64)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_something_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Kept::unpack(&bytes);
            let _ = postcard::take_from_bytes::<Kept>(&bytes);
        }

        #[test]
        fn what_is_damaged_is_something_or_nothing(at in 0usize..400, byte in any::<u8>()) {
            let mut bytes = kept(20).pack().unwrap();
            if let Some(damaged) = bytes.get_mut(at) {
                *damaged = byte;
            }
            let _ = Kept::unpack(&bytes);
        }
    }
}

//! What of a process's past outlives a restart of the agent: how its creation sites grew, how often each goroutine was
//! found and since when it waits, when a leak was first found. As bytes: LEB128 of what [`Kept`] holds, compressed.

use sfgi_core::{
    detect::{Counts, Fingerprint},
    heap::Look,
    recording::bytes::{Put as _, Senseless, Take},
};
use std::collections::BTreeMap;

/// What stands in the bytes; another number is not read.
const VERSION: u64 = 1;
/// Goroutines that are kept, those with the lowest ids; of the others the ages begin anew.
pub(super) const MAX_GOROUTINES: usize = 1 << 16;
/// Creation sites that are kept, the largest.
const MAX_SITES: usize = 2048;
/// Looks, and findings, that are believed.
const MAX_LOOKS: usize = 1024;
const MAX_FOUND: usize = 1024;
/// Bytes before compression.
const MAX_RAW: usize = 8 << 20;
/// zstd's level: it is done for each process now and then, within the budget.
const LEVEL: i32 = 1;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Kept {
    /// Which run of a program this is about: see [`super::Target::run`].
    pub(super) run: u32,
    /// The looks, the oldest first.
    pub(super) looks: Vec<Look>,
    /// By goid, rising.
    pub(super) goroutines: Vec<Goroutine>,
    /// By the group's id: when it was first found, nanoseconds since 1970.
    pub(super) found: Vec<(Fingerprint, u64)>,
}

/// What is known of one goroutine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Goroutine {
    pub(super) goid: u64,
    /// That it has not run since, and when this wait was first seen.
    pub(super) stamp: u64,
    pub(super) since_ns: u64,
    pub(super) counts: Counts,
}

type Site = (u64, u64);

impl Kept {
    /// The bytes; `None`: they would be too many.
    pub(super) fn pack(&self) -> Option<Vec<u8>> {
        let mut raw = Vec::new();
        raw.number(VERSION);
        raw.number(self.run.into());
        let sites = self.sites();
        raw.number(sites.len() as u64);
        let mut before = (0, 0);
        for site in &sites {
            raw.near(site.0, before.0);
            raw.near(site.1, before.1);
            before = *site;
        }
        raw.number(self.looks.len() as u64);
        let mut at_ns = 0;
        for look in &self.looks {
            raw.near(look.at_ns, at_ns);
            at_ns = look.at_ns;
            raw.number(look.after_gap.into());
            let counts =
                sites.iter().zip(0u64..).filter_map(|(site, number)| Some((number, look.counts.get(site)?)));
            let counts: Vec<(u64, &u64)> = counts.collect();
            raw.number(counts.len() as u64);
            for (number, count) in counts {
                raw.number(number);
                raw.number(*count);
            }
        }
        raw.number(self.goroutines.len() as u64);
        let mut before = Goroutine::default();
        for goroutine in &self.goroutines {
            raw.near(goroutine.goid, before.goid);
            raw.number(goroutine.stamp);
            raw.near(goroutine.since_ns, before.since_ns);
            let Counts { looks, moved, busy, yielding } = goroutine.counts;
            [looks, moved, busy, yielding].into_iter().for_each(|count| raw.number(count.into()));
            before = *goroutine;
        }
        raw.number(self.found.len() as u64);
        for (id, unix_ns) in &self.found {
            raw.slice(id.to_string().as_bytes());
            raw.number(*unix_ns);
        }
        if raw.len() > MAX_RAW { None } else { zstd::bulk::compress(&raw, LEVEL).ok() }
    }

    /// What was packed; `None`: these bytes are something else.
    pub(super) fn unpack(bytes: &[u8]) -> Option<Kept> {
        let raw = zstd::bulk::decompress(bytes, MAX_RAW).ok()?;
        Kept::read(&mut Take(&raw)).ok()
    }

    fn read(raw: &mut Take<'_>) -> Result<Kept, Senseless> {
        if raw.number()? != VERSION {
            return Err(Senseless);
        }
        let mut kept = Kept { run: raw.small()?, ..Kept::default() };
        let mut sites: Vec<Site> = Vec::new();
        for _ in 0..bounded(raw, MAX_SITES)? {
            let (gopc, startpc) = sites.last().copied().unwrap_or_default();
            sites.push((raw.near(gopc)?, raw.near(startpc)?));
        }
        let mut at_ns = 0;
        for _ in 0..bounded(raw, MAX_LOOKS)? {
            at_ns = raw.near(at_ns)?;
            let after_gap = raw.number()? == 1;
            let mut counts = BTreeMap::new();
            for _ in 0..bounded(raw, MAX_SITES)? {
                let site = sites.get(raw.small::<usize>()?).ok_or(Senseless)?;
                counts.insert(*site, raw.number()?);
            }
            kept.looks.push(Look { at_ns, counts, after_gap });
        }
        let mut before = Goroutine::default();
        for _ in 0..bounded(raw, MAX_GOROUTINES)? {
            let goid = raw.near(before.goid)?;
            let (stamp, since_ns) = (raw.number()?, raw.near(before.since_ns)?);
            let (looks, moved) = (raw.small()?, raw.small()?);
            let counts = Counts { looks, moved, busy: raw.small()?, yielding: raw.small()? };
            before = Goroutine { goid, stamp, since_ns, counts };
            kept.goroutines.push(before);
        }
        for _ in 0..bounded(raw, MAX_FOUND)? {
            kept.found.push((raw.text()?.parse().map_err(|_| Senseless)?, raw.number()?));
        }
        if raw.is_empty() { Ok(kept) } else { Err(Senseless) }
    }

    /// The largest sites.
    fn sites(&self) -> Vec<Site> {
        let mut largest: BTreeMap<Site, u64> = BTreeMap::new();
        for (site, count) in self.looks.iter().flat_map(|look| &look.counts) {
            let known = largest.entry(*site).or_default();
            *known = (*known).max(*count);
        }
        if largest.len() > MAX_SITES {
            let mut counts: Vec<u64> = largest.values().copied().collect();
            counts.sort_unstable_by(|one, other| other.cmp(one));
            let least = counts.get(MAX_SITES - 1).copied().unwrap_or(0);
            largest.retain(|_, count| *count >= least);
        }
        largest.into_keys().take(MAX_SITES).collect()
    }
}

fn bounded(raw: &mut Take<'_>, most: usize) -> Result<usize, Senseless> {
    raw.count().and_then(|count| if count <= most { Ok(count) } else { Err(Senseless) })
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
            assert_eq!(Kept::unpack(&kept.pack().unwrap()), Some(kept));
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
            let _ = Kept::read(&mut Take(&bytes));
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

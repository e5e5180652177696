//! Where each goroutine waits, remembered from scan to scan: while a goroutine has not run, its stack is not read
//! again.

use super::counts::nowhere;
use sfgi_core::names::Names;
use sfgi_core::{
    names::Site,
    snapshot::{Goroutine, Snapshot, StackId},
};
use std::collections::HashMap;

/// Goroutines that are remembered, a bound for our memory. The stacks of further ones are read at each scan.
const MAX_GOROUTINES: usize = 1 << 17;
/// Places that are remembered; when there are more, all are forgotten.
const MAX_SITES: usize = 4096;

/// The place of each goroutine that waits.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By goid, not by `g`: the runtime uses a `g` again for another goroutine.
    known: HashMap<u64, Place>,
    sites: Vec<Site>,
    /// The index of each site in `sites`.
    numbers: HashMap<Site, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// The stamp of its wait, which changes when it runs, and the address where it resumes, which could differ even so.
    stamp: u64,
    resume_pc: u64,
    /// Whether it is the runtime's own. For some only the stack tells, so it is remembered with the place.
    system: bool,
    /// Index into [`Places::sites`].
    site: u32,
    /// The last scan saw it; otherwise it is forgotten.
    last: bool,
}

impl Places {
    fn of(&self, goroutine: &Goroutine) -> Option<&Place> {
        let same = |place: &&Place| (place.stamp, place.resume_pc) == (goroutine.stamp, goroutine.resume_pc);
        self.known.get(&goroutine.goid).filter(same)
    }

    /// The addresses of the `g`s that wait in a place that is not known.
    pub(super) fn unknown(&self, snapshot: &Snapshot) -> Vec<u64> {
        let waits = snapshot.goroutines.iter().filter(|goroutine| goroutine.state.waits());
        waits.filter(|goroutine| self.of(goroutine).is_none()).map(|goroutine| goroutine.g).collect()
    }

    /// Learns the places of `fresh`, a snapshot of the unknown ones with stacks, and copies its goroutines into
    /// `snapshot`, without their stacks, which `snapshot` does not have.
    pub(super) fn learn(&mut self, snapshot: &mut Snapshot, mut fresh: Snapshot, names: &mut Names) {
        let mut sites: HashMap<StackId, u32> = HashMap::new();
        let mut read: HashMap<u64, Goroutine> = HashMap::new();
        for mut goroutine in std::mem::take(&mut fresh.goroutines) {
            let stack = std::mem::take(&mut goroutine.stack);
            if goroutine.state.waits() && stack != StackId::default() && self.known.len() < MAX_GOROUTINES {
                let site = *sites.entry(stack).or_insert_with(|| {
                    let site = names.wait_site(fresh.stacks.get(stack)).unwrap_or_else(nowhere);
                    self.number(site)
                });
                let Goroutine { stamp, resume_pc, system, .. } = goroutine;
                self.known.insert(goroutine.goid, Place { stamp, resume_pc, system, site, last: true });
            }
            read.insert(goroutine.g, goroutine);
        }
        for goroutine in &mut snapshot.goroutines {
            // The `g` may belong to another goroutine by now. That one is as good: it is the newer truth.
            if let Some(read) = read.remove(&goroutine.g) {
                *goroutine = read;
            }
        }
    }

    /// Counts the waiting goroutines of each place, without the runtime's own, and forgets goroutines that have ended
    /// or run.
    pub(super) fn count(&mut self, snapshot: &mut Snapshot) -> Vec<(Site, u64)> {
        let mut counts = vec![0u64; self.sites.len()];
        self.known.values_mut().for_each(|place| place.last = false);
        for goroutine in snapshot.goroutines.iter_mut().filter(|goroutine| goroutine.state.waits()) {
            let Some(place) = self.of(goroutine).copied() else { continue };
            goroutine.system = place.system;
            if let Some(count) = counts.get_mut(place.site as usize).filter(|_| !place.system) {
                *count += 1;
            }
            if let Some(place) = self.known.get_mut(&goroutine.goid) {
                place.last = true;
            }
        }
        self.known.retain(|_, place| place.last);
        let named = self.sites.iter().cloned().zip(counts).filter(|(_, count)| *count > 0).collect();
        // Only now: the places keep indices into the sites, so both go together.
        if self.sites.len() > MAX_SITES {
            *self = Places::default();
        }
        named
    }

    fn number(&mut self, site: Site) -> u32 {
        if let Some(number) = self.numbers.get(&site) {
            return *number;
        }
        let number = u32::try_from(self.sites.len()).unwrap_or(u32::MAX);
        self.sites.push(site.clone());
        self.numbers.insert(site, number);
        number
    }
}

//! Where each goroutine waits, from scan to scan: a stack is not read again while its goroutine has not run.

use super::counts::nowhere;
use sfgi_core::names::Names;
use sfgi_core::{
    names::Site,
    snapshot::{Goroutine, Snapshot, StackId},
};
use std::collections::HashMap;

/// Goroutines that are remembered; the stacks of others are read each time.
const MAX_GOROUTINES: usize = 1 << 17;
/// Places that are remembered; with more, all begin anew.
const MAX_SITES: usize = 4096;

/// The place of each goroutine that waits.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By goid.
    known: HashMap<u64, Place>,
    sites: Vec<Site>,
    numbers: HashMap<Site, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    /// That it has not run since; and what could differ even so.
    stamp: u64,
    resume_pc: u64,
    /// Whether it is the runtime's own, which for some is told by the stack.
    system: bool,
    /// Index into the sites.
    site: u32,
    last: bool,
}

impl Places {
    fn of(&self, goroutine: &Goroutine) -> Option<&Place> {
        let same = |place: &&Place| (place.stamp, place.resume_pc) == (goroutine.stamp, goroutine.resume_pc);
        self.known.get(&goroutine.goid).filter(same)
    }

    /// The `g`s of those that wait, and of which it is not known where.
    pub(super) fn unknown(&self, snapshot: &Snapshot) -> Vec<u64> {
        let waits = snapshot.goroutines.iter().filter(|goroutine| goroutine.state.waits());
        waits.filter(|goroutine| self.of(goroutine).is_none()).map(|goroutine| goroutine.g).collect()
    }

    /// Takes in what was read of these with their stacks; `snapshot` has it then, too, but for the stacks.
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
            // The `g` may be another goroutine's by now; then that is as good.
            if let Some(read) = read.remove(&goroutine.g) {
                *goroutine = read;
            }
        }
    }

    /// How many wait where, of those that are not the runtime's own. Forgets who is gone.
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

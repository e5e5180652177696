//! What earlier looks at a process told: how long each goroutine has been in its wait, how creation sites grow, and
//! since when a leak is known.

use super::{
    kept::{self, Kept},
    places::Places,
};
use crate::agent::{Config, picture::SiteGrowth};
use sfgi_core::{
    detect::{Fingerprint, Growth, History},
    goruntime::{State, WaitReasons},
    heap::{Facts, Look, Observed, can_be_leaked},
    leaks::LeakView,
    names::{Names, Site},
    snapshot::{Goroutine, Snapshot, Trust},
};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Goroutines whose waits are remembered; of what lies beyond only the runtime's own count is known.
const MAX_WAITS: usize = 1 << 17;
/// Looks that growth is told from. It is told over hours as well as from many.
const LOOKS: usize = 60;
/// A wait that has lasted so long is worth a look at the heap, even where the user's threshold is higher.
const SUSPICIOUS: Duration = Duration::from_secs(30);
/// What an earlier agent knew is too old after so many intervals, or after this where that is longer.
const STALE: u32 = 20;
const STALE_AFTER: Duration = Duration::from_secs(300);
/// Looks after which what is known is kept again.
const KEEP_EVERY: u32 = 4;
/// Growing sites that are told.
const MAX_GROWTH: usize = 20;

#[derive(Debug)]
pub(crate) struct Past {
    pub(super) history: History,
    /// By goid: the stamp of its wait, and when that was first seen.
    waits: HashMap<u64, (u64, u64)>,
    places: Places,
    /// Of the goroutines that waited for long when the heap was last looked at.
    looked_at: Option<u64>,
    /// When a leak was first found: nanoseconds since 1970.
    found: HashMap<Fingerprint, u64>,
    looks: Vec<Look>,
    /// What an earlier agent kept, until the first look.
    kept: Option<Arc<[u8]>>,
    /// Looks since this was kept.
    unkept: u32,
}

impl Default for Past {
    fn default() -> Self {
        Past {
            history: History::keeping(LOOKS),
            waits: HashMap::new(),
            places: Places::default(),
            looked_at: None,
            found: HashMap::new(),
            looks: Vec::new(),
            kept: None,
            unkept: 0,
        }
    }
}

impl Past {
    /// What an earlier agent kept ([`keep`](Self::keep)), if it turns out to be of use.
    pub(crate) fn remembering(kept: Option<Arc<[u8]>>) -> Past {
        Past { kept, ..Past::default() }
    }

    /// Before the first look: takes up what is remembered, if it is of this run of the program and not too old.
    pub(super) fn resume(&mut self, run: Option<u32>, now_ns: u64, config: &Config) {
        let Some(kept) = self.kept.take().and_then(|kept| Kept::unpack(&kept)) else { return };
        let stale = (config.scan.interval * STALE).max(STALE_AFTER);
        let age_ns = kept.looks.last().map_or(u64::MAX, |last| now_ns.saturating_sub(last.at_ns));
        if run != Some(kept.run) || u128::from(age_ns) > stale.as_nanos() {
            return;
        }
        self.waits = kept.goroutines.iter().map(|one| (one.goid, (one.stamp, one.since_ns))).collect();
        self.history.resume(kept.looks, kept.goroutines.into_iter().map(|one| (one.goid, one.counts)));
        self.found = kept.found.into_iter().collect();
    }

    /// After a look: what is to outlive this agent, now and then.
    pub(super) fn keep(&mut self, run: Option<u32>) -> Option<Arc<[u8]>> {
        self.unkept += 1;
        if self.unkept < KEEP_EVERY {
            return None;
        }
        self.unkept = 0;
        let one = |(goid, (stamp, since_ns)): (&u64, &(u64, u64))| {
            let counts = self.history.counts(*goid)?;
            Some(kept::Goroutine { goid: *goid, stamp: *stamp, since_ns: *since_ns, counts })
        };
        let mut goroutines: Vec<kept::Goroutine> = self.waits.iter().filter_map(one).collect();
        goroutines.sort_unstable_by_key(|one| one.goid);
        goroutines.truncate(kept::MAX_GOROUTINES);
        let found = self.found.iter().map(|(id, unix_ns)| (*id, *unix_ns)).collect();
        let kept = Kept { run: run?, looks: self.history.looks().to_vec(), goroutines, found };
        kept.pack().map(Into::into)
    }

    /// The `g`s of those that wait in a place that is not known.
    pub(super) fn unknown(&self, snapshot: &Snapshot) -> Vec<u64> {
        self.places.unknown(snapshot)
    }

    /// Takes in what was read of these with their stacks.
    pub(super) fn learn(&mut self, snapshot: &mut Snapshot, fresh: Snapshot, names: &mut Names) {
        self.places.learn(snapshot, fresh, names);
    }

    /// Where goroutines wait, and how many.
    pub(super) fn places(&mut self, snapshot: &mut Snapshot) -> Vec<(Site, u64)> {
        self.places.count(snapshot)
    }

    /// Takes in what a poll saw. Says whether a look at the heap may tell more than the last one.
    pub(super) fn poll(&mut self, snapshot: Snapshot, reasons: &WaitReasons, config: &Config) -> bool {
        let suspects = self.note(&snapshot, reasons, config);
        let mut observed = Observed { looks: vec![look(&snapshot)], snapshot, ..Observed::default() };
        observed.facts = observed.snapshot.goroutines.iter().map(|goroutine| self.facts(goroutine)).collect();
        self.history.extend(&mut observed);
        self.looks = observed.looks;
        suspects.is_some() && suspects != self.looked_at
    }

    /// Takes in what a look at the heap saw, which `history` already has.
    pub(super) fn looked(&mut self, observed: &Observed, reasons: &WaitReasons, config: &Config) {
        self.looked_at = self.note(&observed.snapshot, reasons, config);
        self.looks.clone_from(&observed.looks);
    }

    /// Notes who waits since when. Returns a sum over those that have waited for long; `None`: nobody has.
    fn note(&mut self, snapshot: &Snapshot, reasons: &WaitReasons, config: &Config) -> Option<u64> {
        let now_ns = snapshot.taken_ns.1;
        let long = SUSPICIOUS.min(config.leaks.min_age).min(config.scan.interval);
        let long_ns = u64::try_from(long.as_nanos()).unwrap_or(u64::MAX);
        let mut waits = HashMap::with_capacity(snapshot.goroutines.len().min(MAX_WAITS));
        let mut sum = None;
        for goroutine in snapshot.goroutines.iter().filter(|goroutine| !goroutine.system) {
            let since_ns = match self.waits.get(&goroutine.goid) {
                Some((stamp, since_ns)) if *stamp == goroutine.stamp => *since_ns,
                _ => snapshot.taken_ns.0,
            };
            if waits.len() < MAX_WAITS {
                waits.insert(goroutine.goid, (goroutine.stamp, since_ns));
            }
            let leaky = can_be_leaked(reasons.get(goroutine.reason));
            let told_ns = if goroutine.waiting_since_ns == 0 { since_ns } else { goroutine.waiting_since_ns };
            let waited_ns = now_ns.saturating_sub(since_ns.min(told_ns));
            if leaky && goroutine.state.waits() && goroutine.trust == Trust::Still && waited_ns >= long_ns {
                let one = goroutine.goid.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ goroutine.stamp;
                sum = Some(sum.unwrap_or(0u64).wrapping_add(one));
            }
        }
        self.waits = waits;
        sum
    }

    fn facts(&self, goroutine: &Goroutine) -> Facts {
        let now =
            matches!(goroutine.state, State::Running | State::Runnable | State::CopyStack | State::Preempted);
        let since_ns = self.waits.get(&goroutine.goid).map_or(0, |(_, since_ns)| *since_ns);
        Facts { looks: 1, busy: u32::from(now), since_ns, ..Facts::default() }
    }

    /// The creation sites that grow for certain, the fastest first.
    pub(super) fn growth(&self, names: &mut Names) -> Vec<SiteGrowth> {
        let Some(last) = self.looks.last() else { return Vec::new() };
        let mut growing: Vec<(u64, Growth)> = last
            .counts
            .keys()
            .filter_map(|site| Some((site.0, Growth::of_site(&self.looks, site)?)))
            .collect();
        growing.sort_by(|one, other| other.1.per_s.total_cmp(&one.1.per_s));
        let named = growing.into_iter().take(MAX_GROWTH).filter_map(|(gopc, growth)| {
            let site = names.go_statement(gopc)?;
            Some(SiteGrowth { site, per_second: growth.per_s, confidence: growth.confidence })
        });
        named.collect()
    }

    /// Says of each group when it was first found.
    pub(super) fn date(&mut self, groups: &mut [LeakView], unix_ns: u64) {
        let before = std::mem::take(&mut self.found);
        for group in groups {
            group.first_seen_unix_ns = before.get(&group.id).copied().unwrap_or(unix_ns);
            self.found.insert(group.id, group.first_seen_unix_ns);
        }
    }
}

fn look(snapshot: &Snapshot) -> Look {
    let mut look = Look { at_ns: snapshot.taken_ns.0, ..Look::default() };
    for goroutine in snapshot.goroutines.iter().filter(|goroutine| !goroutine.system) {
        *look.counts.entry((goroutine.gopc, goroutine.startpc)).or_default() += 1;
    }
    look
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const RUN: Option<u32> = Some(7);

    fn config() -> Config {
        Config::default()
    }

    /// One with a goroutine more at each look, 30 s apart.
    fn growing(past: &mut Past, looks: std::ops::Range<u64>, config: &Config) -> Option<Arc<[u8]>> {
        let mut kept = None;
        for number in looks {
            let goroutine = |goid| Goroutine {
                goid,
                gopc: 0x40_1000,
                state: State::Waiting,
                stamp: goid * 77,
                ..Goroutine::default()
            };
            let taken = number * 30 * SECOND;
            let goroutines = (1..=number).map(goroutine).collect();
            let snapshot = Snapshot { goroutines, taken_ns: (taken, taken), ..Snapshot::default() };
            past.poll(snapshot, &WaitReasons::default(), config);
            kept = past.keep(RUN).or(kept);
        }
        kept
    }

    fn rate(past: &Past) -> Option<f64> {
        Growth::of_site(&past.looks, &(0x40_1000, 0)).map(|growth| growth.per_s)
    }

    #[test]
    fn growth_goes_on_where_an_earlier_agent_ended() {
        let config = config();
        let mut first = Past::default();
        let kept = growing(&mut first, 1..11, &config);
        assert!(rate(&first).is_some() && kept.is_some());
        let mut next = Past::remembering(kept.clone());
        next.resume(RUN, 300 * SECOND, &config);
        growing(&mut next, 12..13, &config);
        assert_eq!(rate(&next).map(|rate| (rate * 60.0).round()), Some(2.0));
        // The same wait since the same time.
        assert_eq!(next.waits.get(&1), Some(&(77, 30 * SECOND)));
        assert_eq!(next.history.counts(1).map(|counts| counts.looks), Some(9), "8 were kept, and one more");
        let mut fresh = Past::default();
        growing(&mut fresh, 12..13, &config);
        assert_eq!(rate(&fresh), None);
    }

    #[test]
    fn what_is_of_another_run_or_too_old_is_dropped() {
        let config = config();
        let kept = growing(&mut Past::default(), 1..9, &config);
        let stale = 240 + 600;
        for (run, at, taken) in
            [(RUN, stale, true), (RUN, stale + 1, false), (Some(8), 241, false), (None, 241, false)]
        {
            let mut next = Past::remembering(kept.clone());
            next.resume(run, at * SECOND, &config);
            assert_eq!(next.history.looks().len(), if taken { 8 } else { 0 }, "{run:?} {at}");
            assert_eq!(next.waits.is_empty(), !taken);
        }
        let mut damaged = Past::remembering(Some([1, 2, 3].into()));
        damaged.resume(RUN, 241 * SECOND, &config);
        assert!(damaged.waits.is_empty());
    }
}

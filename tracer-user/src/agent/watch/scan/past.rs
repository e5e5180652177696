//! What earlier polls and looks of a target told: since when each goroutine waits, how creation sites grow, and since
//! when a leak is known.

use super::{
    kept::{self, Kept},
    places::Places,
};
use crate::agent::{Config, picture::SiteGrowth};
use sfgi_core::{
    detect::{Fingerprint, Growth, History},
    goruntime::{State, WaitReasons},
    heap::{Facts, Look, Observed, can_be_leaked},
    leaks::{Earlier, LeakView},
    names::{Names, Site},
    snapshot::{Goroutine, Snapshot, Trust},
};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// The most looks that the history keeps; growth is told from these.
const LOOKS: usize = 60;
/// A wait that has lasted so long is worth a look at the heap, even if the user's threshold for a leak is higher.
const SUSPICIOUS: Duration = Duration::from_secs(30);
/// What an earlier agent kept is too old after `STALE` intervals or `STALE_AFTER`, whichever is longer.
const STALE: u32 = 20;
const STALE_AFTER: Duration = Duration::from_secs(300);
/// Polls and looks between two packings of what is to be kept.
const KEEP_EVERY: u32 = 4;
/// The most growing sites in a picture.
const MAX_GROWTH: usize = 20;

#[derive(Debug)]
pub(crate) struct Past {
    pub(super) earlier: Earlier,
    places: Places,
    /// What [`suspects`] said of the last look at the heap.
    looked_at: Option<u64>,
    /// By group: when the leak was first found (nanoseconds since 1970).
    found: HashMap<Fingerprint, u64>,
    looks: Vec<Look>,
    /// What an earlier agent kept, until [`Past::resume`] takes it.
    kept: Option<Arc<[u8]>>,
    /// Polls and looks since the last packing.
    unkept: u32,
}

impl Default for Past {
    fn default() -> Self {
        Past {
            earlier: Earlier::with(History::keeping(LOOKS)),
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
    /// A past that will take up what an earlier agent kept ([`keep`](Self::keep)), if that is of use.
    pub(crate) fn remembering(kept: Option<Arc<[u8]>>) -> Past {
        Past { kept, ..Past::default() }
    }

    /// Takes up what an earlier agent kept, if it is of this run of the program and not too old. Called before each
    /// poll and look; only the first call does anything.
    pub(super) fn resume(&mut self, run: Option<u32>, now_ns: u64, config: &Config) {
        let Some(kept) = self.kept.take().and_then(|kept| Kept::unpack(&kept)) else { return };
        let stale = (config.scan.interval * STALE).max(STALE_AFTER);
        let age_ns = kept.looks.last().map_or(u64::MAX, |last| now_ns.saturating_sub(last.at_ns));
        if run != Some(kept.run) || u128::from(age_ns) > stale.as_nanos() {
            return;
        }
        let counts = kept.goroutines.iter().map(|one| (one.goid, one.counts));
        let waits = kept.goroutines.iter().map(|one| (one.goid, (one.stamp, one.since_ns)));
        self.earlier.history.resume(kept.looks, counts, waits);
        self.found = kept.found.into_iter().collect();
    }

    /// Packs what is to outlive this agent, at every [`KEEP_EVERY`]th call; `None` at the others.
    pub(super) fn keep(&mut self, run: Option<u32>) -> Option<Arc<[u8]>> {
        self.unkept += 1;
        if self.unkept < KEEP_EVERY {
            return None;
        }
        self.unkept = 0;
        let history = &self.earlier.history;
        let one = |(goid, (stamp, since_ns)): (u64, (u64, u64))| {
            Some(kept::Goroutine { goid, stamp, since_ns, counts: history.counts(goid)? })
        };
        let mut goroutines: Vec<kept::Goroutine> = history.waits().filter_map(one).collect();
        goroutines.sort_unstable_by_key(|one| one.goid);
        goroutines.truncate(kept::MAX_GOROUTINES);
        let found = self.found.iter().map(|(id, unix_ns)| (*id, *unix_ns)).collect();
        let kept = Kept { run: run?, looks: history.looks().to_vec(), goroutines, found };
        kept.pack().map(Into::into)
    }

    /// See [`Places::unknown`].
    pub(super) fn unknown(&self, snapshot: &Snapshot) -> Vec<u64> {
        self.places.unknown(snapshot)
    }

    /// See [`Places::learn`].
    pub(super) fn learn(&mut self, snapshot: &mut Snapshot, fresh: Snapshot, names: &mut Names) {
        self.places.learn(snapshot, fresh, names);
    }

    /// See [`Places::count`].
    pub(super) fn places(&mut self, snapshot: &mut Snapshot) -> Vec<(Site, u64)> {
        self.places.count(snapshot)
    }

    /// Takes in a poll. Returns whether a look at the heap may find more than the last one; and if those that had waited for
    /// long at that one still wait, and no others, how long that is (nanoseconds).
    pub(super) fn poll(
        &mut self,
        snapshot: Snapshot,
        reasons: &WaitReasons,
        config: &Config,
    ) -> (bool, Option<u64>) {
        let mut observed = Observed { looks: vec![look(&snapshot)], snapshot, ..Observed::default() };
        observed.facts = (observed.snapshot.goroutines.iter())
            .map(|goroutine| self.facts(goroutine, observed.snapshot.taken_ns.0))
            .collect();
        self.earlier.history.extend(&mut observed);
        let suspects = suspects(&observed, reasons, config);
        self.looks = observed.looks;
        // Other goroutines wait for long than at the last look; the same ones would give the same result.
        let same = suspects == self.looked_at;
        (suspects.is_some() && !same, (suspects.is_some() && same).then(|| long_ns(config)))
    }

    /// Takes in a look at the heap. The search has added it to `history` already.
    pub(super) fn looked(&mut self, observed: &Observed, reasons: &WaitReasons, config: &Config) {
        self.looked_at = suspects(observed, reasons, config);
        self.looks.clone_from(&observed.looks);
    }

    fn facts(&self, goroutine: &Goroutine, now_ns: u64) -> Facts {
        let now =
            matches!(goroutine.state, State::Running | State::Runnable | State::CopyStack | State::Preempted);
        let since_ns = self.earlier.history.since(goroutine).unwrap_or(now_ns);
        Facts { looks: 1, busy: u32::from(now), since_ns, ..Facts::default() }
    }

    /// The creation sites that grow, the fastest first, at most [`MAX_GROWTH`].
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

    /// Dates each group by when it was first found. Groups that are gone are forgotten.
    pub(super) fn date(&mut self, groups: &mut [LeakView], unix_ns: u64) {
        let before = std::mem::take(&mut self.found);
        for group in groups {
            group.first_seen_unix_ns = before.get(&group.id).copied().unwrap_or(unix_ns);
            self.found.insert(group.id, group.first_seen_unix_ns);
        }
    }
}

/// How long a wait must last for a look at the heap, nanoseconds.
fn long_ns(config: &Config) -> u64 {
    let long = SUSPICIOUS.min(config.leaks.min_age).min(config.scan.interval);
    u64::try_from(long.as_nanos()).unwrap_or(u64::MAX)
}

/// A sum that stands for the set of goroutines that have waited for long; `None`: there are none.
fn suspects(observed: &Observed, reasons: &WaitReasons, config: &Config) -> Option<u64> {
    let now_ns = observed.snapshot.taken_ns.1;
    let long_ns = long_ns(config);
    let mut sum = None;
    let all = observed.snapshot.goroutines.iter().zip(&observed.facts);
    for (goroutine, facts) in all.filter(|(goroutine, _)| !goroutine.system) {
        let since = |start_ns: u64| if start_ns == 0 { 0 } else { now_ns.saturating_sub(start_ns) };
        // The runtime stamps `waitsince` only in a garbage collection; 0 until then.
        let waited_ns = since(facts.since_ns).max(since(goroutine.waiting_since_ns));
        let leaky = can_be_leaked(reasons.get(goroutine.reason));
        if leaky && goroutine.state.waits() && goroutine.trust == Trust::Still && waited_ns >= long_ns {
            // Addition makes the sum independent of the order of goroutines; the factor (2^64 / φ) spreads small
            // goids over all bits.
            let one = goroutine.goid.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ goroutine.stamp;
            sum = Some(sum.unwrap_or(0u64).wrapping_add(one));
        }
    }
    sum
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
        assert_eq!(next.earlier.history.waits().find(|(goid, _)| *goid == 1), Some((1, (77, 30 * SECOND))));
        assert_eq!(
            next.earlier.history.counts(1).map(|counts| counts.looks),
            Some(9),
            "8 were kept, and one more"
        );
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
            assert_eq!(next.earlier.history.looks().len(), if taken { 8 } else { 0 }, "{run:?} {at}");
            assert_eq!(next.earlier.history.waits().next().is_none(), !taken);
        }
        let mut damaged = Past::remembering(Some([1, 2, 3].into()));
        damaged.resume(RUN, 241 * SECOND, &config);
        assert!(damaged.earlier.history.waits().next().is_none());
    }
}

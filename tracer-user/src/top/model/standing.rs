//! How things stand at one moment: one look at all goroutines, added up.

use super::{
    places::{PlaceId, Places},
    waits::{SYSCALL, WaitKey},
};
use hashbrown::HashMap;
use sfgi_core::{
    goruntime::State,
    model::{Goroutine, Measure},
    session::Target,
};

/// Goroutines that wait at one place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Open {
    /// How many.
    pub(super) count: u64,
    /// The longest of these waits so far, where one is known.
    pub(super) longest: Option<(u64, Measure)>,
    /// How much of the interval they waited, all together.
    pub(super) ns: u64,
}

/// All goroutines, added up.
#[derive(Debug, Default)]
pub(super) struct Standing {
    pub(super) waits: HashMap<WaitKey, Open>,
    /// By `go` statement, and whether they are the runtime's own: how many, and the function they run.
    pub(super) creations: HashMap<(u64, bool), (u64, u64)>,
    /// By state and wait reason (0 where it does not wait), and whether they are the runtime's own.
    pub(super) states: HashMap<(u8, u16, bool), (State, Open)>,
    /// Goroutines of the program, by state.
    pub(super) counts: HashMap<State, u64>,
    pub(super) total: u64,
    /// The runtime's own.
    pub(super) system: u64,
}

/// Since when a goroutine has been in its state, nanoseconds before `now_ts`; `None`: not known.
pub(super) fn age(goroutine: &Goroutine, now_ts: u64) -> Option<(u64, Measure)> {
    (goroutine.since_ts != 0).then(|| (now_ts.saturating_sub(goroutine.since_ts), goroutine.since_is))
}

/// What a goroutine waits for, if it does.
pub(super) fn why(goroutine: &Goroutine) -> Option<u16> {
    match goroutine.state {
        State::Syscall => Some(SYSCALL),
        state if state.waits() => Some(u16::from(goroutine.reason)),
        _ => None,
    }
}

/// Whether it is one that lives and has a name.
pub(super) fn counts(goroutine: &Goroutine) -> bool {
    goroutine.goid != 0 && !goroutine.state.is_dead() && goroutine.state != State::Idle
}

impl Standing {
    pub(super) fn of(followed: &Target, places: &Places, now_ts: u64, interval_ns: u64) -> Standing {
        let mut standing = Standing::default();
        for goroutine in followed.goroutines().iter().filter(|goroutine| counts(goroutine)) {
            standing.add(goroutine, places, now_ts, interval_ns);
        }
        standing
    }

    fn add(&mut self, goroutine: &Goroutine, places: &Places, now_ts: u64, interval_ns: u64) {
        let (system, age, why) = (places.is_own(goroutine), age(goroutine, now_ts), why(goroutine));
        if system {
            self.system += 1;
        } else {
            self.total += 1;
            *self.counts.entry(goroutine.state).or_default() += 1;
        }
        if let Some(why) = why {
            let place: PlaceId = places.of(goroutine);
            self.waits.entry(WaitKey { why, place, system }).or_default().add(age, interval_ns);
        }
        if let Some(birth) = goroutine.birth {
            let (count, startpc) = self.creations.entry((birth.gopc, system)).or_default();
            (*count, *startpc) = (*count + 1, birth.startpc);
        }
        let reason = if goroutine.state.waits() { why.unwrap_or(0) } else { 0 };
        let key = (goroutine.state.status().unwrap_or(u8::MAX), reason, system);
        let (state, open) = self.states.entry(key).or_default();
        *state = goroutine.state;
        open.add(age, interval_ns);
    }
}

impl Open {
    fn add(&mut self, age: Option<(u64, Measure)>, interval_ns: u64) {
        self.count += 1;
        if let Some((ns, measure)) = age {
            self.ns = self.ns.saturating_add(ns.min(interval_ns));
            if self.longest.is_none_or(|(longest, _)| ns > longest) {
                self.longest = Some((ns, measure));
            }
        }
    }
}

//! What is wrong, or looks so: by steps as they come, and by a look at all goroutines at the end of each interval.

use super::{
    Knows, MAX_ROWS, Query,
    goroutines::{age, counts},
    places::{PlaceId, Places},
};
use crate::output::{count, duration};
use hashbrown::HashMap;
use sfgi_core::{
    goruntime::State,
    model::{Measure, Step, What},
    session::Target,
};
use std::sync::Arc;

/// A system call or a call into C that lasts so long is a finding.
const STUCK_NS: u64 = 10_000_000_000;
/// A goroutine starves after ten time slices in the run queue (`forcePreemptNS`, 10 ms, `src/runtime/proc.go`).
const STARVED_NS: u64 = 100_000_000;
/// A goroutine that runs so long does not yield: the scheduler asks for that after 10 ms, if another one waits.
const UNYIELDING_NS: u64 = 1_000_000_000;

/// In the order of the list: the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Illegal,
    Leaked,
    Starved,
    Unyielding,
    Stuck,
}

impl Kind {
    fn what(self) -> &'static str {
        match self {
            Kind::Illegal => "illegal transition",
            Kind::Leaked => "found leaked by the runtime's own collector",
            Kind::Starved => "waited for a processor",
            Kind::Unyielding => "ran without yielding",
            Kind::Stuck => "stuck in a system call or in C",
        }
    }

    /// The class of the catalogue of `sfgi leaks` that it is of; empty: only events or the runtime itself tell of it.
    fn class(self) -> &'static str {
        match self {
            Kind::Illegal | Kind::Leaked => "",
            Kind::Starved => "starved",
            Kind::Unyielding => "never-yields",
            Kind::Stuck => "stuck-syscall",
        }
    }
}

/// One kind of finding at one place.
#[derive(Clone, Debug)]
pub struct Finding {
    pub target: usize,
    pub what: &'static str,
    /// The class of the catalogue; empty: it is of none.
    pub class: &'static str,
    /// The last goroutine that it happened to.
    pub goid: u64,
    /// How often a step showed it; 0: only looks found it.
    pub times: u64,
    /// How many goroutines the last look found in it.
    pub now: u64,
    /// The longest time, nanoseconds; `None`: the finding is not about time.
    pub longest_ns: Option<u64>,
    /// When it was seen last, `CLOCK_MONOTONIC` nanoseconds.
    pub last_ts: u64,
    pub place: Arc<str>,
    /// States and the model's note for an illegal transition; else empty.
    pub note: Arc<str>,
}

#[derive(Debug, Default)]
struct Sums {
    goid: u64,
    times: u64,
    now: u64,
    longest_ns: Option<u64>,
    last_ts: u64,
    note: String,
}

#[derive(Debug, Default)]
pub(super) struct Findings {
    found: HashMap<(usize, Kind, PlaceId), Sums>,
    /// Sightings beyond [`MAX_ROWS`] places, which have no row.
    more: u64,
}

impl Findings {
    /// Forgets what the last look found, before the looks at all targets.
    pub(super) fn begin(&mut self) {
        self.found.values_mut().for_each(|sums| sums.now = 0);
    }

    pub(super) fn step(&mut self, target: usize, step: &Step, place: PlaceId) {
        // An estimated duration may be far too long, and is no evidence.
        let lasted = step.duration_ns.filter(|_| step.measure == Measure::Exact);
        let kind = match step.what {
            What::Illegal => Kind::Illegal,
            What::Leak if step.to == State::Leaked => Kind::Leaked,
            What::Start if lasted.is_some_and(|ns| ns >= STARVED_NS) => Kind::Starved,
            What::Block | What::Preempt | What::SyscallEnter
                if lasted.is_some_and(|ns| ns >= UNYIELDING_NS) =>
            {
                Kind::Unyielding
            }
            _ => return,
        };
        let lasted = lasted.filter(|_| !matches!(kind, Kind::Illegal | Kind::Leaked));
        let Some(sums) = self.at((target, kind, place)) else { return };
        (sums.goid, sums.last_ts) = (step.goid, step.ts);
        sums.times += 1;
        sums.longest_ns = sums.longest_ns.max(lasted);
        if kind == Kind::Illegal {
            sums.note = format!("{} → {}: {}", step.from, step.to, step.note);
        }
    }

    /// Finds what lasts right now: a step would tell of it only when it ends.
    pub(super) fn look(&mut self, index: usize, target: &Target, places: &Places, knows: Knows, now_ts: u64) {
        for goroutine in target.goroutines().iter().filter(|goroutine| counts(goroutine)) {
            let known = age(goroutine, now_ts).filter(|(_, measure)| *measure == Measure::Exact);
            let lasts = |ns: u64| known.is_some_and(|(lasted, _)| lasted >= ns);
            let kind = match goroutine.state {
                State::Runnable if knows.runs && lasts(STARVED_NS) => Kind::Starved,
                State::Running if knows.runs && lasts(UNYIELDING_NS) => Kind::Unyielding,
                State::Syscall if age(goroutine, now_ts).is_some_and(|(ns, _)| ns >= STUCK_NS) => Kind::Stuck,
                State::Leaked => Kind::Leaked,
                _ => continue,
            };
            if places.is_own(goroutine) || kind == Kind::Stuck && places.is_meant_to_last(goroutine) {
                continue;
            }
            let place =
                if kind == Kind::Stuck { places.of(goroutine) } else { places.function_of(goroutine) };
            let Some(sums) = self.at((index, kind, place)) else { continue };
            (sums.goid, sums.last_ts) = (goroutine.goid, now_ts);
            sums.now += 1;
            if kind != Kind::Leaked {
                sums.longest_ns = sums.longest_ns.max(age(goroutine, now_ts).map(|(ns, _)| ns));
            }
        }
    }

    fn at(&mut self, key: (usize, Kind, PlaceId)) -> Option<&mut Sums> {
        // A hostile target can make illegal transitions at any number of places.
        if self.found.len() >= MAX_ROWS && !self.found.contains_key(&key) {
            self.more += 1;
            return None;
        }
        Some(self.found.entry(key).or_default())
    }

    /// The findings that the query wants, the gravest first, and how many sightings had no room.
    pub(super) fn list<'a>(
        &self,
        places: impl Fn(usize) -> Option<&'a Places>,
        query: &Query,
    ) -> (Vec<Finding>, u64) {
        let mut found: Vec<_> = self.found.iter().collect();
        found.sort_by_key(|((target, kind, place), sums)| {
            (*kind, std::cmp::Reverse(sums.longest_ns), *target, *place)
        });
        let list = found.into_iter().filter_map(|(&(target, kind, place), sums)| {
            // A goroutine that runs or is runnable has no stack to read: the function that it runs is its place.
            let place = places(target)?.get(place);
            let finding = Finding {
                target,
                what: kind.what(),
                class: kind.class(),
                goid: sums.goid,
                times: sums.times,
                now: sums.now,
                longest_ns: sums.longest_ns,
                last_ts: sums.last_ts,
                place: Arc::clone(&place.text),
                note: sums.note.as_str().into(),
            };
            // The runtime's own never get here, so findings pass whatever the query says of them.
            query.wants(target, false, &[&place.func, kind.what(), kind.class()]).then_some(finding)
        });
        (list.collect(), self.more)
    }
}

impl Finding {
    /// The finding as one line, without a full stop.
    pub fn sentence(&self) -> String {
        let mut text = format!("{} {}", self.place, self.what);
        if !self.class.is_empty() {
            text += &format!(" ({})", self.class);
        }
        if let Some(ns) = self.longest_ns {
            text += &format!(" for {}", duration(ns));
        }
        if !self.note.is_empty() {
            text += &format!(" ({})", self.note);
        }
        match self.times {
            0 => {}
            1 => text += ", once",
            times => text += &format!(", {} times", count(times)),
        }
        if self.now > 0 {
            text += &format!(", {} now", count(self.now));
        }
        text + &format!(", last goroutine {}", self.goid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sfgi_core::detect::Rules;

    #[test]
    fn classes_are_those_of_the_catalogue() {
        let rules = Rules::built_in().unwrap();
        for kind in [Kind::Illegal, Kind::Leaked, Kind::Starved, Kind::Unyielding, Kind::Stuck] {
            let class = kind.class();
            assert!(class.is_empty() || rules.iter().any(|rule| rule.class == class), "{class}");
        }
    }
}

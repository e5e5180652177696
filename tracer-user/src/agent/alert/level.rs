//! The level of one alert: which one a look deserves by the thresholds, and when the level rises and falls. The
//! caller gives the time.

use crate::agent::config::{Alerts, LevelName, Thresholds};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One group of leaked goroutines in one picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    pub count: u64,
    /// Goroutines a minute; 0: the creation site does not grow for certain.
    pub growth_per_minute: f64,
    /// The longest wait in the group.
    pub age: Duration,
    /// Heap that only the group's goroutines hold, bytes.
    pub pinned: u64,
    /// The memory limit of the control group, bytes.
    pub limit: Option<u64>,
}

/// The highest level with a passed threshold, when all thresholds are multiplied by `factor`, and the threshold in
/// words.
pub(super) fn level(
    alerts: &Alerts,
    service: &str,
    seen: &Measured,
    factor: f64,
) -> Option<(LevelName, String)> {
    let own = alerts.service.iter().find(|levels| levels.name.is_match(service));
    LevelName::ALL.into_iter().rev().find_map(|level| {
        let own = own.and_then(|levels| levels.level(level));
        Some((level, passed(own.unwrap_or(alerts.level(level)), seen, factor)?))
    })
}

/// The first threshold that is passed, in words.
fn passed(thresholds: &Thresholds, seen: &Measured, factor: f64) -> Option<String> {
    // `value > 0.0`: a threshold or a factor of 0 would be passed by nothing at all.
    let at_least =
        |limit: Option<f64>, value: f64| limit.filter(|limit| value > 0.0 && value >= limit * factor);
    let share = seen.limit.filter(|limit| *limit > 0).map_or(0.0, |limit| seen.pinned as f64 / limit as f64);
    if let Some(limit) = at_least(thresholds.count.map(|count| count as f64), seen.count as f64) {
        return Some(format!("{} goroutines, the threshold is {limit}", seen.count));
    }
    if let Some(limit) = at_least(thresholds.growth_per_minute, seen.growth_per_minute) {
        return Some(format!(
            "{:.1} goroutines more a minute, the threshold is {limit}",
            seen.growth_per_minute
        ));
    }
    if let Some(limit) = at_least(thresholds.age.map(|age| age.as_secs_f64()), seen.age.as_secs_f64()) {
        return Some(format!(
            "the oldest waits for {:.0} s, the threshold is {limit} s",
            seen.age.as_secs_f64()
        ));
    }
    if let Some(limit) = at_least(thresholds.pinned.map(|pinned| pinned as f64), seen.pinned as f64) {
        return Some(format!("{} bytes are pinned, the threshold is {limit}", seen.pinned));
    }
    let limit = at_least(thresholds.memory_share, share)?;
    Some(format!(
        "what is pinned is {:.0} % of the memory limit, the threshold is {:.0} %",
        share * 100.0,
        limit * 100.0
    ))
}

/// How slowly an alert changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long a higher level must be deserved before the level rises.
    pub(super) hold: Duration,
    /// How long less must be deserved before the level falls.
    pub(super) clear_after: Duration,
}

/// The level of one alert and its timers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tracker {
    level: Option<LevelName>,
    /// Since when each level or a higher one has been deserved without a break.
    since: [Option<Duration>; 4],
    /// Since when less than the level has been deserved, by the lower thresholds of the hysteresis.
    below_since: Option<Duration>,
    /// The highest level that was deserved since `below_since`: what the level falls to.
    below_best: Option<LevelName>,
}

/// How far the timers of a tracker have run, milliseconds; `None`: the timer does not run. A point in time would mean
/// nothing to another agent, for which the time without a look does not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timers {
    deserved_ms: [Option<u64>; 4],
    below_ms: Option<u64>,
    below_best: Option<LevelName>,
}

impl Timers {
    pub(super) fn falls(&self) -> bool {
        self.below_ms.is_some()
    }
}

impl Tracker {
    /// A tracker at this level, with timers that have run this far.
    pub(super) fn resumed(now: Duration, level: LevelName, timers: &Timers) -> Tracker {
        let began = |ms: Option<u64>| ms.map(|ms| now.saturating_sub(Duration::from_millis(ms)));
        Tracker {
            level: Some(level),
            since: timers.deserved_ms.map(began),
            below_since: began(timers.below_ms),
            below_best: timers.below_best,
        }
    }

    /// How far the timers have run. A timer stops at its limit, so that the values of an alert at rest stay the same
    /// and the store need not be written.
    pub(super) fn timers(&self, now: Duration, pace: Pace) -> Timers {
        let ran = |since: Option<Duration>, most: Duration| {
            since.map(|since| now.saturating_sub(since).min(most).as_millis().try_into().unwrap_or(u64::MAX))
        };
        Timers {
            deserved_ms: self.since.map(|since| ran(since, pace.hold)),
            below_ms: ran(self.below_since, pace.clear_after),
            below_best: self.below_best,
        }
    }

    pub(super) fn level(&self) -> Option<LevelName> {
        self.level
    }

    /// Takes one look: the level it deserves, and the one it deserves by the lower thresholds of the hysteresis.
    /// Returns the level before, if the level has changed.
    pub(super) fn feed(
        &mut self,
        now: Duration,
        deserved: Option<LevelName>,
        kept: Option<LevelName>,
        pace: Pace,
    ) -> Option<Option<LevelName>> {
        let before = self.level;
        // Ascending, so that the highest level whose hold is over stays.
        for (level, since) in LevelName::ALL.into_iter().zip(&mut self.since) {
            let reached = deserved.is_some_and(|deserved| deserved >= level);
            *since = if reached { Some(since.unwrap_or(now)) } else { None };
            if since.is_some_and(|since| now.saturating_sub(since) >= pace.hold) && self.level < Some(level) {
                self.level = Some(level);
            }
        }
        // In the order of `Option`, `None` is below every level: a look that deserves nothing lowers the lowest
        // level, too.
        if kept < self.level {
            let since = *self.below_since.get_or_insert(now);
            self.below_best = self.below_best.max(kept);
            if now.saturating_sub(since) >= pace.clear_after {
                // Not to the level of this look: one that was deserved within `clear_after` is kept.
                self.level = self.below_best;
                (self.below_since, self.below_best) = (None, None);
            }
        } else {
            (self.below_since, self.below_best) = (None, None);
        }
        (self.level != before).then_some(before)
    }
}

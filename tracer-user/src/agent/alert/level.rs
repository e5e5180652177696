//! The level of one alert: which one a look deserves by the thresholds, and when it rises and falls. Time is what the caller says it is.

use crate::agent::config::{Alerts, LevelName, Thresholds};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A group of leaked goroutines, or a process, as of one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    pub count: u64,
    /// Goroutines a minute; 0: it does not grow for certain.
    pub growth_per_minute: f64,
    /// Of the oldest.
    pub age: Duration,
    /// Heap that only they hold, bytes.
    pub pinned: u64,
    /// Memory limit of the container, bytes.
    pub limit: Option<u64>,
}

/// The highest level with a threshold that is passed when the thresholds are multiplied by `factor`, and by what.
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

/// Which threshold is passed, in words.
fn passed(thresholds: &Thresholds, seen: &Measured, factor: f64) -> Option<String> {
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

/// How slow an alert is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// A higher level must be deserved for so long.
    pub(super) hold: Duration,
    /// A lower one, too, before the level falls.
    pub(super) clear_after: Duration,
}

/// The level of one alert.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tracker {
    level: Option<LevelName>,
    /// Since when each level or a higher one has been deserved.
    since: [Option<Duration>; 4],
    /// Since when less than the level has been deserved, also with the hysteresis.
    below_since: Option<Duration>,
    /// The highest level that was deserved since then.
    below_best: Option<LevelName>,
}

/// How far the timers of a tracker have run, milliseconds; `None`: it does not run. Unlike a point in time this means something to
/// another agent: the time without a look counts for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timers {
    deserved_ms: [Option<u64>; 4],
    below_ms: Option<u64>,
    below_best: Option<LevelName>,
}

impl Timers {
    /// Whether the level was about to fall.
    pub(super) fn falls(&self) -> bool {
        self.below_ms.is_some()
    }
}

impl Tracker {
    /// At this level, with timers that have run so far.
    pub(super) fn resumed(now: Duration, level: LevelName, timers: &Timers) -> Tracker {
        let began = |ms: Option<u64>| ms.map(|ms| now.saturating_sub(Duration::from_millis(ms)));
        Tracker {
            level: Some(level),
            since: timers.deserved_ms.map(began),
            below_since: began(timers.below_ms),
            below_best: timers.below_best,
        }
    }

    /// How far its timers have run. What has run out stays as it is, so that an alert at rest is always the same.
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

    /// The level now; `None`: there is no alert.
    pub(super) fn level(&self) -> Option<LevelName> {
        self.level
    }

    /// Takes one look: the level it deserves, and the one it deserves by the lower thresholds of the hysteresis.
    /// Returns the level before, if it has changed.
    pub(super) fn feed(
        &mut self,
        now: Duration,
        deserved: Option<LevelName>,
        kept: Option<LevelName>,
        pace: Pace,
    ) -> Option<Option<LevelName>> {
        let before = self.level;
        for (level, since) in LevelName::ALL.into_iter().zip(&mut self.since) {
            let reached = deserved.is_some_and(|deserved| deserved >= level);
            *since = if reached { Some(since.unwrap_or(now)) } else { None };
            if since.is_some_and(|since| now.saturating_sub(since) >= pace.hold) && self.level < Some(level) {
                self.level = Some(level);
            }
        }
        if kept < self.level {
            let since = *self.below_since.get_or_insert(now);
            self.below_best = self.below_best.max(kept);
            if now.saturating_sub(since) >= pace.clear_after {
                self.level = self.below_best;
                (self.below_since, self.below_best) = (None, None);
            }
        } else {
            (self.below_since, self.below_best) = (None, None);
        }
        (self.level != before).then_some(before)
    }
}

//! One alert: when its level rises and falls. Time is what the caller says it is.

use crate::agent::config::LevelName;
use serde::{Deserialize, Serialize};
use std::time::Duration;

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
/// another agent: the time in which nobody looked counts for nothing.
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
        for (level, since) in super::level::LEVELS.into_iter().zip(&mut self.since) {
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

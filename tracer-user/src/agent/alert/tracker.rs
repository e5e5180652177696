//! One alert: when its level rises and falls. Time is what the caller says it is.

use crate::agent::config::LevelName;
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

impl Tracker {
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

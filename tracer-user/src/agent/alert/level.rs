//! Which level what was seen deserves: thresholds, without memory.

use crate::agent::config::{Alerts, LevelName, ServiceLevels, Thresholds, glob};
use regex::Regex;
use std::time::Duration;

/// A group of leaked goroutines, or a process, as of one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measured {
    /// Goroutines.
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

/// All levels, the lowest first.
pub(super) const LEVELS: [LevelName; 4] =
    [LevelName::Observe, LevelName::Warn, LevelName::Intervene, LevelName::Isolate];

impl LevelName {
    /// `L1` to `L4`, as people say it.
    pub fn number(self) -> u8 {
        match self {
            LevelName::Observe => 1,
            LevelName::Warn => 2,
            LevelName::Intervene => 3,
            LevelName::Isolate => 4,
        }
    }

    /// The word for it, as in the file.
    pub fn word(self) -> &'static str {
        match self {
            LevelName::Observe => "observe",
            LevelName::Warn => "warn",
            LevelName::Intervene => "intervene",
            LevelName::Isolate => "isolate",
        }
    }
}

/// The thresholds of all services.
#[derive(Debug)]
pub(super) struct Limits {
    services: Vec<(Regex, ServiceLevels)>,
    all: [Thresholds; 4],
}

impl Limits {
    /// Those of a configuration that was checked.
    pub(super) fn of(alerts: &Alerts) -> Limits {
        let service = |service: &ServiceLevels| Some((glob(&service.name).ok()?, service.clone()));
        let all = [&alerts.observe, &alerts.warn, &alerts.intervene, &alerts.isolate].map(Clone::clone);
        Limits { services: alerts.service.iter().filter_map(service).collect(), all }
    }

    /// The highest level with a threshold that is passed when the thresholds are multiplied by `factor`, and by what.
    pub(super) fn level(&self, service: &str, seen: &Measured, factor: f64) -> Option<(LevelName, String)> {
        let own = self.services.iter().find(|(name, _)| name.is_match(service)).map(|(_, levels)| levels);
        LEVELS.into_iter().zip(&self.all).rev().find_map(|(level, all)| {
            let own = own.and_then(|own| match level {
                LevelName::Observe => own.observe.as_ref(),
                LevelName::Warn => own.warn.as_ref(),
                LevelName::Intervene => own.intervene.as_ref(),
                LevelName::Isolate => own.isolate.as_ref(),
            });
            Some((level, passed(own.unwrap_or(all), seen, factor)?))
        })
    }
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

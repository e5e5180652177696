//! Checks what the types of `schema.rs` cannot express: values that make no sense, alone or together.

use super::{Config, ConfigError, LevelName, Matching, Thresholds};
use crate::agent::alert::hook::User;
use std::time::Duration;

/// Who must look more often than once a second needs a mode with probes.
const SHORTEST_SCAN: Duration = Duration::from_secs(1);

/// A scheduler under load may keep a thread waiting for nearly as long.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);

/// A launcher, a server, a sweeper and a reader, with a few megabytes for one small target.
const LEAST_MEMORY: u64 = 64 << 20;

/// The core publishes a picture once a second: a shorter interval would export the same one again.
const SHORTEST_EXPORT: Duration = Duration::from_secs(1);

impl Config {
    /// Fails with the first value that makes no sense.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |what: String| Err(ConfigError::Senseless(what));
        if self.scan.interval < SHORTEST_SCAN {
            return wrong("scan.interval is less than a second: raise it, or take a mode with probes".into());
        }
        if self.budget.node <= 0.0 {
            return wrong("budget.node is nothing: give it at least 0.1%".into());
        }
        if self.budget.process.is_some_and(|share| share <= 0.0 || share > self.budget.node) {
            return wrong("budget.process must be above nothing and at most budget.node".into());
        }
        if self.budget.memory < LEAST_MEMORY {
            return wrong("budget.memory is less than 64MiB: the agent's processes alone take that".into());
        }
        if self.scan.timeout < SHORTEST_TIMEOUT {
            return wrong("scan.timeout is less than a second: a busy host alone takes that".into());
        }
        if self.raise.hold.is_zero() {
            return wrong("raise.for is nothing: set raise.on_finding = false to switch it off".into());
        }
        if self.alerts.clear_below > 1.0 {
            return wrong("alerts.clear_below is above 100%: an alert would end before it began".into());
        }
        if self.http.max_requests == 0 || self.metrics.max_series == 0 || self.store.max_processes == 0 {
            let what = "http.max_requests, metrics.max_series and store.max_processes must be at least 1";
            return wrong(what.into());
        }
        if self.http.listen.is_empty() {
            return wrong("http.listen is empty: give an address, or leave it out".into());
        }
        if self.alerts.hook.as_ref().is_some_and(|hook| hook.command.is_empty()) {
            return wrong("alerts.hook.command is empty: give a program and its arguments".into());
        }
        if let Some(user) = self.alerts.hook.as_ref().and_then(|hook| hook.user.as_ref()) {
            User::find(user).map_err(|error| ConfigError::Senseless(format!("alerts.hook.user: {error}")))?;
        }
        // `serve/otlp.rs` speaks HTTP without TLS.
        if let Some(otlp) = &self.otlp
            && !otlp.endpoint.starts_with("http://")
        {
            return wrong(format!(
                "otlp.endpoint is {:?}: give http://HOST:PORT of a collector on this node or network, which does the TLS",
                otlp.endpoint
            ));
        }
        if self.otlp.as_ref().is_some_and(|otlp| otlp.interval < SHORTEST_EXPORT) {
            return wrong("otlp.interval is less than a second: raise it".into());
        }
        let exclude = self.exclude.iter().map(|matching| ("exclude", matching));
        let rule = self.rule.iter().map(|rule| ("rule.match", &rule.matching));
        let include = self.include.iter().map(|matching| ("include", matching));
        let mut all = exclude.chain(rule).chain(include);
        if let Some((section, _)) = all.find(|(_, matching): &(_, &Matching)| matching.is_empty()) {
            return wrong(format!(
                "a section {section} matches nothing in particular: give exe, module, unit, container or pod"
            ));
        }
        self.levels_rise()
    }

    /// A threshold of a lower level must not be above that of a higher one: the lower level would never stand by
    /// itself. Thresholds of `alerts.service` are not checked.
    fn levels_rise(&self) -> Result<(), ConfigError> {
        for (at, low) in LevelName::ALL.into_iter().enumerate() {
            for high in &LevelName::ALL[at + 1..] {
                if let Some(key) = above(self.alerts.level(low), self.alerts.level(*high)) {
                    return Err(ConfigError::Senseless(format!(
                        "alerts.{}.{key} is above that of alerts.{}: swap them",
                        low.word(),
                        high.word()
                    )));
                }
            }
        }
        Ok(())
    }
}

/// The first key whose value in `low` is above that in `high`; keys that either leaves out are not compared.
fn above(low: &Thresholds, high: &Thresholds) -> Option<&'static str> {
    fn is_above<T: PartialOrd>(low: Option<T>, high: Option<T>) -> bool {
        low.zip(high).is_some_and(|(low, high)| low > high)
    }
    let keys = [
        (is_above(low.count, high.count), "count"),
        (is_above(low.growth_per_minute, high.growth_per_minute), "growth_per_minute"),
        (is_above(low.age, high.age), "age"),
        (is_above(low.pinned, high.pinned), "pinned"),
        (is_above(low.memory_share, high.memory_share), "memory_share"),
    ];
    keys.into_iter().find_map(|(is_above, key)| is_above.then_some(key))
}

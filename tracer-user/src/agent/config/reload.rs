//! What a new configuration changes: a comparison, nothing is done here.

use super::Config;
use std::fmt;

/// What a part of the agent must be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Scans, modes, budget, rules.
    Core,
    /// The HTTP interface's limits.
    Http,
    /// The metrics.
    Metrics,
    /// Alerts and what they keep.
    Alerts,
    /// The export.
    Otlp,
}

/// What is to be done for a new configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reload {
    /// Takes effect at once, for these parts.
    pub parts: Vec<Part>,
    /// Keys that take effect after a restart only.
    pub restart: Vec<&'static str>,
}

/// Compares two configurations.
pub fn changes(old: &Config, new: &Config) -> Reload {
    let core = (&old.scan, &old.leaks, &old.budget, &old.raise, &old.include, &old.exclude, &old.rule)
        != (&new.scan, &new.leaks, &new.budget, &new.raise, &new.include, &new.exclude, &new.rule);
    let alerts = (&old.alerts, &old.evidence) != (&new.alerts, &new.evidence);
    let (before, after) = (&old.http, &new.http);
    let parts = [
        (core, Part::Core),
        (before.trigger_interval != after.trigger_interval, Part::Http),
        (old.metrics != new.metrics, Part::Metrics),
        (alerts, Part::Alerts),
        (old.otlp != new.otlp, Part::Otlp),
    ];
    // Sockets, their certificates and the file stay open while the agent runs.
    let restart = [
        (before.listen != after.listen, "http.listen"),
        (before.tls != after.tls, "http.tls"),
        (before.token_file != after.token_file, "http.token_file"),
        (before.max_requests != after.max_requests, "http.max_requests"),
        (old.store != new.store, "store"),
    ];
    Reload {
        parts: parts.into_iter().filter_map(|(changed, part)| changed.then_some(part)).collect(),
        restart: restart.into_iter().filter_map(|(changed, key)| changed.then_some(key)).collect(),
    }
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts.is_empty() && self.restart.is_empty() {
            return f.write_str("nothing has changed");
        }
        let parts: Vec<String> = self.parts.iter().map(|part| format!("{part:?}").to_lowercase()).collect();
        if !parts.is_empty() {
            write!(f, "changed: {}", parts.join(", "))?;
        }
        if !self.restart.is_empty() {
            let between = if parts.is_empty() { "" } else { "; " };
            write!(f, "{between}restart sfgi for {}", self.restart.join(", "))?;
        }
        Ok(())
    }
}

//! Goroutines that are leaked.

use serde::{Serialize, Serializer};
use sfgi_core::{
    detect::{Severity, Verdict},
    names::Site,
};

/// Goroutines that are leaked in the same way: `sfgi leaks` shows the same.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LeakGroup {
    /// The same in another run and another build: 16 hexadecimal digits.
    pub id: String,
    /// How sure it is.
    #[serde(serialize_with = "verdict")]
    pub verdict: Verdict,
    /// As the catalogue calls it.
    pub class: String,
    /// The rule that says so.
    pub rule: String,
    /// What it is, in a line.
    pub title: String,
    /// How bad it is.
    pub severity: Severity,
    /// What the program seems to be while it fails: one of [`SILENT_FAILURE_TYPES`].
    pub silent_failure_type: &'static str,
    /// How many goroutines or timers.
    pub count: u64,
    /// How fast the creation site grows, a second; `None`: it does not for certain.
    pub growth_per_second: Option<f64>,
    /// The shortest and the longest time that one is known to have been waiting, seconds.
    pub age_seconds: Option<(f64, f64)>,
    /// The heap that only these reach: an estimate; 0: not known.
    pub pinned_bytes: u64,
    /// Their ids, at most [`MAX_GOIDS`]; none for timers.
    pub goids: Vec<u64>,
    /// Their state and why they wait, as of the first; empty for timers.
    pub state: String,
    /// See `state`.
    pub reason: String,
    /// The stack of the first, innermost first.
    pub stack: Vec<Site>,
    /// The `go` statement.
    pub created_by: Option<Site>,
    /// Why, in sentences without a full stop.
    pub evidence: Vec<String>,
    /// What happens, and why it does not end.
    pub explanation: String,
    /// What to do about it.
    pub fix: String,
    /// When this process was first found to have it: nanoseconds since 1970.
    pub first_seen_unix_ns: u64,
}

#[cfg(test)]
impl LeakGroup {
    /// Nothing in particular.
    pub(in crate::agent) fn testing() -> LeakGroup {
        LeakGroup {
            id: String::new(),
            verdict: Verdict::Suspect,
            class: String::new(),
            rule: String::new(),
            title: String::new(),
            severity: Severity::Error,
            silent_failure_type: SILENT_FAILURE_TYPES[0],
            count: 0,
            growth_per_second: None,
            age_seconds: None,
            pinned_bytes: 0,
            goids: Vec::new(),
            state: String::new(),
            reason: String::new(),
            stack: Vec::new(),
            created_by: None,
            evidence: Vec::new(),
            explanation: String::new(),
            fix: String::new(),
            first_seen_unix_ns: 0,
        }
    }
}

/// How many goids of a group are kept.
pub const MAX_GOIDS: usize = 100;

/// What a program seems to do while it fails; every class of the catalogue is one of these.
pub const SILENT_FAILURE_TYPES: [&str; 6] =
    ["blocked_forever", "deadlock", "livelock", "starvation", "resource_held", "growth"];

fn verdict<S: Serializer>(verdict: &Verdict, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(verdict.word())
}

//! For how long a goroutine has been in its wait.

use crate::heap::Facts;
use crate::snapshot::Goroutine;

/// How long a goroutine has been waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    /// Nanoseconds.
    pub ns: u64,
    /// How far to trust that.
    pub measure: Measure,
}

/// How a time is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// It was watched for so long: it may be more.
    #[default]
    AtLeast,
    /// The runtime's own count, which begins with the collection before the one that found it waiting.
    About,
}

impl Age {
    /// The longer of what the runtime says and what was watched; `None` where it neither waits nor is in a
    /// system call.
    pub fn of(goroutine: &Goroutine, facts: &Facts, now_ns: u64) -> Option<Age> {
        if !goroutine.state.stays() {
            return None;
        }
        let since = |start: u64| if start == 0 { 0 } else { now_ns.saturating_sub(start) };
        let counted = Age { ns: since(goroutine.waiting_since_ns), measure: Measure::About };
        let watched = Age { ns: since(facts.since_ns), measure: Measure::AtLeast };
        let age = if counted.ns > watched.ns { counted } else { watched };
        (age.ns > 0).then_some(age)
    }
}

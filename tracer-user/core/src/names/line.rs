//! One event with its names, ready to be shown, and whether it is to be shown.

use super::Site;
use crate::{
    goruntime::State,
    model::{Step, What, Whats},
};
use regex::Regex;

/// A step with its names.
pub struct Line<'a> {
    pub pid: u32,
    pub step: &'a Step,
    /// The wait reason, in the runtime's words; empty where there is none.
    pub reason: &'a str,
    /// Where: the wait site, the `go` statement, or the goroutine's function.
    pub site: Option<Site>,
    /// Address of what it waits or waited for, the same as in a snapshot.
    pub object: Option<u64>,
    /// The function the goroutine runs.
    pub function: Option<Site>,
    /// The `go` statement that made it; only with `found`.
    pub creator: Option<Site>,
    /// The whole stack, innermost frame first, where it was read from outside; else empty.
    pub stack: Vec<Site>,
}

impl Line<'_> {
    /// The states before and after, where the event is about a goroutine's state.
    pub fn states(&self) -> (Option<State>, Option<State>) {
        let step = self.step;
        let of_a_goroutine = !matches!(
            step.what,
            What::GcStart | What::GcEnd | What::ThreadOff | What::ThreadOn | What::ThreadWake
        );
        let from = of_a_goroutine && step.what != What::Found;
        (from.then_some(step.from), of_a_goroutine.then_some(step.to))
    }
}

pub struct Filter {
    pub events: Whats,
    /// Only these goroutines; empty: all.
    pub goids: Vec<u64>,
    /// Only where one of the line's functions matches.
    pub func: Option<Regex>,
    /// Only events whose duration is known and at least this, in nanoseconds.
    pub min_ns: u64,
    /// Show the stacks that are known of what lasted at least this, in nanoseconds; `None`: show none.
    pub stacks_ns: Option<u64>,
}

impl Filter {
    /// Whether to look at the step at all, before names are resolved. No threshold holds back an illegal transition.
    pub fn wants_step(&self, step: &Step) -> bool {
        self.events.contains(step.what)
            && (self.goids.is_empty() || self.goids.contains(&step.goid))
            && (self.min_ns == 0
                || step.what == What::Illegal
                || step.duration_ns.is_some_and(|ns| measures_a_wait(step.what) && ns >= self.min_ns))
    }

    /// Whether to show the whole stack: of what a snapshot found, and of what lasted long enough.
    pub fn wants_stack(&self, step: &Step) -> bool {
        let long = |least| step.what == What::Found || step.duration_ns.is_some_and(|ns| ns >= least);
        self.stacks_ns.is_some_and(long)
    }

    /// Whether to show it, now that its names are known.
    pub fn wants_line(&self, line: &Line<'_>) -> bool {
        let Some(func) = &self.func else { return true };
        let named = [&line.site, &line.function, &line.creator].into_iter();
        named.flatten().any(|site| func.is_match(&site.func))
    }
}

/// Whether `--min` applies to this event: its duration is a time spent blocked.
fn measures_a_wait(what: What) -> bool {
    matches!(what, What::Found | What::Unblock | What::SyscallExit | What::ThreadOn)
}

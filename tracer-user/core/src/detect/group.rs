//! What detection says.

use super::{Age, Fingerprint, Growth, Rule, condition::Need};
use std::{fmt, sync::Arc};

/// How sure it is that goroutines are leaked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Old and many, or made faster than they end: worth a look.
    Suspect,
    /// A rule of the catalogue says so.
    Likely,
    /// No live goroutine, variable or timer can reach what would wake them.
    Proven,
}

impl Verdict {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Suspect => "suspect",
            Verdict::Likely => "likely",
            Verdict::Proven => "proven",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What was found in one observation.
#[derive(Debug, Default)]
pub struct Report {
    /// The surest first, of those the most severe, of those the largest.
    pub groups: Vec<Group>,
    /// Goroutines that were judged.
    pub scanned: u64,
}

/// Goroutines with the same creation site, wait site and stack, of the same class and verdict; or timers that
/// do the same.
#[derive(Debug)]
pub struct Group {
    /// The same for the same leak in another run and another build, as long as its functions keep their names.
    pub id: Fingerprint,
    /// How sure it is.
    pub verdict: Verdict,
    /// The rule that says so.
    pub rule: Arc<Rule>,
    /// The goroutines, by index into [`Snapshot::goroutines`](crate::snapshot::Snapshot::goroutines), in the
    /// order of their goids; none for timers.
    pub members: Vec<u32>,
    /// How many goroutines or timers.
    pub count: u64,
    /// The shortest and the longest time that one of them is known to have been waiting.
    pub age: Option<(Age, Age)>,
    /// How fast their creation site grows.
    pub growth: Option<Growth>,
    /// For timers: index into [`Observed::timers`](crate::heap::Observed::timers).
    pub timers: Option<u32>,
    /// Why, in sentences without a full stop.
    pub evidence: Vec<String>,
}

impl Group {
    /// What it is, in a line. A rule that needs the proof says more than is known of a suspect.
    pub fn title(&self) -> String {
        let title = &self.rule.title;
        let perhaps = self.verdict == Verdict::Suspect && self.rule.condition.verdict == Need::Proven;
        if perhaps { format!("perhaps: {title}") } else { title.clone() }
    }
}

impl Report {
    /// Keeps the groups for which `wanted` holds.
    pub fn retain(&mut self, wanted: impl FnMut(&Group) -> bool) {
        self.groups.retain(wanted);
    }

    /// How many groups of a verdict there are.
    pub fn groups_of(&self, verdict: Verdict) -> usize {
        self.groups.iter().filter(|group| group.verdict == verdict).count()
    }

    /// How many goroutines and timers have a verdict.
    pub fn count_of(&self, verdict: Verdict) -> u64 {
        self.groups.iter().filter(|group| group.verdict == verdict).map(|group| group.count).sum()
    }
}

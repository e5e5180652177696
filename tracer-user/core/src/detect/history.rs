//! What is known of a goroutine over time: what earlier observations of the same target told, and for how long it
//! has been in its wait.

use crate::{
    heap::{Facts, Look, Observed},
    snapshot::Goroutine,
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Looks that are kept unless the caller says otherwise.
const LOOKS: usize = 240;

/// Waits, by goid: the stamp ([`Goroutine::stamp`]), and when that was first seen (monotonic clock, ns).
type Waits = HashMap<u64, (u64, u64)>;

/// Goroutines whose waits are remembered, a bound for our memory. Of further ones only the runtime's own time
/// (`g.waitsince`) is known, and what one look sees.
const MAX_WAITS: usize = 1 << 17;

/// Earlier looks at one target.
#[derive(Debug)]
pub struct History {
    /// How many looks are kept.
    most: usize,
    looks: Vec<Look>,
    /// What all looks together told of each goroutine of the last look, by goid.
    facts: HashMap<u64, Counts>,
    /// Of the goroutines of the last look, without the runtime's own.
    waits: Waits,
    /// Whether nobody looked between `looks` and the next one.
    gap: bool,
}

/// The counts of [`Facts`], which says what each counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    pub looks: u32,
    pub moved: u32,
    pub busy: u32,
    pub yielding: u32,
}

impl Default for History {
    fn default() -> Self {
        History::keeping(LOOKS)
    }
}

impl History {
    /// Keeps at most `most` looks; beyond that, every second one goes.
    pub fn keeping(most: usize) -> History {
        History { most, looks: Vec::new(), facts: HashMap::new(), waits: Waits::new(), gap: false }
    }

    /// Goes on with the looks, counts and waits of an earlier [`History`]; the time since its last look is a gap.
    pub fn resume(
        &mut self,
        looks: Vec<Look>,
        facts: impl IntoIterator<Item = (u64, Counts)>,
        waits: impl IntoIterator<Item = (u64, (u64, u64))>,
    ) {
        self.gap = !looks.is_empty();
        (self.looks, self.facts) = (looks, facts.into_iter().collect());
        self.waits = waits.into_iter().collect();
    }

    /// The looks that are kept, the oldest first.
    pub fn looks(&self) -> &[Look] {
        &self.looks
    }

    /// What all looks together told of a goroutine; `None`: the last look did not find it.
    pub fn counts(&self, goid: u64) -> Option<Counts> {
        self.facts.get(&goid).copied()
    }

    /// By goid, in no order: the stamp of its wait, and when that was first seen (monotonic clock, ns).
    pub fn waits(&self) -> impl Iterator<Item = (u64, (u64, u64))> {
        self.waits.iter().map(|(goid, wait)| (*goid, *wait))
    }

    /// When the present wait of a goroutine was first seen (monotonic clock, ns); `None`: no earlier look found it so.
    pub fn since(&self, goroutine: &Goroutine) -> Option<u64> {
        // The same stamp: it has not run since.
        let (_, since_ns) = self.waits.get(&goroutine.goid).filter(|(stamp, _)| *stamp == goroutine.stamp)?;
        Some(*since_ns)
    }

    /// Puts the earlier looks in front of those of `observed`, adds up the counts, and keeps both.
    pub fn extend(&mut self, observed: &mut Observed) {
        let mut kept = HashMap::with_capacity(observed.facts.len());
        let mut waits = Waits::with_capacity(observed.facts.len().min(MAX_WAITS));
        for (goroutine, facts) in observed.snapshot.goroutines.iter().zip(&mut observed.facts) {
            if let Some(before) = self.facts.get(&goroutine.goid) {
                before.add_to(facts);
            }
            let Facts { looks, moved, busy, yielding, .. } = *facts;
            kept.insert(goroutine.goid, Counts { looks, moved, busy, yielding });
            if goroutine.system || facts.since_ns == 0 {
                continue;
            }
            facts.since_ns = self.since(goroutine).map_or(facts.since_ns, |since| since.min(facts.since_ns));
            if waits.len() < MAX_WAITS {
                waits.insert(goroutine.goid, (goroutine.stamp, facts.since_ns));
            }
        }
        (self.facts, self.waits) = (kept, waits);
        if let Some(first) = observed.looks.first_mut() {
            first.after_gap |= std::mem::take(&mut self.gap);
        }
        self.looks.append(&mut observed.looks);
        observed.looks = self.looks.clone();
        if self.looks.len() > self.most {
            self.thin();
        }
    }

    /// Drops every second look: the slope over the whole time needs no more. The counts of each goroutine are
    /// halved, too, because they are held against the number of looks.
    fn thin(&mut self) {
        let (mut number, mut gap) = (0, false);
        self.looks.retain_mut(|look| {
            number += 1;
            // A gap before a dropped look is one before the look that follows it.
            gap |= look.after_gap;
            let stays = number % 2 == 0;
            if stays {
                look.after_gap = std::mem::take(&mut gap);
            }
            stays
        });
        for counts in self.facts.values_mut() {
            for count in [&mut counts.looks, &mut counts.moved, &mut counts.busy, &mut counts.yielding] {
                *count = count.div_ceil(2);
            }
        }
    }
}

impl Counts {
    fn add_to(self, facts: &mut Facts) {
        facts.looks = facts.looks.saturating_add(self.looks);
        facts.moved = facts.moved.saturating_add(self.moved);
        facts.busy = facts.busy.saturating_add(self.busy);
        facts.yielding = facts.yielding.saturating_add(self.yielding);
    }
}

/// How long a goroutine has been waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Age {
    pub ns: u64,
    pub measure: Measure,
}

/// How far to trust an age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Measure {
    /// Our looks saw it wait for so long; it may have begun earlier.
    #[default]
    AtLeast,
    /// The runtime's own count (`g.waitsince`), which begins with the collection before the one that found it
    /// waiting.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(history: &History) -> Vec<u64> {
        history.looks().iter().filter(|look| look.after_gap).map(|look| look.at_ns).collect()
    }

    #[test]
    fn a_gap_stays_where_it_was_when_looks_are_left_out() {
        let mut history = History::keeping(4);
        let look = |at_ns| Look { at_ns, ..Look::default() };
        history.resume(vec![look(1), look(2)], [], []);
        for at_ns in 10..13 {
            history.extend(&mut Observed { looks: vec![look(at_ns)], ..Observed::default() });
            assert_eq!(gaps(&history), [if at_ns == 12 { 11 } else { 10 }]);
        }
        let left: Vec<u64> = history.looks().iter().map(|look| look.at_ns).collect();
        assert_eq!(left, [2, 11]);
    }
}

//! What earlier observations of the same program told: `--watch` looks again and again.

use crate::heap::{Facts, Look, Observed};
use std::collections::HashMap;

/// Looks that are kept where nobody says otherwise.
const LOOKS: usize = 240;

/// Earlier looks.
#[derive(Debug)]
pub struct History {
    /// How many of them are kept.
    most: usize,
    looks: Vec<Look>,
    /// What all looks together told of each goroutine that was there last time.
    facts: HashMap<u64, Counts>,
}

/// The counts of [`Facts`].
#[derive(Clone, Copy, Debug)]
struct Counts {
    looks: u32,
    moved: u32,
    busy: u32,
    yielding: u32,
}

impl Default for History {
    fn default() -> Self {
        History::keeping(LOOKS)
    }
}

impl History {
    /// Keeps so many looks; of more than that, every second one goes.
    pub fn keeping(most: usize) -> History {
        History { most, looks: Vec::new(), facts: HashMap::new() }
    }

    /// Puts what was seen before in front of what was seen now, and keeps both.
    pub fn extend(&mut self, observed: &mut Observed) {
        let mut kept = HashMap::with_capacity(observed.facts.len());
        for (goroutine, facts) in observed.snapshot.goroutines.iter().zip(&mut observed.facts) {
            if let Some(before) = self.facts.get(&goroutine.goid) {
                before.add_to(facts);
            }
            let Facts { looks, moved, busy, yielding, .. } = *facts;
            kept.insert(goroutine.goid, Counts { looks, moved, busy, yielding });
        }
        self.facts = kept;
        self.looks.append(&mut observed.looks);
        observed.looks = self.looks.clone();
        if self.looks.len() > self.most {
            self.thin();
        }
    }

    /// The slope over all the time needs no more than this. What a goroutine's looks are counted against must
    /// fit them, so those are halved too.
    fn thin(&mut self) {
        let mut number = 0;
        self.looks.retain(|_| {
            number += 1;
            number % 2 == 0
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

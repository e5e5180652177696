//! Goroutines with the same stack, state and wait reason as one entry.

use super::Names;
use sfgi_core::{
    goruntime::State,
    snapshot::{Goroutine, Snapshot, StackId, Trust, Wait},
};
use std::{cmp::Reverse, collections::HashMap};

/// How many goids, creators, sets of labels and objects of a group are named.
pub(super) const NAMED: usize = 5;

/// Goroutines that do the same at the same place.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The first of them, an index into [`Snapshot::goroutines`]: stack, state, reason and trust are
    /// as its own.
    pub first: u32,
    /// How many they are.
    pub count: u64,
    /// The shortest and the longest time that one of them is known to have been waiting, in
    /// nanoseconds.
    pub age_ns: Option<(u64, u64)>,
    /// How many of them have no known age.
    pub age_unknown: u64,
    /// The ids of the first few.
    pub goids: Vec<u64>,
    /// The `go` statements that made them: the index of one that it made, and how many; the most
    /// frequent few.
    pub creators: Vec<(u32, u64)>,
    /// Their labels as [`Goroutine::labels`] has them, and how many; the most frequent few.
    pub labels: Vec<(u32, u64)>,
    /// What they wait for, and how many; the most frequent few.
    pub waits: Vec<(Wait, u64)>,
    /// How many different objects they wait for.
    pub objects: usize,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    stack: StackId,
    state: State,
    reason: u8,
    trust: u8,
}

/// A group while it is being counted.
#[derive(Default)]
struct Open {
    group: Group,
    /// By gopc: one of them, and how many.
    creators: HashMap<u64, (u32, u64)>,
    labels: HashMap<u32, u64>,
    waits: HashMap<Wait, u64>,
}

impl Group {
    /// The groups of these goroutines, the largest first.
    pub fn all(snapshot: &Snapshot, names: &Names, chosen: &[u32]) -> Vec<Group> {
        let mut places = HashMap::new();
        let mut open: Vec<Open> = Vec::new();
        for &index in chosen {
            let Some(goroutine) = snapshot.goroutines.get(index as usize) else { continue };
            let place = *places.entry(Key::of(goroutine)).or_insert_with(|| {
                open.push(Open { group: Group { first: index, ..Group::default() }, ..Open::default() });
                open.len() - 1
            });
            if let Some(open) = open.get_mut(place) {
                open.add(index, goroutine, names);
            }
        }
        let mut groups: Vec<Group> = open.into_iter().map(Open::close).collect();
        groups.sort_by_key(|group| Reverse(group.count));
        groups
    }
}

impl Key {
    fn of(goroutine: &Goroutine) -> Key {
        // A reason that is left over from an earlier wait tells nothing.
        Key {
            stack: goroutine.stack,
            state: goroutine.state,
            reason: if goroutine.state.waits() { goroutine.reason } else { 0 },
            trust: match goroutine.trust {
                Trust::Still => 0,
                Trust::InMotion => 1,
                Trust::Running => 2,
                Trust::Broken => 3,
            },
        }
    }
}

impl Open {
    fn add(&mut self, index: u32, goroutine: &Goroutine, names: &Names) {
        let group = &mut self.group;
        group.count += 1;
        match (names.waiting_ns(goroutine), group.age_ns) {
            (None, _) => group.age_unknown += 1,
            (Some(age), None) => group.age_ns = Some((age, age)),
            (Some(age), Some((min, max))) => group.age_ns = Some((min.min(age), max.max(age))),
        }
        if group.goids.len() < NAMED {
            group.goids.push(goroutine.goid);
        }
        if goroutine.gopc != 0 && goroutine.goid != 1 {
            self.creators.entry(goroutine.gopc).or_insert((index, 0)).1 += 1;
        }
        if goroutine.labels != 0 {
            *self.labels.entry(goroutine.labels).or_default() += 1;
        }
        for wait in &goroutine.waits {
            *self.waits.entry(*wait).or_default() += 1;
        }
    }

    fn close(self) -> Group {
        let mut objects: Vec<u32> = self.waits.keys().map(|wait| wait.object).collect();
        objects.sort_unstable();
        objects.dedup();
        Group {
            creators: most_frequent(self.creators.into_values()),
            labels: most_frequent(self.labels),
            waits: most_frequent(self.waits),
            objects: objects.len(),
            ..self.group
        }
    }
}

/// The few with the highest counts, in an order that does not depend on chance.
fn most_frequent<T: Ord + Copy>(counted: impl IntoIterator<Item = (T, u64)>) -> Vec<(T, u64)> {
    let mut counted: Vec<(T, u64)> = counted.into_iter().collect();
    counted.sort_unstable_by_key(|(what, count)| (Reverse(*count), *what));
    counted.truncate(NAMED);
    counted
}

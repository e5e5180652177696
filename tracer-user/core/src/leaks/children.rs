//! Contexts whose children become ever more: how many each had at every reading of all objects.

use crate::detect::Growth;
use hashbrown::{HashMap, HashSet};

/// Contexts that are followed, those with the most children first, and children of all together.
const MAX_PARENTS: usize = 64;
const MAX_CHILDREN: usize = 1 << 18;
/// Readings that are kept of each; beyond that, every second one goes.
const MAX_POINTS: usize = 60;
/// The part of all children, over all readings, that must be there at the next one: where they come and go, more of
/// them are more work and no leak.
const MIN_SURVIVAL: f64 = 0.9;

/// By context, the addresses of its children that have not ended and that no goroutine has.
pub(super) type Present = HashMap<u64, Vec<u64>>;

/// What earlier readings found.
#[derive(Debug, Default)]
pub(super) struct Children {
    parents: HashMap<u64, Parent>,
}

#[derive(Debug, Default)]
struct Parent {
    /// When it was read (monotonic clock, ns), and how many children it had; the oldest first.
    points: Vec<(u64, u64)>,
    last: HashSet<u64>,
    /// Children of all readings but the last, and how many of these the next reading found again.
    seen: u64,
    stayed: u64,
}

impl Children {
    /// Takes in a reading, and returns how the children of each context grow, where they do.
    pub(super) fn extend(&mut self, at_ns: u64, present: Present) -> HashMap<u64, Growth> {
        let mut present: Vec<_> = present.into_iter().collect();
        present.sort_unstable_by_key(|(parent, children)| (std::cmp::Reverse(children.len()), *parent));
        let (mut before, mut left) = (std::mem::take(&mut self.parents), MAX_CHILDREN);
        let mut growing = HashMap::new();
        for (addr, children) in present.into_iter().take(MAX_PARENTS) {
            let Some(rest) = left.checked_sub(children.len()) else { continue };
            left = rest;
            let mut parent = before.remove(&addr).unwrap_or_default();
            let now: HashSet<u64> = children.into_iter().collect();
            parent.seen += parent.last.len() as u64;
            parent.stayed += parent.last.intersection(&now).count() as u64;
            parent.points.push((at_ns, now.len() as u64));
            parent.last = now;
            if parent.points.len() > MAX_POINTS {
                let mut number = 0;
                parent.points.retain(|_| {
                    number += 1;
                    number % 2 == 0
                });
            }
            if parent.stayed as f64 >= parent.seen as f64 * MIN_SURVIVAL
                && let Some(growth) = Growth::of_counts(&parent.points)
            {
                growing.insert(addr, growth);
            }
            self.parents.insert(addr, parent);
        }
        growing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: u64 = 0xc000_0000;

    /// What is said after readings a second apart, of children with these addresses.
    fn after(readings: impl Iterator<Item = std::ops::Range<u64>>) -> Option<Growth> {
        let (mut children, mut last) = (Children::default(), None);
        for (second, reading) in (1..).zip(readings) {
            let present = Present::from([(PARENT, reading.collect())]);
            last = children.extend(second * 1_000_000_000, present).remove(&PARENT);
        }
        last
    }

    #[test]
    fn those_that_stay_and_become_more_grow() {
        let growth = after((0..6).map(|n| 0..20 + 5 * n)).unwrap();
        assert!((growth.per_s - 5.0).abs() < 1e-6, "{growth:?}");
        assert_eq!(after((0..3).map(|n| 0..20 + 5 * n)), None, "too few readings");
        assert_eq!(after((0..200).map(|_| 0..20)), None);
        assert!(after((0..200).map(|n| 0..20 + n)).is_some());
    }

    #[test]
    fn those_that_come_and_go_do_not() {
        assert_eq!(after((0..9).map(|n| 100 * n..100 * n + 20 + 5 * n)), None);
    }

    #[test]
    fn as_many_are_kept_as_there_is_room_for() {
        let mut children = Children::default();
        let all = (0..1000).map(|n| (n, (0..n + 1).collect())).collect();
        children.extend(1, all);
        assert_eq!(children.parents.len(), MAX_PARENTS);
        assert!(children.parents.contains_key(&999) && !children.parents.contains_key(&0));
        children.extend(2, Present::from([(1, (0..MAX_CHILDREN as u64 + 1).collect()), (2, vec![1])]));
        assert_eq!(children.parents.keys().collect::<Vec<_>>(), [&2]);
    }
}

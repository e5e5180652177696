//! Which goroutines wait in a cycle, and over what.
//!
//! A waiter's edges lead to the goroutines that have what it waits for. Each strongly connected part of two or more
//! goroutines cannot end by itself, and has a cycle through every member. A set can have several parts.

use crate::{
    heap::{DeadSet, Observed},
    snapshot::{ObjectKind, Snapshot},
};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cycle {
    /// Each waits for a lock.
    Locks,
    /// Some wait for locks, some for channels or something else.
    Mixed,
    /// None waits for a lock.
    Other,
}

/// From a waiter to the goroutines that have what it waits for, by index into [`Snapshot::goroutines`].
type Graph = BTreeMap<u32, Vec<u32>>;

/// The goroutines that wait in a cycle, by index into [`Snapshot::goroutines`]. A member of a set that only waits for
/// one in a cycle is left out.
pub(super) fn find(observed: &Observed) -> HashMap<u32, Cycle> {
    let mut found = HashMap::new();
    for set in &observed.sets {
        for part in parts(&graph(set)) {
            let members: HashSet<u32> = part.into_iter().collect();
            if let Some(cycle) = kind(&observed.snapshot, set, &members) {
                found.extend(members.into_iter().map(|member| (member, cycle)));
            }
        }
    }
    found
}

/// A shortest cycle of a set, in the order waiter → holder; empty where there is none. Only the first members of a
/// large set are tried.
pub fn shortest(set: &DeadSet) -> Vec<u32> {
    // Each try walks the whole set.
    const TRIED: usize = 1000;
    let rounds = set.members.iter().take(TRIED).map(|member| round(set, *member));
    rounds.filter(|round| !round.is_empty()).min_by_key(Vec::len).unwrap_or_default()
}

/// The shortest cycle through `start`, in the order waiter → holder, each goroutine once; empty where there is none.
pub(super) fn round(set: &DeadSet, start: u32) -> Vec<u32> {
    let graph = graph(set);
    let mut came_from: HashMap<u32, u32> = HashMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(waiter) = next.pop_front() {
        for &holder in graph.get(&waiter).into_iter().flatten() {
            if holder == start {
                let mut way = vec![waiter];
                while let Some(before) = way.last().and_then(|last| came_from.get(last)) {
                    way.push(*before);
                }
                way.reverse();
                return way;
            }
            came_from.entry(holder).or_insert_with(|| {
                next.push_back(holder);
                waiter
            });
        }
    }
    Vec::new()
}

fn graph(set: &DeadSet) -> Graph {
    let mut graph = Graph::new();
    // A goroutine that waits for itself alone is a part of one, which `parts` does not report.
    for edge in set.edges.iter().filter(|edge| edge.waiter != edge.holder) {
        graph.entry(edge.waiter).or_default().push(edge.holder);
    }
    graph
}

/// The strongly connected parts of two or more (Kosaraju: by the order in which a walk leaves them, then
/// against the edges).
fn parts(graph: &Graph) -> Vec<Vec<u32>> {
    let mut left = Vec::new();
    let mut seen = HashSet::new();
    for &start in graph.keys() {
        walk(graph, start, &mut seen, &mut left);
    }
    let mut reversed = Graph::new();
    for (waiter, holders) in graph {
        for holder in holders {
            reversed.entry(*holder).or_default().push(*waiter);
        }
    }
    let mut parts = Vec::new();
    let mut seen = HashSet::new();
    for start in left.into_iter().rev() {
        let mut part = Vec::new();
        walk(&reversed, start, &mut seen, &mut part);
        if part.len() > 1 {
            parts.push(part);
        }
    }
    parts
}

/// Follows the edges from `start` and appends each goroutine after all that it leads to. Iterative, because a chain
/// can be as long as there are goroutines.
fn walk(graph: &Graph, start: u32, seen: &mut HashSet<u32>, left: &mut Vec<u32>) {
    let next = |at: u32, edge: usize| graph.get(&at).and_then(|holders| holders.get(edge)).copied();
    let mut way = if seen.insert(start) { vec![(start, 0)] } else { return };
    while let Some((at, edge)) = way.last_mut() {
        let to = next(*at, *edge);
        *edge += 1;
        match to {
            Some(to) if seen.insert(to) => way.push((to, 0)),
            Some(_) => {}
            None => {
                left.push(*at);
                way.pop();
            }
        }
    }
}

/// What the waits within a part are for; `None` where it has none, or an object is unknown.
fn kind(snapshot: &Snapshot, set: &DeadSet, part: &HashSet<u32>) -> Option<Cycle> {
    let (mut locks, mut others) = (0, 0);
    for edge in set.edges.iter().filter(|edge| part.contains(&edge.waiter) && part.contains(&edge.holder)) {
        match snapshot.objects.get(edge.object as usize)?.kind {
            ObjectKind::Mutex { .. } | ObjectKind::RwMutex { .. } => locks += 1,
            _ => others += 1,
        }
    }
    Some(match (locks, others) {
        (0, 0) => return None,
        (_, 0) => Cycle::Locks,
        (0, _) => Cycle::Other,
        _ => Cycle::Mixed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::Edge;

    fn set(edges: &[(u32, u32)]) -> DeadSet {
        let edge = |(waiter, holder): &(u32, u32)| Edge { waiter: *waiter, object: 0, holder: *holder };
        DeadSet { members: Vec::new(), edges: edges.iter().map(edge).collect() }
    }

    fn sorted(edges: &[(u32, u32)]) -> Vec<Vec<u32>> {
        let mut parts = parts(&graph(&set(edges)));
        parts.iter_mut().for_each(|part| part.sort_unstable());
        parts.sort();
        parts
    }

    #[test]
    fn parts_that_wait_for_each_other() {
        assert_eq!(sorted(&[]), Vec::<Vec<u32>>::new());
        assert_eq!(sorted(&[(1, 2), (2, 3), (1, 3), (4, 4)]), Vec::<Vec<u32>>::new());
        // 9 waits for the first, the first for the second.
        let edges = [(9, 1), (1, 2), (2, 1), (2, 5), (5, 6), (6, 7), (7, 5), (7, 8)];
        assert_eq!(sorted(&edges), [vec![1, 2], vec![5, 6, 7]]);
        assert_eq!(round(&set(&edges), 6), [6, 7, 5]);
        assert_eq!(round(&set(&edges), 9), Vec::<u32>::new());
    }

    #[test]
    fn a_long_way_round() {
        let edges: Vec<(u32, u32)> = (0..100_000).map(|at| (at, (at + 1) % 100_000)).collect();
        assert_eq!(sorted(&edges)[0].len(), 100_000);
        assert_eq!(round(&set(&edges), 7).len(), 100_000);
    }
}

//! Which goroutines wait in a cycle, and over what.
//!
//! A waiter's edges lead to those who could end its wait ([`crate::heap::Waits`]). Each strongly connected part of
//! goroutines that are stuck cannot end by itself, and has a cycle through every member. Who only waits for a member is
//! none.

use crate::{
    heap::{DeadSet, Edge, Observed, Sign, Waits},
    snapshot::{Snapshot, Wants},
};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// Members of a part for each of which the shortest cycle is looked for; in a larger one all are of one kind.
const MAX_PART: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cycle {
    /// It waits for a lock that it holds itself.
    Recursive,
    /// It waits to read-lock what it has read-locked, behind a writer that waits for it.
    RecursiveRead,
    /// Each waits for a lock.
    Locks,
    /// Some wait for locks, some for channels or something else.
    Mixed,
    /// None waits for a lock.
    Other,
}

/// From a waiter to the goroutines that could end its wait, by index into [`Snapshot::goroutines`], in order.
type Graph = BTreeMap<u32, Vec<u32>>;

/// The cycles of an observation.
#[derive(Debug, Default)]
pub(super) struct Cycles {
    kinds: HashMap<u32, Cycle>,
    /// Members of cycles of which every wait is known for certain, and none of which has moved between looks.
    sure: HashSet<u32>,
    edges: Vec<Edge>,
    /// By member, the number of its part.
    parts: HashMap<u32, usize>,
    /// Those who are in no cycle and wait, by others or at once, for a member of one.
    behind: HashSet<u32>,
}

impl Cycles {
    pub(super) fn of(observed: &Observed) -> Cycles {
        let edges: Vec<Edge> = observed.waits.between_stuck().copied().collect();
        let (mut kinds, mut sure) = (HashMap::new(), HashSet::new());
        let stands = |edge: &Edge| {
            let facts = observed.facts.get(edge.waiter as usize);
            facts.is_some_and(|facts| facts.looks > 1 && facts.moved == 0)
        };
        let Parts { parts, of: part_of } = Parts::of(&edges);
        for (part, own) in &parts {
            let whole = kind(&observed.snapshot, own);
            for member in part {
                let kind = if part.len() > MAX_PART {
                    whole
                } else {
                    let round = round(own, *member);
                    if round.iter().all(|edge| !edge.sign.is_hint() && stands(edge)) {
                        sure.insert(*member);
                    }
                    kind(&observed.snapshot, &round)
                };
                kinds.extend(kind.map(|kind| (*member, kind)));
            }
        }
        let behind = behind(&edges, &kinds);
        Cycles { kinds, sure, edges, parts: part_of, behind }
    }

    /// The number of the part that a goroutine belongs to: it waits, by others or at once, for every other member of that,
    /// and every other for it.
    pub(super) fn part(&self, goroutine: u32) -> Option<usize> {
        self.parts.get(&goroutine).copied()
    }

    /// Whether a goroutine is in no cycle itself, but waits for one.
    pub(super) fn is_behind(&self, goroutine: u32) -> bool {
        self.behind.contains(&goroutine)
    }

    /// Whether a goroutine waits in a cycle of which every wait is known for certain, and that stood in all looks: it
    /// needs no age.
    pub(super) fn is_sure(&self, goroutine: u32) -> bool {
        self.sure.contains(&goroutine)
    }

    /// The kind of the cycle that a goroutine waits in; `None`: it waits in none.
    pub(super) fn kind(&self, goroutine: u32) -> Option<Cycle> {
        self.kinds.get(&goroutine).copied()
    }

    /// The shortest cycle through a goroutine, beginning with its own wait; empty: there is none.
    pub(super) fn round(&self, goroutine: u32) -> Vec<Edge> {
        if self.kinds.contains_key(&goroutine) { round(&self.edges, goroutine) } else { Vec::new() }
    }
}

/// The parts of a graph of waits (see [`parts`]).
struct Parts {
    /// The members of each, and the edges between them: a walk looks at these only, because a program may have as many parts
    /// as edges.
    parts: Vec<(Vec<u32>, Vec<Edge>)>,
    /// By member, the number of its part.
    of: HashMap<u32, usize>,
}

impl Parts {
    fn of(edges: &[Edge]) -> Parts {
        let mut parts: Vec<_> = parts(&graph(edges)).into_iter().map(|part| (part, Vec::new())).collect();
        let of: HashMap<u32, usize> = (parts.iter().enumerate())
            .flat_map(|(number, (part, _))| part.iter().map(move |member| (*member, number)))
            .collect();
        for edge in edges {
            let (waiter, holder) = (of.get(&edge.waiter), of.get(&edge.holder));
            let part = waiter.filter(|part| holder == Some(part)).and_then(|part| parts.get_mut(*part));
            if let Some((_, own)) = part {
                own.push(*edge);
            }
        }
        Parts { parts, of }
    }
}

/// Goroutines that wait for each other in a cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    pub kind: Cycle,
    /// Each wait once, in the order waiter → holder.
    pub edges: Vec<Edge>,
}

/// A shortest cycle of each part of goroutines that are stuck and wait for each other.
pub fn rings(snapshot: &Snapshot, waits: &Waits) -> Vec<Ring> {
    let edges: Vec<Edge> = waits.between_stuck().copied().collect();
    let ring = |(part, edges): (Vec<u32>, Vec<Edge>)| {
        let edges = part.iter().take(MAX_PART).map(|member| round(&edges, *member));
        let edges = edges.filter(|round| !round.is_empty()).min_by_key(Vec::len)?;
        Some(Ring { kind: kind(snapshot, &edges)?, edges })
    };
    Parts::of(&edges).parts.into_iter().filter_map(ring).collect()
}

/// From the members of cycles against the edges.
fn behind(edges: &[Edge], members: &HashMap<u32, Cycle>) -> HashSet<u32> {
    let mut waiters: HashMap<u32, Vec<u32>> = HashMap::new();
    for edge in edges {
        waiters.entry(edge.holder).or_default().push(edge.waiter);
    }
    let mut behind = HashSet::new();
    let mut next: Vec<u32> = members.keys().copied().collect();
    while let Some(holder) = next.pop() {
        for waiter in waiters.get(&holder).into_iter().flatten() {
            if !members.contains_key(waiter) && behind.insert(*waiter) {
                next.push(*waiter);
            }
        }
    }
    behind
}

/// A shortest cycle of a set, in the order waiter → holder; empty where there is none. Only the first members of a
/// large set are tried.
pub fn shortest(set: &DeadSet) -> Vec<u32> {
    // Each try walks the whole set.
    const TRIED: usize = 1000;
    let rounds = set.members.iter().take(TRIED).map(|member| round(&set.edges, *member));
    let shortest = rounds.filter(|round| !round.is_empty()).min_by_key(Vec::len).unwrap_or_default();
    shortest.iter().map(|edge| edge.waiter).collect()
}

/// The shortest cycle through `start`, each goroutine's wait once; empty where there is none.
fn round(edges: &[Edge], start: u32) -> Vec<Edge> {
    let graph = graph(edges);
    let mut came_from: HashMap<u32, u32> = HashMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(waiter) = next.pop_front() {
        for &holder in graph.get(&waiter).into_iter().flatten() {
            if holder == start {
                let mut way = vec![start, waiter];
                while let Some(before) = way.last().and_then(|last| came_from.get(last)) {
                    way.push(*before);
                }
                way.reverse();
                return steps(edges, &way);
            }
            came_from.entry(holder).or_insert_with(|| {
                next.push_back(holder);
                waiter
            });
        }
    }
    Vec::new()
}

/// The edges along a way, of several between the same two the surest.
fn steps(edges: &[Edge], way: &[u32]) -> Vec<Edge> {
    let members: HashSet<u32> = way.iter().copied().collect();
    let mut between: HashMap<(u32, u32), Edge> = HashMap::new();
    for edge in edges.iter().filter(|edge| members.contains(&edge.waiter) && members.contains(&edge.holder)) {
        let known = between.entry((edge.waiter, edge.holder)).or_insert(*edge);
        if edge.sign < known.sign {
            *known = *edge;
        }
    }
    let surest = |ends: (u32, u32)| between.get(&ends).copied();
    way.windows(2)
        .filter_map(|pair| if let [one, next] = pair { surest((*one, *next)) } else { None })
        .collect()
}

fn graph(edges: &[Edge]) -> Graph {
    let mut graph = Graph::new();
    for edge in edges {
        graph.entry(edge.waiter).or_default().push(edge.holder);
    }
    graph
}

/// The strongly connected parts of two or more, and goroutines that wait for themselves (Kosaraju: by the order in which
/// a walk leaves them, then against the edges).
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
        let itself = |member: &u32| graph.get(member).is_some_and(|holders| holders.contains(member));
        if part.len() > 1 || part.iter().any(itself) {
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

/// What the waits of a cycle are for; `None` where it has none, or an object is unknown.
fn kind(snapshot: &Snapshot, cycle: &[Edge]) -> Option<Cycle> {
    let (mut locks, mut others) = (0, 0);
    for edge in cycle {
        let is_lock = snapshot.objects.get(edge.object as usize)?.kind.is_lock();
        *(if is_lock { &mut locks } else { &mut others }) += 1;
    }
    let of_itself = |edge: &Edge| edge.waiter == edge.holder;
    // Its own read lock is what the writer waits for.
    let behind = |edge: &Edge| {
        let wants = |one: &Edge| {
            let waits = snapshot.goroutines.get(one.waiter as usize).map_or(&[][..], |one| &one.waits);
            waits.iter().find(|wait| wait.object == one.object).map(|wait| wait.wants)
        };
        edge.sign == Sign::Queue
            && cycle.iter().any(|back| {
                (back.waiter, back.holder, back.object) == (edge.holder, edge.waiter, edge.object)
                    && wants(back) == Some(Wants::Lock)
            })
    };
    Some(match (locks, others) {
        (0, 0) => return None,
        (_, 0) if cycle.iter().all(of_itself) => Cycle::Recursive,
        (_, 0) if cycle.iter().any(behind) => Cycle::RecursiveRead,
        (_, 0) => Cycle::Locks,
        (0, _) => Cycle::Other,
        _ => Cycle::Mixed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::Edge;

    fn edges(pairs: &[(u32, u32)]) -> Vec<Edge> {
        let edge = |(waiter, holder): &(u32, u32)| Edge {
            waiter: *waiter,
            object: 0,
            holder: *holder,
            sign: Sign::Stack,
            place: None,
        };
        pairs.iter().map(edge).collect()
    }

    fn sorted(pairs: &[(u32, u32)]) -> Vec<Vec<u32>> {
        let mut parts = parts(&graph(&edges(pairs)));
        parts.iter_mut().for_each(|part| part.sort_unstable());
        parts.sort();
        parts
    }

    fn around(pairs: &[(u32, u32)], start: u32) -> Vec<u32> {
        round(&edges(pairs), start).iter().map(|edge| edge.waiter).collect()
    }

    #[test]
    fn parts_that_wait_for_each_other() {
        assert_eq!(sorted(&[]), Vec::<Vec<u32>>::new());
        assert_eq!(sorted(&[(1, 2), (2, 3), (1, 3)]), Vec::<Vec<u32>>::new());
        assert_eq!(sorted(&[(1, 4), (4, 4)]), [vec![4]], "it waits for itself");
        // 9 waits for the first, the first for the second.
        let edges = [(9, 1), (1, 2), (2, 1), (2, 5), (5, 6), (6, 7), (7, 5), (7, 8)];
        assert_eq!(sorted(&edges), [vec![1, 2], vec![5, 6, 7]]);
        assert_eq!(around(&edges, 6), [6, 7, 5]);
        assert_eq!(around(&edges, 9), Vec::<u32>::new());
        assert_eq!(around(&[(4, 4)], 4), [4]);
    }

    #[test]
    fn a_long_way_round() {
        let edges: Vec<(u32, u32)> = (0..10_000).map(|at| (at, (at + 1) % 10_000)).collect();
        assert_eq!(sorted(&edges)[0].len(), 10_000);
        assert_eq!(around(&edges, 7).len(), 10_000);
    }
}

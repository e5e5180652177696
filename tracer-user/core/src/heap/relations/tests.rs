//! Sets of goroutines by who waits for whom.

use super::super::waits::Sign;
use super::*;

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

fn members(pairs: &[(u32, u32)]) -> Vec<Vec<u32>> {
    group(&edges(pairs)).into_iter().map(|set| set.members).collect()
}

#[test]
fn those_that_wait_for_each_other_are_one_set() {
    assert_eq!(members(&[]), Vec::<Vec<u32>>::new());
    assert_eq!(members(&[(1, 2), (7, 8), (2, 3), (8, 9), (9, 10)]), [vec![7, 8, 9, 10], vec![1, 2, 3]]);
    // Joined by the last one.
    assert_eq!(members(&[(1, 2), (3, 4), (5, 6), (6, 1), (4, 5)]), [vec![1, 2, 3, 4, 5, 6]]);
    let chain: Vec<_> = (0..10_000).map(|at| (at, at + 1)).collect();
    assert_eq!(members(&chain), [(0..=10_000).collect::<Vec<_>>()]);
}

#[test]
fn every_edge_is_in_the_set_of_its_ends() {
    let sets = group(&edges(&[(1, 2), (2, 1), (5, 6)]));
    assert_eq!(sets.iter().map(|set| set.edges.len()).collect::<Vec<_>>(), [2, 1]);
}

//! What kind of cycle goroutines wait in.

use crate::{
    heap::{DeadSet, Observed},
    snapshot::{ObjectKind, Snapshot},
};
use std::collections::HashMap;

/// Kinds of cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cycle {
    /// Each waits for a lock.
    Locks,
    /// Some wait for locks, some for channels or something else.
    Mixed,
    /// None waits for a lock.
    Other,
}

/// The goroutines that wait in a cycle, by index into [`Snapshot::goroutines`]. (A member of a set that only waits for
/// one that is in a cycle is not in it.)
pub(super) fn find(observed: &Observed) -> HashMap<u32, Cycle> {
    let mut found = HashMap::new();
    for set in &observed.sets {
        let members: Vec<u32> = round(set).collect();
        if let Some(cycle) = kind(&observed.snapshot, set, &members) {
            found.extend(members.into_iter().map(|member| (member, cycle)));
        }
    }
    found
}

/// The goroutines of a set's cycle, in its order.
pub(super) fn round(set: &DeadSet) -> impl Iterator<Item = u32> {
    set.cycle.iter().filter_map(|at| set.members.get(*at as usize)).copied()
}

fn kind(snapshot: &Snapshot, set: &DeadSet, members: &[u32]) -> Option<Cycle> {
    let (mut locks, mut others) = (0, 0);
    for (waiter, holder) in members.iter().zip(members.iter().cycle().skip(1)) {
        let edge = set.edges.iter().find(|edge| edge.waiter == *waiter && edge.holder == *holder)?;
        match snapshot.objects.get(edge.object as usize)?.kind {
            ObjectKind::Mutex { .. } | ObjectKind::RwMutex { .. } => locks += 1,
            _ => others += 1,
        }
    }
    match (locks, others) {
        (0, 0) => None,
        (_, 0) => Some(Cycle::Locks),
        (0, _) => Some(Cycle::Other),
        _ => Some(Cycle::Mixed),
    }
}

//! What the goroutines of a group wait for.

use sfgi_core::{
    detect::Group,
    snapshot::{Object, Snapshot, Wait},
};
use std::collections::HashSet;

/// What a group waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited<'a> {
    /// The first thing that the first goroutine waits for.
    pub(super) wait: Wait,
    pub(super) object: &'a Object,
    /// How many different ones the group waits for.
    pub(super) different: usize,
    /// How many the first goroutine alone waits for: the cases of its select.
    pub(super) cases: usize,
}

/// `None` where the group waits for nothing that was found.
pub(super) fn awaited<'a>(snapshot: &'a Snapshot, group: &Group) -> Option<Awaited<'a>> {
    let waits = |index: &u32| snapshot.goroutines.get(*index as usize).map_or(&[][..], |one| &one.waits);
    let first = waits(group.members.first()?);
    let wait = *first.first()?;
    let different: HashSet<u32> = group.members.iter().flat_map(waits).map(|wait| wait.object).collect();
    let object = snapshot.objects.get(wait.object as usize)?;
    Some(Awaited { wait, object, different: different.len(), cases: first.len() })
}

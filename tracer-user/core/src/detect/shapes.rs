//! Goroutines that are alike, so that names are asked for once: a million goroutines have few different stacks.

use super::{Lookup, Scope, exclusions, growth::Site};
use crate::{
    goruntime::State,
    heap::Observed,
    snapshot::{Goroutine, StackId},
};
use std::{collections::HashMap, sync::Arc};

/// Goroutines with the same creation site, stack, state and wait reason.
pub(super) struct Shape {
    /// By index into `Snapshot::goroutines`.
    pub(super) members: Vec<u32>,
    /// All functions on the stack, innermost first.
    pub(super) functions: Vec<Arc<str>>,
    pub(super) creator: Option<Arc<str>>,
    /// Where it waits.
    pub(super) wait_site: Option<(Arc<str>, u32)>,
    pub(super) reason: String,
    pub(super) state: State,
    pub(super) site: Site,
    pub(super) main: bool,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    site: Site,
    stack: StackId,
    state: State,
    reason: u8,
    main: bool,
}

impl Key {
    fn of(goroutine: &Goroutine) -> Key {
        Key {
            site: (goroutine.gopc, goroutine.startpc),
            stack: goroutine.stack,
            state: goroutine.state,
            reason: if goroutine.state.waits() { goroutine.reason } else { 0 },
            main: goroutine.goid == 1,
        }
    }
}

/// The shapes of all goroutines that can be judged, in the order in which they first occur; and how many
/// goroutines that are.
pub(super) fn find(observed: &Observed, scope: &Scope, lookup: &mut dyn Lookup) -> (Vec<Shape>, u64) {
    let mut places: HashMap<Key, Option<usize>> = HashMap::new();
    let mut shapes: Vec<Shape> = Vec::new();
    let mut judged = 0;
    for (index, goroutine) in (0..).zip(&observed.snapshot.goroutines) {
        if exclusions::never(goroutine, lookup.wait_reason(goroutine)) || !scope.holds_goid(goroutine.goid) {
            continue;
        }
        judged += 1;
        let place = *places.entry(Key::of(goroutine)).or_insert_with(|| {
            let shape = Shape::of(observed, goroutine, lookup);
            (!scope.ignores(&shape)).then(|| {
                shapes.push(shape);
                shapes.len() - 1
            })
        });
        if let Some(shape) = place.and_then(|place| shapes.get_mut(place)) {
            shape.members.push(index);
        }
    }
    (shapes, judged)
}

impl Shape {
    fn of(observed: &Observed, goroutine: &Goroutine, lookup: &mut dyn Lookup) -> Shape {
        let stack = observed.snapshot.stacks.get(goroutine.stack);
        Shape {
            members: Vec::new(),
            functions: lookup.functions(stack),
            creator: lookup.creator(goroutine),
            wait_site: lookup.wait_site(stack),
            reason: lookup.reason(goroutine).to_owned(),
            state: goroutine.state,
            site: (goroutine.gopc, goroutine.startpc),
            main: goroutine.goid == 1,
        }
    }
}

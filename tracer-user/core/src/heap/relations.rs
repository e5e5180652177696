//! Holders of awaited objects, and sets of unreachable goroutines that wait for each other.
//!
//! A goroutine that refers to a lock need not hold it: a Go mutex does not say who does. So holders are inferred, and
//! outputs say so.

#[cfg(test)]
mod tests;

use super::Facts;
use super::marker::{Marker, Source};
use super::references::{Depths, References, Wanted};
use super::spans::{ObjectId, words};
use crate::binary::bytes::u64_at;
use crate::snapshot::{ObjectKind, Snapshot, View};
use hashbrown::{HashMap, HashSet};

/// Most goroutines whose references are read.
const MAX_GOROUTINES: usize = 20_000;
/// Steps through the heap from a goroutine's own references: enough to come from a closure or a context to what it
/// holds.
const DEPTH: usize = 3;
/// Most objects that are read for one goroutine, and the largest one that is.
const MAX_OBJECTS: usize = 64;
const MAX_SIZE: u64 = 512;
/// Bytes of an object of the tiny allocator, which several values share, and of the smallest value that can be awaited
/// (`sync.Mutex`).
const TINY: u64 = 16;
const LEAST: u64 = 8;
/// Most holders of one object that make an edge in a set: a thousand goroutines that share a thousand locks would make
/// a million edges.
const MAX_EDGES: usize = 1000;
/// Most goroutines that are named as holders of one object.
const MAX_HOLDERS: usize = 16;

/// Unreachable goroutines that wait for each other: members refer to what other members wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadSet {
    /// At least two indices into [`Snapshot::goroutines`], ascending.
    pub members: Vec<u32>,
    /// The waits between members.
    pub edges: Vec<Edge>,
}

/// A goroutine that waits for an object which another goroutine refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The waiting goroutine: index into [`Snapshot::goroutines`].
    pub waiter: u32,
    /// The object that it waits for: index into [`Snapshot::objects`].
    pub object: u32,
    /// The goroutine that refers to the object and so could end the wait (inferred): index into
    /// [`Snapshot::goroutines`].
    pub holder: u32,
}

/// What refers to one awaited object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Goroutines that refer to it from their stacks: at most 16 indices into [`Snapshot::goroutines`], ascending.
    pub goroutines: Vec<u32>,
    /// Link-time address of the variable from which the last pass reached it; `None`: it did not come from a variable.
    pub global: Option<u64>,
    /// 1 if the last pass reached it from another object of the heap, else 0.
    pub heap: u32,
}

/// What the references of one goroutine say.
#[derive(Debug, Default)]
struct Relation {
    /// Awaited objects that it refers to and does not wait for itself: indices into [`Snapshot::objects`].
    holds: Vec<u32>,
    /// Whether what it waits for is the `Done` of a context.
    context: bool,
}

/// Fills [`Facts::holds`], [`Facts::context`] and [`Facts::set`]; returns the sets, and the holders of each object.
/// `reached_by`: from where the last pass first reached each awaited object.
pub(super) fn relate(
    view: &View<'_>,
    snapshot: &Snapshot,
    marker: &Marker<'_>,
    reached_by: &HashMap<ObjectId, Source>,
    facts: &mut [Facts],
) -> (Vec<DeadSet>, Vec<Holders>) {
    let is_dead =
        |facts: &[Facts], index: u32| facts.get(index as usize).is_some_and(|facts| facts.unreachable);
    let dead = facts.iter().zip(0u32..).filter(|(facts, _)| facts.unreachable).map(|(_, index)| index);
    let waiting = snapshot.objects.iter().flat_map(|object| object.waiters.iter().copied());
    let related: HashSet<u32> = dead.chain(waiting).collect();
    let mut related: Vec<u32> = related.into_iter().collect();
    // The unreachable first, because at most `MAX_GOROUTINES` are read.
    related.sort_unstable_by_key(|index| (!is_dead(facts, *index), *index));
    let mut relations = find(view, snapshot, marker, &related);
    let holders = holders(snapshot, marker, reached_by, &relations, view.bias);
    for (index, relation) in &relations {
        if let Some(facts) = facts.get_mut(*index as usize) {
            facts.holds.clone_from(&relation.holds);
            facts.context = relation.context;
        }
    }
    contexts(view, snapshot, marker, reached_by, facts);
    relations.retain(|index, _| is_dead(facts, *index));
    let sets = sets(snapshot, &relations);
    for (set, number) in sets.iter().zip(0u32..) {
        for member in &set.members {
            if let Some(facts) = facts.get_mut(*member as usize) {
                facts.set = Some(number);
            }
        }
    }
    (sets, holders)
}

/// Sets [`Facts::context`] for waiters on a channel that the last pass reached from the context itself. Such a waiter
/// need not have the context on its stack any more, so [`Search::follow`] misses it.
fn contexts(
    view: &View<'_>,
    snapshot: &Snapshot,
    marker: &Marker<'_>,
    reached_by: &HashMap<ObjectId, Source>,
    facts: &mut [Facts],
) {
    let search = Search { view, marker, awaited: &HashMap::new(), snapshot };
    for object in &snapshot.objects {
        let by = marker.spans().object(object.addr).and_then(|id| reached_by.get(&id));
        let Some(Source::Heap(by)) = by else { continue };
        let bytes = marker.spans().object(*by).and_then(|by| search.bytes(by));
        if bytes.is_some_and(|bytes| search.is_context(&bytes, &[object.addr])) {
            for waiter in &object.waiters {
                if let Some(facts) = facts.get_mut(*waiter as usize) {
                    facts.context = true;
                }
            }
        }
    }
}

/// Finds what these goroutines (indices into the snapshot) refer to; empty if the target has ended.
fn find(
    view: &View<'_>,
    snapshot: &Snapshot,
    marker: &Marker<'_>,
    goroutines: &[u32],
) -> HashMap<u32, Relation> {
    let mut awaited: HashMap<ObjectId, Vec<u32>> = HashMap::new();
    for (object, index) in snapshot.objects.iter().zip(0u32..) {
        if let Some(id) = marker.spans().object(object.addr) {
            awaited.entry(id).or_default().push(index);
        }
    }
    let Some(mut references) = References::new(view, Depths::default()) else { return HashMap::new() };
    let wanted = |index: &u32| {
        let goroutine = snapshot.goroutines.get(*index as usize)?;
        Some(Wanted { index: *index, g: goroutine.g, moved: false })
    };
    let wanted: Vec<_> = goroutines.iter().take(MAX_GOROUTINES).filter_map(wanted).collect();
    let mut refers: HashMap<u32, Refers> = HashMap::new();
    let read = references.each(&wanted, &mut |index, word, _| {
        if let Some(object) = marker.spans().object(word) {
            refers.entry(index).or_default().add(object, word);
        }
    });
    if read.is_err() {
        return HashMap::new();
    }
    let search = Search { view, marker, awaited: &awaited, snapshot };
    refers.into_iter().map(|(index, refers)| (index, search.follow(index, refers))).collect()
}

/// The references of one goroutine.
#[derive(Default)]
struct Refers {
    /// All objects that were met, so that cycles end.
    met: HashSet<ObjectId>,
    /// The references to follow next: object, and the pointer into it.
    words: Vec<(ObjectId, u64)>,
}

impl Refers {
    fn add(&mut self, object: ObjectId, word: u64) {
        if self.met.len() < MAX_OBJECTS && (self.met.insert(object) || !self.words.contains(&(object, word)))
        {
            self.words.push((object, word));
        }
    }
}

struct Search<'s> {
    view: &'s View<'s>,
    marker: &'s Marker<'s>,
    awaited: &'s HashMap<ObjectId, Vec<u32>>,
    snapshot: &'s Snapshot,
}

impl Search<'_> {
    fn follow(&self, goroutine: u32, mut refers: Refers) -> Relation {
        let waits = self.snapshot.goroutines.get(goroutine as usize).map(|goroutine| &goroutine.waits[..]);
        let own: HashSet<u32> = waits.unwrap_or_default().iter().map(|wait| wait.object).collect();
        let channels: Vec<u64> =
            own.iter().filter_map(|object| Some(self.snapshot.objects.get(*object as usize)?.addr)).collect();
        let mut relation = Relation::default();
        for _ in 0..=DEPTH {
            for (object, word) in std::mem::take(&mut refers.words) {
                let awaited = self.awaited.get(&object).map_or(&[][..], |awaited| awaited);
                let mut meant = awaited.iter().filter(|index| self.points_at(**index, object, word));
                let is_channel = meant.clone().any(|index| self.is_channel(*index));
                relation.holds.extend(meant.by_ref().filter(|index| !own.contains(*index)));
                // What lies in a channel belongs to its receiver, not to a goroutine that merely refers to the channel.
                let Some(bytes) = (!is_channel).then(|| self.bytes(object)).flatten() else { continue };
                relation.context |= self.is_context(&bytes, &channels);
                for word in words(&bytes) {
                    if let Some(found) = self.marker.spans().object(word) {
                        refers.add(found, word);
                    }
                }
            }
        }
        relation.holds.sort_unstable();
        relation.holds.dedup();
        relation
    }

    fn is_channel(&self, object: u32) -> bool {
        let object = self.snapshot.objects.get(object as usize);
        matches!(object.map(|object| &object.kind), Some(ObjectKind::Channel { .. }))
    }

    /// Whether a pointer into an object of the heap refers to the awaited `thing` in it. Small values without pointers
    /// share an object (the tiny allocator, `src/runtime/malloc.go`); a pointer to a neighbour does not refer to the
    /// thing.
    fn points_at(&self, thing: u32, object: ObjectId, word: u64) -> bool {
        let Some((thing, span)) =
            self.snapshot.objects.get(thing as usize).zip(self.marker.spans().get(object.span))
        else {
            return false;
        };
        let shared = span.noscan && span.size == TINY;
        !shared || (thing.addr..thing.addr.saturating_add(LEAST)).contains(&word)
    }

    /// The bytes of an object; `None`: it is too large, holds no pointers, or cannot be read.
    fn bytes(&self, object: ObjectId) -> Option<Vec<u8>> {
        let (addr, size) = self.marker.spans().range(object).filter(|(_, size)| *size <= MAX_SIZE)?;
        self.marker.spans().get(object.span).filter(|span| !span.noscan)?;
        let mut bytes = vec![0; size as usize];
        self.view.memory.read(addr, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Whether an object is a `context.cancelCtx` whose `done` is one of these channels: the field is an
    /// `atomic.Value` (`src/context/context.go`, 1.19 to 1.27) that holds a `chan struct{}`.
    fn is_context(&self, bytes: &[u8], channels: &[u64]) -> bool {
        let words: Vec<u64> = words(bytes).collect();
        // An interface is two words: the type, then the value, which for a channel is the `hchan` itself.
        words.array_windows().any(|[of, data]| channels.contains(data) && self.is_chan_of_nothing(*of))
    }

    /// Whether the type `chan struct{}` lies at an address (`src/internal/abi/type.go`: `Type.Kind_` at 23,
    /// `ChanType.Elem` at 48, `Type.Size_` at 0, the same in every version).
    fn is_chan_of_nothing(&self, addr: u64) -> bool {
        const CHAN: u8 = 18;
        const KIND_MASK: u8 = 31;
        let mut bytes = [0; 56];
        if addr < 4096 || self.view.memory.read(addr, &mut bytes).is_err() {
            return false;
        }
        let kind = bytes.get(23).is_some_and(|kind| kind & KIND_MASK == CHAN);
        let size = u64_at(&bytes, 48).filter(|elem| *elem > 4096).and_then(|elem| self.view.word(elem));
        kind && size == Some(0)
    }
}

/// The sets among these goroutines: an edge from each waiter to each holder, grouped.
fn sets(snapshot: &Snapshot, relations: &HashMap<u32, Relation>) -> Vec<DeadSet> {
    let mut holders: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut indices: Vec<u32> = relations.keys().copied().collect();
    indices.sort_unstable();
    for index in &indices {
        for object in relations.get(index).map_or(&[][..], |relation| &relation.holds) {
            holders.entry(*object).or_default().push(*index);
        }
    }
    let mut edges: Vec<Edge> = Vec::new();
    for waiter in &indices {
        let waits = snapshot.goroutines.get(*waiter as usize).map(|goroutine| &goroutine.waits[..]);
        for wait in waits.unwrap_or_default() {
            let holders = holders.get(&wait.object).map_or(&[][..], |holders| holders);
            edges.extend(holders.iter().take(MAX_EDGES).map(|holder| Edge {
                waiter: *waiter,
                object: wait.object,
                holder: *holder,
            }));
        }
    }
    group(&edges)
}

/// Groups connected edges into sets, the largest first (union-find).
fn group(edges: &[Edge]) -> Vec<DeadSet> {
    let mut parent: HashMap<u32, u32> = HashMap::new();
    for edge in edges {
        let (one, other) = (root(&mut parent, edge.waiter), root(&mut parent, edge.holder));
        parent.insert(one, other);
    }
    let mut sets: HashMap<u32, DeadSet> = HashMap::new();
    for edge in edges {
        let set = sets
            .entry(root(&mut parent, edge.waiter))
            .or_insert_with(|| DeadSet { members: Vec::new(), edges: Vec::new() });
        set.members.extend([edge.waiter, edge.holder]);
        set.edges.push(*edge);
    }
    let mut sets: Vec<DeadSet> = sets.into_values().collect();
    for set in &mut sets {
        set.members.sort_unstable();
        set.members.dedup();
    }
    sets.sort_by_key(|set| (std::cmp::Reverse(set.members.len()), set.members.first().copied()));
    sets
}

fn root(parent: &mut HashMap<u32, u32>, of: u32) -> u32 {
    let mut at = of;
    while let Some(up) = parent.get(&at).copied().filter(|up| *up != at) {
        // Path halving keeps chains short: the next search from here takes half the steps.
        let further = parent.get(&up).copied().unwrap_or(up);
        parent.insert(at, further);
        at = further;
    }
    parent.entry(at).or_insert(at);
    at
}

/// The holders of each object: from where the last pass first reached it, and the goroutines that refer to it.
fn holders(
    snapshot: &Snapshot,
    marker: &Marker<'_>,
    reached_by: &HashMap<ObjectId, Source>,
    relations: &HashMap<u32, Relation>,
    bias: u64,
) -> Vec<Holders> {
    let by_source = |addr: u64| {
        let mut holders = Holders::default();
        match marker.spans().object(addr).and_then(|object| reached_by.get(&object)) {
            Some(Source::Global(at)) => holders.global = Some(at.wrapping_sub(bias)),
            // `u32::MAX` stands for a goroutine that is not in the snapshot.
            Some(Source::Goroutine(index)) if *index != u32::MAX => holders.goroutines.push(*index),
            Some(Source::Heap(_)) => holders.heap = 1,
            _ => {}
        }
        holders
    };
    let mut all: Vec<Holders> = snapshot.objects.iter().map(|object| by_source(object.addr)).collect();
    for (index, relation) in relations {
        for object in &relation.holds {
            let Some(holders) = all.get_mut(*object as usize) else { continue };
            if holders.goroutines.len() < MAX_HOLDERS && !holders.goroutines.contains(index) {
                holders.goroutines.push(*index);
            }
        }
    }
    all.iter_mut().for_each(|holders| holders.goroutines.sort_unstable());
    all
}

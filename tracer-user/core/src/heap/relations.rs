//! Who of the unreachable refers to what the others wait for: the dead groups, and their cycles.
//!
//! That a goroutine refers to a lock does not prove that it holds it: nothing in a Go mutex says who does. So
//! what comes from here is inferred, and shown as such.

#[cfg(test)]
mod tests;

use super::alive::{Alive, Wanted};
use super::marker::Marker;
use super::spans::{ObjectId, words};
use super::types::{DeadSet, Edge};
use crate::binary::bytes::u64_at;
use crate::snapshot::{ObjectKind, Snapshot, View};
use hashbrown::{HashMap, HashSet};

/// Goroutines whose references are looked at.
const MAX_GOROUTINES: usize = 20_000;
/// How far references are followed through the heap: from a closure or a context to what it holds.
const DEPTH: usize = 3;
/// Objects looked at for one goroutine, and bytes of each.
const MAX_OBJECTS: usize = 64;
const MAX_SIZE: u64 = 512;
/// Bytes of an object that the tiny allocator cuts up, and of the smallest thing that is waited for
/// (`sync.Mutex`).
const TINY: u64 = 16;
const LEAST: u64 = 8;
/// Members of one set that are shown.
const MAX_MEMBERS: usize = 1000;

/// What is known of one goroutine.
#[derive(Debug, Default)]
pub(super) struct Relation {
    /// Objects that others wait for and that it refers to.
    pub(super) holds: Vec<u32>,
    /// What it waits for is the `Done` of a context.
    pub(super) context: bool,
}

/// Finds what these goroutines (indices into the snapshot) refer to.
pub(super) fn find(
    view: &View<'_>,
    snapshot: &Snapshot,
    marker: &Marker<'_>,
    goroutines: &[u32],
) -> HashMap<u32, Relation> {
    let mut awaited: HashMap<ObjectId, Vec<u32>> = HashMap::new();
    for (object, index) in snapshot.objects.iter().zip(0u32..) {
        if let Some(id) = marker.spans.object(object.addr) {
            awaited.entry(id).or_default().push(index);
        }
    }
    let Some(mut alive) = Alive::new(view) else { return HashMap::new() };
    let wanted = |index: &u32| {
        let goroutine = snapshot.goroutines.get(*index as usize)?;
        Some(Wanted { index: *index, g: goroutine.g, whole: false })
    };
    let wanted: Vec<_> = goroutines.iter().take(MAX_GOROUTINES).filter_map(wanted).collect();
    let mut refers: HashMap<u32, Refers> = HashMap::new();
    let read = alive.each(&wanted, &mut |index, word, _| {
        if let Some(object) = marker.spans.object(word) {
            refers.entry(index).or_default().add(object, word);
        }
    });
    if read.is_err() {
        return HashMap::new();
    }
    let search = Search { view, marker, awaited: &awaited, snapshot };
    refers.into_iter().map(|(index, refers)| (index, search.follow(index, refers))).collect()
}

/// Objects that were met, and where in them the pointers point.
#[derive(Default)]
struct Refers {
    met: HashSet<ObjectId>,
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

/// Whether this object is the context whose `Done` the channel at an address is.
pub(super) fn is_context_of(
    view: &View<'_>,
    snapshot: &Snapshot,
    marker: &Marker<'_>,
    object: ObjectId,
    channel: u64,
) -> bool {
    let search = Search { view, marker, awaited: &HashMap::new(), snapshot };
    search.bytes(object).is_some_and(|bytes| search.is_context(&bytes, &[channel]))
}

struct Search<'s> {
    view: &'s View<'s>,
    marker: &'s Marker<'s>,
    awaited: &'s HashMap<ObjectId, Vec<u32>>,
    snapshot: &'s Snapshot,
}

impl Search<'_> {
    /// Follows the references of a goroutine.
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
                // What lies in a channel is not this goroutine's.
                let Some(bytes) = (!is_channel).then(|| self.bytes(object)).flatten() else { continue };
                relation.context |= self.is_context(&bytes, &channels);
                for word in words(&bytes) {
                    if let Some(found) = self.marker.spans.object(word) {
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

    /// Whether a pointer into an object of the heap means this thing that is waited for. Small things without
    /// pointers share an object (the tiny allocator, `src/runtime/malloc.go`): there only a pointer to the
    /// thing itself does.
    fn points_at(&self, thing: u32, object: ObjectId, word: u64) -> bool {
        let Some((thing, span)) =
            self.snapshot.objects.get(thing as usize).zip(self.marker.spans.get(object.span))
        else {
            return false;
        };
        let shared = span.noscan && span.size == TINY;
        !shared || (thing.addr..thing.addr.saturating_add(LEAST)).contains(&word)
    }

    fn bytes(&self, object: ObjectId) -> Option<Vec<u8>> {
        let (addr, size) = self.marker.spans.range(object).filter(|(_, size)| *size <= MAX_SIZE)?;
        self.marker.spans.get(object.span).filter(|span| !span.noscan)?;
        let mut bytes = vec![0; size as usize];
        self.view.memory.read(addr, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Whether an object is a `context.cancelCtx` whose `done` is one of these channels: the field is an
    /// `atomic.Value` (`src/context/context.go`, 1.19 to 1.27) that holds a `chan struct{}`.
    fn is_context(&self, bytes: &[u8], channels: &[u64]) -> bool {
        let words: Vec<u64> = words(bytes).collect();
        words.array_windows().any(|[of, data]| channels.contains(data) && self.is_chan_of_nothing(*of))
    }

    /// Whether there is the type `chan struct{}` at an address (`src/internal/abi/type.go`: `Type.Kind_` at 23, `ChanType.Elem` at 48,
    /// `Type.Size_` at 0, the same in every version).
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

/// The groups of goroutines that wait for each other.
pub(super) fn sets(snapshot: &Snapshot, relations: &HashMap<u32, Relation>) -> Vec<DeadSet> {
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
            edges.extend(holders.iter().take(MAX_MEMBERS).map(|holder| Edge {
                waiter: *waiter,
                object: wait.object,
                holder: *holder,
            }));
        }
    }
    group(&edges)
}

/// Connected edges together, the largest set first.
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
        // Halves the way for the next one.
        let further = parent.get(&up).copied().unwrap_or(up);
        parent.insert(at, further);
        at = further;
    }
    parent.entry(at).or_insert(at);
    at
}

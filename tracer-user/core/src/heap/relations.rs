//! What goroutines refer to, and sets of unreachable goroutines that wait for each other.
//!
//! A goroutine that refers to a lock need not hold it: a Go mutex does not say who does.

#[cfg(test)]
mod tests;

use super::Facts;
use super::marker::Source;
use super::references::{Depths, Pending, References, Wanted};
use super::spans::{HeapError, ObjectId, Spans, words};
use super::waits::{self, Code, Edge, Hints, Waits};
use crate::binary::bytes::u64_at;
use crate::model::Wakers;
use crate::snapshot::{Object, ObjectKind, Snapshot, View, Wait, Wants};
use hashbrown::{HashMap, HashSet};

/// Most goroutines whose references are read.
const MAX_GOROUTINES: usize = 20_000;
/// Steps through the heap from a goroutine's own references: enough to come from a closure or a context to what it
/// holds.
const DEPTH: usize = 3;
/// Most objects that are read for one goroutine, and the largest one that is.
const MAX_OBJECTS: usize = 64;
const MAX_SIZE: u64 = 512;
/// Bytes behind a pointer, and things in them, that it may refer to as parts of one struct.
const NEAR: u64 = 512;
const MAX_NEAR: usize = 16;
/// Lowest address that counts as a pointer, and bytes behind a pointer to a variable that are taken for a part of it.
const LOWEST: u64 = 4096;
const VARIABLE: u64 = 64;
/// Bytes of an object of the tiny allocator, which several values share, and of the smallest value that can be awaited
/// (`sync.Mutex`).
const TINY: u64 = 16;
const LEAST: u64 = 8;
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

/// Fills [`Facts::holds`], [`Facts::context`] and [`Facts::set`]; returns the sets, the holders of each object, and who
/// waits for whom. `reached_by`: from where the last pass first reached each awaited object.
pub(super) fn relate(
    view: &View<'_>,
    snapshot: &Snapshot,
    spans: &Spans,
    reached_by: &HashMap<ObjectId, Source>,
    facts: &mut [Facts],
) -> Related {
    let is_dead =
        |facts: &[Facts], index: u32| facts.get(index as usize).is_some_and(|facts| facts.unreachable);
    let dead = facts.iter().zip(0u32..).filter(|(facts, _)| facts.unreachable).map(|(_, index)| index);
    let waiting = snapshot.objects.iter().flat_map(|object| object.waiters.iter().copied());
    let related: HashSet<u32> = dead.chain(waiting).collect();
    let mut related: Vec<u32> = related.into_iter().collect();
    // The unreachable first, because at most `MAX_GOROUTINES` are read.
    related.sort_unstable_by_key(|index| (!is_dead(facts, *index), urgency(snapshot, *index), *index));
    let (relations, pending) = find(view, snapshot, spans, &related);
    let holders = holders(snapshot, spans, reached_by, &relations, view.bias);
    let in_variable = |index: u32| is_in_variable(snapshot, spans, &holders, index);
    let code = Code::of(view, snapshot, &in_variable);
    let waits = waits(view, snapshot, spans, &relations, pending, &code, facts);
    for (index, relation) in &relations {
        if let Some(facts) = facts.get_mut(*index as usize) {
            facts.holds.clone_from(&relation.holds);
            facts.context = relation.context;
        }
    }
    contexts(view, snapshot, spans, reached_by, facts);
    let dead = |index: u32| is_dead(facts, index);
    let between: Vec<Edge> = (waits.edges.iter().copied())
        .filter(|edge| dead(edge.waiter) && dead(edge.holder) && edge.waiter != edge.holder)
        .collect();
    let sets = group(&between);
    for (set, number) in sets.iter().zip(0u32..) {
        for member in &set.members {
            if let Some(facts) = facts.get_mut(*member as usize) {
                facts.set = Some(number);
            }
        }
    }
    Related { sets, holders, waits }
}

/// Who waits for whom. Goroutines that wait for nothing that is known are only looked at where it matters: they may be
/// able to wake somebody.
fn waits(
    view: &View<'_>,
    snapshot: &Snapshot,
    spans: &Spans,
    relations: &HashMap<u32, Relation>,
    mut pending: Vec<Pending>,
    code: &Code,
    facts: &[Facts],
) -> Waits {
    let dead = |index: u32| facts.get(index as usize).is_some_and(|facts| facts.unreachable);
    // No probes stand while the heap is searched.
    let none = Wakers::default();
    let complete = relations.len() < MAX_GOROUTINES;
    let locks = snapshot.objects.iter().any(|object| object.kind.is_lock());
    if !complete || !locks {
        let held = waits::held(view, snapshot, &pending);
        let stacks = |index| relations.get(&index).map_or(&[][..], |relation| &relation.holds);
        let found = waits::find(
            view,
            snapshot,
            &held,
            code,
            &Hints { stacks: &stacks, complete, dead: &dead, wakers: &none },
        );
        let ring = found.between_stuck().any(|edge| !dead(edge.waiter));
        if !complete || !ring {
            return found;
        }
    }
    // Somebody who sleeps or runs may have a lock, or be able to end what looks like a ring.
    let others = (0..snapshot.goroutines.len() as u32).filter(|index| !relations.contains_key(index));
    let others: Vec<u32> = others.collect();
    let complete = relations.len() + others.len() < MAX_GOROUTINES;
    let (others, more) = find(view, snapshot, spans, &others);
    pending.extend(more);
    let held = waits::held(view, snapshot, &pending);
    let both = |index| relations.get(&index).or_else(|| others.get(&index)).map_or(&[][..], |one| &one.holds);
    waits::find(view, snapshot, &held, code, &Hints { stacks: &both, complete, dead: &dead, wakers: &none })
}

/// Whether code may name an awaited object: a lock that is a variable or part of one, or a channel that a variable has.
fn is_in_variable(snapshot: &Snapshot, spans: &Spans, holders: &[Holders], index: u32) -> bool {
    match snapshot.objects.get(index as usize) {
        Some(Object { kind: ObjectKind::Channel { .. }, .. }) => {
            holders.get(index as usize).is_some_and(|holders| holders.global.is_some())
        }
        Some(Object { addr, .. }) => spans.object(*addr).is_none(),
        None => false,
    }
}

/// Where a goroutine stands in the order of those that are read, because at most `MAX_GOROUTINES` are: those that wait for
/// locks first, then others that wait for something.
fn urgency(snapshot: &Snapshot, index: u32) -> u8 {
    let waits = snapshot.goroutines.get(index as usize).map_or(&[][..], |one| &one.waits);
    let is_lock = |wait: &Wait| matches!(wait.wants, Wants::Lock | Wants::RLock);
    if waits.iter().any(is_lock) { 0 } else { 1 + u8::from(waits.is_empty()) }
}

/// Who waits for whom, from a snapshot with stacks and objects alone.
///
/// # Errors
/// The heap cannot be read.
pub(super) fn waits_of(view: &View<'_>, snapshot: &Snapshot, wakers: &Wakers) -> Result<Waits, HeapError> {
    let globals = view.binary.globals().map_err(|_| HeapError::NoHeap)?;
    let spans = Spans::read(view, globals)?;
    let mut all: Vec<u32> = (0..snapshot.goroutines.len() as u32).collect();
    all.sort_by_key(|index| urgency(snapshot, *index));
    let (relations, pending) = find(view, snapshot, &spans, &all);
    let held = waits::held(view, snapshot, &pending);
    let stacks = |index| relations.get(&index).map_or(&[][..], |one| &one.holds);
    let complete = all.len() <= MAX_GOROUTINES && snapshot.lacks().is_none();
    let code = Code::of(view, snapshot, &|_| true);
    let hints = Hints { stacks: &stacks, complete, dead: &|_| false, wakers };
    Ok(waits::find(view, snapshot, &held, &code, &hints))
}

/// What was found of goroutines and what they wait for.
pub(super) struct Related {
    pub sets: Vec<DeadSet>,
    pub holders: Vec<Holders>,
    pub waits: Waits,
}

/// Sets [`Facts::context`] for waiters on a channel that the last pass reached from the context itself. Such a waiter
/// need not have the context on its stack any more, so [`Search::follow`] misses it.
fn contexts(
    view: &View<'_>,
    snapshot: &Snapshot,
    spans: &Spans,
    reached_by: &HashMap<ObjectId, Source>,
    facts: &mut [Facts],
) {
    let search = Search { view, spans, static_objects: Vec::new(), awaited: &HashMap::new(), snapshot };
    for object in &snapshot.objects {
        let by = spans.object(object.addr).and_then(|id| reached_by.get(&id));
        let Some(Source::Heap(by)) = by else { continue };
        let bytes = spans.object(*by).and_then(|by| search.bytes(by));
        if bytes.is_some_and(|bytes| search.is_context(&bytes, &[object.addr])) {
            for waiter in &object.waiters {
                if let Some(facts) = facts.get_mut(*waiter as usize) {
                    facts.context = true;
                }
            }
        }
    }
}

/// Finds what these goroutines (indices into the snapshot) refer to, and their deferred calls; nothing if the target has
/// ended.
fn find(
    view: &View<'_>,
    snapshot: &Snapshot,
    spans: &Spans,
    goroutines: &[u32],
) -> (HashMap<u32, Relation>, Vec<Pending>) {
    let mut awaited: HashMap<ObjectId, Vec<u32>> = HashMap::new();
    for (object, index) in snapshot.objects.iter().zip(0u32..) {
        if let Some(id) = spans.object(object.addr) {
            awaited.entry(id).or_default().push(index);
        }
    }
    let addr = |index: &u32| snapshot.objects.get(*index as usize).map_or(0, |one| one.addr);
    awaited.values_mut().for_each(|objects| objects.sort_unstable_by_key(addr));
    let Some(mut references) = References::new(view, Depths::default()) else { return Default::default() };
    references.note_pending();
    let wanted = |index: &u32| {
        let goroutine = snapshot.goroutines.get(*index as usize)?;
        Some(Wanted { index: *index, g: goroutine.g, moved: false })
    };
    let wanted: Vec<_> = goroutines.iter().take(MAX_GOROUTINES).filter_map(wanted).collect();
    let mut refers: HashMap<u32, Refers> = HashMap::new();
    let read = references.each(&wanted, &mut |index, word, _| {
        if let Some(object) = spans.object(word) {
            refers.entry(index).or_default().add(object, word);
        } else if word > LOWEST && view.binary.is_variable(word.wrapping_sub(view.bias)) {
            refers.entry(index).or_default().add_variable(word);
        }
    });
    if read.is_err() {
        return Default::default();
    }
    let outside =
        snapshot.objects.iter().zip(0_u32..).filter(|(object, _)| spans.object(object.addr).is_none());
    let mut static_objects: Vec<_> = outside.map(|(object, index)| (object.addr, index)).collect();
    static_objects.sort_unstable();
    let search = Search { view, spans, static_objects, awaited: &awaited, snapshot };
    let relations = refers.into_iter().map(|(index, refers)| (index, search.follow(index, refers))).collect();
    (relations, references.pending())
}

/// The references of one goroutine.
#[derive(Default)]
struct Refers {
    /// All objects that were met, so that cycles end.
    met: HashSet<ObjectId>,
    /// The references to follow next: object, and the pointer into it.
    words: Vec<(ObjectId, u64)>,
    /// Addresses in variables: structs that the compiler made there.
    variables: Vec<u64>,
}

impl Refers {
    fn add(&mut self, object: ObjectId, word: u64) {
        if self.met.len() < MAX_OBJECTS && (self.met.insert(object) || !self.words.contains(&(object, word)))
        {
            self.words.push((object, word));
        }
    }

    fn add_variable(&mut self, addr: u64) {
        if self.variables.len() < MAX_OBJECTS && !self.variables.contains(&addr) {
            self.variables.push(addr);
        }
    }
}

struct Search<'s> {
    view: &'s View<'s>,
    spans: &'s Spans,
    /// Awaited objects in variables: addresses, ascending, and indices into [`Snapshot::objects`].
    static_objects: Vec<(u64, u32)>,
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
        for addr in std::mem::take(&mut refers.variables) {
            self.variable(addr, &own, &mut relation, &mut refers);
        }
        for _ in 0..=DEPTH {
            for (object, word) in std::mem::take(&mut refers.words) {
                let awaited = self.awaited.get(&object).map_or(&[][..], |awaited| awaited);
                // An array may have thousands of locks: those next to the pointer are meant.
                let addr = |index: &u32| self.snapshot.objects.get(*index as usize).map_or(0, |one| one.addr);
                let first = awaited.partition_point(|index| addr(index).saturating_add(LEAST) <= word);
                let awaited = awaited.get(first..).unwrap_or_default();
                let near =
                    awaited.iter().take(MAX_NEAR).take_while(|index| addr(index) < word.saturating_add(NEAR));
                let mut meant = near.filter(|index| self.points_at(**index, object, word));
                let is_channel = meant.clone().any(|index| self.is_channel(*index));
                relation.holds.extend(meant.by_ref().filter(|index| !own.contains(*index)));
                // What lies in a channel belongs to its receiver, not to a goroutine that merely refers to the channel.
                let Some(bytes) = (!is_channel).then(|| self.bytes(object)).flatten() else { continue };
                relation.context |= self.is_context(&bytes, &channels);
                for word in words(&bytes) {
                    if let Some(found) = self.spans.object(word) {
                        refers.add(found, word);
                    }
                }
            }
        }
        relation.holds.sort_unstable();
        relation.holds.dedup();
        relation
    }

    /// Follows a pointer to a variable, whose size nobody knows: the awaited object there, and what its first words lead to.
    fn variable(&self, addr: u64, own: &HashSet<u32>, relation: &mut Relation, refers: &mut Refers) {
        // A neighbour may be another variable.
        let behind = self.static_objects.partition_point(|(at, _)| *at < addr);
        let there = self.static_objects.iter().skip(behind).take_while(|(at, _)| *at == addr);
        relation.holds.extend(there.map(|(_, index)| *index).filter(|index| !own.contains(index)));
        let mut bytes = [0; VARIABLE as usize];
        if self.view.memory.read(addr, &mut bytes).is_ok() {
            for word in words(&bytes) {
                if let Some(found) = self.spans.object(word) {
                    refers.add(found, word);
                }
            }
        }
    }

    fn is_channel(&self, object: u32) -> bool {
        let object = self.snapshot.objects.get(object as usize);
        matches!(object.map(|object| &object.kind), Some(ObjectKind::Channel { .. }))
    }

    /// Whether a pointer into an object of the heap refers to the awaited `thing` in it. Small values without pointers
    /// share an object (the tiny allocator, `src/runtime/malloc.go`); a pointer to a neighbour does not refer to the
    /// thing.
    fn points_at(&self, thing: u32, object: ObjectId, word: u64) -> bool {
        let Some((thing, span)) = self.snapshot.objects.get(thing as usize).zip(self.spans.get(object.span))
        else {
            return false;
        };
        if span.noscan && span.size == TINY {
            return (thing.addr..thing.addr.saturating_add(LEAST)).contains(&word);
        }
        // Who has what comes behind it in an array of structs need not have it.
        word <= thing.addr
    }

    /// The bytes of an object; `None`: it is too large, holds no pointers, or cannot be read.
    fn bytes(&self, object: ObjectId) -> Option<Vec<u8>> {
        let (addr, size) = self.spans.range(object).filter(|(_, size)| *size <= MAX_SIZE)?;
        self.spans.get(object.span).filter(|span| !span.noscan)?;
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
    spans: &Spans,
    reached_by: &HashMap<ObjectId, Source>,
    relations: &HashMap<u32, Relation>,
    bias: u64,
) -> Vec<Holders> {
    let by_source = |addr: u64| {
        let mut holders = Holders::default();
        match spans.object(addr).and_then(|object| reached_by.get(&object)) {
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

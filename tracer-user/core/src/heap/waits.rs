//! Who waits for whom, and which goroutines cannot go on unless one of them does.
//!
//! A **proof** ([`super::Facts::unreachable`]) needs that nothing refers to what is awaited. Most deadlocks of real
//! programs have no such proof: their locks and channels are in variables. But what could end each wait can be known all
//! the same, by what every edge says of itself ([`Sign`]). A goroutine is **stuck** if everybody who could end its wait is
//! stuck: with no proof behind it that is as good as its edges are.

use super::references::Pending;
use crate::binary::{ChannelCalls, Hold};
use crate::budget;
use crate::goruntime::is_plumbing;
use crate::model::Wakers;
use crate::snapshot::{ObjectKind, Pc, Snapshot, StackId, Trust, View, Wants};
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Most edges of one wait and of all: a thousand goroutines that share a thousand locks would make a million. Of what
/// has more it is not said that it is stuck.
const MAX_EDGES: usize = 256;
const MAX_ALL: usize = 1 << 20;
/// Places in code that are looked at, and variables that are read for what they hold.
const MAX_PLACES: usize = 1 << 12;
const MAX_VARIABLES: usize = 1 << 16;

/// How it is known that a goroutine can end a wait, the surest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sign {
    /// It has still to call the lock's `Unlock`, which it deferred, and nothing on its stack from there on unlocks anything
    /// itself. This is no inference.
    Unlock,
    /// It waits to write, so readers that come later wait behind it (`sync.RWMutex`). This is none either.
    Queue,
    /// It woke somebody who waited for the same thing before ([`Wakers`]).
    History,
    /// By its code: it took the lock before, or uses the channel's variable later.
    Code,
    /// Its stack leads to the object.
    Stack,
}

impl Sign {
    /// Whether what it says is inferred.
    pub fn is_hint(self) -> bool {
        self > Sign::Queue
    }
}

/// A goroutine that waits for an object which another goroutine, or itself, could let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The waiting goroutine: index into [`Snapshot::goroutines`].
    pub waiter: u32,
    /// The object that it waits for: index into [`Snapshot::objects`].
    pub object: u32,
    /// Who could end the wait: index into [`Snapshot::goroutines`].
    pub holder: u32,
    pub sign: Sign,
    /// The place in the code of the holder that says so: where it deferred the call, took the lock or uses the channel.
    pub place: Option<Pc>,
}

/// A lock that a goroutine holds: its `Unlock` is deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub goroutine: u32,
    /// Index into [`Snapshot::objects`].
    pub object: u32,
    pub how: Hold,
    pub pc: Pc,
    /// Nothing on its stack from there on inwards unlocks in this way before, so it holds it for certain.
    pub sure: bool,
}

/// The waits of all goroutines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// In the order of the waiters.
    pub edges: Vec<Edge>,
    /// By index into [`Snapshot::goroutines`]: everybody who could end its wait is stuck, too.
    stuck: Vec<bool>,
    /// There were more goroutines, waits or code than are looked at.
    pub cut: bool,
}

impl Waits {
    /// Whether everybody who could end the wait of a goroutine (index into [`Snapshot::goroutines`]) waits himself for
    /// somebody who is stuck.
    pub fn is_stuck(&self, goroutine: u32) -> bool {
        self.stuck.get(goroutine as usize).copied().unwrap_or(false)
    }

    /// The edges between goroutines that are stuck.
    pub fn between_stuck(&self) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(|edge| self.is_stuck(edge.waiter) && self.is_stuck(edge.holder))
    }

    /// Waits that were put together by hand.
    #[doc(hidden)]
    pub fn testing(goroutines: usize, edges: Vec<Edge>) -> Waits {
        Waits { edges, stuck: vec![true; goroutines], cut: false }
    }
}

/// What goroutines refer to, beside what they hold for certain.
pub(super) struct Hints<'h> {
    /// By goroutine, the awaited objects that its stack leads to and that it does not wait for.
    pub stacks: &'h dyn Fn(u32) -> &'h [u32],
    /// Whether the stacks of all goroutines were looked at.
    pub complete: bool,
    /// Goroutines that nothing can wake.
    pub dead: &'h dyn Fn(u32) -> bool,
    /// Who woke waiters before.
    pub wakers: &'h Wakers,
}

/// The locks that goroutines have still to unlock, of those that somebody waits for.
pub(super) fn held(view: &View<'_>, snapshot: &Snapshot, pending: &[Pending]) -> Vec<Held> {
    let objects: HashMap<u64, u32> =
        snapshot.objects.iter().zip(0..).map(|(object, index)| (object.addr, index)).collect();
    let (mut known, mut places) = (HashMap::new(), HashMap::new());
    let mut held = Vec::new();
    for call in pending {
        let (code, captured) = call.closure;
        let unlocks = known.entry(code).or_insert_with(|| view.binary.unlocks(code.wrapping_sub(view.bias)));
        let Some(unlocks) = *unlocks else { continue };
        let lock = unlocks.variable.map_or(captured, |addr| addr.wrapping_add(view.bias));
        let Some(object) = objects.get(&lock).copied() else { continue };
        let is_held = match snapshot.objects.get(object as usize).map(|object| &object.kind) {
            Some(ObjectKind::Mutex { locked }) => *locked,
            Some(ObjectKind::RwMutex { writer, reading, .. }) => match unlocks.how {
                Hold::Write => *writer && *reading <= 0,
                Hold::Read => *reading > 0,
            },
            _ => false,
        };
        if is_held && !has_let_go(view, snapshot, call, object) {
            let sure = !may_have_let_go(view, snapshot, call, unlocks.how, &mut places);
            held.push(Held { goroutine: call.goroutine, object, how: unlocks.how, pc: call.pc, sure });
        }
    }
    held.sort_unstable_by_key(|held| (held.object, held.goroutine, held.how, !held.sure));
    held.dedup_by_key(|held| (held.object, held.goroutine, held.how));
    // One can hold it at a time: of several at most one has not let go meanwhile.
    let mut writers: HashMap<u32, usize> = HashMap::new();
    for held in held.iter().filter(|held| held.sure && held.how == Hold::Write) {
        *writers.entry(held.object).or_default() += 1;
    }
    for one in &mut held {
        one.sure &= one.how == Hold::Read || writers.get(&one.object).is_none_or(|writers| *writers == 1);
    }
    held
}

/// Whether a function between the deferred call and the innermost one unlocks something in the same way itself: then it
/// may have let go of the lock for a while (`mu.Unlock(); f(); mu.Lock()`). `places` remembers it of places in code.
fn may_have_let_go(
    view: &View<'_>,
    snapshot: &Snapshot,
    call: &Pending,
    how: Hold,
    places: &mut HashMap<(Pc, Hold), bool>,
) -> bool {
    let Some(goroutine) = snapshot.goroutines.get(call.goroutine as usize) else { return true };
    let stack = snapshot.stacks.get(goroutine.stack);
    let inner = stack.iter().position(|pc| pc.addr() == call.pc.addr()).unwrap_or(stack.len());
    // Package sync locks and unlocks for itself.
    let mut inner = stack.iter().take(inner.saturating_add(1)).filter(|pc| is_own(view, **pc));
    inner.any(|pc| {
        let lets_go = || view.binary.lets_go(pc.lookup().wrapping_sub(view.bias), how);
        places.len() >= MAX_PLACES || *places.entry((*pc, how)).or_insert_with(lets_go)
    })
}

/// Whether a goroutine with this deferred call does not have the lock (index into [`Snapshot::objects`]) now: it waits
/// for a condition of it, or to lock it again after that (`Cond.Wait` unlocks it meanwhile; the second word of a
/// `sync.Cond` is the lock), or it is the function that deferred the call that waits to lock it.
fn has_let_go(view: &View<'_>, snapshot: &Snapshot, call: &Pending, object: u32) -> bool {
    let Some(goroutine) = snapshot.goroutines.get(call.goroutine as usize) else { return true };
    let lock = snapshot.objects.get(object as usize).map_or(0, |object| object.addr);
    let stack = snapshot.stacks.get(goroutine.stack);
    let locks_itself = || {
        let innermost = stack.iter().find(|pc| is_own(view, **pc));
        innermost.is_some_and(|pc| pc.addr() == call.pc.addr())
    };
    let in_condition = || stack.iter().any(|pc| function(view, *pc) == Some("sync.(*Cond).Wait"));
    goroutine.waits.iter().any(|wait| {
        let waited = snapshot.objects.get(wait.object as usize);
        let condition = waited.is_some_and(|waited| {
            waited.kind == ObjectKind::Cond && view.word(waited.addr.wrapping_add(8)) == Some(lock)
        });
        condition || wait.object == object && (in_condition() || locks_itself())
    })
}

/// The function at a place of a stack; `None`: not Go code.
fn function<'a>(view: &View<'a>, pc: Pc) -> Option<&'a str> {
    let function = view.binary.functions().function_at(pc.lookup().wrapping_sub(view.bias));
    function.map(|function| function.name)
}

/// Whether the function at a place of a stack is the program's own.
fn is_own(view: &View<'_>, pc: Pc) -> bool {
    function(view, pc).is_some_and(|name| !is_plumbing(name))
}

/// What the code on stacks says: locks that were taken, and variables that are used later.
#[derive(Default)]
pub(super) struct Code {
    /// By lock or channel that somebody waits for, the goroutines and places.
    takes: BTreeMap<u32, Vec<(u32, Pc)>>,
    uses: BTreeMap<u32, Vec<(u32, Pc)>>,
    /// What code still does with channels, by place; and by stack what [`Code::is_on_side_of`] says.
    calls: RefCell<HashMap<Pc, ChannelCalls>>,
    sides: RefCell<HashMap<(StackId, Wants), bool>>,
    /// There was more code than is looked at.
    cut: bool,
}

impl Code {
    /// Of objects (indices into [`Snapshot::objects`]) that may be in variables: code names nothing else.
    pub(super) fn of(view: &View<'_>, snapshot: &Snapshot, in_variable: &dyn Fn(u32) -> bool) -> Code {
        let (mut locks, mut channels) = (HashMap::new(), HashMap::new());
        for (object, index) in snapshot.objects.iter().zip(0_u32..).filter(|(_, index)| in_variable(*index)) {
            match &object.kind {
                kind if kind.is_lock() => locks.insert(object.addr, index),
                ObjectKind::Channel { .. } => channels.insert(object.addr, index),
                _ => None,
            };
        }
        let mut code = Code::default();
        if locks.is_empty() && channels.is_empty() {
            return code;
        }
        // By place, the objects; by variable, what it holds.
        let mut places: HashMap<Pc, (Vec<u32>, Vec<u32>)> = HashMap::new();
        let mut variables: HashMap<u64, Option<u32>> = HashMap::new();
        for (goroutine, index) in snapshot.goroutines.iter().zip(0_u32..) {
            for pc in snapshot.stacks.get(goroutine.stack) {
                if !places.contains_key(pc) {
                    if places.len() >= MAX_PLACES {
                        code.cut = true;
                        return code;
                    }
                    let at = pc.lookup().wrapping_sub(view.bias);
                    let next = pc.addr().wrapping_sub(view.bias);
                    let in_memory = |addr: &u64| addr.wrapping_add(view.bias);
                    let taken = view.binary.taken_before(at).into_iter().chain(view.binary.given_after(next));
                    let taken = taken.filter_map(|lock| locks.get(&in_memory(&lock)).copied());
                    let mut used = Vec::new();
                    for addr in view.binary.used_after(next).iter().map(in_memory) {
                        if variables.len() >= MAX_VARIABLES {
                            code.cut = true;
                            return code;
                        }
                        let holds =
                            variables.entry(addr).or_insert_with(|| channels.get(&view.word(addr)?).copied());
                        used.extend(*holds);
                    }
                    places.insert(*pc, (taken.collect(), used));
                }
                let Some((taken, used)) = places.get(pc) else { continue };
                for object in taken {
                    code.takes.entry(*object).or_default().push((index, *pc));
                }
                for object in used {
                    code.uses.entry(*object).or_default().push((index, *pc));
                }
            }
        }
        code
    }

    /// Whether all that a goroutine still does with channels itself, as far as the functions on its stack tell, is what
    /// somebody who wants this of a channel does: it sends, too, or receives, too.
    fn is_on_side_of(&self, wants: Wants, goroutine: u32, view: &View<'_>, snapshot: &Snapshot) -> bool {
        let Some(goroutine) = snapshot.goroutines.get(goroutine as usize) else { return false };
        let key = (goroutine.stack, wants);
        if let Some(known) = self.sides.borrow().get(&key) {
            return *known;
        }
        let mut calls = self.calls.borrow_mut();
        let (mut same, mut other) = (false, false);
        for pc in snapshot.stacks.get(goroutine.stack) {
            if calls.len() >= MAX_PLACES {
                return false;
            }
            let at = pc.addr().wrapping_sub(view.bias);
            let of = calls.entry(*pc).or_insert_with(|| view.binary.channel_calls(at));
            let (one, opposite) = match wants {
                Wants::Send => (of.sends, of.receives),
                Wants::Receive => (of.receives, of.sends || of.closes),
                _ => return false,
            };
            (same, other) = (same || one, other || opposite);
        }
        self.sides.borrow_mut().insert(key, same && !other);
        same && !other
    }
}

/// Finds who waits for whom.
pub(super) fn find(
    view: &View<'_>,
    snapshot: &Snapshot,
    held: &[Held],
    code: &Code,
    hints: &Hints<'_>,
) -> Waits {
    let (inferred, writers) = (Inferred::of(snapshot, held, hints, code), writers(snapshot));
    let known = Known { snapshot, held, inferred, writers, complete: hints.complete && !code.cut };
    let mut graph = Graph { cut: !hints.complete || code.cut, ..Graph::default() };
    for (goroutine, index) in snapshot.goroutines.iter().zip(0_u32..) {
        if (hints.dead)(index) {
            graph.fixed.insert(index);
        }
        let waits = goroutine.state.waits() && goroutine.trust == Trust::Still && goroutine.waits_known;
        if !waits {
            continue;
        }
        for wait in &goroutine.waits {
            let of = Wait { waiter: index, object: wait.object, wants: wait.wants };
            let mut ends = of.ends(&known);
            // For the other side there is no need of one like itself.
            ends.weak = (ends.edges.iter())
                .map(|edge| {
                    edge.sign == Sign::Stack && code.is_on_side_of(wait.wants, edge.holder, view, snapshot)
                })
                .collect();
            graph.add(index, ends);
        }
    }
    graph.solve(snapshot.goroutines.len())
}

/// One thing that a goroutine waits for.
struct Wait {
    waiter: u32,
    object: u32,
    wants: Wants,
}

impl Wait {
    /// Who could end it. No more are looked at than are kept: a thousand may wait for what a thousand others have.
    fn ends(&self, known: &Known<'_>) -> Ends {
        let edge =
            |holder, sign, place| Edge { waiter: self.waiter, object: self.object, holder, sign, place };
        let Some(object) = known.snapshot.objects.get(self.object as usize) else { return Ends::default() };
        if object.kind.is_lock() {
            let first = known.held.partition_point(|held| held.object < self.object);
            let holds = known.held.iter().skip(first).take_while(|held| held.object == self.object);
            let keeps_out =
                holds.filter(|held| held.sure && (self.wants != Wants::RLock || held.how == Hold::Write));
            let keeps_out = keeps_out.map(|held| edge(held.goroutine, Sign::Unlock, Some(held.pc)));
            let mut edges: Vec<_> = keeps_out.take(MAX_EDGES + 1).collect();
            if edges.is_empty() && self.wants == Wants::RLock {
                let writers = known.writers.get(&self.object).into_iter().flatten();
                edges.extend(writers.take(MAX_EDGES + 1).map(|writer| edge(*writer, Sign::Queue, None)));
            }
            if !edges.is_empty() {
                return Ends { all: true, known: true, edges, weak: Vec::new() };
            }
        }
        let inferred = known.inferred.by_object.get(&self.object).into_iter().flatten();
        let inferred = inferred.filter(|(holder, ..)| *holder != self.waiter).take(MAX_EDGES + 1);
        let edges = inferred.map(|(holder, sign, place)| edge(*holder, *sign, *place)).collect();
        let sends = matches!(object.kind, ObjectKind::Channel { timer: true, .. });
        let doubted = known.inferred.doubted.contains(&self.object);
        Ends { all: false, known: known.complete && !sends && !doubted, edges, weak: Vec::new() }
    }
}

/// What all waits are looked up in.
struct Known<'k> {
    snapshot: &'k Snapshot,
    /// Ordered by object.
    held: &'k [Held],
    inferred: Inferred,
    writers: BTreeMap<u32, Vec<u32>>,
    /// All goroutines and all code were looked at.
    complete: bool,
}

/// Who may be able to end the waits for each object, by other signs than a deferred `Unlock`.
#[derive(Default)]
struct Inferred {
    /// By object, goroutines, each once.
    by_object: BTreeMap<u32, Vec<(u32, Sign, Option<Pc>)>>,
    /// Locks of which somebody may have let go in between: he has it or not, and then somebody has it who is not seen.
    doubted: HashSet<u32>,
}

impl Inferred {
    fn of(snapshot: &Snapshot, held: &[Held], hints: &Hints<'_>, code: &Code) -> Inferred {
        let mut found = Inferred::default();
        for held in held.iter().filter(|held| !held.sure) {
            found.doubted.insert(held.object);
            let of = found.by_object.entry(held.object).or_default();
            of.push((held.goroutine, Sign::Code, Some(held.pc)));
        }
        // Code takes the very lock that a goroutine waits for, and a pointer to it is on its stack.
        let waits = |goroutine: u32, object: u32| {
            let waits = snapshot.goroutines.get(goroutine as usize).map_or(&[][..], |one| &one.waits);
            waits.iter().any(|wait| wait.object == object)
        };
        let locks = code.takes.iter().flat_map(|(object, of)| of.iter().map(|one| (*object, *one)));
        let locks = locks.filter(|(object, (goroutine, _))| !waits(*goroutine, *object));
        let uses = code.uses.iter().flat_map(|(object, of)| of.iter().map(|one| (*object, *one)));
        for (object, (goroutine, pc)) in locks.chain(uses) {
            found.by_object.entry(object).or_default().push((goroutine, Sign::Code, Some(pc)));
        }
        for index in 0..snapshot.goroutines.len() as u32 {
            for object in (hints.stacks)(index) {
                let lock = snapshot.objects.get(*object as usize).is_some_and(|object| object.kind.is_lock());
                if !lock || !waits(index, *object) {
                    found.by_object.entry(*object).or_default().push((index, Sign::Stack, None));
                }
            }
        }
        found.remember(snapshot, hints.wakers);
        for list in found.by_object.values_mut() {
            // The surest sign of each.
            list.sort_by_key(|(goroutine, sign, _)| (*goroutine, *sign));
            list.dedup_by_key(|(goroutine, ..)| *goroutine);
        }
        found
    }
}

impl Inferred {
    /// Adds who woke waiters of an object before. Not of a lock: who had it once need not have it now.
    fn remember(&mut self, snapshot: &Snapshot, wakers: &Wakers) {
        let mut goids = HashMap::new();
        for (object, index) in snapshot.objects.iter().zip(0_u32..).filter(|(one, _)| !one.kind.is_lock()) {
            for goid in object.waited_at().flat_map(|addr| wakers.of(addr)) {
                if goids.is_empty() {
                    goids = snapshot.goroutines.iter().map(|one| one.goid).zip(0_u32..).collect();
                }
                if let Some(goroutine) = goids.get(goid) {
                    self.by_object.entry(index).or_default().push((*goroutine, Sign::History, None));
                }
            }
        }
    }
}

/// Who could end a wait.
#[derive(Default)]
struct Ends {
    edges: Vec<Edge>,
    /// All of them have to; else one is enough.
    all: bool,
    /// There is nobody else, as far as can be known.
    known: bool,
    /// By edge: it is on the same side of the channel, and could end the wait only by something that is not seen.
    weak: Vec<bool>,
}

/// By lock, the goroutines that wait to write.
fn writers(snapshot: &Snapshot) -> BTreeMap<u32, Vec<u32>> {
    let mut writers: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (goroutine, index) in snapshot.goroutines.iter().zip(0_u32..) {
        for wait in goroutine.waits.iter().filter(|wait| wait.wants == Wants::Lock) {
            writers.entry(wait.object).or_default().push(index);
        }
    }
    writers
}

/// Waits, and what each needs to end.
#[derive(Default)]
struct Graph {
    edges: Vec<Edge>,
    /// Each with its waiter, and how many of those who could end it must not be stuck: all, or one.
    waits: Vec<(u32, usize)>,
    /// By edge, its wait, and whether a stronger one of the same wait makes it superfluous in the end.
    of: Vec<(usize, bool)>,
    /// Goroutines that have a wait that nobody is known to end.
    open: HashSet<u32>,
    waiting: HashSet<u32>,
    /// Goroutines that are stuck whatever their edges say.
    fixed: HashSet<u32>,
    /// See [`Waits::cut`].
    cut: bool,
}

impl Graph {
    /// Adds a wait and who could end it.
    fn add(&mut self, waiter: u32, mut ends: Ends) {
        let room = MAX_EDGES.min(MAX_ALL.saturating_sub(self.edges.len()));
        let fits =
            ends.edges.len() <= room && budget::reserve(&mut self.edges, ends.edges.len().min(room)).is_ok();
        if !fits || !ends.known || ends.edges.is_empty() {
            self.open.insert(waiter);
        }
        self.cut |= !fits;
        if !fits {
            ends.edges.truncate(if budget::check(MAX_EDGES * size_of::<Edge>()).is_ok() { room } else { 0 });
        }
        self.waiting.insert(waiter);
        let number = self.waits.len();
        self.waits.push((waiter, if ends.all { ends.edges.len() } else { 1 }));
        // Where all are weak, they are all that there is.
        let strong = ends.weak.iter().any(|weak| !weak);
        let weak = ends.weak.into_iter().chain(std::iter::repeat(false)).map(|weak| weak && strong);
        self.of.extend(weak.take(ends.edges.len()).map(|weak| (number, weak)));
        self.edges.extend(ends.edges);
    }

    /// Lets everybody go on who can, and those for whom they do; the others are stuck. Each edge is looked at once.
    fn solve(mut self, goroutines: usize) -> Waits {
        let mut stuck = vec![false; goroutines];
        let mut free = Vec::new();
        for (index, stuck) in (0_u32..).zip(&mut stuck) {
            let waits = self.waiting.contains(&index) && !self.open.contains(&index);
            *stuck = waits || self.fixed.contains(&index);
            if !*stuck {
                free.push(index);
            }
        }
        let mut by_holder: HashMap<u32, Vec<usize>> = HashMap::new();
        for (number, edge) in self.edges.iter().enumerate() {
            by_holder.entry(edge.holder).or_default().push(number);
        }
        while let Some(holder) = free.pop() {
            for number in by_holder.get(&holder).into_iter().flatten() {
                let wait = self.of.get(*number).and_then(|(wait, _)| self.waits.get_mut(*wait));
                let Some((waiter, needed)) = wait else { continue };
                *needed = needed.saturating_sub(1);
                let goes_on = *needed == 0 && !self.fixed.contains(waiter);
                if goes_on
                    && let Some(stuck) = stuck.get_mut(*waiter as usize)
                    && std::mem::replace(stuck, false)
                {
                    free.push(*waiter);
                }
            }
        }
        let kept = self.edges.into_iter().zip(self.of).filter(|(_, (_, weak))| !weak);
        Waits { edges: kept.map(|(edge, _)| edge).collect(), stuck, cut: self.cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits of one thing each: the waiter, whether all have to let go, and who.
    fn stuck(waits: &[(u32, bool, &[u32])]) -> Vec<u32> {
        stuck_of(10, waits)
    }

    fn stuck_of(goroutines: u32, waits: &[(u32, bool, &[u32])]) -> Vec<u32> {
        let mut graph = Graph::default();
        for (waiter, all, holders) in waits {
            let edge = |holder: &u32| Edge {
                waiter: *waiter,
                object: 0,
                holder: *holder,
                sign: Sign::Stack,
                place: None,
            };
            graph.add(
                *waiter,
                Ends { edges: holders.iter().map(edge).collect(), all: *all, known: true, weak: Vec::new() },
            );
        }
        let waits = graph.solve(goroutines as usize);
        (0..goroutines).filter(|index| waits.is_stuck(*index)).collect()
    }

    #[test]
    fn who_can_be_woken_is_not_stuck() {
        assert_eq!(stuck(&[(1, true, &[2]), (2, true, &[1]), (3, true, &[1])]), [1, 2, 3]);
        assert_eq!(stuck(&[(1, true, &[2]), (2, true, &[3])]), [0; 0], "3 goes on");
        // Any receiver of a channel will do.
        assert_eq!(stuck(&[(1, false, &[2, 4]), (2, true, &[1])]), [0; 0]);
        // All readers have to leave.
        assert_eq!(stuck(&[(1, true, &[2, 4]), (2, true, &[1])]), [1, 2]);
        assert_eq!(stuck(&[(1, true, &[1])]), [1], "it holds the lock itself");
    }

    #[test]
    fn a_select_has_several_ways_out() {
        let both: [(u32, bool, &[u32]); 3] = [(1, false, &[2]), (1, false, &[3]), (2, true, &[1])];
        assert_eq!(stuck(&both), [0; 0], "3 can send");
        assert_eq!(stuck(&[both[0], both[1], both[2], (3, true, &[1])]), [1, 2, 3]);
        assert_eq!(stuck(&[(1, false, &[2]), (1, false, &[]), (2, true, &[1])]), [0; 0]);
    }

    #[test]
    fn a_long_chain_takes_no_longer_than_its_edges() {
        let chain: Vec<_> = (0..100_000).map(|at| (at, [at + 1])).collect();
        let waits: Vec<_> = chain.iter().map(|(at, next)| (*at, true, &next[..])).collect();
        assert_eq!(stuck_of(100_001, &waits), [0; 0]);
    }
}

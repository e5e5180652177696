//! The contexts of a program (package `context`) as they are in memory, and which of them nobody can end any more.
//!
//! Offsets come from the descriptors ([`layout`]). The structs changed with releases (`src/context/context.go`): `cause` came in 1.20,
//! `afterFuncCtx`, `withoutCancelCtx` and `stopCtx` in 1.21, and `err` is an `atomic.Value` since 1.25.
//!
//! # Lost
//! A context is cancelled through a closure that was made with it (the `CancelFunc`, a timer's function), through its
//! parent, or by code that has the context itself in its hands. Where no reachable closure has captured a context and no
//! stack refers to it, only the end of its parent ends it. If that parent keeps it, it is lost: it stays as long as the
//! parent lives.

mod layout;

use super::{Objects, ObjectsError, form::Shape};
use crate::binary::bytes::u64_at;
use crate::binary::{Kind, TypeId};
use crate::budget;
use crate::heap::{usage, words};
use crate::memory::{Range, read_each};
use crate::snapshot::View;
use hashbrown::{HashMap, HashSet};
use layout::{Holding, Plan, Slots, unix_ns};
use serde::Serialize;

/// Most contexts that are told apart; of more this many are, and that is said.
const MAX_CONTEXTS: usize = 1 << 22;
/// Objects that are read together, and most bytes.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;
/// Largest array of a map that is read at once.
const PIECE: u64 = 1 << 20;
/// Keys and elements in a bucket or group of a map, and the least `tophash` of a slot in use (`src/runtime/map.go`:
/// `minTopHash`, up to 1.23).
const SLOTS: usize = 8;
const LEAST_TOP_HASH: u8 = 5;
/// Contexts on the stack of one goroutine that are looked at, and how far the chain of one of these is followed.
const MAX_GIVEN: usize = 16;
const MAX_CHAIN: usize = 64;

/// Kinds of contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContextKind {
    /// `WithCancel`, `WithCancelCause`.
    Cancel,
    /// `WithDeadline`, `WithTimeout`.
    Timer,
    /// `WithValue`.
    Value,
    /// `AfterFunc`: it is cancelled with its parent and then runs a function.
    AfterFunc,
    /// `WithoutCancel`: nothing above it ends it.
    WithoutCancel,
    /// What stands between a parent of another make and its child.
    Stop,
    /// Of another package.
    Other,
}

impl ContextKind {
    pub(super) fn of(package: &str, name: &str) -> ContextKind {
        match (package, name) {
            ("context", "context.cancelCtx") => ContextKind::Cancel,
            ("context", "context.timerCtx") => ContextKind::Timer,
            ("context", "context.valueCtx") => ContextKind::Value,
            ("context", "context.afterFuncCtx") => ContextKind::AfterFunc,
            ("context", "context.withoutCancelCtx") => ContextKind::WithoutCancel,
            ("context", "context.stopCtx") => ContextKind::Stop,
            _ => ContextKind::Other,
        }
    }

    /// Whether it is a context that a program has made, and not a part of one.
    pub fn counts(self) -> bool {
        self != ContextKind::Stop
    }

    /// Whether it is an object by itself that begins with the context that it was made of.
    pub(super) fn begins_with_its_parent(self) -> bool {
        self.can_end() || self == ContextKind::Value
    }

    /// Whether such a context can be cancelled by itself.
    pub fn can_end(self) -> bool {
        matches!(self, ContextKind::Cancel | ContextKind::Timer | ContextKind::AfterFunc)
    }
}

/// Where a chain of contexts begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Above {
    /// The context with this number.
    Context(u32),
    /// `context.Background`, which never ends.
    Background,
    /// `context.TODO`.
    Todo,
    /// Not known: it is no object, or of a type that is not known.
    Unknown,
}

/// A context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    pub addr: u64,
    pub kind: ContextKind,
    pub of: TypeId,
    /// What it was made of.
    pub above: Above,
    /// Whether a context that is reachable has it among its children.
    pub registered: bool,
    /// How many children it has, as its own map counts them.
    pub children: u64,
    /// The type of its error; `None`: it has none, so it has not ended.
    pub error: Option<TypeId>,
    /// Whether it has ended.
    pub ended: bool,
    /// When it ends by itself, nanoseconds since 1970; 0: it has no deadline.
    pub deadline_unix_ns: i64,
    /// The `hchan` of its `Done`; 0: nobody has asked for it.
    pub done: u64,
    /// Of a value: the types of key and value.
    pub key: Option<TypeId>,
    pub value: Option<TypeId>,
    /// Whether a closure has it, which may cancel it.
    pub held: bool,
    /// Goroutines whose stacks refer to it, without those that only wait for its parent to end.
    pub goroutines: u32,
    /// Nobody can end it but its parent, which keeps it.
    pub lost: bool,
}

#[cfg(test)]
impl Context {
    /// One that nobody has, and that has not ended.
    pub(crate) fn of(kind: ContextKind, above: Above) -> Context {
        Context {
            addr: 0,
            kind,
            of: TypeId(0),
            above,
            registered: false,
            children: 0,
            error: None,
            ended: false,
            deadline_unix_ns: 0,
            done: 0,
            key: None,
            value: None,
            held: false,
            goroutines: 0,
            lost: false,
        }
    }
}

/// All contexts that anything leads to.
#[derive(Debug, Default)]
pub struct Contexts {
    /// In the order of their addresses.
    pub list: Vec<Context>,
    /// How many there are, if there are more than `list` has.
    pub left_out: u64,
    /// Why it cannot be told which are lost, as a clause; `None`: it can.
    pub doubt: Option<String>,
    /// Goroutines that wait for something else while their stacks have a context that has ended: index into the
    /// snapshot, and into `list`.
    pub ignored: Vec<(u32, u32)>,
    /// Goroutines that wait for the end of a context which was not made of the one that they were given: index into the
    /// snapshot, and the context that they were given.
    pub cut: Vec<(u32, u32)>,
}

/// How often all objects are read to be sure of what is lost.
const ATTEMPTS: u32 = 3;

/// Reads all objects by `read`, and the contexts among them. What seems lost is looked at once more, because a context
/// that was made while they were read seems lost, too: the closure that cancels it came to be behind the reader.
///
/// # Lost for certain
/// It was lost in the reading before, was still allocated when this reading began, and no collection ended meanwhile.
/// So it is the same context, made before this reading began, and whatever has it was read later.
///
/// # Errors
/// As `read`, and as [`Objects::contexts`].
pub fn settled<'a>(
    view: &View<'_>,
    stopped: bool,
    read: &mut dyn FnMut() -> Result<Objects<'a>, ObjectsError>,
) -> Result<(Objects<'a>, Contexts), ObjectsError> {
    let mut objects = read()?;
    let mut contexts = objects.contexts()?;
    for _ in 0..ATTEMPTS {
        let lost = contexts.list.iter().filter(|context| context.lost);
        let lost: HashSet<u64> =
            lost.map(|context| context.addr).filter(|addr| objects.is_allocated(*addr)).collect();
        if stopped || lost.is_empty() {
            contexts
                .list
                .iter_mut()
                .for_each(|context| context.lost &= stopped || lost.contains(&context.addr));
            return Ok((objects, contexts));
        }
        let cycles = || usage(view).map(|usage| usage.cycles);
        let before = cycles();
        drop(objects);
        objects = read()?;
        contexts = objects.contexts()?;
        contexts.list.iter_mut().for_each(|context| context.lost &= lost.contains(&context.addr));
        if before.is_some() && cycles() == before {
            return Ok((objects, contexts));
        }
    }
    contexts.doubt.get_or_insert_with(|| {
        "collections ended while it was read, each time; stop it meanwhile (--freeze)".to_owned()
    });
    Ok((objects, contexts))
}

impl Objects<'_> {
    /// All contexts that anything leads to.
    ///
    /// # Errors
    /// The target has ended, or the budget is used up.
    pub fn contexts(&mut self) -> Result<Contexts, ObjectsError> {
        let plans = self.plans();
        let mut contexts = Contexts::default();
        let mut above: Vec<(u64, u64)> = Vec::new();
        let mut found: Vec<(u32, TypeId)> = Vec::new();
        let mut groups: Vec<u32> = Vec::new();
        let mut closures: Vec<u32> = Vec::new();
        let holders = Holding::of(&self.typing.types, &plans);
        for (object, span, _) in self.graph.reached_objects() {
            let Some(form) = self.typing.form(object) else {
                // What is not known may be a closure.
                if !span.noscan && budget::reserve(&mut closures, 1).is_ok() {
                    closures.push(object);
                }
                continue;
            };
            let list = match form.shape {
                Shape::One if plans.contains_key(&form.of) => {
                    if found.len() < MAX_CONTEXTS && budget::reserve(&mut found, 1).is_ok() {
                        found.push((object, form.of));
                    } else {
                        contexts.left_out += 1;
                    }
                    continue;
                }
                Shape::One | Shape::Row if holders.groups.contains(&form.of) => &mut groups,
                Shape::One if holders.closures.contains_key(&form.of) => &mut closures,
                _ => continue,
            };
            if budget::reserve(list, 1).is_ok() {
                list.push(object);
            }
        }
        budget::check(found.len() * (size_of::<Context>() + 32))?;
        self.read_contexts(&plans, &found, &mut contexts.list, &mut above)?;
        let mut order: Vec<usize> = (0..contexts.list.len()).collect();
        order.sort_unstable_by_key(|index| contexts.list.get(*index).map(|context| context.addr));
        contexts.list = order.iter().filter_map(|index| contexts.list.get(*index).cloned()).collect();
        let above: Vec<_> = order.iter().filter_map(|index| above.get(*index).copied()).collect();
        self.link(&mut contexts.list, &above);
        self.register(&holders, &groups, &mut contexts.list)?;
        self.hold(&holders, &closures, &mut contexts.list)?;
        self.stand(&mut contexts.list);
        let ended = ended(&contexts.list);
        [contexts.ignored, contexts.cut] = self.unheard(&contexts.list, &ended);
        contexts.doubt = self.cancel_doubt();
        if contexts.doubt.is_none() {
            Self::lose(&mut contexts.list, &ended);
        }
        Ok(contexts)
    }

    /// The struct types that are contexts: those of package context, and those of other makes that itabs name.
    fn plans(&self) -> HashMap<TypeId, Plan> {
        let types = &self.typing.types;
        let own = types.iter().filter(|id| {
            types.package(*id) == "context"
                && types.get(*id).kind == Kind::Struct
                && ContextKind::of("context", types.name(*id)) != ContextKind::Other
        });
        let others = self.typing.contexts().filter_map(|id| match types.get(id).kind {
            Kind::Pointer => types.elem(id),
            Kind::Struct => Some(id),
            _ => None,
        });
        own.chain(others.filter(|id| types.get(*id).kind == Kind::Struct && types.get(*id).size > 0))
            .map(|id| (id, Plan::of(types, id)))
            .collect()
    }

    /// Reads objects, and hands each with its bytes over; what cannot be read is left out.
    pub(super) fn read_objects(
        &self,
        objects: &[u32],
        then: &mut dyn FnMut(usize, u64, &[u8]),
    ) -> Result<(), ObjectsError> {
        let mut at = 0;
        while at < objects.len() {
            let (mut ranges, mut total) = (Vec::new(), 0);
            for object in objects.get(at..).unwrap_or_default().iter().take(BATCH) {
                let (addr, len) = self
                    .graph
                    .place(*object)
                    .map_or((0, 0), |(_, span, addr)| (addr, span.size.min(PIECE) as usize));
                if !ranges.is_empty() && total + len > BATCH_BYTES {
                    break;
                }
                total += len;
                ranges.push(Range { addr, len });
            }
            read_each(self.view.memory, &ranges, |index, bytes| {
                if let Some(range) = ranges.get(index) {
                    then(at + index, range.addr, bytes);
                }
            })?;
            at += ranges.len().max(1);
        }
        Ok(())
    }

    fn read_contexts(
        &mut self,
        plans: &HashMap<TypeId, Plan>,
        found: &[(u32, TypeId)],
        list: &mut Vec<Context>,
        above: &mut Vec<(u64, u64)>,
    ) -> Result<(), ObjectsError> {
        let objects: Vec<u32> = found.iter().map(|(object, _)| *object).collect();
        let mut raw: Vec<(Context, [(u64, u64); 3])> = Vec::new();
        self.read_objects(&objects, &mut |index, addr, bytes| {
            let Some(plan) = found.get(index).and_then(|(_, of)| plans.get(of)) else { return };
            // What begins with a descriptor is larger than any of the library's.
            let header = usize::from(bytes.len() as u64 > plan.size && bytes.len() > 512) * 8;
            let bytes = bytes.get(header..).unwrap_or_default();
            let pair = |at: Option<usize>| {
                at.and_then(|at| Some((u64_at(bytes, at)?, u64_at(bytes, at + 8)?))).unwrap_or((0, 0))
            };
            let (wall, ext) = pair(plan.deadline);
            let error = plan.err.map_or((0, 0), |(at, _)| pair(Some(at)));
            let context = Context {
                addr: addr + header as u64,
                kind: plan.kind,
                of: plan.of,
                above: Above::Unknown,
                registered: false,
                children: plan.children.and_then(|at| u64_at(bytes, at)).unwrap_or(0),
                error: None,
                ended: error.0 != 0,
                deadline_unix_ns: if plan.deadline.is_some() { unix_ns(wall, ext) } else { 0 },
                done: pair(plan.done).1,
                key: None,
                value: None,
                held: false,
                goroutines: 0,
                lost: false,
            };
            raw.push((context, [pair(plan.above), error, (pair(plan.key).0, pair(plan.value).0)]));
        })?;
        for (mut context, [parent, error, (key, value)]) in raw {
            let empty = plans.get(&context.of).and_then(|plan| plan.err).is_some_and(|(_, atomic)| atomic);
            context.error = if empty { self.typing.types.at(error.0) } else { self.typing.itab(error.0) };
            context.key = self.typing.types.at(key);
            context.value = self.typing.types.at(value);
            // The number of children is the first word of the map, of either kind.
            if context.children != 0 {
                // More than there are objects is no count.
                let count = self.view.word(context.children).unwrap_or(0);
                context.children = if count <= self.room() { count } else { 0 };
            }
            budget::reserve(list, 1)?;
            list.push(context);
            above.push(parent);
        }
        Ok(())
    }

    /// Finds what each context was made of.
    fn link(&mut self, list: &mut [Context], above: &[(u64, u64)]) {
        let by_addr: Vec<u64> = list.iter().map(|context| context.addr).collect();
        for (context, (itab, data)) in list.iter_mut().zip(above) {
            context.above = match by_addr.binary_search(data) {
                Ok(index) if *itab != 0 => Above::Context(index as u32),
                _ => self.root_context(*itab, *data),
            };
        }
        // What stands between two contexts is a part of neither.
        let through: Vec<Option<Above>> = (list.iter())
            .map(|context| match context.above {
                Above::Context(index) => {
                    let above = list.get(index as usize).filter(|above| above.kind == ContextKind::Stop);
                    above.map(|stop| stop.above)
                }
                _ => None,
            })
            .collect();
        for (context, through) in list.iter_mut().zip(through) {
            if let Some(above) = through {
                context.above = above;
            }
        }
    }

    /// Which of the contexts that are no objects an interface holds.
    fn root_context(&mut self, itab: u64, data: u64) -> Above {
        let Some(of) = self.typing.itab(itab) else { return Above::Unknown };
        let types = &self.typing.types;
        match (types.package(of), types.name(of)) {
            ("context", "context.backgroundCtx") => Above::Background,
            ("context", "context.todoCtx") => Above::Todo,
            // Up to 1.20 both are variables of the same type (`*emptyCtx`), the first made is Background.
            (_, "*context.emptyCtx") => {
                if self.variable_name(data).is_empty() {
                    Above::Background
                } else {
                    self.named_root(data)
                }
            }
            _ => Above::Unknown,
        }
    }

    fn named_root(&self, data: u64) -> Above {
        // `background` and `todo` are pointers to what is here, so only a name of the thing itself would tell them apart.
        if self.variable_name(data).contains("todo") { Above::Todo } else { Above::Background }
    }

    /// Notes which contexts are among the children of another.
    fn register(&self, holders: &Holding, groups: &[u32], list: &mut [Context]) -> Result<(), ObjectsError> {
        let by_addr: Vec<u64> = list.iter().map(|context| context.addr).collect();
        let mut registered: HashSet<usize> = HashSet::new();
        let Some(Slots { size, swiss, first, stride }) =
            holders.groups.iter().next().and_then(|of| Slots::of(&self.typing.types, *of))
        else {
            return Ok(());
        };
        for object in groups {
            let Some((_, span, addr)) = self.graph.place(*object) else { continue };
            let skip = self.typing.header(&span);
            let piece = (PIECE / size as u64).max(1) * size as u64;
            let mut bytes = Vec::new();
            for from in (skip..span.size).step_by(piece as usize) {
                let len = (span.size - from).min(piece);
                budget::check(len as usize)?;
                bytes.resize(len as usize, 0);
                if self.view.memory.read(addr + from, &mut bytes).is_err() {
                    break;
                }
                for group in bytes.chunks_exact(size) {
                    let control = group.get(..SLOTS).unwrap_or_default();
                    for slot in 0..SLOTS {
                        let full = control.get(slot).is_some_and(|byte| {
                            if swiss { byte & 0x80 == 0 } else { *byte >= LEAST_TOP_HASH }
                        });
                        // A key is an interface: the itab, then the context.
                        let key = full.then(|| u64_at(group, first + slot * stride + 8)).flatten();
                        if let Some(Ok(index)) = key.map(|key| by_addr.binary_search(&key)) {
                            registered.insert(index);
                        }
                    }
                }
            }
        }
        for index in registered {
            if let Some(context) = list.get_mut(index) {
                context.registered = true;
            }
        }
        Ok(())
    }

    /// Notes which contexts a closure has captured.
    fn hold(&self, holders: &Holding, closures: &[u32], list: &mut [Context]) -> Result<(), ObjectsError> {
        let by_addr: Vec<u64> = list.iter().map(|context| context.addr).collect();
        let code = self.view.binary.functions().code();
        let code = code.start.wrapping_add(self.view.bias)..code.end.wrapping_add(self.view.bias);
        let mut held: HashSet<usize> = HashSet::new();
        self.read_objects(closures, &mut |index, _, bytes| {
            let object = closures.get(index).copied().unwrap_or(0);
            let of = self.typing.form(object).map(|form| form.of);
            let known = of.and_then(|of| holders.closures.get(&of));
            let mut has = |word: u64| {
                if let Ok(index) = by_addr.binary_search(&word) {
                    held.insert(index);
                }
            };
            match known {
                Some(offsets) => offsets.iter().filter_map(|at| u64_at(bytes, *at)).for_each(&mut has),
                // What begins with a function may be a closure that has what any of its words points to.
                None if u64_at(bytes, 0).is_some_and(|first| code.contains(&first)) => {
                    words(bytes).skip(1).for_each(&mut has);
                }
                None => {}
            }
        })?;
        for index in held {
            if let Some(context) = list.get_mut(index) {
                context.held = true;
            }
        }
        Ok(())
    }

    /// Counts the goroutines whose stacks refer to each context.
    fn stand(&self, list: &mut [Context]) {
        for (object, goroutine) in &self.on_stacks {
            let Some((_, span, addr)) = self.graph.place(*object) else { continue };
            let at = addr + self.typing.header(&span);
            let Ok(index) = list.binary_search_by_key(&at, |context| context.addr) else { continue };
            // It only waits until one of two contexts ends (`propagateCancel`).
            let propagates = self.snapshot.goroutines.get(*goroutine as usize).is_some_and(|goroutine| {
                let entry = goroutine.startpc.wrapping_sub(self.view.bias);
                let function = self.view.binary.functions().function_at(entry);
                function.is_some_and(|function| is_propagation(function.name))
            });
            if !propagates && let Some(context) = list.get_mut(index) {
                context.goroutines += 1;
            }
        }
    }

    /// The goroutines that do not hear of a context that their stack has: [`Contexts::ignored`] and [`Contexts::cut`].
    fn unheard(&self, list: &[Context], ended: &[bool]) -> [Vec<(u32, u32)>; 2] {
        let dones = list.iter().zip(0_u32..).filter(|(context, _)| context.done != 0);
        let dones: HashMap<u64, u32> = dones.map(|(context, index)| (context.done, index)).collect();
        let mut given: HashMap<u32, Vec<u32>> = HashMap::new();
        for (object, goroutine) in &self.on_stacks {
            let Some((_, span, addr)) = self.graph.place(*object) else { continue };
            let at = addr + self.typing.header(&span);
            if let Ok(index) = list.binary_search_by_key(&at, |context| context.addr) {
                let given = given.entry(*goroutine).or_default();
                if given.len() < MAX_GIVEN {
                    given.push(index as u32);
                }
            }
        }
        let has_ended = |index: u32| ended.get(index as usize) == Some(&true);
        let (mut ignored, mut cut) = (Vec::new(), Vec::new());
        for (goroutine, given) in given {
            let Some(waits) = self.snapshot.goroutines.get(goroutine as usize) else { continue };
            if !waits.state.waits() || waits.system || !waits.waits_known || waits.waits.is_empty() {
                continue;
            }
            let object = |index: u32| self.snapshot.objects.get(index as usize);
            let heard = waits.waits.iter().filter_map(|wait| dones.get(&object(wait.object)?.addr).copied());
            let heard: HashSet<u32> = heard.flat_map(|index| chain(list, index)).collect();
            if heard.is_empty() {
                ignored
                    .extend(given.iter().find(|index| has_ended(**index)).map(|index| (goroutine, *index)));
            } else {
                // Whoever hears of one above hears of this one, too; one below is what was made of it.
                let apart = |index: &&u32| {
                    let chain = chain(list, **index);
                    let can_end = chain
                        .iter()
                        .any(|above| list.get(*above as usize).is_some_and(|one| one.kind.can_end()));
                    can_end && !chain.iter().any(|above| heard.contains(above)) && !has_ended(**index)
                };
                cut.extend(given.iter().find(apart).map(|index| (goroutine, *index)));
            }
        }
        ignored.sort_unstable();
        cut.sort_unstable();
        [ignored, cut]
    }

    /// Why it cannot be told who can cancel a context: a function that cancels one is there, and nothing says what its
    /// closure has captured.
    fn cancel_doubt(&self) -> Option<String> {
        if self.untyped.is_some() {
            return Some("the types of its objects are not known".to_owned());
        }
        if self.graph.unread > 0 {
            return Some(format!("{} bytes of its heap could not be read", self.graph.unread));
        }
        self.snapshot.lacks()
    }

    fn lose(list: &mut [Context], ended: &[bool]) {
        for (context, ended) in list.iter_mut().zip(ended) {
            let could_end = matches!(context.kind, ContextKind::Cancel | ContextKind::Timer);
            context.lost =
                could_end && !ended && context.registered && !context.held && context.goroutines == 0;
        }
    }
}

/// A context and those above it that end it.
fn chain(list: &[Context], index: u32) -> Vec<u32> {
    let mut chain = vec![index];
    while let Some(context) = chain.last().and_then(|last| list.get(*last as usize)) {
        match context.above {
            Above::Context(next) if context.kind != ContextKind::WithoutCancel && chain.len() < MAX_CHAIN => {
                chain.push(next);
            }
            _ => break,
        }
    }
    chain
}

/// Which contexts have ended, by themselves or with one above them.
fn ended(list: &[Context]) -> Vec<bool> {
    let mut known: Vec<Option<bool>> = vec![None; list.len()];
    for index in 0..list.len() {
        // Up to the first of which it is known, which then holds for all below it. Each is met once, and a circle, as no
        // program makes one, ends where it was begun.
        let (mut below, mut at, mut ends) = (Vec::new(), index, false);
        while let Some(context) = list.get(at) {
            if let Some(Some(is)) = known.get(at) {
                ends = *is;
                break;
            }
            if let Some(entry) = known.get_mut(at) {
                *entry = Some(false);
            }
            below.push(at);
            ends = context.ended;
            match context.above {
                Above::Context(next) if !ends && context.kind != ContextKind::WithoutCancel => {
                    at = next as usize;
                }
                _ => break,
            }
        }
        for at in below {
            if let Some(entry) = known.get_mut(at) {
                *entry = Some(ends);
            }
        }
    }
    known.into_iter().map(Option::unwrap_or_default).collect()
}

/// Whether a function only waits until a parent of another make ends (`src/context/context.go`: `propagateCancel`).
fn is_propagation(name: &str) -> bool {
    name.starts_with("context.(*cancelCtx).propagateCancel.") || name.starts_with("context.propagateCancel.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_that_of_any_context_above() {
        let context = |above, ended, kind| Context { ended, registered: true, ..Context::of(kind, above) };
        let list = [
            context(Above::Background, true, ContextKind::Cancel),
            context(Above::Context(0), false, ContextKind::Value),
            context(Above::Context(1), false, ContextKind::WithoutCancel),
            context(Above::Context(2), false, ContextKind::Cancel),
            // A circle, as no program makes one.
            context(Above::Context(4), false, ContextKind::Cancel),
        ];
        assert_eq!(ended(&list), [true, true, false, false, false]);
    }
}

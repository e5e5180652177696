//! Objects of the heap with their types, and what keeps each alive.
//!
//! # How
//! All roots and all references between objects are read once ([`graph`]), and each object remembers what led to it.
//! Types come from the runtime's descriptors ([`Types`]) and spread along the references ([`typing`]). A way
//! from a root to an object is read again before it is told ([`ways`]): the target runs on meanwhile.
//!
//! # Which fact comes from where
//! | fact | from | Go |
//! | --- | --- | --- |
//! | names, fields and sizes of types | `abi.Type` between `types` and `etypes` of each module | 1.19 |
//! | names of variables | symbol table or DWARF | all |
//! | types of variables | `DW_AT_go_runtime_type`; code that makes or reads a map | all |
//! | what an object holds | the table in [`typing`] | see there |
//! | which words are pointers | the collector's bitmap ([`pointers`]) | 1.19, 1.20, 1.22, 1.26 |
//!
//! What is not known is left out or called unknown. Nothing here is a proof; a verdict of [`crate::heap`] is.

mod contexts;
mod edges;
mod files;
mod form;
mod graph;
mod itabs;
mod pointers;
mod pools;
mod recent;
mod sweep;
mod typing;
mod ways;

pub use contexts::{Above, Context, ContextKind, Contexts, settled};
pub use files::{FileObject, Files, Settling, settled_files};
pub use pools::{Filled, Holds, OfP, Place, Pool, Pooled, Pools, Twice};
pub use ways::{Described, Hop, Root, RootKind, Way};

use crate::binary::{self, CodeTypes, Globals, GoBinary, MAX_TYPE_BYTES, Member, Types, Variables};
use crate::budget::{self, Exhausted};
use crate::heap::{Depths, HeapError, References, Roots, Source, Spans, Wanted, listed, structs};
use crate::memory::{Fault, Range, ThreadRegisters, read_each};
use crate::snapshot::{self, Snapshot, SnapshotError, View};
use form::Rank;
use graph::Graph;
use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use std::{cell::OnceCell, fs::File, rc::Rc};
use typing::Typing;

/// Most modules: the executable and its plugins.
const MAX_MODULES: usize = 256;
/// Largest variable that is read, and bytes of variables that are read at once.
const MAX_VARIABLE: u64 = 1 << 20;
const BATCH: usize = 1 << 20;
/// Bytes of one stack that are looked through for interfaces, and stacks.
const MAX_STACK: u64 = 1 << 16;
const MAX_STACKS: usize = 20_000;
/// Finalizers whose records are asked for the type of their object.
const MAX_FINALIZERS: usize = 1 << 20;

/// Why there are no types.
#[derive(Debug, thiserror::Error)]
pub enum TypesError {
    #[error("the list of its modules (runtime.firstmoduledata) is not known")]
    NoModules,
    #[error("its types cannot be read: {0}")]
    Unreadable(#[from] Fault),
    #[error(transparent)]
    Refused(#[from] binary::TypesError),
    #[error("its types cannot be read: {0}")]
    Exhausted(#[from] Exhausted),
}

/// Why what keeps objects alive cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A clause about the target.
    #[error("{0}")]
    Heap(String),
    /// How many, and how many are read at most.
    #[error("its heap has room for {0} objects, and no more than {1} are looked at")]
    TooMany(u64, u64),
    #[error(transparent)]
    Unreadable(#[from] Fault),
    #[error("its heap is too large: {0}")]
    Exhausted(#[from] Exhausted),
}

impl From<HeapError> for ObjectsError {
    fn from(error: HeapError) -> ObjectsError {
        match error {
            HeapError::Exhausted(exhausted) => ObjectsError::Exhausted(exhausted),
            other => ObjectsError::Heap(other.to_string()),
        }
    }
}

/// Reads the descriptors of all modules.
///
/// # Errors
/// The list of modules or the descriptors of one cannot be read, or the budget does not allow them.
fn types(view: &View<'_>) -> Result<Types, TypesError> {
    let (mut left, mut modules) = (MAX_TYPE_BYTES, Vec::new());
    let first = view.binary.globals().ok().and_then(|globals| globals.first_module);
    let mut module = first.ok_or(TypesError::NoModules)?.wrapping_add(view.bias);
    for _ in 0..MAX_MODULES {
        let field = |name| view.field(module, "moduledata", name).ok_or(TypesError::NoModules);
        let (start, end, next) = (field("types")?, field("etypes")?, field("next")?);
        let len = end.saturating_sub(start);
        left = left.checked_sub(len).ok_or(binary::TypesError::TooMany)?;
        budget::check(len as usize)?;
        let mut bytes = vec![0; len as usize];
        view.memory.read(start, &mut bytes)?;
        modules.push((start, bytes));
        if next == 0 {
            break;
        }
        module = next;
    }
    Ok(Types::parse(&modules)?)
}

/// How many of the objects that anything leads to have a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Objects that are reached, and their bytes with what the allocator rounds up.
    pub objects: u64,
    pub bytes: u64,
    pub typed_objects: u64,
    pub typed_bytes: u64,
}

/// The objects of a target.
pub struct Objects<'a> {
    view: View<'a>,
    graph: Graph<'a>,
    typing: Typing<'a>,
    known: Rc<Known>,
    snapshot: Snapshot,
    /// Objects that stacks refer to, and the goroutines: indices into the snapshot.
    on_stacks: Vec<(u32, u32)>,
    /// Why types are missing; `None`: they were read.
    untyped: Option<String>,
    /// Goroutines that were no roots.
    without_roots: usize,
}

/// What the executable of a target tells, found once for several readings of the same target.
#[derive(Debug, Default)]
pub struct Known {
    variables: Variables,
    /// What code tells of types; the first reading finds it, because it takes the descriptors.
    code: OnceCell<CodeTypes>,
}

impl Known {
    /// `exe` is the executable opened once more, as [`GoBinary::variables`] takes it.
    pub fn of(binary: &GoBinary, exe: Option<File>) -> Known {
        Known { variables: binary.variables(exe), code: OnceCell::new() }
    }
}

/// What a reading of all objects needs.
pub struct Reading<'r> {
    pub known: Rc<Known>,
    /// The registers of threads, which may have the only reference to something.
    pub registers: &'r [ThreadRegisters],
    /// Whether the target stands still, so that registers tell exactly how much of a stack is used.
    pub stopped: bool,
    /// Objects that the heap may have room for; 2^30 can be told apart.
    pub most: u64,
    /// Goroutines that are no roots, by goid.
    pub without: &'r HashSet<u64>,
    /// Gets the bytes that were read so far, and the bytes of all spans with pointers.
    pub progress: &'r mut dyn FnMut(u64, u64),
}

/// Words that are roots. Who reads them looks at spans, which are the graph's, so they are kept before it changes.
#[derive(Default)]
struct Found {
    list: Vec<(u64, Source)>,
    exhausted: Option<Exhausted>,
}

impl Found {
    fn add(&mut self, word: u64, source: Source) {
        match budget::reserve(&mut self.list, 1) {
            Ok(()) => self.list.push((word, source)),
            Err(exhausted) => self.exhausted = Some(exhausted),
        }
    }

    /// All of them, if the budget had room for all.
    fn all(self) -> Result<Vec<(u64, Source)>, Exhausted> {
        self.exhausted.map_or(Ok(self.list), Err)
    }
}

impl<'a> Objects<'a> {
    /// Reads all objects.
    ///
    /// # Errors
    /// [`ObjectsError`].
    pub fn read(view: View<'a>, reading: Reading<'_>) -> Result<Objects<'a>, ObjectsError> {
        let globals = view.binary.globals().map_err(|error| ObjectsError::Heap(error.to_string()))?;
        let options =
            snapshot::Options { stacks: true, args: false, labels: false, objects: true, most: usize::MAX };
        let snapshot = snapshot::take(&view, options, &mut |_, _| {})?;
        let spans = Spans::read(&view, globals)?;
        if spans.bits() > reading.most {
            return Err(ObjectsError::TooMany(spans.bits(), reading.most));
        }
        let (types, untyped) = match types(&view) {
            Ok(types) => (types, None),
            Err(error) => (Types::default(), Some(error.to_string())),
        };
        let mut typing = Typing::new(view, types, spans.bits())?;
        let mut graph = Graph::new(view, spans)?;
        let known = structs(&view, globals).map_err(ObjectsError::Heap)?;
        let opaque: Vec<_> = (known.iter())
            .filter(|found| graph.at(found.addr).is_none())
            .map(|found| (found.addr, found.end))
            .collect();
        let lists = known.iter().map(|found| (found.of, found.addr));
        let lists = lists.chain(listed(&view, globals)?.into_iter().map(|g| ("g", g)));
        for (of, addr) in lists.chain(snapshot.sudogs.iter().map(|(_, sudog)| ("sudog", *sudog))) {
            graph.never_scan(addr);
            typing.runtimes(&graph.spans, of, addr);
        }
        typing.code(&graph.spans, reading.known.code.get_or_init(|| typing.code_types()));
        let mut objects = Objects {
            view,
            graph,
            typing,
            known: reading.known,
            snapshot,
            on_stacks: Vec::new(),
            untyped,
            without_roots: reading.without.len(),
        };
        objects.variables()?;
        let late = objects.roots(globals, &opaque)?;
        objects.goroutines(reading.registers, reading.stopped, reading.without)?;
        let all = objects.graph.spans.scannable();
        let progress = reading.progress;
        objects.graph.run(&mut objects.typing, &mut |read| progress(read, all))?;
        objects.graph.keep()?;
        late.into_iter().try_for_each(|(word, source)| objects.graph.root(word, source))?;
        objects.graph.run(&mut objects.typing, &mut |read| progress(read, all))?;
        objects.graph.plain(&mut objects.typing)?;
        Ok(objects)
    }

    /// Learns types from variables: from those whose type is known, and from interfaces in all others.
    fn variables(&mut self) -> Result<(), ObjectsError> {
        let bias = self.view.bias;
        let of = |addr: u64, descriptor: Option<u64>| {
            let of = self.typing.types.behind(descriptor?)?;
            let len = self.typing.types.get(of).size.min(MAX_VARIABLE) as usize;
            Some((Range { addr: addr.wrapping_add(bias), len }, of))
        };
        let all = self.known.variables.all();
        let members = all.iter().flat_map(|variable| {
            variable.members.iter().map(|member| (variable.addr.wrapping_add(member.offset), member))
        });
        // Of what has no descriptor of its own, members have.
        let known = all.iter().filter_map(|variable| of(variable.addr, variable.descriptor));
        let known = known.chain(members.clone().filter_map(|(addr, member)| of(addr, member.descriptor)));
        let known: Vec<_> = known.filter(|(range, _)| range.len > 0).collect();
        let point = |(addr, member): (u64, &Member)| {
            Some((self.view.word(addr.wrapping_add(bias))?, self.typing.types.behind(member.points_to?)?))
        };
        let pointed: Vec<_> = members.filter_map(point).collect();
        for (addr, of) in pointed {
            self.typing.pointed(&self.graph.spans, addr, of);
        }
        for known in known.chunks(1024) {
            let ranges: Vec<_> = known.iter().map(|(range, _)| *range).collect();
            read_each(self.view.memory, &ranges, |index, bytes| {
                if let Some((_, of)) = known.get(index) {
                    self.typing.variable(&self.graph.spans, *of, bytes);
                }
            })?;
        }
        self.data()
    }

    /// Learns types from interfaces in the variables of the executable, whatever is known of them.
    fn data(&mut self) -> Result<(), ObjectsError> {
        let module = self.view.binary.globals().ok().and_then(|globals| globals.first_module);
        let Some(module) = module.map(|module| module.wrapping_add(self.view.bias)) else { return Ok(()) };
        for [start, end] in [["data", "edata"], ["bss", "ebss"]] {
            let field = |name| self.view.field(module, "moduledata", name).unwrap_or(0);
            let (start, end) = (field(start), field(end));
            let len = end.saturating_sub(start).min(1 << 32);
            let mut bytes = Vec::new();
            for from in (0..len).step_by(BATCH) {
                bytes.resize((len - from).min(BATCH as u64) as usize, 0);
                match self.view.memory.read(start + from, &mut bytes) {
                    Ok(()) => {
                        // In pieces, because only so much of what is not known is looked through.
                        for piece in bytes.chunks(1 << 16) {
                            self.typing.raw(&self.graph.spans, piece, Rank::Interface);
                        }
                    }
                    Err(Fault::Unmapped(_)) => break,
                    Err(fault) => return Err(fault.into()),
                }
            }
        }
        Ok(())
    }

    /// Notes the roots that are not on stacks; returns those that only run when an object is to be freed: finalizers and cleanups.
    fn roots(
        &mut self,
        globals: &Globals,
        opaque: &[(u64, u64)],
    ) -> Result<Vec<(u64, Source)>, ObjectsError> {
        let (mut found, mut finalizers) = (Found::default(), Vec::new());
        let spans = &self.graph.spans;
        let typing = &self.typing;
        let mut sink = |word: u64, source: Source| {
            if let Source::Finalizer(object @ 1..) = source
                && typing.types.may_be_at(word)
                && finalizers.len() < MAX_FINALIZERS
            {
                finalizers.push((object, word));
            }
            if spans.object(word).is_some() {
                found.add(word, source);
            }
        };
        let roots = Roots::new(&self.view, globals, spans, opaque);
        roots.each(&mut sink).map_err(ObjectsError::Heap)?;
        roots.timers(&mut sink)?;
        for (object, pointer) in finalizers {
            self.typing.finalizer(&self.graph.spans, object, pointer);
        }
        let is_late = |(_, source): &(u64, Source)| matches!(source, Source::Finalizer(_) | Source::Cleanup);
        let (late, now): (Vec<_>, Vec<_>) = found.all()?.into_iter().partition(is_late);
        now.into_iter().try_for_each(|(word, source)| self.graph.root(word, source))?;
        Ok(late)
    }

    fn goroutines(
        &mut self,
        registers: &[ThreadRegisters],
        stopped: bool,
        without: &HashSet<u64>,
    ) -> Result<(), ObjectsError> {
        let depths = if stopped { Depths::exact(registers) } else { Depths::default() };
        let mut references = References::new(&self.view, depths)
            .ok_or_else(|| ObjectsError::Heap("the layout of its runtime.g is not known".to_owned()))?;
        let wanted: Vec<_> = (self.snapshot.goroutines.iter().zip(0_u32..))
            .filter(|(goroutine, _)| !without.contains(&goroutine.goid))
            .map(|(goroutine, index)| Wanted { index, g: goroutine.g, moved: false })
            .collect();
        let mut found = Found::default();
        let (view, spans) = (self.view, &self.graph.spans);
        references.each(&wanted, &mut |index, word, sure| {
            let object = spans.object(word).filter(|object| sure || spans.is_used(&view, *object));
            if object.is_some() {
                found.add(word, Source::Goroutine(index));
            }
        })?;
        for word in registers.iter().flat_map(|thread| &thread.words) {
            if spans.object(*word).is_some_and(|object| spans.is_used(&view, object)) {
                found.add(*word, Source::Other);
            }
        }
        let found = found.all()?;
        for (word, source) in &found {
            if let (Source::Goroutine(index), Some(object)) = (source, self.graph.at(*word)) {
                budget::reserve(&mut self.on_stacks, 1)?;
                self.on_stacks.push((object, *index));
            }
        }
        self.on_stacks.sort_unstable();
        self.on_stacks.dedup();
        found.into_iter().try_for_each(|(word, source)| self.graph.root(word, source))?;
        self.stacks(&wanted)
    }

    /// Learns types from interfaces on stacks.
    fn stacks(&mut self, wanted: &[Wanted]) -> Result<(), ObjectsError> {
        let goroutines = wanted.iter().filter_map(|one| self.snapshot.goroutines.get(one.index as usize));
        let ranges: Vec<_> = goroutines
            .take(MAX_STACKS)
            .map(|goroutine| {
                let (lo, hi) = goroutine.stack_bounds;
                let len = hi.saturating_sub(lo).min(MAX_STACK);
                Range { addr: hi - len, len: len as usize }
            })
            .collect();
        for ranges in ranges.chunks(64) {
            read_each(self.view.memory, ranges, |_, bytes| {
                self.typing.raw(&self.graph.spans, bytes, Rank::Stack);
            })?;
        }
        Ok(())
    }

    /// The types of the target.
    pub fn types(&self) -> &Types {
        &self.typing.types
    }

    /// Why types are missing, as a clause; `None`: they were read.
    pub fn untyped(&self) -> Option<&str> {
        self.untyped.as_deref()
    }

    /// The goroutines at the time of the reading.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How many objects have a type.
    pub fn share(&self) -> Share {
        self.graph.typed(&self.typing)
    }

    /// Bytes of the heap that could not be read.
    pub fn unread(&self) -> u64 {
        self.graph.unread
    }

    /// Objects and bytes that only these objects keep alive, themselves included; an estimate while the target runs.
    /// Addresses in no object count nothing.
    ///
    /// # Errors
    /// The target has ended, or the budget is used up.
    pub fn retained(&self, addrs: &[u64]) -> Result<(u64, u64), ObjectsError> {
        let objects: Vec<u32> = addrs.iter().filter_map(|addr| self.graph.at(*addr)).collect();
        self.graph.only_through(&objects)
    }

    /// A package-level variable at an address, as an object that nothing but the program itself keeps; `None`: there is
    /// none that has a name.
    pub fn variable(&self, addr: u64) -> Option<(Described, Way)> {
        let name = self.variable_name(addr);
        let variable = self.known.variables.containing(addr.wrapping_sub(self.view.bias))?;
        if name.is_empty() {
            return None;
        }
        let mut object = Described::at(addr, variable.size);
        if addr.wrapping_sub(self.view.bias) == variable.addr {
            let of = variable.descriptor.and_then(|descriptor| self.typing.types.behind(descriptor));
            object.of = of.map(|of| self.typing.types.name(of).to_owned());
        }
        let root = Root { kind: RootKind::Variable, name, addr, goid: 0, pc: None };
        let itself = Hop { via: String::new(), object: object.clone(), times: 1 };
        Some((object, Way { root, hops: vec![itself] }))
    }

    /// Objects that the heap has room for.
    pub fn room(&self) -> u64 {
        self.graph.spans.bits()
    }

    /// Whether an address lies in the heap.
    pub fn is_object(&self, addr: u64) -> bool {
        self.graph.at(addr).is_some()
    }

    /// Whether anything leads to the object at an address.
    pub fn is_reached(&self, addr: u64) -> bool {
        self.graph.at(addr).is_some_and(|object| self.graph.is_reached(object))
    }

    /// Whether the runtime has the object at an address allocated now.
    pub fn is_allocated(&self, addr: u64) -> bool {
        self.graph.spans.object(addr).is_some_and(|object| self.graph.spans.is_used(&self.view, object))
    }
}

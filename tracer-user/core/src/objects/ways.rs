//! Ways from roots to an object, with names.

use super::edges;
use super::form::{Form, Rank, Shape};
use super::graph::Parent;
use super::{Objects, ObjectsError};
use crate::binary::Types;
use crate::budget;
use crate::goruntime::is_plumbing;
use crate::heap::{Depths, References, Source, Span, words};
use crate::snapshot::{Goroutine, Pc};
use hashbrown::{HashMap, HashSet};
use serde::Serialize;
use std::collections::VecDeque;

/// Most objects that are gone through on the way back.
const MAX_STEPS: usize = 1 << 22;
/// Ways that are looked at for each that is wanted: some have gone meanwhile, some begin at the same root.
const MORE: usize = 16;
/// Steps of a long way that are shown: the first and the last ones.
const FIRST_HOPS: usize = 12;
const LAST_HOPS: usize = 6;
/// Bytes of an object that are looked through for the pointer to the next one, and objects that are read together.
const MAX_OBJECT: u64 = 64 << 20;
const PIECE: u64 = 1 << 20;
/// Bytes that tell a channel (`hchan`).
const CHANNEL: usize = 96;

/// A root, as far as it has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Root {
    pub kind: RootKind,
    /// Of a variable its name and field: `main.state.current`. Of a goroutine the function whose frame has the
    /// reference. Empty: not known.
    pub name: String,
    /// Address of the word that is the root; 0: not one word.
    pub addr: u64,
    /// Of a goroutine; 0: it is none.
    pub goid: u64,
    /// The place in a goroutine's code, as the stack has it; `None`: not known.
    #[serde(skip)]
    pub pc: Option<Pc>,
}

/// Kinds of roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RootKind {
    Variable,
    Goroutine,
    Timer,
    Finalizer,
    Cleanup,
    /// A weak pointer, of which a strong one can be made at any time.
    Weak,
    /// A register, or what the runtime notes of its own.
    Runtime,
}

impl RootKind {
    /// As it is written before a way.
    pub fn word(self) -> &'static str {
        match self {
            RootKind::Variable => "variable",
            RootKind::Goroutine => "goroutine",
            RootKind::Timer => "timer",
            RootKind::Finalizer => "finalizer",
            RootKind::Cleanup => "cleanup",
            RootKind::Weak => "weak pointer",
            RootKind::Runtime => "runtime",
        }
    }
}

/// An object, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Described {
    #[serde(serialize_with = "hex")]
    pub address: u64,
    /// Bytes that the allocator has for it.
    pub bytes: u64,
    /// The type of its value, or of each of its values, as `reflect` calls it; `None`: not known.
    #[serde(rename = "type")]
    pub of: Option<String>,
    /// The import path of the type; empty: none, or not known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub package: String,
    /// The function, if it is a closure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// How many values it has room for, if it is the array of a slice or of a map; 0: it is one value.
    #[serde(skip_serializing_if = "is_zero")]
    pub count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn hex<S: serde::Serializer>(addr: &u64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{addr:#x}"))
}

/// A step on a way: an object, and where in the object before the pointer to it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// `.field`, `[]`, `[key]`, `{}` (what a closure captured), `*` (a variable of its own), or `+0x18` where the type
    /// is not known. Empty: the root itself points to it, or it is a part of the map or channel before.
    pub via: String,
    #[serde(flatten)]
    pub object: Described,
    /// How many objects in a row have the same type, size and `via`; 1: this is the only one.
    pub times: u64,
}

/// A way from a root to an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    pub root: Root,
    /// The last is the object itself.
    pub hops: Vec<Hop>,
}

impl Way {
    /// Which steps are left out where people read: those of a long way between the first and the last ones. The same number
    /// twice: none are.
    pub fn shown(&self) -> (usize, usize) {
        let len = self.hops.len();
        if len > FIRST_HOPS + LAST_HOPS + 1 { (FIRST_HOPS, len - LAST_HOPS) } else { (len, len) }
    }
}

impl std::fmt::Display for Way {
    /// On one line: `main.hub → .sessions → []`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Root { kind, name, addr, goid, .. } = &self.root;
        match kind {
            RootKind::Variable if name.is_empty() => write!(f, "variable at {addr:#x}")?,
            RootKind::Variable => f.write_str(name)?,
            RootKind::Goroutine => write!(f, "goroutine {goid} {name}")?,
            other if name.is_empty() => f.write_str(other.word())?,
            other => write!(f, "{} of {name}", other.word())?,
        }
        let (first, last) = self.shown();
        for (hop, number) in self.hops.iter().zip(0..) {
            if number == first && last > first {
                write!(f, " → … {} more …", last - first)?;
            }
            if hop.via.is_empty() || (first..last).contains(&number) {
                continue;
            }
            write!(f, " → {}", hop.via)?;
            if hop.times > 1 {
                write!(f, " × {}", hop.times)?;
            }
        }
        Ok(())
    }
}

impl Described {
    pub(super) fn at(address: u64, bytes: u64) -> Described {
        Described { address, bytes, of: None, package: String::new(), function: None, count: 0 }
    }

    /// Its type in Go's words: `main.session`, `[]main.session`; of a closure its function. `None`: not known.
    pub fn type_name(&self) -> Option<String> {
        if let Some(function) = &self.function {
            return Some(format!("func {function}"));
        }
        let of = self.of.as_deref()?;
        Some(if self.count > 0 { format!("[]{of}") } else { of.to_owned() })
    }
}

/// What the word at an offset in an object is called, and whether the object is a part of the map or channel before it.
struct Named {
    via: String,
    /// There is no pointer at this place, as the type says.
    doubtful: bool,
}

impl Objects<'_> {
    /// The object at an address; `None`: there is none.
    pub fn describe(&self, addr: u64) -> Option<Described> {
        Some(self.described(self.graph.at(addr)?))
    }

    fn described(&self, object: u32) -> Described {
        let Some((_, span, addr)) = self.graph.place(object) else {
            return Described::at(0, 0);
        };
        let types = &self.typing.types;
        let header = self.typing.header(&span);
        let mut described = Described::at(addr + header, span.size);
        let form = self.form(object, &span, addr);
        if header == 0 && !span.noscan && form.is_none_or(|form| types.is_closure(form.of)) {
            described.function = self.closure(addr);
        }
        let Some(form) = form else { return described };
        let name = types.name(form.of);
        // The descriptor of a pointer with methods has the package of what it points to.
        if is_named(name) {
            described.package = types.package(form.of).to_owned();
        }
        described.of = Some(match form.shape {
            Shape::One | Shape::Map => name.to_owned(),
            Shape::Row => {
                described.count = ((span.size - header) / types.get(form.of).size.max(1)).max(1);
                name.to_owned()
            }
            Shape::Chan => format!("chan {name}"),
            Shape::Table | Shape::Directory => format!("part of {name}"),
        });
        described
    }

    /// What an object holds. Where nothing leads to it, it was not looked through, and what seemed to may be older than
    /// it: then only its own words count.
    fn form(&self, object: u32, span: &Span, addr: u64) -> Option<Form> {
        let known = self.typing.form(object);
        if self.graph.is_reached(object) || known.is_some_and(|known| known.rank >= Rank::Own) {
            return known;
        }
        let mut bytes = [0; CHANNEL];
        let read = span.size >= CHANNEL as u64 && self.view.memory.read(addr, &mut bytes).is_ok();
        let of = read.then(|| self.typing.channel(&bytes)).flatten()?;
        Some(Form { shape: Shape::Chan, of, rank: Rank::Own })
    }

    /// The function of the closure at an address; `None`: its first word is no function's entry.
    pub(super) fn closure(&self, addr: u64) -> Option<String> {
        let entry = self.view.word(addr)?.wrapping_sub(self.view.bias);
        let function = self.view.binary.functions().function_at(entry)?;
        (function.entry == entry).then(|| function.name.to_owned())
    }

    /// The ways from roots to an object, each from another root as far as there are any, the shortest first; at most so
    /// many. Each was read again. Empty: nothing leads to it, or nothing does any more.
    ///
    /// # Errors
    /// The target has ended, or the budget is used up.
    pub fn ways(&self, addr: u64, most: usize) -> Result<Vec<Way>, ObjectsError> {
        let Some(target) = self.graph.at(addr) else { return Ok(Vec::new()) };
        let mut ways: Vec<Way> = Vec::new();
        let mut more = Vec::new();
        // By object, the next on the way to the target.
        let mut next: HashMap<u32, u32> = HashMap::new();
        let mut queue = VecDeque::from([target]);
        let (mut met, mut tried) = (HashSet::new(), 0);
        while let Some(object) = queue.pop_front() {
            for parent in self.graph.parents(object) {
                match parent {
                    Parent::Object(parent) if parent != target && !next.contains_key(&parent) => {
                        if next.len() < MAX_STEPS {
                            budget::check(64)?;
                            next.insert(parent, object);
                            queue.push_back(parent);
                        }
                    }
                    Parent::Object(_) => {}
                    Parent::Root(source) => {
                        tried += 1;
                        if let Some(way) = self.way(source, object, &next)? {
                            if met.insert((way.root.kind, way.root.name.clone(), way.root.goid)) {
                                ways.push(way);
                            } else if more.len() < most {
                                more.push(way);
                            }
                        }
                    }
                }
                if ways.len() >= most || tried >= most * MORE {
                    queue.clear();
                    break;
                }
            }
        }
        more.truncate(most.saturating_sub(ways.len()));
        ways.append(&mut more);
        Ok(ways)
    }

    /// The way from a root by these steps; `None`: it has gone meanwhile.
    fn way(&self, source: Source, first: u32, next: &HashMap<u32, u32>) -> Result<Option<Way>, ObjectsError> {
        let Some((_, span, addr)) = self.graph.place(first) else { return Ok(None) };
        let Some(root) = self.root(source, &span, addr)? else { return Ok(None) };
        // What the object of a finalizer has is told as what any other object has.
        let via = match source {
            Source::Finalizer(owner) => {
                let owner = self.graph.at(owner).filter(|owner| *owner != first);
                let named = owner.map(|owner| self.edge(owner, first)).transpose()?;
                named.flatten().map_or_else(String::new, |named| named.via)
            }
            _ => String::new(),
        };
        let mut hops = vec![Hop { via, object: self.described(first), times: 1 }];
        let mut object = first;
        while let Some(child) = next.get(&object).copied() {
            let Some(named) = self.edge(object, child)? else { return Ok(None) };
            if named.doubtful {
                return Ok(None);
            }
            let hop = Hop { via: named.via, object: self.described(child), times: 1 };
            match hops.last_mut() {
                Some(last)
                    if !hop.via.is_empty()
                        && last.via == hop.via
                        && last.object.of == hop.object.of
                        // Objects whose type is not known are alike if they are as large.
                        && last.object.bytes == hop.object.bytes
                        && last.object.count == hop.object.count =>
                {
                    last.times += 1;
                    last.object = hop.object;
                }
                _ => {
                    budget::reserve(&mut hops, 1)?;
                    hops.push(hop);
                }
            }
            object = child;
        }
        Ok(Some(Way { root, hops }))
    }

    /// How one object refers to another now; `None`: it does not any more.
    fn edge(&self, object: u32, child: u32) -> Result<Option<Named>, ObjectsError> {
        let Some((_, span, addr)) = self.graph.place(object) else { return Ok(None) };
        let Some((_, child_span, child_addr)) = self.graph.place(child) else { return Ok(None) };
        let to = child_addr..child_addr + child_span.size;
        let mut doubtful = None;
        let mut bytes = Vec::new();
        for from in (0..span.size.min(MAX_OBJECT)).step_by(PIECE as usize) {
            bytes.resize((span.size - from).min(PIECE) as usize, 0);
            if self.view.memory.read(addr + from, &mut bytes).is_err() {
                break;
            }
            for (word, at) in words(&bytes).zip((from..).step_by(8)) {
                if !to.contains(&word) {
                    continue;
                }
                let named = self.named(object, &span, at, child);
                if !named.doubtful {
                    return Ok(Some(named));
                }
                doubtful.get_or_insert(named);
            }
        }
        Ok(doubtful)
    }

    /// What the word at an offset in an object is called.
    fn named(&self, object: u32, span: &Span, at: u64, child: u32) -> Named {
        let sure = |via: String| Named { via, doubtful: false };
        let unknown = || sure(format!("+{at:#x}"));
        let Some(form) = self.typing.form(object) else { return unknown() };
        let types = &self.typing.types;
        let Some(at) = at.checked_sub(self.typing.header(span)) else { return unknown() };
        let found = types.get(form.of);
        match form.shape {
            Shape::Map | Shape::Table | Shape::Directory => sure(String::new()),
            Shape::Chan => {
                // The buffer is a part of the channel; anything else is a goroutine's place in its queues.
                let buffer = self.typing.form(child).is_some_and(|child| child.of == form.of);
                sure(if buffer { String::new() } else { "…".to_owned() })
            }
            Shape::One | Shape::Row if found.size == 0 => unknown(),
            Shape::One if at >= found.size => unknown(),
            Shape::One | Shape::Row => {
                let within = at % found.size;
                let doubtful = !self.typing.may_point(form, within);
                let path = edges::path(types, form.of, within);
                Named { via: via(types, form, &path), doubtful }
            }
        }
    }

    /// The root that a source is, if it still leads to this object.
    fn root(&self, source: Source, span: &Span, addr: u64) -> Result<Option<Root>, ObjectsError> {
        let to = addr..addr + span.size;
        let plain = |kind| Root { kind, name: String::new(), addr: 0, goid: 0, pc: None };
        Ok(match source {
            Source::Global(at) => {
                let there = self.view.word(at).is_some_and(|word| to.contains(&word));
                there.then(|| Root { name: self.variable_name(at), addr: at, ..plain(RootKind::Variable) })
            }
            Source::Goroutine(index) => {
                let Some(goroutine) = self.snapshot.goroutines.get(index as usize) else { return Ok(None) };
                let references = References::new(&self.view, Depths::default());
                let place = references.and_then(|mut references| references.place(goroutine.g, &to));
                let (pc, slot) = place.map_or((None, 0), |(pc, slot)| (Some(pc), slot));
                let (pc, name) = self.frame(goroutine, pc);
                Some(Root { name, goid: goroutine.goid, pc, addr: slot, ..plain(RootKind::Goroutine) })
            }
            Source::Timer => Some(plain(RootKind::Timer)),
            Source::Finalizer(object) => {
                let object = self.graph.at(object).map(|object| self.described(object));
                let name = object.and_then(|object| object.type_name()).unwrap_or_default();
                Some(Root { name, ..plain(RootKind::Finalizer) })
            }
            Source::Cleanup => Some(plain(RootKind::Cleanup)),
            Source::Weak => Some(plain(RootKind::Weak)),
            Source::Heap(_) | Source::Other => Some(plain(RootKind::Runtime)),
        })
    }

    /// The frame that says where a reference comes from, and its function: the innermost from this one on that is not
    /// plumbing, because `runtime.selectgo` has what somebody selects.
    fn frame(&self, goroutine: &Goroutine, pc: Option<Pc>) -> (Option<Pc>, String) {
        let function = |at: u64| {
            let frames = self.view.binary.symbolize(at.wrapping_sub(self.view.bias));
            frames.first().map(|frame| frame.func.to_owned()).unwrap_or_default()
        };
        let Some(pc) = pc else { return (None, function(goroutine.startpc)) };
        let name = function(pc.lookup());
        let pcs = self.snapshot.stacks.get(goroutine.stack);
        // A frame that was inlined, or one that moved on meanwhile, has the same function at least.
        let at = pcs.iter().position(|other| other.lookup() == pc.lookup());
        let at = at.or_else(|| pcs.iter().position(|other| function(other.lookup()) == name));
        let outer = at.and_then(|at| pcs.get(at..)).unwrap_or_default();
        let mut outer = outer.iter().map(|pc| (Some(*pc), function(pc.lookup())));
        let user = outer.find(|(_, name)| !name.is_empty() && !is_plumbing(name));
        user.unwrap_or((Some(pc), name))
    }

    /// The name of the variable at an address and of the place in it; empty: not known.
    pub fn variable_name(&self, addr: u64) -> String {
        let linked = addr.wrapping_sub(self.view.bias);
        let Some(variable) = self.known.variables.containing(linked) else { return String::new() };
        let of = variable.descriptor.and_then(|descriptor| self.typing.types.behind(descriptor));
        let within = linked - variable.addr;
        let types = &self.typing.types;
        // The last member that begins before it, and what that has.
        let member = || {
            let member = variable.members.iter().rev().find(|member| member.offset <= within)?;
            let of = member.descriptor.and_then(|descriptor| types.behind(descriptor));
            let within = within - member.offset;
            match of {
                Some(of) if within < types.get(of).size => {
                    Some(format!("{}{}", member.path, edges::path(types, of, within)))
                }
                None if within == 0 => Some(member.path.to_string()),
                _ => None,
            }
        };
        let place = match of {
            Some(of) => edges::path(types, of, within),
            None => match member() {
                Some(path) => path,
                None if within == 0 => String::new(),
                None => format!("+{within:#x}"),
            },
        };
        format!("{}{place}", variable.name)
    }
}

/// The name of a place in an object of this form, by its path in one value.
fn via(types: &Types, form: Form, path: &str) -> String {
    let name = types.name(form.of);
    if name.starts_with("map.bucket[") || name.starts_with("map.group[") {
        // `.keys[]`, `.elems[]` of a bucket; `.slots[].key`, `.slots[].elem` of a group.
        for (within, shown) in
            [(".keys[]", "[key]"), (".elems[]", "[]"), (".slots[].key", "[key]"), (".slots[].elem", "[]")]
        {
            if let Some(rest) = path.strip_prefix(within) {
                return format!("{shown}{rest}");
            }
        }
        // Where a bucket goes on.
        return String::new();
    }
    if form.shape == Shape::Row {
        return format!("[]{path}");
    }
    if types.is_closure(form.of) {
        // The first field is the function; the others have names that the compiler made.
        let behind = path.get(1..).and_then(|path| path.find(['.', '[']));
        return format!("{{}}{}", behind.and_then(|at| path.get(at + 1..)).unwrap_or_default());
    }
    if path.is_empty() { "*".to_owned() } else { path.to_owned() }
}

/// Whether a name is that of a type with a name and a package: `http.conn`, and not `*http.conn`.
fn is_named(name: &str) -> bool {
    let package = name.split_once('.').map_or("", |(package, _)| package);
    !package.is_empty() && package.chars().all(|char| char.is_alphanumeric() || char == '_')
}

//! Where a value of a type has pointers, and what they point to.

use crate::binary::{Detail, Field, Kind, TypeId, Types};
use crate::budget;
use std::rc::Rc;

/// Most pointers of one type that are told apart, and of all types; an array of more is cut.
const MAX_OF_TYPE: usize = 1 << 12;
const MAX_OF_ALL: usize = 1 << 22;
/// How deep structs lie in structs; the language has no limit, and a hostile descriptor has itself as its field.
const MAX_DEPTH: u32 = 64;

/// What a pointer points to, as its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    /// A value of this type.
    One(TypeId),
    /// The array behind a slice; the slice's capacity is two words on.
    Row(TypeId),
    /// An array of the type whose length is one word on (`sync.Pool`'s `local` and `localSize`).
    Locals(TypeId),
    /// The bytes of a string.
    Bytes,
    /// A map of this type.
    Map(TypeId),
    /// A channel of this type.
    Chan(TypeId),
    /// A closure, which says itself what it is.
    Func,
    /// A value whose type the word before says: an itab.
    Interface,
    /// As [`To::Interface`], but the word before is a descriptor.
    Empty,
    /// Anything.
    Unknown,
}

/// A pointer within a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    /// Bytes from the beginning of the value to the word that points.
    pub(super) offset: u32,
    pub(super) to: To,
}

/// The pointers of a type.
#[derive(Debug, Default)]
pub(super) struct Edges {
    /// By offset, ascending.
    pub(super) list: Vec<Edge>,
    /// There are more than are listed.
    pub(super) cut: bool,
    /// Which of the first 64 words are pointers.
    pub(super) pointers: u64,
}

/// The pointers of all types that were asked for.
#[derive(Default)]
pub(super) struct Layouts {
    /// By the number of the type.
    known: Vec<Option<Rc<Edges>>>,
    /// Number of pointers in `known`.
    kept: usize,
    pool_local: Option<Option<TypeId>>,
}

impl Layouts {
    /// The pointers of a type, which are kept for the next time.
    pub(super) fn of(&mut self, types: &Types, id: TypeId) -> Rc<Edges> {
        if let Some(Some(known)) = self.known.get(id.0 as usize) {
            return Rc::clone(known);
        }
        let mut edges = Edges::default();
        self.flatten(types, id, 0, 0, &mut edges);
        let words = edges.list.iter().map(|edge| edge.offset / 8).filter(|word| *word < u64::BITS);
        edges.pointers = words.fold(0, |bits, word| bits | 1 << word);
        let edges = Rc::new(edges);
        let room = self.kept + edges.list.len() <= MAX_OF_ALL && budget::check(128).is_ok();
        if room && self.known.is_empty() && budget::check(types.len() * size_of::<usize>()).is_ok() {
            self.known.resize(types.len(), None);
        }
        if let Some(known) = self.known.get_mut(id.0 as usize).filter(|_| room) {
            self.kept += edges.list.len();
            *known = Some(Rc::clone(&edges));
        }
        edges
    }

    /// The pointers of a type: those that are kept, or found anew.
    pub(super) fn get(&self, types: &Types, id: TypeId) -> Rc<Edges> {
        let known = self.known.get(id.0 as usize).and_then(Option::as_ref);
        known.map_or_else(|| Layouts::default().of(types, id), Rc::clone)
    }

    fn flatten(&mut self, types: &Types, id: TypeId, base: u64, depth: u32, edges: &mut Edges) {
        let found = types.get(id);
        if found.pointers == 0 {
            return;
        }
        if depth > MAX_DEPTH || edges.list.len() >= MAX_OF_TYPE || base > u32::MAX.into() {
            edges.cut = true;
            return;
        }
        let elem = types.elem(id);
        let (behind, to) = match (found.kind, found.detail) {
            (Kind::Scalar, _) => return,
            (Kind::Pointer, _) => (0, elem.map_or(To::Unknown, To::One)),
            (Kind::Slice, _) => (0, elem.map_or(To::Unknown, To::Row)),
            (Kind::String, _) => (0, To::Bytes),
            (Kind::Map, _) => (0, To::Map(id)),
            (Kind::Chan, _) => (0, To::Chan(id)),
            (Kind::Func, _) => (0, To::Func),
            (Kind::UnsafePointer, _) => (0, To::Unknown),
            (Kind::Interface, Detail::Interface { empty: true }) => (8, To::Empty),
            (Kind::Interface, _) => (8, To::Interface),
            (Kind::Array, Detail::Array { elem: Some(elem), len }) => {
                let size = types.get(elem).size;
                for index in 0..len {
                    if edges.cut {
                        break;
                    }
                    self.flatten(
                        types,
                        elem,
                        base.saturating_add(index.saturating_mul(size)),
                        depth + 1,
                        edges,
                    );
                }
                return;
            }
            (Kind::Struct, _) => {
                if !self.special(types, id, base, edges) {
                    for field in types.fields(id) {
                        if let Some(of) = field.of {
                            self.flatten(types, of, base.saturating_add(field.offset), depth + 1, edges);
                        }
                    }
                }
                return;
            }
            (Kind::Array, _) => return,
        };
        match u32::try_from(base + behind) {
            Ok(offset) => edges.list.push(Edge { offset, to }),
            Err(_) => edges.cut = true,
        }
    }

    /// Structs of the library that hide what they point to behind `unsafe.Pointer`. `false`: it is none of them.
    fn special(&mut self, types: &Types, id: TypeId, base: u64, edges: &mut Edges) -> bool {
        let (package, name, fields) = (types.package(id), types.name(id), types.fields(id));
        let mut add = |field: &Field, to| {
            if let Ok(offset) = u32::try_from(base.saturating_add(field.offset)) {
                edges.list.push(Edge { offset, to });
            }
        };
        match package {
            // `struct { _ [0]*T; _ noCopy; v unsafe.Pointer }` (`src/sync/atomic/type.go`).
            "sync/atomic" if name.starts_with("atomic.Pointer[") || name.starts_with("Pointer[") => {
                let first = fields.first().and_then(|field| field.of);
                let Some(Detail::Array { elem: Some(pointer), .. }) = first.map(|of| types.get(of).detail)
                else {
                    return false;
                };
                let (Some(last), Some(to)) = (fields.last(), types.elem(pointer)) else { return false };
                add(last, To::One(to));
                true
            }
            // `struct { noCopy; local unsafe.Pointer; localSize uintptr; victim unsafe.Pointer; … }` (`src/sync/pool.go`).
            "sync" if name == "sync.Pool" => {
                let find = || types.find("sync", "sync.poolLocal");
                let Some(local) = *self.pool_local.get_or_insert_with(find) else { return false };
                for field in fields {
                    match types.field_name(field) {
                        "local" | "victim" => add(field, To::Locals(local)),
                        "New" => add(field, To::Func),
                        _ => {}
                    }
                }
                true
            }
            // What a pool keeps: `struct { typ, val unsafe.Pointer }` (`src/sync/poolqueue.go`).
            "sync" if name == "sync.eface" => fields.get(1).is_some_and(|value| {
                add(value, To::Empty);
                true
            }),
            // Up to 1.19 an entry of a `sync.Map` has an `unsafe.Pointer` to an interface (`src/sync/map.go`).
            "sync" if name == "sync.entry" => {
                let field = fields
                    .first()
                    .filter(|field| field.of.is_some_and(|of| types.get(of).kind == Kind::UnsafePointer));
                let (Some(field), Some(any)) = (field, types.find("", "interface {}")) else { return false };
                add(field, To::One(any));
                true
            }
            _ => false,
        }
    }
}

/// The name of the place at an offset within a value: `.conn.fd`, `[]`. Empty: the value itself.
pub(super) fn path(types: &Types, id: TypeId, offset: u64) -> String {
    let (mut path, mut id, mut offset) = (String::new(), id, offset);
    for _ in 0..MAX_DEPTH {
        match types.get(id).detail {
            Detail::Struct { .. } => {
                let within = |field: &&Field| {
                    let size = field.of.map_or(0, |of| types.get(of).size);
                    (field.offset..field.offset.saturating_add(size)).contains(&offset)
                };
                let Some(field) = types.fields(id).iter().find(within) else { break };
                path.push('.');
                path.push_str(types.field_name(field));
                let Some(of) = field.of else { break };
                (id, offset) = (of, offset - field.offset);
            }
            Detail::Array { elem: Some(elem), .. } => {
                let size = types.get(elem).size;
                path.push_str("[]");
                (id, offset) = (elem, offset.checked_rem(size).unwrap_or(0));
            }
            _ => break,
        }
    }
    path
}

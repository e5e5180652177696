//! Types, as the runtime's own descriptors tell them. Every Go binary has these in memory, also a stripped one.
//!
//! A descriptor is an `abi.Type` and what its kind adds (`src/internal/abi/type.go`; up to 1.19 `runtime/type.go`). The
//! first 48 bytes are the same from Go 1.19 to 1.27. They lie between `types` and `etypes` of a module, and nothing
//! lists all of them in every version, so each word there is tried: what looks like a descriptor in all its fields is
//! one. Descriptors that reflection makes lie in the heap and are not known.

use super::bytes::{array, i32_at, u32_at, u64_at};
use crate::budget::{self, Exhausted};
use hashbrown::HashMap;
use std::ops::Range;

/// Most bytes between `types` and `etypes` of all modules; the largest programs have some ten megabytes.
pub(crate) const MAX_TYPE_BYTES: u64 = 256 << 20;
/// Most descriptors, and most fields of all structs.
const MAX_TYPES: usize = 1 << 20;
const MAX_FIELDS: usize = 1 << 23;
/// Bytes of a name; instances of generic types have long ones.
const MAX_NAME: usize = 1 << 13;
/// Bytes of all names.
const MAX_TEXT: usize = 256 << 20;
/// `sizeof(abi.Type)`.
const HEADER: usize = 48;
/// Bytes of a struct field: name, type, offset.
const FIELD: usize = 24;
/// Bits of `abi.TFlag`, and the largest that there is.
const UNCOMMON: u8 = 1;
const EXTRA_STAR: u8 = 2;
const NAMED: u8 = 4;
const DIRECT_SINCE_1_26: u8 = 0x20;
const FLAGS: u8 = 0x3f;
/// `abi.KindDirectIface`, up to 1.25 a bit of the kind.
const DIRECT: u8 = 0x20;
const KIND: u8 = 0x1f;

/// A type, by its place in [`Types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub(crate) u32);

impl TypeId {
    /// Its place among all types.
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Kinds of types, as `reflect.Kind` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Numbers and booleans: nothing of them points anywhere.
    Scalar,
    Array,
    Chan,
    Func,
    Interface,
    Map,
    Pointer,
    Slice,
    String,
    Struct,
    UnsafePointer,
}

impl Kind {
    fn of(number: u8) -> Option<Kind> {
        Some(match number {
            1..=16 => Kind::Scalar,
            17 => Kind::Array,
            18 => Kind::Chan,
            19 => Kind::Func,
            20 => Kind::Interface,
            21 => Kind::Map,
            22 => Kind::Pointer,
            23 => Kind::Slice,
            24 => Kind::String,
            25 => Kind::Struct,
            26 => Kind::UnsafePointer,
            _ => return None,
        })
    }
}

/// What a kind adds. A type that is not known is `None`: its descriptor is in no module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Nothing more.
    Plain,
    /// Of a pointer, slice or channel.
    Elem(Option<TypeId>),
    Array {
        elem: Option<TypeId>,
        len: u64,
    },
    Interface {
        /// It has no methods: its first word is a descriptor, not an itab.
        empty: bool,
    },
    /// Fields are at this place of [`Types::fields`].
    Struct {
        first: u32,
        count: u32,
    },
    Map {
        /// The struct in which eight keys and elements lie: a bucket up to 1.23, then a group.
        group: Option<TypeId>,
        /// It is a Swiss map (1.24).
        swiss: bool,
    },
}

/// A type.
#[derive(Clone, Copy, Debug)]
pub struct Type {
    /// Address of the descriptor.
    pub addr: u64,
    /// Bytes of a value.
    pub size: u64,
    /// Bytes up to the last pointer; 0: no pointers.
    pub pointers: u64,
    pub kind: Kind,
    /// The data word of an interface is the value, and does not point to it.
    pub direct: bool,
    hash: u32,
    name: Text,
    package: Text,
    pub detail: Detail,
}

/// A field of a struct.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    name: Text,
    /// `None`: the descriptor is not known.
    pub of: Option<TypeId>,
    /// Bytes from the beginning of the struct.
    pub offset: u64,
}

/// A stretch of [`Types::text`].
#[derive(Clone, Copy, Debug, Default)]
struct Text {
    at: u32,
    len: u32,
}

/// All types of a program.
#[derive(Debug, Default)]
pub struct Types {
    /// Ordered by address.
    types: Vec<Type>,
    fields: Vec<Field>,
    text: String,
    /// Where those of each module lie.
    modules: Vec<Range<u64>>,
}

/// Why descriptors are not taken.
#[derive(Debug, thiserror::Error)]
pub enum TypesError {
    #[error("it has more types than any program")]
    TooMany,
    #[error("its types cannot be read: {0}")]
    Exhausted(#[from] Exhausted),
}

impl Types {
    /// The types whose descriptors lie in these bytes: of each module the address of `types`, and the bytes up to
    /// `etypes` with all relocations applied. The executable comes first.
    ///
    /// # Errors
    /// [`TypesError`].
    pub(crate) fn parse(modules: &[(u64, Vec<u8>)]) -> Result<Types, TypesError> {
        let mut types = Types::default();
        for (start, bytes) in modules {
            types.modules.push(*start..start.saturating_add(bytes.len() as u64));
            types.headers(&Reader { start: *start, bytes })?;
        }
        // Modules lie anywhere, and types are found by address.
        types.types.sort_unstable_by_key(|found| found.addr);
        // A type refers to others of its own module: the linker makes those of each module complete.
        for (start, bytes) in modules {
            types.details(&Reader { start: *start, bytes })?;
        }
        Ok(types)
    }

    /// Adds what may be a descriptor, without what its kind adds.
    fn headers(&mut self, reader: &Reader<'_>) -> Result<(), TypesError> {
        for at in (0..reader.bytes.len()).step_by(8) {
            let Some((found, name)) = reader.header(at) else { continue };
            if self.types.len() == MAX_TYPES || self.text.len() + name.len() > MAX_TEXT {
                return Err(TypesError::TooMany);
            }
            budget::reserve(&mut self.types, 1)?;
            let name = self.keep(name)?;
            self.types.push(Type { name, ..found });
        }
        Ok(())
    }

    fn keep(&mut self, text: &str) -> Result<Text, TypesError> {
        budget::check(text.len() * 2)?;
        let at = self.text.len() as u32;
        self.text.push_str(text);
        Ok(Text { at, len: text.len() as u32 })
    }

    /// Adds what the kinds add, of the types of this module.
    fn details(&mut self, reader: &Reader<'_>) -> Result<(), TypesError> {
        let mut packages: HashMap<u64, Text> = HashMap::new();
        for index in 0..self.types.len() {
            let Some(found) = self.types.get(index).copied() else { break };
            let Some(at) = reader.offset(found.addr) else { continue };
            let detail = self.detail(reader, at, &found)?;
            let package = match reader.package(at, found.kind) {
                Some(name_at) => match packages.get(&name_at) {
                    Some(known) => *known,
                    None => {
                        let text = reader.name(name_at as usize).unwrap_or_default();
                        let kept = self.keep(text)?;
                        packages.insert(name_at, kept);
                        kept
                    }
                },
                None => Text::default(),
            };
            if let Some(entry) = self.types.get_mut(index) {
                (entry.detail, entry.package) = (detail, package);
            }
        }
        Ok(())
    }

    fn detail(&mut self, reader: &Reader<'_>, at: usize, found: &Type) -> Result<Detail, TypesError> {
        let word = |behind: usize| u64_at(reader.bytes, at + behind);
        let of = |behind| word(behind).and_then(|addr| self.at(addr));
        Ok(match found.kind {
            Kind::Scalar | Kind::Func | Kind::String | Kind::UnsafePointer => Detail::Plain,
            Kind::Chan | Kind::Pointer | Kind::Slice => Detail::Elem(of(48)),
            Kind::Array => Detail::Array { elem: of(48), len: word(64).unwrap_or(0) },
            Kind::Interface => Detail::Interface { empty: word(64) == Some(0) },
            Kind::Map => {
                let group = of(64);
                let swiss = group.is_some_and(|group| self.name(group).starts_with("map.group["));
                Detail::Map { group, swiss }
            }
            Kind::Struct => {
                let first = self.fields.len() as u32;
                let (list, count) = (word(56).unwrap_or(0), word(64).unwrap_or(0));
                let fits = |at: &usize| {
                    let room = reader.bytes.len().saturating_sub(*at) / FIELD;
                    usize::try_from(count).is_ok_and(|count| count <= room)
                };
                let Some(list) = reader.offset(list).filter(fits) else {
                    return Ok(Detail::Struct { first, count: 0 });
                };
                if self.fields.len() + count as usize > MAX_FIELDS {
                    return Err(TypesError::TooMany);
                }
                budget::reserve(&mut self.fields, count as usize)?;
                for at in (list..).step_by(FIELD).take(count as usize) {
                    let word = |behind| u64_at(reader.bytes, at + behind).unwrap_or(0);
                    let name = reader.offset(word(0)).and_then(|at| reader.name(at)).unwrap_or_default();
                    let (of, offset) = (self.at(word(8)), word(16));
                    let name = self.keep(name)?;
                    self.fields.push(Field { name, of, offset });
                }
                Detail::Struct { first, count: count as u32 }
            }
        })
    }

    /// The type with the descriptor at an address in memory.
    pub fn at(&self, addr: u64) -> Option<TypeId> {
        let index = self.types.binary_search_by_key(&addr, |found| found.addr).ok()?;
        Some(TypeId(index as u32))
    }

    /// Whether an address lies where descriptors are.
    #[inline]
    pub(crate) fn may_be_at(&self, addr: u64) -> bool {
        self.modules.iter().any(|module| module.contains(&addr))
    }

    /// Where the descriptors of the executable lie in memory.
    pub(crate) fn range(&self) -> Range<u64> {
        self.modules.first().cloned().unwrap_or_default()
    }

    /// The type with a descriptor so many bytes behind `types` of the executable, as DWARF numbers it.
    pub(crate) fn behind(&self, offset: u64) -> Option<TypeId> {
        self.at(self.range().start.checked_add(offset)?)
    }

    /// Everything about a type. An id of another program gives an empty one.
    pub fn get(&self, id: TypeId) -> Type {
        self.types.get(id.0 as usize).copied().unwrap_or(Type::NONE)
    }

    /// Number of types.
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// All types.
    pub fn iter(&self) -> impl Iterator<Item = TypeId> {
        (0..self.types.len() as u32).map(TypeId)
    }

    /// Its name as `reflect.Type.String` tells it, with the last element of the import path: `http.conn`.
    pub fn name(&self, id: TypeId) -> &str {
        self.text(self.get(id).name)
    }

    /// The import path of a named type; empty for one without a name, or of the language.
    pub fn package(&self, id: TypeId) -> &str {
        self.text(self.get(id).package)
    }

    /// The type with a name (as [`Types::name`]) and an import path. The first of several, as plugins make them.
    pub fn find(&self, package: &str, name: &str) -> Option<TypeId> {
        self.iter().find(|id| self.name(*id) == name && self.package(*id) == package)
    }

    /// The fields of a struct in their order; none of any other type.
    pub fn fields(&self, id: TypeId) -> &[Field] {
        match self.get(id).detail {
            Detail::Struct { first, count } => {
                self.fields.get(first as usize..(first + count) as usize).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// The name of a field.
    pub fn field_name(&self, field: &Field) -> &str {
        self.text(field.name)
    }

    /// Whether it is the struct of a closure: the compiler gives it no name, and its first field is the function
    /// (`src/cmd/compile/internal/typecheck/func.go`: `ClosureType`).
    pub(crate) fn is_closure(&self, id: TypeId) -> bool {
        let first = self.fields(id).first();
        self.name(id).starts_with("struct {")
            && first.is_some_and(|first| matches!(self.field_name(first), "F" | ".F"))
    }

    fn text(&self, text: Text) -> &str {
        self.text.get(text.at as usize..(text.at + text.len) as usize).unwrap_or_default()
    }

    /// What a pointer, a slice or a channel has; `None` for any other type.
    pub fn elem(&self, id: TypeId) -> Option<TypeId> {
        match self.get(id).detail {
            Detail::Elem(elem) => elem,
            _ => None,
        }
    }

    pub(crate) fn hash(&self, id: TypeId) -> u32 {
        self.get(id).hash
    }
}

impl Type {
    const NONE: Type = Type {
        addr: 0,
        size: 0,
        pointers: 0,
        kind: Kind::Scalar,
        direct: false,
        hash: 0,
        name: Text { at: 0, len: 0 },
        package: Text { at: 0, len: 0 },
        detail: Detail::Plain,
    };
}

/// The bytes between `types` and `etypes` of a module.
struct Reader<'a> {
    start: u64,
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn offset(&self, addr: u64) -> Option<usize> {
        let at = usize::try_from(addr.checked_sub(self.start)?).ok()?;
        (at < self.bytes.len()).then_some(at)
    }

    /// The descriptor at an offset without its detail, and its name. `None`: there is none.
    fn header(&self, at: usize) -> Option<(Type, &'a str)> {
        let bytes = self.bytes.get(at..at + HEADER)?;
        let (size, pointers) = (u64_at(bytes, 0)?, u64_at(bytes, 8)?);
        let [flags, align, field_align, kind] = array(bytes, 20)?;
        let mask = u64_at(bytes, 32)?;
        let is_align = |align: u8| align.is_power_of_two() && align <= 16;
        let plausible = size <= u32::MAX.into()
            && pointers <= size
            && flags & !FLAGS == 0
            && is_align(align)
            && is_align(field_align)
            && (pointers == 0 || mask != 0);
        let is = Kind::of(kind & KIND).filter(|_| plausible)?;
        let name = self.name(usize::try_from(i32_at(bytes, 40)?).ok().filter(|at| *at > 0)?)?;
        let name = if flags & EXTRA_STAR != 0 { name.strip_prefix('*')? } else { name };
        // A type without a name of its own begins with what it is made of.
        let sensible = !name.is_empty() && (flags & NAMED != 0 || fits(is, name));
        let direct = kind & DIRECT != 0 || flags & DIRECT_SINCE_1_26 != 0;
        let found = Type {
            addr: self.start + at as u64,
            size,
            pointers,
            kind: is,
            direct,
            hash: u32_at(bytes, 16)?,
            ..Type::NONE
        };
        sensible.then_some((found, name))
    }

    /// The name at an offset: flags, length, bytes.
    fn name(&self, at: usize) -> Option<&'a str> {
        let mut rest = self.bytes.get(at + 1..)?.iter();
        let (mut len, mut shift) = (0_usize, 0);
        // Two bytes of a length hold all that is believed.
        for byte in rest.by_ref().take(2) {
            len |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                let bytes = rest.as_slice().get(..len).filter(|_| len <= MAX_NAME)?;
                let name = std::str::from_utf8(bytes).ok()?;
                return (!name.contains(char::is_control)).then_some(name);
            }
        }
        None
    }

    /// Offset of the name of the package of the type at an offset; `None`: it has none.
    fn package(&self, at: usize, kind: Kind) -> Option<u64> {
        let flags = *self.bytes.get(at + 20)?;
        let behind = match kind {
            _ if flags & UNCOMMON == 0 => return None,
            Kind::Pointer | Kind::Slice | Kind::Func => 56,
            Kind::Array => 72,
            Kind::Chan => 64,
            Kind::Interface | Kind::Struct => 80,
            Kind::Map => self.map_size(at)?,
            Kind::Scalar | Kind::String | Kind::UnsafePointer => HEADER,
        };
        let name = i32_at(self.bytes, at + behind)?;
        u64::try_from(name).ok().filter(|name| *name > 0)
    }

    /// Bytes of a map's descriptor without its uncommon part: 88 up to 1.23, 112 from 1.24, 136 in 1.27. The uncommon
    /// part is the first in which the offset of its methods (`moff`) leads to what lies behind it.
    fn map_size(&self, at: usize) -> Option<usize> {
        [88, 112, 136].into_iter().find(|size| {
            let part = at + size;
            let [package, methods] = [part, part + 8].map(|at| u32_at(self.bytes, at).unwrap_or(0));
            let moff = methods as usize;
            let named = self.name(package as usize).is_some_and(|name| !name.is_empty());
            package != 0 && named && (16..1 << 16).contains(&moff)
        })
    }
}

/// Whether the name of a type without a name of its own begins as one of its kind does.
fn fits(kind: Kind, name: &str) -> bool {
    match kind {
        Kind::Array | Kind::Slice => name.starts_with('['),
        Kind::Chan => name.starts_with("chan") || name.starts_with("<-chan"),
        Kind::Func => name.starts_with("func("),
        Kind::Interface => name.starts_with("interface"),
        Kind::Map => name.starts_with("map["),
        Kind::Pointer => name.starts_with('*'),
        Kind::Struct => name.starts_with("struct") || name.starts_with("map.") || name.starts_with("noalg."),
        // Those of the language have names.
        Kind::Scalar | Kind::String | Kind::UnsafePointer => false,
    }
}

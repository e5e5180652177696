//! Types by their entries: how large one is, which descriptor it has, what it points to and which members it has.

use super::super::variables::MAX_VARIABLES;
use super::variables::ADDRESS;
use super::{MAX_NAME, Reader, Slice, Table, dw, number, type_of};
use gimli::{
    AttributeValue, DebugInfoOffset, DebuggingInformationEntry, DwAt, EndianSlice, EntriesRaw, LittleEndian,
    UnitHeader, UnitOffset,
};
use std::collections::HashMap;

/// Attributes of Go's linker (`src/cmd/internal/dwarf/dwarf_defs.go`): the kind of a type, a constant of
/// `internal/abi`; and the offset of its descriptor from `moduledata.types`, 0 where the linker left it out.
const GO_KIND: DwAt = DwAt(0x2900);
const GO_RUNTIME_TYPE: DwAt = DwAt(0x2904);
/// Kinds (`src/internal/abi/type.go`).
const KIND_UINTPTR: u32 = 12;
const KIND_CHAN: u32 = 18;
const KIND_FUNC: u32 = 19;
const KIND_INTERFACE: u32 = 20;
const KIND_MAP: u32 = 21;
const KIND_SLICE: u32 = 23;
const KIND_STRING: u32 = 24;
/// Kinds without `DW_AT_byte_size`, and the bytes of their values. Pointers have none, either.
const SIZES: [(u32, u64); 3] = [(KIND_CHAN, 8), (KIND_INTERFACE, 16), (KIND_MAP, 8)];
/// The one type whose descriptor is not believed.
const UINTPTR: &str = "uintptr";
/// How the names of the types begin that say what their `unsafe.Pointer` points to (`src/sync/atomic/type.go`).
const ATOMIC_POINTER: &str = "sync/atomic.Pointer[";
/// Entries from a variable to its type: one typedef stands before a named type.
const MAX_TYPEDEFS: usize = 4;
/// Bytes in which the entry of a type ends: little more than its name.
const MAX_ENTRY: usize = 2 * MAX_NAME;
/// Bytes in which that of a struct ends with its members: each has some ten, and its name.
const MAX_STRUCT: usize = 64 << 10;
/// More steps than anything that is read at once costs: its bytes and attributes, and a name. Whoever has as many can
/// pay for it.
const MOST: u64 = 4 * MAX_STRUCT as u64;
/// Types that are remembered: those of all variables, and of as many members as there is room for.
const MAX_KNOWN: usize = MAX_VARIABLES;

/// What the values of a type are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// Nothing that points anywhere, or nothing that is known.
    #[default]
    Plain,
    /// An address: of the type that [`Type::of`] says, else of what nothing tells.
    Pointer,
    Interface,
    /// A slice or a string: a struct of its own, whose first member points to an element.
    Slice,
    Struct,
    /// `sync/atomic.Pointer`.
    Atomic,
    /// An array of [`Type::of`].
    Array,
}

/// What the entry of a type tells.
#[derive(Clone, Copy, Default)]
pub(super) struct Type {
    /// Bytes; `None`: not known.
    pub(super) size: Option<u64>,
    pub(super) descriptor: Option<u64>,
    pub(super) shape: Shape,
    /// Where the type of its elements is, in `.debug_info`.
    pub(super) of: Option<usize>,
    /// Where its own entry is, behind typedefs.
    place: usize,
}

/// A member of a struct.
pub(super) struct Child<'a> {
    pub(super) name: &'a str,
    pub(super) offset: u64,
    /// Where its type is.
    pub(super) of: Option<usize>,
}

/// The types of all units, each read when it is asked for.
pub(super) struct Types<'w, 'a> {
    reader: &'w Reader<'a>,
    /// `.debug_info`.
    info: &'a [u8],
    /// Offsets in it at which the units begin.
    units: &'w [usize],
    known: HashMap<usize, Type>,
    last: Table,
}

impl<'w, 'a> Types<'w, 'a> {
    pub(super) fn new(reader: &'w Reader<'a>, info: &'a [u8], units: &'w [usize]) -> Types<'w, 'a> {
        Types { reader, info, units, known: HashMap::new(), last: None }
    }

    /// What the type at an offset in `.debug_info` tells; nothing where there are no steps for it.
    pub(super) fn of(&mut self, place: usize) -> Type {
        if let Some(known) = self.known.get(&place) {
            return *known;
        }
        if !self.affordable() {
            return Type::default();
        }
        let tells = self.behind_typedefs(place).unwrap_or_default();
        if self.known.len() < MAX_KNOWN {
            self.known.insert(place, tells);
        }
        tells
    }

    fn behind_typedefs(&mut self, mut place: usize) -> Option<Type> {
        for _ in 0..MAX_TYPEDEFS {
            match self.entry(place)? {
                (_, Some(next)) => place = next,
                (tells, None) => return Some(tells),
            }
        }
        None
    }

    /// Whether there are steps for whatever is read next. Without them it would be read all the same, and not be paid.
    pub(super) fn affordable(&self) -> bool {
        self.reader.steps.get() >= MOST
    }

    /// The unit of what is at an offset, and the bytes from there: `most` of them, where the unit has as many.
    fn bytes(&self, place: usize, most: usize) -> Option<(UnitHeader<Slice<'a>>, &'a [u8])> {
        let behind = self.units.partition_point(|start| *start <= place);
        let start = *self.units.get(behind.checked_sub(1)?)?;
        let unit = self.reader.info.header_from_offset(DebugInfoOffset(start)).ok()?;
        let end = start.checked_add(unit.length_including_self())?.min(place.checked_add(most)?);
        Some((unit, self.info.get(place..end.min(self.info.len()))?))
    }

    /// What the entry of a type tells, or where the type is that it only names.
    fn entry(&mut self, place: usize) -> Option<(Type, Option<usize>)> {
        let (unit, bytes) = self.bytes(place, MAX_ENTRY)?;
        let abbreviations = self.reader.abbreviations(&unit, &mut self.last)?;
        let slice = EndianSlice::new(bytes, LittleEndian);
        let mut entries = EntriesRaw::new(slice, unit.encoding(), abbreviations, UnitOffset(0));
        let mut entry = DebuggingInformationEntry::null();
        let read = entries.read_entry(&mut entry);
        // Types may overlap: each is paid for with the bytes that it took.
        let took = if read.is_ok() { entries.next_offset().0 } else { bytes.len() };
        self.reader.step((took + entry.attrs().len()) as u64)?;
        if !read.ok()? {
            return None;
        }
        let kind = number(&entry, GO_KIND);
        // A map, a channel and an interface are typedefs as well, of what the runtime makes of them; but they have a
        // kind.
        if entry.tag() == dw::DW_TAG_typedef && kind.is_none() {
            return Some((Type::default(), Some(type_of(&unit, &entry)?)));
        }
        let implied = if entry.tag() == dw::DW_TAG_pointer_type {
            Some(ADDRESS as u64)
        } else {
            SIZES.iter().find(|(of, _)| Some(*of) == kind).map(|(_, size)| *size)
        };
        let size = entry.attr_value(dw::DW_AT_byte_size).and_then(|size| size.udata_value());
        let name = || {
            let name = self.reader.text(&entry, dw::DW_AT_name);
            self.reader.step(name.map_or(MAX_NAME, str::len) as u64)?;
            name
        };
        let descriptor = match entry.attr_value(GO_RUNTIME_TYPE) {
            // Up to Go 1.22 `uintptr` has an address here, not an offset.
            Some(_) if kind == Some(KIND_UINTPTR) && name() == Some(UINTPTR) => None,
            Some(AttributeValue::Addr(offset)) => Some(offset).filter(|offset| *offset != 0),
            _ => None,
        };
        let shape = match (entry.tag(), kind) {
            (dw::DW_TAG_pointer_type, _) | (_, Some(KIND_CHAN | KIND_FUNC | KIND_MAP)) => Shape::Pointer,
            (_, Some(KIND_INTERFACE)) => Shape::Interface,
            (_, Some(KIND_SLICE | KIND_STRING)) => Shape::Slice,
            (dw::DW_TAG_array_type, _) => Shape::Array,
            (dw::DW_TAG_structure_type, _) if descriptor.is_some() => Shape::Struct,
            (dw::DW_TAG_structure_type, _) => match name() {
                Some(name) if name.starts_with(ATOMIC_POINTER) => Shape::Atomic,
                _ => Shape::Struct,
            },
            _ => Shape::Plain,
        };
        // What channels and maps have there is made by the linker.
        let of = match entry.tag() {
            dw::DW_TAG_pointer_type | dw::DW_TAG_array_type => type_of(&unit, &entry),
            _ => None,
        };
        Some((Type { size: size.or(implied), descriptor, shape, of, place }, None))
    }

    /// The first members of a struct, `most` at most; those up to a bound or to a broken entry.
    pub(super) fn children(&mut self, of: &Type, most: usize) -> Vec<Child<'a>> {
        let mut found = Vec::new();
        let _ = self.read_children(of.place, most, &mut found);
        found
    }

    fn read_children(&mut self, place: usize, most: usize, found: &mut Vec<Child<'a>>) -> Option<()> {
        let (unit, bytes) = self.bytes(place, MAX_STRUCT)?;
        let abbreviations = self.reader.abbreviations(&unit, &mut self.last)?;
        let slice = EndianSlice::new(bytes, LittleEndian);
        let mut entries = EntriesRaw::new(slice, unit.encoding(), abbreviations, UnitOffset(0));
        let mut entry = DebuggingInformationEntry::null();
        // The struct itself is the first one; members lie one level deeper, up to an entry that is null.
        while found.len() < most && !entries.is_empty() {
            let (depth, begins) = (entries.next_depth(), entries.next_offset().0);
            if depth < 1 && begins > 0 {
                break;
            }
            let read = entries.read_entry(&mut entry);
            let behind = if read.is_ok() { entries.next_offset().0 } else { bytes.len() };
            self.reader.step((behind.saturating_sub(begins) + entry.attrs().len()) as u64)?;
            if !read.ok()? || depth != 1 || entry.tag() != dw::DW_TAG_member {
                continue;
            }
            let name = self.reader.text(&entry, dw::DW_AT_name);
            self.reader.step(name.map_or(MAX_NAME, str::len) as u64)?;
            let offset = number(&entry, dw::DW_AT_data_member_location).map(u64::from);
            if let (Some(name), Some(offset)) = (name, offset) {
                found.push(Child { name, offset, of: type_of(&unit, &entry) });
            }
        }
        Some(())
    }
}

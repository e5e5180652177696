//! Package-level variables: where each lies, how large it is, and which descriptor its type has.
//!
//! A variable is a child of its package's unit (`dwarfGenerateDebugInfo` in `src/cmd/link/internal/ld/dwarf.go`). Its
//! type may stand in any unit, also in a later one, so types are looked up when all variables are known.

use super::super::bytes::{u64_at, uvarint};
use super::super::elf::Image;
use super::super::variables::{Collected, MAX_VARIABLES, Variable};
use super::{Entry, MAX_NAME, MAX_SECTION, MAX_STEPS, MAX_UNITS, Reader, Slice, Table, dw, number, type_of};
use crate::budget;
use gimli::{
    Abbreviations, AttributeValue, DebugInfo, DebugInfoOffset, DebuggingInformationEntry, DwAt, EndianSlice,
    EntriesRaw, LittleEndian, UnitHeader, UnitOffset,
};
use std::cell::Cell;
use std::collections::HashMap;

/// Attributes of Go's linker (`src/cmd/internal/dwarf/dwarf_defs.go`): the kind of a type, a constant of
/// `internal/abi`; and the offset of its descriptor from `moduledata.types`, 0 where the linker left it out.
const GO_KIND: DwAt = DwAt(0x2900);
const GO_RUNTIME_TYPE: DwAt = DwAt(0x2904);
/// Kinds without `DW_AT_byte_size`, and the bytes of their values (`src/internal/abi/type.go`): chan, interface, map.
/// Pointers have none, either.
const SIZES: [(u32, u64); 3] = [(18, 8), (20, 16), (21, 8)];
/// The one type whose descriptor is not believed.
const UINTPTR: &str = "uintptr";
/// Entries from a variable to its type: one typedef stands before a named type.
const MAX_TYPEDEFS: usize = 4;
/// Bytes in which the entry of a type ends: little more than its name.
const MAX_ENTRY: usize = 2 * MAX_NAME;
/// Bytes of an address, which follows `DW_OP_addr`: both processors have eight.
const ADDRESS: usize = 8;

/// What the entry of a type tells of its variables.
#[derive(Clone, Copy, Default)]
struct Type {
    /// Bytes; `None`: not known.
    size: Option<u64>,
    descriptor: Option<u64>,
}

/// Adds the variables of a binary's DWARF; those up to the first bound, where there are more than in any program.
pub(in crate::binary) fn variables(image: &Image, to: &mut Collected) {
    let section = |name| image.contents(name, MAX_SECTION).unwrap_or_default();
    let (info, abbrev, strings) = (section(".debug_info"), section(".debug_abbrev"), section(".debug_str"));
    let addresses = section(".debug_addr");
    let reader = Reader {
        info: DebugInfo::new(&info, LittleEndian),
        abbrev: &abbrev,
        strings: &strings,
        steps: Cell::new(MAX_STEPS),
    };
    let mut walk = Walk { reader, info: &info, addresses: &addresses, units: Vec::new(), found: Vec::new() };
    // What was found up to a bound counts.
    let _ = walk.units();
    let _ = walk.add(to);
}

/// A variable, and the offset of its type in `.debug_info`.
struct Found<'a> {
    name: &'a str,
    addr: u64,
    of: Option<usize>,
}

struct Walk<'a> {
    reader: Reader<'a>,
    /// `.debug_info`.
    info: &'a [u8],
    /// `.debug_addr`.
    addresses: &'a [u8],
    /// Offsets in `.debug_info` at which the units begin.
    units: Vec<usize>,
    found: Vec<Found<'a>>,
}

impl<'a> Walk<'a> {
    /// Goes through all units. `None`: up to a bound, or to a broken header.
    fn units(&mut self) -> Option<()> {
        let mut units = self.reader.info.units();
        let (mut last, mut go) = (None, None);
        for _ in 0..MAX_UNITS {
            let Some(unit) = units.next().ok()? else { break };
            self.reader.step(1)?;
            self.units.push(unit.debug_info_offset()?.0);
            // Each unit of C code has a table of its own, which costs more than all of Go's units.
            let table = unit.debug_abbrev_offset().0;
            if go.is_some_and(|known| known != table) {
                continue;
            }
            let Some(abbreviations) = self.reader.abbreviations(&unit, &mut last) else { continue };
            let found = self.found.len();
            // A broken entry ends its unit; the variables before it still count.
            let _ = self.unit(&unit, abbreviations);
            if self.found.len() > found {
                go = Some(table);
            }
        }
        Some(())
    }

    /// Keeps the variables of a unit. `None`: those up to a bound or a broken entry.
    fn unit(&mut self, unit: &UnitHeader<Slice<'a>>, abbreviations: &Abbreviations) -> Option<()> {
        let mut entries = unit.entries_raw(abbreviations, None).ok()?;
        let mut entry = DebuggingInformationEntry::null();
        entries.read_entry(&mut entry).ok()?;
        self.reader.step(entry.attrs().len() as u64)?;
        // Units of C code have variables as well, of which nothing can be told.
        if entry.attr_value(dw::DW_AT_language) != Some(AttributeValue::Language(dw::DW_LANG_Go)) {
            return None;
        }
        let base = match entry.attr_value(dw::DW_AT_addr_base) {
            Some(AttributeValue::DebugAddrBase(base)) => Some(base.0),
            _ => None,
        };
        while !entries.is_empty() {
            let (depth, here) = (entries.next_depth(), entries.clone());
            let abbreviation = entries.read_abbreviation().ok()?;
            self.reader.step(1 + abbreviation.map_or(0, |known| known.attributes().len() as u64))?;
            let Some(abbreviation) = abbreviation else { continue };
            // Variables of functions lie deeper.
            if depth == 1 && abbreviation.tag() == dw::DW_TAG_variable {
                entries = here;
                entries.read_entry(&mut entry).ok()?;
                if let Some(variable) = self.variable(unit, &entry, base) {
                    if self.found.len() == MAX_VARIABLES {
                        return None;
                    }
                    budget::reserve(&mut self.found, 1).ok()?;
                    self.found.push(variable);
                }
            } else {
                entries.skip_attributes(abbreviation.attributes()).ok()?;
            }
        }
        Some(())
    }

    fn variable(
        &self,
        unit: &UnitHeader<Slice<'a>>,
        entry: &Entry<'a>,
        base: Option<usize>,
    ) -> Option<Found<'a>> {
        let location = match entry.attr_value(dw::DW_AT_location)? {
            AttributeValue::Block(bytes) => bytes.slice(),
            AttributeValue::Exprloc(expression) => expression.0.slice(),
            _ => return None,
        };
        let (operation, operand) = location.split_first()?;
        let addr = match dw::DwOp(*operation) {
            dw::DW_OP_addr if operand.len() == ADDRESS => u64_at(operand, 0)?,
            dw::DW_OP_addrx => {
                let index = usize::try_from(uvarint(operand, &mut 0)?).ok()?;
                u64_at(self.addresses, index.checked_mul(ADDRESS)?.checked_add(base?)?)?
            }
            _ => return None,
        };
        let name = self.reader.text(entry, dw::DW_AT_name);
        // All may have the same name, in `.debug_str`.
        self.reader.step(name.map_or(MAX_NAME, str::len) as u64)?;
        // Without a package it is a variable of C, or `runtime/cgo`'s part in one (`x_crosscall2_ptr`), of another type.
        let name = name.filter(|name| name.contains('.'))?;
        Some(Found { name, addr, of: type_of(unit, entry) })
    }

    /// Adds what was found with its types. `None`: that up to a bound.
    fn add(&self, to: &mut Collected) -> Option<()> {
        let (mut known, mut last) = (HashMap::new(), None);
        for found in &self.found {
            let of = found.of.map(|place| *known.entry(place).or_insert_with(|| self.of(place, &mut last)));
            let Type { size, descriptor } = of.unwrap_or_default();
            // One of no bytes has the address of what lies behind it.
            if size != Some(0) {
                let name = found.name.into();
                to.add(Variable { addr: found.addr, size: size.unwrap_or(0), name, descriptor })?;
            }
        }
        Some(())
    }

    /// What the type at an offset in `.debug_info` tells.
    fn of(&self, mut place: usize, last: &mut Table) -> Type {
        for _ in 0..MAX_TYPEDEFS {
            let Some((tells, next)) = self.entry(place, last) else { break };
            match next {
                Some(next) => place = next,
                None => return tells,
            }
        }
        Type::default()
    }

    /// What the entry of a type tells, or where the type is that it only names.
    fn entry(&self, place: usize, last: &mut Table) -> Option<(Type, Option<usize>)> {
        let behind = self.units.partition_point(|start| *start <= place);
        let start = *self.units.get(behind.checked_sub(1)?)?;
        let unit = self.reader.info.header_from_offset(DebugInfoOffset(start)).ok()?;
        let abbreviations = self.reader.abbreviations(&unit, last)?;
        let end = start.checked_add(unit.length_including_self())?.min(place.checked_add(MAX_ENTRY)?);
        let bytes = self.info.get(place..end.min(self.info.len()))?;
        let slice = EndianSlice::new(bytes, LittleEndian);
        let mut entries = EntriesRaw::new(slice, unit.encoding(), abbreviations, UnitOffset(0));
        let mut entry = DebuggingInformationEntry::null();
        let read = entries.read_entry(&mut entry);
        // Types may overlap: each is paid for with the bytes that it took.
        self.reader.step(if read.is_ok() { entries.next_offset().0 } else { bytes.len() } as u64)?;
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
        let descriptor = match entry.attr_value(GO_RUNTIME_TYPE) {
            // Up to Go 1.22 `uintptr` has an address here, not an offset.
            Some(_) if self.reader.text(&entry, dw::DW_AT_name) == Some(UINTPTR) => None,
            Some(AttributeValue::Addr(offset)) => Some(offset).filter(|offset| *offset != 0),
            _ => None,
        };
        Some((Type { size: size.or(implied), descriptor }, None))
    }
}

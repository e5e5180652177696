//! Package-level variables: where each lies, how large it is, which descriptor its type has, and without one what it
//! consists of.
//!
//! A variable is a child of its package's unit (`dwarfGenerateDebugInfo` in `src/cmd/link/internal/ld/dwarf.go`). Its
//! type may stand in any unit, also in a later one, so types are looked up when all variables are known.

use super::super::bytes::{u64_at, uvarint};
use super::super::elf::Image;
use super::super::variables::{Collected, MAX_VARIABLES, Variable};
use super::members::members;
use super::types::Types;
use super::{Entry, MAX_NAME, MAX_SECTION, MAX_STEPS, MAX_UNITS, Reader, Slice, dw, type_of};
use crate::budget;
use gimli::{Abbreviations, AttributeValue, DebugInfo, DebuggingInformationEntry, LittleEndian, UnitHeader};
use std::cell::Cell;

/// Bytes of an address, which follows `DW_OP_addr`: both processors have eight.
pub(super) const ADDRESS: usize = 8;

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
        let mut types = Types::new(&self.reader, self.info, &self.units);
        // Whatever members cost takes no descriptor from another variable.
        for place in self.found.iter().filter_map(|found| found.of) {
            types.of(place);
        }
        for found in &self.found {
            let of = found.of.map(|place| types.of(place)).unwrap_or_default();
            // One of no bytes has the address of what lies behind it.
            if of.size != Some(0) {
                let (addr, size, name) = (found.addr, of.size.unwrap_or(0), found.name.into());
                let members = members(&mut types, of);
                to.add(Variable { addr, size, name, descriptor: of.descriptor, members })?;
            }
        }
        Some(())
    }
}

//! Struct layouts and package-level variables from a binary's DWARF (version 4 up to Go 1.24, 5 from 1.25 on).
//!
//! Go's linker writes the types of package runtime into a compilation unit of that name
//! (`src/cmd/link/internal/ld/dwarf.go`); for layouts only the entries of such units are read.

mod members;
mod types;
mod variables;

use super::contents::Contents;
use super::elf::Image;
use super::fields::{self, Fields};
use crate::budget;
use crate::files;
use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAbbrevOffset, DebugInfo, DebugInfoUnitHeadersIter,
    DebuggingInformationEntry, DwAt, EndianSlice, LittleEndian, UnitHeader, constants as dw,
};
use std::cell::Cell;
use std::collections::HashMap;
use std::path::Path;
pub(super) use variables::variables;

/// Structs of package runtime whose fields the snapshot, the heap and the probes read.
pub(super) const STRUCTS: &[&str] = &[
    "g",
    "m",
    "p",
    "sudog",
    "hchan",
    "schedt",
    "coro",
    "moduledata",
    "notifyList",
    "semaRoot",
    "timer",
    "timeTimer",
    "mspan",
    "mheap",
    "heapArena",
    "pollDesc",
];
/// Array types that are read: `NAME._size` is in bytes, `NAME._count` in elements.
const ARRAYS: &[&str] = &["semTable"];
/// Largest section, before and after it is uncompressed; programs of several hundred megabytes have 100 MB. A
/// compressed section states its own uncompressed size, which a hostile file can set to anything.
const MAX_SECTION: u64 = 256 << 20;
/// Units that are looked at: one for each package, and one for each file of assembly or C. The largest programs have
/// some thousand.
const MAX_UNITS: usize = 1 << 17;
/// Bytes of one unit's table of abbreviations: Go's linker writes less than a kilobyte, C compilers some.
const MAX_ABBREVIATIONS: usize = 16 << 10;
/// How many steps a byte of it counts for: parsing them allocates.
const ABBREVIATION_COST: u64 = 16;
/// Steps in all: bytes of abbreviations that are parsed, entries and attributes of entries that are read. The unit with
/// all types of a very large program has ten million attributes.
const MAX_STEPS: u64 = 1 << 26;
/// Bytes of a name; those of generic types have some thousand.
const MAX_NAME: usize = 16 << 10;
/// Bytes of names and fields that are kept: the types of a very large program have 60 MB.
const MAX_TYPES: usize = 128 << 20;
/// Kept bytes after which the budget is asked again.
const ASK: usize = 1 << 20;
type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Entry<'a> = DebuggingInformationEntry<Slice<'a>>;
/// The abbreviations that were parsed last, and their offset in `.debug_abbrev`: Go's linker has one table for all units.
type Table = Option<(usize, Abbreviations)>;

struct Struct {
    name: String,
    size: Option<u32>,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    offset: u32,
    /// Offset in `.debug_info` of the field's type.
    of: Option<usize>,
}

/// The types of one unit. Structs and aliases (typedefs) are keyed by their offset in `.debug_info`.
#[derive(Default)]
struct Types {
    structs: HashMap<usize, Struct>,
    /// `NAME._size` and `NAME._count` of the arrays in [`ARRAYS`].
    arrays: HashMap<String, u32>,
    aliases: HashMap<usize, usize>,
}

/// Directory of separate debug files, which are named by build id (`objcopy --only-keep-debug`, Debian's `-dbgsym`
/// packages).
const DEBUG_DIR: &str = "/usr/lib/debug/.build-id";

/// The path of the binary's separate debug file, and the offsets in it. `None`: no file has the same build id, or the
/// file does not describe `runtime.g`.
pub(super) fn separate(image: &Image) -> Option<(String, HashMap<String, u32>)> {
    let (path, debug) = debug_file(image)?;
    Some((path, offsets(&debug)?))
}

/// The binary's separate debug file, and its path. (Go's linker never splits its DWARF; `-gsplit-dwarf` concerns only
/// the C code of a cgo program.)
pub(super) fn debug_file(image: &Image) -> Option<(String, Image)> {
    let id = image.build_id()?;
    let path = format!("{DEBUG_DIR}/{}/{}.debug", id.get(..2)?, id.get(2..).filter(|rest| !rest.is_empty())?);
    let file = files::open(Path::new(&path)).ok()?;
    let debug = Image::debug_file(Contents::of(file).ok()?, image.arch())?;
    // The file's name is only a claim: a file left over from another build would give wrong offsets.
    (debug.build_id() == Some(id)).then_some((path, debug))
}

/// Offsets by `struct.field`, as in `Layout`. `None`: the binary has no DWARF, or its DWARF does not describe
/// `runtime.g`.
pub(crate) fn offsets(image: &Image) -> Option<HashMap<String, u32>> {
    let section = |name| image.contents(name, MAX_SECTION).unwrap_or_default();
    let (info, abbrev, strings) = (section(".debug_info"), section(".debug_abbrev"), section(".debug_str"));
    let reader = Reader {
        info: DebugInfo::new(&info, LittleEndian),
        abbrev: &abbrev,
        strings: &strings,
        steps: Cell::new(MAX_STEPS),
    };
    // Assembly units are named `runtime` as well and describe no types; the search goes on to the next unit.
    let types = reader.find()?;
    let mut found = Fields::new(types.arrays.clone());
    for of in types.structs.values() {
        if let Some(name) = wanted(&of.name, STRUCTS) {
            found.offsets.extend(of.size.map(|size| (format!("{name}._size"), size)));
            found.add(&name, of, &|of| types.fields(of));
        }
    }
    Some(found.offsets)
}

/// The name without `runtime.`, if `of` contains it.
fn wanted(name: &str, of: &[&str]) -> Option<String> {
    name.strip_prefix("runtime.").filter(|name| of.contains(name)).map(str::to_owned)
}

/// The type that the next `DW_TAG_member` or `DW_TAG_subrange_type` entries belong to.
enum Open {
    Nothing,
    Struct(usize),
    Array(String),
}

struct Reader<'a> {
    info: DebugInfo<Slice<'a>>,
    /// `.debug_abbrev`.
    abbrev: &'a [u8],
    /// `.debug_str`.
    strings: &'a [u8],
    /// See [`MAX_STEPS`].
    steps: Cell<u64>,
}

impl<'a> Reader<'a> {
    /// Takes steps; `None`: there are none left.
    fn step(&self, count: u64) -> Option<()> {
        self.steps.set(self.steps.get().checked_sub(count)?);
        Some(())
    }

    /// The types of the first unit named `runtime` that describes `runtime.g`: there is one for the Go files, and one
    /// for each assembly file. `None`: there is no such unit, or the search came to one of its bounds.
    fn find(&self) -> Option<Types> {
        let mut units: DebugInfoUnitHeadersIter<_> = self.info.units();
        let mut last = None;
        for _ in 0..MAX_UNITS {
            let unit = units.next().ok()??;
            self.step(1)?;
            let Some(abbreviations) = self.abbreviations(&unit, &mut last) else { continue };
            let mut entries = unit.entries(abbreviations);
            let Ok(Some(entry)) = entries.next_dfs() else { continue };
            self.step(entry.attrs().len() as u64)?;
            if self.text(entry, dw::DW_AT_name) == Some("runtime")
                && let Some(types) = self.types(&unit, abbreviations)
            {
                return Some(types);
            }
        }
        None
    }

    /// The abbreviations of a unit. `None`: its table is broken, or has more bytes than there are steps left.
    fn abbreviations<'t>(
        &self,
        unit: &UnitHeader<Slice<'a>>,
        last: &'t mut Table,
    ) -> Option<&'t Abbreviations> {
        let at = unit.debug_abbrev_offset().0;
        if last.as_ref().is_none_or(|(known, _)| *known != at) {
            let table = self.abbrev.get(at..).unwrap_or_default();
            let table = table.get(..MAX_ABBREVIATIONS).unwrap_or(table);
            self.step(table.len() as u64 * ABBREVIATION_COST)?;
            let table = DebugAbbrev::new(table, LittleEndian).abbreviations(DebugAbbrevOffset(0));
            *last = Some((at, table.ok()?));
        }
        last.as_ref().map(|(_, table)| table)
    }

    /// The types of a unit. `None`: the unit does not describe `runtime.g`, or has more than any program.
    fn types(&self, unit: &UnitHeader<Slice<'a>>, abbreviations: &Abbreviations) -> Option<Types> {
        let mut types = Types::default();
        let mut entries = unit.entries(abbreviations);
        // Depth is not tracked: Go's linker writes the members of a type directly behind it.
        let (mut open, mut kept, mut asked) = (Open::Nothing, 0, 0);
        // A broken entry ends the walk; the types before it still count.
        while let Ok(Some(entry)) = entries.next_dfs() {
            self.step(1 + entry.attrs().len() as u64)?;
            let place = entry.offset().to_debug_info_offset(unit)?.0;
            let name = || self.text(entry, dw::DW_AT_name);
            match (entry.tag(), &open) {
                (dw::DW_TAG_structure_type, _) => {
                    let Some(name) = name() else { continue };
                    let size = number(entry, dw::DW_AT_byte_size);
                    kept += name.len() + size_of::<Struct>();
                    let name = name.to_owned();
                    types.structs.insert(place, Struct { name, size, fields: Vec::new() });
                    open = Open::Struct(place);
                }
                (dw::DW_TAG_member, Open::Struct(of)) => {
                    let Some(parent) = types.structs.get_mut(of) else { continue };
                    let Some(name) = name() else { continue };
                    let Some(offset) = number(entry, dw::DW_AT_data_member_location) else { continue };
                    kept += name.len() + size_of::<Field>();
                    parent.fields.push(Field { name: name.to_owned(), offset, of: type_of(unit, entry) });
                }
                (dw::DW_TAG_array_type, _) => {
                    open = Open::Nothing;
                    let Some(name) = name().and_then(|name| wanted(name, ARRAYS)) else { continue };
                    let size = number(entry, dw::DW_AT_byte_size);
                    types.arrays.extend(size.map(|size| (format!("{name}._size"), size)));
                    open = Open::Array(name);
                }
                (dw::DW_TAG_subrange_type, Open::Array(of)) => {
                    let count = number(entry, dw::DW_AT_count);
                    types.arrays.extend(count.map(|count| (format!("{of}._count"), count)));
                }
                (dw::DW_TAG_typedef, _) => {
                    kept += size_of::<(usize, usize)>();
                    types.aliases.extend(type_of(unit, entry).map(|of| (place, of)));
                }
                _ => {}
            }
            if kept > asked {
                budget::check(ASK).ok()?;
                asked = kept + ASK;
            }
            if kept > MAX_TYPES {
                return None;
            }
        }
        types.structs.values().any(|found| found.name == "runtime.g").then_some(types)
    }

    fn text(&self, entry: &Entry<'a>, name: DwAt) -> Option<&'a str> {
        let text = match entry.attr_value(name)? {
            AttributeValue::String(text) => text.slice(),
            AttributeValue::DebugStrRef(offset) => {
                // Not gimli's own: it looks for the end of a text as far as the section goes.
                let text = self.strings.get(offset.0..)?;
                let text = text.get(..MAX_NAME).unwrap_or(text);
                text.get(..text.iter().position(|byte| *byte == 0)?)?
            }
            _ => return None,
        };
        std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_NAME)
    }
}

impl Types {
    fn fields<'a>(&'a self, of: &'a Struct) -> Vec<fields::Field<'a, &'a Struct>> {
        // The type of a field may be a typedef, whose entry has no members of its own.
        let inner = |of: usize| self.structs.get(self.aliases.get(&of).unwrap_or(&of));
        let fields = of.fields.iter().map(|field| {
            let inner = field.of.and_then(inner).filter(|inner| !inner.is_plain());
            (field.name.as_str(), field.offset, inner)
        });
        fields.collect()
    }
}

impl Struct {
    /// Whether the type is a slice, a string or an atomic: the same in every version, so its parts need no offsets.
    fn is_plain(&self) -> bool {
        self.name.starts_with("[]") || self.name == "string" || self.name.contains("/atomic.")
    }
}

fn number(entry: &Entry<'_>, name: DwAt) -> Option<u32> {
    u32::try_from(entry.attr_value(name)?.udata_value()?).ok()
}

fn type_of(unit: &UnitHeader<Slice<'_>>, entry: &Entry<'_>) -> Option<usize> {
    match entry.attr_value(dw::DW_AT_type)? {
        AttributeValue::DebugInfoRef(offset) => Some(offset.0),
        AttributeValue::UnitRef(offset) => Some(offset.to_debug_info_offset(unit)?.0),
        _ => None,
    }
}

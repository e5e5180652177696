//! Struct layouts from a binary's DWARF (version 4 up to Go 1.24, 5 from 1.25 on).
//!
//! Go's linker writes the types of package runtime into a compilation unit of that name
//! (`src/cmd/link/internal/ld/dwarf.go`); only the entries of such units are read.

use super::elf::Image;
use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugInfo, DebugInfoUnitHeadersIter, DebugStr,
    DebuggingInformationEntry, DwAt, EndianSlice, LittleEndian, UnitHeader, constants as dw,
};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;

/// Structs of package runtime whose fields the snapshot, the heap and the probes read.
const STRUCTS: &[&str] = &[
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
/// Levels of structs within structs that are flattened: `g.sched.pc` has two.
const MAX_DEPTH: usize = 3;
/// Largest uncompressed section: several times that of a very large Go program. A compressed section states its own
/// uncompressed size, which a hostile file can set to anything.
const MAX_SECTION: u64 = 512 << 20;
/// Most fields that are collected. `layouts.json` has 910 for Go 1.27.
const MAX_FIELDS: usize = 10_000;

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Entry<'a> = DebuggingInformationEntry<Slice<'a>>;

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
/// Largest separate debug file, the same bound as for an executable (`MAX_FILE` in `go_binary.rs`).
const MAX_DEBUG_FILE: u64 = 2 << 30;

/// The path of the binary's separate debug file, and the offsets in it. `None`: no file has the same build id, or the
/// file does not describe `runtime.g`. (Go's linker never splits its DWARF; `-gsplit-dwarf` concerns only the C code of
/// a cgo program.)
pub(super) fn separate(image: &Image) -> Option<(String, HashMap<String, u32>)> {
    let id = image.build_id()?;
    let path = format!("{DEBUG_DIR}/{}/{}.debug", id.get(..2)?, id.get(2..).filter(|rest| !rest.is_empty())?);
    let file = File::open(&path)
        .ok()
        .filter(|file| file.metadata().is_ok_and(|data| data.is_file() && data.len() <= MAX_DEBUG_FILE))?;
    let mut data = Vec::new();
    file.take(MAX_DEBUG_FILE).read_to_end(&mut data).ok()?;
    let debug = Image::debug_file(data.into(), image.arch())?;
    // The file's name is only a claim: a file left over from another build would give wrong offsets.
    let same = debug.build_id() == Some(id);
    Some((path, same.then(|| offsets(&debug))??))
}

/// Offsets by `struct.field`, as in `Layout`. `None`: the binary has no DWARF, or its DWARF does not describe
/// `runtime.g`.
pub(super) fn offsets(image: &Image) -> Option<HashMap<String, u32>> {
    let section = |name| image.contents(name, MAX_SECTION).unwrap_or_default();
    let (info, abbrev, strings) = (section(".debug_info"), section(".debug_abbrev"), section(".debug_str"));
    let reader = Reader {
        info: DebugInfo::new(&info, LittleEndian),
        abbrev: DebugAbbrev::new(&abbrev, LittleEndian),
        strings: DebugStr::from(EndianSlice::new(&strings, LittleEndian)),
    };
    // Assembly units are named `runtime` as well and describe no types; `find_map` goes on to the next unit.
    let types = reader.units().find_map(|(unit, abbreviations)| reader.types(&unit, &abbreviations))?;
    let mut found = types.arrays.clone();
    for of in types.structs.values() {
        if let Some(name) = wanted(&of.name, STRUCTS) {
            found.extend(of.size.map(|size| (format!("{name}._size"), size)));
            types.flatten(of, &name, 0, 0, &mut found);
        }
    }
    Some(found)
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
    abbrev: DebugAbbrev<Slice<'a>>,
    strings: DebugStr<Slice<'a>>,
}

impl<'a> Reader<'a> {
    /// The units named `runtime`: one for the Go files, one for each assembly file.
    fn units(&self) -> impl Iterator<Item = (UnitHeader<Slice<'a>>, Abbreviations)> {
        let mut units: DebugInfoUnitHeadersIter<_> = self.info.units();
        std::iter::from_fn(move || units.next().ok().flatten()).filter_map(|unit| {
            let abbreviations = unit.abbreviations(&self.abbrev).ok()?;
            let mut entries = unit.entries(&abbreviations);
            let name =
                entries.next_dfs().ok().flatten().and_then(|entry| self.text(entry, dw::DW_AT_name))?;
            (name == "runtime").then_some((unit, abbreviations))
        })
    }

    /// The types of a unit. `None`: the unit does not describe `runtime.g`.
    fn types(&self, unit: &UnitHeader<Slice<'a>>, abbreviations: &Abbreviations) -> Option<Types> {
        let mut types = Types::default();
        let mut entries = unit.entries(abbreviations);
        // Depth is not tracked: Go's linker writes the members of a type directly behind it.
        let mut open = Open::Nothing;
        // A broken entry ends the walk; the types before it still count.
        while let Ok(Some(entry)) = entries.next_dfs() {
            let place = entry.offset().to_debug_info_offset(unit)?.0;
            let name = || self.text(entry, dw::DW_AT_name);
            match (entry.tag(), &open) {
                (dw::DW_TAG_structure_type, _) => {
                    let Some(name) = name() else { continue };
                    let size = number(entry, dw::DW_AT_byte_size);
                    types.structs.insert(place, Struct { name, size, fields: Vec::new() });
                    open = Open::Struct(place);
                }
                (dw::DW_TAG_member, Open::Struct(of)) => {
                    let Some(parent) = types.structs.get_mut(of) else { continue };
                    let Some(name) = name() else { continue };
                    let Some(offset) = number(entry, dw::DW_AT_data_member_location) else { continue };
                    parent.fields.push(Field { name, offset, of: type_of(unit, entry) });
                }
                (dw::DW_TAG_array_type, _) => {
                    open = Open::Nothing;
                    let Some(name) = name().and_then(|name| wanted(&name, ARRAYS)) else { continue };
                    let size = number(entry, dw::DW_AT_byte_size);
                    types.arrays.extend(size.map(|size| (format!("{name}._size"), size)));
                    open = Open::Array(name);
                }
                (dw::DW_TAG_subrange_type, Open::Array(of)) => {
                    let count = number(entry, dw::DW_AT_count);
                    types.arrays.extend(count.map(|count| (format!("{of}._count"), count)));
                }
                (dw::DW_TAG_typedef, _) => {
                    types.aliases.extend(type_of(unit, entry).map(|of| (place, of)));
                }
                _ => {}
            }
        }
        types.structs.values().any(|found| found.name == "runtime.g").then_some(types)
    }

    fn text(&self, entry: &Entry<'a>, name: DwAt) -> Option<String> {
        let text = match entry.attr_value(name)? {
            AttributeValue::String(text) => text,
            AttributeValue::DebugStrRef(offset) => self.strings.get_str(offset).ok()?,
            _ => return None,
        };
        std::str::from_utf8(text.slice()).ok().map(str::to_owned)
    }
}

impl Types {
    /// Adds the fields of a struct and of its inner structs as `prefix.field`.
    fn flatten(&self, of: &Struct, prefix: &str, base: u32, depth: usize, found: &mut HashMap<String, u32>) {
        for field in &of.fields {
            let name = format!("{prefix}.{}", field.name);
            let Some(offset) = base.checked_add(field.offset) else { continue };
            if found.len() >= MAX_FIELDS {
                return;
            }
            // The type of a field may be a typedef, whose entry has no members of its own.
            let inner = field.of.and_then(|of| self.structs.get(self.aliases.get(&of).unwrap_or(&of)));
            if let Some(inner) = inner.filter(|inner| !inner.is_plain())
                && depth + 1 < MAX_DEPTH
            {
                self.flatten(inner, &name, offset, depth + 1, found);
            }
            // Blank fields and `noCopy` markers hold nothing, and a struct may have several blank ones.
            if !matches!(field.name.as_str(), "_" | "noCopy") {
                found.insert(name, offset);
            }
        }
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

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

/// Structs a goroutine tracer reads, without the package.
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
/// Array types that it reads: `_size` is in bytes, `_count` in elements.
const ARRAYS: &[&str] = &["semTable"];
/// How deep structs within structs are followed: `g.sched.pc` is two.
const MAX_DEPTH: usize = 3;
/// Uncompressed size up to which a section is read: several times what a very large Go program has.
const MAX_SECTION: u64 = 512 << 20;
/// Fields that are collected; Go 1.27 has 700.
const MAX_FIELDS: usize = 10_000;

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Entry<'a> = DebuggingInformationEntry<Slice<'a>>;

/// A struct type as DWARF describes it.
struct Struct {
    name: String,
    size: Option<u32>,
    fields: Vec<Field>,
}

struct Field {
    name: String,
    offset: u32,
    /// Offset in `.debug_info` of its type.
    of: Option<usize>,
}

/// What a unit says: structs, and type names that stand for another type, by their offset in
/// `.debug_info`.
#[derive(Default)]
struct Types {
    structs: HashMap<usize, Struct>,
    /// By `array._size` and `array._count`, those of [`ARRAYS`].
    arrays: HashMap<String, u32>,
    aliases: HashMap<usize, usize>,
}

/// Where debug information that was split off a program lies, by the build id that both carry
/// (`objcopy --only-keep-debug`, Debian's `-dbgsym` packages).
const DEBUG_DIR: &str = "/usr/lib/debug/.build-id";
/// Largest separate debug file that is read.
const MAX_DEBUG_FILE: u64 = 2 << 30;

/// The offsets from the separate debug file of a binary, and its path. `None`: there is none with
/// the same build id, or it does not describe `runtime.g`. (Go's own linker never splits its DWARF;
/// `-gsplit-dwarf` concerns only the C code of a cgo program.)
pub(super) fn separate(image: &Image) -> Option<(String, HashMap<String, u32>)> {
    let id = image.build_id()?;
    let path = format!("{DEBUG_DIR}/{}/{}.debug", id.get(..2)?, id.get(2..).filter(|rest| !rest.is_empty())?);
    let file = File::open(&path)
        .ok()
        .filter(|file| file.metadata().is_ok_and(|data| data.is_file() && data.len() <= MAX_DEBUG_FILE))?;
    let mut data = Vec::new();
    file.take(MAX_DEBUG_FILE).read_to_end(&mut data).ok()?;
    let debug = Image::debug_file(data.into(), image.arch())?;
    let same = debug.build_id() == Some(id);
    Some((path, same.then(|| offsets(&debug))??))
}

/// Offsets by `struct.field`, as in `Layout`. `None`: the binary has no DWARF, or it does not
/// describe `runtime.g`.
pub(super) fn offsets(image: &Image) -> Option<HashMap<String, u32>> {
    let section = |name| image.contents(name, MAX_SECTION).unwrap_or_default();
    let (info, abbrev, strings) = (section(".debug_info"), section(".debug_abbrev"), section(".debug_str"));
    let reader = Reader {
        info: DebugInfo::new(&info, LittleEndian),
        abbrev: DebugAbbrev::new(&abbrev, LittleEndian),
        strings: DebugStr::from(EndianSlice::new(&strings, LittleEndian)),
    };
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

/// The name without its package, if it is one of these.
fn wanted(name: &str, of: &[&str]) -> Option<String> {
    name.strip_prefix("runtime.").filter(|name| of.contains(name)).map(str::to_owned)
}

/// The type whose members or bounds follow.
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

    /// The types of a unit; `None` for a unit without `runtime.g`.
    fn types(&self, unit: &UnitHeader<Slice<'a>>, abbreviations: &Abbreviations) -> Option<Types> {
        let mut types = Types::default();
        let mut entries = unit.entries(abbreviations);
        let mut open = Open::Nothing;
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
    /// Adds the fields of a struct, and of the structs in it, under `prefix`.
    fn flatten(&self, of: &Struct, prefix: &str, base: u32, depth: usize, found: &mut HashMap<String, u32>) {
        for field in &of.fields {
            let name = format!("{prefix}.{}", field.name);
            let Some(offset) = base.checked_add(field.offset) else { continue };
            if found.len() >= MAX_FIELDS {
                return;
            }
            let inner = field.of.and_then(|of| self.structs.get(self.aliases.get(&of).unwrap_or(&of)));
            if let Some(inner) = inner.filter(|inner| !inner.is_plain())
                && depth + 1 < MAX_DEPTH
            {
                self.flatten(inner, &name, offset, depth + 1, found);
            }
            if !matches!(field.name.as_str(), "_" | "noCopy") {
                found.insert(name, offset);
            }
        }
    }
}

impl Struct {
    /// A slice, a string or an atomic: always laid out alike, so their parts need no names.
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

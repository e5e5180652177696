//! Types as their descriptors tell them, held against DWARF: names, sizes and fields.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::Path,
    rc::Rc,
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use flate2::read::ZlibDecoder;
use gimli::{
    AttributeValue, DebuggingInformationEntry, Dwarf, EndianSlice, LittleEndian, Unit, constants as dw,
};
use live_tests::{
    fixture::{self, Variant},
    machine,
    toolchain::Go,
    why::{Object, Objects},
};
use object::{CompressionFormat, Object as _, ObjectSection as _};
use sfgi_core::{
    binary::{GoBinary, Kind, TypeId, Types},
    memory::Live,
    objects::{self, Known, Reading},
    process::Process as Target,
    snapshot::{Clock, View},
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(types_are_as_dwarf_has_them)]
}

/// DWARF 4 and 5.
const RELEASES: [u32; 2] = [24, 27];

/// Bytes of a struct, and the offsets of its fields by name in their order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Layout {
    size: u64,
    fields: Vec<(String, u64)>,
}

/// Structs by name with the import path. Functions may have types of the same name.
type Structs = BTreeMap<String, BTreeSet<Layout>>;

fn types_are_as_dwarf_has_them() -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        check(go).with_context(|| format!("go{}", go.version))?;
    }
    Ok(())
}

fn check(go: &Go) -> Result<()> {
    let target = Objects::start(go, Variant::Plain)?;
    let structs = of_dwarf(&fixture::build("objects", go, Variant::Plain)?)?;
    ensure!(structs.len() > 1000, "DWARF has only {} structs", structs.len());
    let (mut agreeing, mut missing, mut own) = (0, BTreeSet::new(), BTreeSet::new());
    each_struct(&target, |name, layout| {
        own.insert(name.to_owned());
        match structs.get(name) {
            Some(known) => {
                ensure!(known.contains(layout), "{name} is {known:?}, not {layout:?}");
                agreeing += 1;
            }
            None => drop(missing.insert(name.to_owned())),
        }
        Ok(())
    })?;
    // The linker leaves out what no variable and no function refers to.
    let said = format!("go{}: {agreeing} structs agree, {} are not in DWARF", go.version, missing.len());
    machine::report(&said);
    ensure!(agreeing > 500 && missing.len() < agreeing / 10, "{said}: {missing:?}");
    let told = told(&target)?;
    let mut held = 0;
    for object in &told {
        let name = named(&object.package, object.of.as_deref().unwrap_or_default());
        let Some(name) = name.filter(|name| own.contains(name)) else { continue };
        let Some(known) = structs.get(&name) else { continue };
        held += 1;
        let values = object.count.max(1);
        let fits = known.iter().any(|known| known.size * values <= object.bytes);
        ensure!(fits, "{object:?} has no room for {known:?}");
    }
    ensure!(held > 25, "only {held} types of {} that are told are structs in DWARF", told.len());
    Ok(())
}

/// With the whole import path, as in DWARF: `net/http.conn`. `None`: it has no name of its own.
fn named(package: &str, name: &str) -> Option<String> {
    if package.is_empty() || name.starts_with(&format!("{package}.")) {
        return (!package.is_empty()).then(|| name.to_owned());
    }
    let (_, own) = name.split_once('.')?;
    Some(format!("{package}.{own}"))
}

/// Each object on a way with the name of a struct, one of a type.
fn told(target: &Objects) -> Result<Vec<Object>> {
    let why = target.why(&[])?;
    let ways = why.objects.iter().flat_map(|kept| &kept.ways);
    let hops = ways.flat_map(|way| &way.hops).map(|hop| hop.object.clone());
    let is_struct = |object: &Object| {
        let of = object.of.as_deref().unwrap_or_default();
        // What a map or a channel consists of has no type of its own.
        !object.package.is_empty() && !of.starts_with("part of ") && !of.starts_with("chan ")
    };
    let by_type = hops.filter(is_struct).map(|object| ((object.package.clone(), object.of.clone()), object));
    Ok(by_type.collect::<BTreeMap<_, _>>().into_values().collect())
}

/// Each named struct as sfgi reads it.
fn each_struct(target: &Objects, mut check: impl FnMut(&str, &Layout) -> Result<()>) -> Result<()> {
    let process = Target::open(i32::try_from(target.process.pid())?)?;
    let binary = GoBinary::read(process.exe()?)?;
    let memory = Live::of(&process);
    let bias = process.load_bias(binary.image().entry())?;
    let view = View { memory: &memory, binary: &binary, bias, clock: Clock::Live };
    let reading = Reading {
        most: u64::MAX,
        known: Rc::new(Known::of(&binary, None)),
        registers: &[],
        stopped: false,
        without: &Default::default(),
        progress: &mut |_, _| {},
    };
    let objects = objects::Objects::read(view, reading)?;
    ensure!(objects.untyped().is_none(), "{:?}", objects.untyped());
    let types = objects.types();
    for id in types.iter().filter(|id| types.get(*id).kind == Kind::Struct) {
        if let Some(name) = named(types.package(id), types.name(id)) {
            check(&name, &layout(types, id))?;
        }
    }
    Ok(())
}

fn layout(types: &Types, id: TypeId) -> Layout {
    let fields = types.fields(id).iter().map(|field| (types.field_name(field).to_owned(), field.offset));
    Layout { size: types.get(id).size, fields: fields.collect() }
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// The structs in the DWARF of an executable.
fn of_dwarf(exe: &Path) -> Result<Structs> {
    let bytes = fs::read(exe)?;
    let file = object::File::parse(&*bytes)?;
    let sections = gimli::DwarfSections::load(|id| section(&file, id.name()))?;
    let dwarf = sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian));
    let mut structs = Structs::new();
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        add(&dwarf, &dwarf.unit(header)?, &mut structs)?;
    }
    Ok(structs)
}

fn section<'a>(file: &object::File<'a>, name: &str) -> Result<Cow<'a, [u8]>> {
    let Some(section) = file.section_by_name(name) else { return Ok(Cow::Borrowed(&[])) };
    let data = section.compressed_data()?;
    if data.format == CompressionFormat::None {
        return Ok(Cow::Borrowed(data.data));
    }
    ensure!(data.format == CompressionFormat::Zlib, "{name} is compressed by {:?}", data.format);
    let mut whole = Vec::new();
    ZlibDecoder::new(data.data).read_to_end(&mut whole)?;
    Ok(Cow::Owned(whole))
}

fn add<'a>(dwarf: &Dwarf<Slice<'a>>, unit: &Unit<Slice<'a>>, structs: &mut Structs) -> Result<()> {
    let name = |entry: &DebuggingInformationEntry<Slice<'a>>| -> Result<String> {
        let Some(name) = entry.attr_value(dw::DW_AT_name) else { return Ok(String::new()) };
        Ok(dwarf.attr_string(unit, name)?.to_string()?.to_owned())
    };
    let number = |entry: &DebuggingInformationEntry<Slice<'a>>, at| match entry.attr_value(at) {
        None => 0,
        Some(AttributeValue::Udata(number)) => number,
        Some(other) => other.udata_value().unwrap_or(u64::MAX),
    };
    let mut open: Option<(String, isize, Layout)> = None;
    let mut entries = unit.entries();
    while let Some(entry) = entries.next_dfs()? {
        let is_within = open.as_ref().is_some_and(|(_, depth, _)| entry.depth() > *depth);
        if is_within {
            if let (dw::DW_TAG_member, Some((_, _, layout))) = (entry.tag(), &mut open) {
                layout.fields.push((name(entry)?, number(entry, dw::DW_AT_data_member_location)));
            }
            continue;
        }
        if let Some((name, _, layout)) = open.take() {
            structs.entry(name).or_default().insert(layout);
        }
        if entry.tag() == dw::DW_TAG_structure_type {
            let layout = Layout { size: number(entry, dw::DW_AT_byte_size), fields: Vec::new() };
            open = Some((name(entry)?, entry.depth(), layout));
        }
    }
    if let Some((name, _, layout)) = open {
        structs.entry(name).or_default().insert(layout);
    }
    Ok(())
}

//! Variables in made-up symbol tables and DWARF, and what a hostile one costs.

use super::super::*;
use super::hostile::{MIB, cheap, file, words};
use crate::testing::binary::{Section, small_binary, small_image, with_sections};
use std::fs::File;

/// Where the made-up executable's writable data begins.
pub(super) fn data() -> u64 {
    small_binary().image().segments().iter().find(|segment| segment.writable).unwrap().vaddr
}

fn read(sections: &[Section<'_>]) -> Variables {
    GoBinary::parse(with_sections(sections).into()).unwrap().variables(None)
}

pub(super) fn variable(addr: u64, size: u64, name: &str, descriptor: Option<u64>) -> Variable {
    Variable { addr, size, name: name.into(), descriptor, members: Box::default() }
}

/// Symbols: address, bytes, kind and name. The table, and the names of it.
fn symbols(list: &[(u64, u64, u8, &str)]) -> (Vec<u8>, Vec<u8>) {
    let (mut table, mut names) = (Vec::new(), vec![0]);
    for (addr, size, kind, name) in list {
        table.extend((names.len() as u32).to_le_bytes());
        table.extend([*kind, 0, 3, 0]);
        table.extend(words(&[*addr, *size]));
        names.extend(name.bytes().chain([0]));
    }
    (table, names)
}

const OBJECT: u8 = 0x11;
const FUNCTION: u8 = 0x12;

#[test]
fn symbols_are_variables_if_their_names_are() {
    let at = data();
    let (table, names) = symbols(&[
        (at + 64, 8, OBJECT, "net/http.DefaultClient"),
        (at + 32, 24, OBJECT, "main.hub"),
        (at + 72, 8, OBJECT, "gopkg.in/yaml%2ev3.cache"),
        (at + 80, 8, OBJECT, "main.f"),
        (at + 88, 0, OBJECT, "runtime.edata"),
        (at + 88, 8, FUNCTION, "main.main"),
        (at + 88, 8, OBJECT, "main..stmp_1"),
        (at + 88, 8, OBJECT, "cmp..dict.Less[example.com/a.T]"),
        (at + 88, 8, OBJECT, "main.main.func1.f"),
        (at + 88, 8, OBJECT, "go:main.inittasks"),
        (at + 88, 8, OBJECT, "type:.eq"),
        (at + 88, 8, OBJECT, "environ"),
        (at + 88, 8, OBJECT, "completed.0"),
        (at + 88, 8, OBJECT, "runtime/cgo(.bss)"),
        (at + 88, 8, OBJECT, ".x"),
        (at + 88, 8, OBJECT, "x."),
        (at + 88, u64::MAX, OBJECT, "main.endless"),
        (0x10, 8, OBJECT, "main.nowhere"),
    ]);
    let found = read(&[(".symtab", &table, false), (".strtab", &names, false)]);
    let expected = [
        variable(at + 32, 24, "main.hub", None),
        variable(at + 64, 8, "net/http.DefaultClient", None),
        variable(at + 72, 8, "gopkg.in/yaml%2ev3.cache", None),
        variable(at + 80, 8, "main.f", None),
    ];
    assert_eq!(found.all(), expected);
    let name = |addr| found.containing(addr).map(|variable| &*variable.name);
    let hub = [at + 31, at + 32, at + 55, at + 56].map(name);
    assert_eq!(hub, [None, Some("main.hub"), Some("main.hub"), None]);
    assert_eq!((name(0), name(u64::MAX), name(at + 87)), (None, None, Some("main.f")));
    assert_eq!(read(&[(".symtab", &table, false)]).all(), []);
}

/// Abbreviations of a Go program.
pub(super) fn abbreviations() -> Vec<u8> {
    let (text, address, reference, flag, number) = (0x08, 0x01, 0x10, 0x0b, 0x0f);
    let (kind, descriptor) = ([0x80, 0x52, flag], [0x84, 0x52, address]);
    [
        // The unit: language, name, base of addresses. A variable: name, location, type.
        &[1, 0x11, 1, 0x13, 0x0b, 0x03, text, 0x73, 0x17, 0, 0][..],
        &[2, 0x34, 0, 0x03, text, 0x02, 0x0a, 0x49, reference, 0, 0],
        // A typedef: name, type. A struct: name, size, kind, descriptor.
        &[3, 0x16, 0, 0x03, text, 0x49, reference, 0, 0],
        &[4, 0x13, 0, 0x03, text, 0x0b, 0x0b],
        &kind,
        &descriptor,
        &[0, 0],
        // A pointer: name, kind, descriptor. A map: name, type, kind, descriptor.
        &[5, 0x0f, 0, 0x03, text],
        &kind,
        &descriptor,
        &[0, 0],
        &[6, 0x16, 0, 0x03, text, 0x49, reference],
        &kind,
        &descriptor,
        &[0, 0],
        // A function, with children. A variable whose name is in `.debug_str`.
        &[7, 0x2e, 1, 0x03, text, 0, 0],
        &[8, 0x34, 0, 0x03, 0x0e, 0x02, 0x0a, 0x49, reference, 0, 0],
        // A struct with children: name, size, kind, descriptor. Its member: name, offset, type.
        &[9, 0x13, 1, 0x03, text, 0x0b, number],
        &kind,
        &descriptor,
        &[0, 0],
        &[10, 0x0d, 0, 0x03, text, 0x38, number, 0x49, reference, 0, 0],
        // An array: name, type, size, kind, descriptor. A pointer to a type: name, type, kind, descriptor.
        &[11, 0x01, 0, 0x03, text, 0x49, reference, 0x0b, number],
        &kind,
        &descriptor,
        &[0, 0],
        &[12, 0x0f, 0, 0x03, text, 0x49, reference],
        &kind,
        &descriptor,
        &[0, 0],
        &[0],
    ]
    .concat()
}

pub(super) const GO: u8 = 0x16;
const C: u8 = 0x0c;

/// `.debug_info` of one unit, and `.debug_addr`.
pub(super) struct Info {
    version: u8,
    pub(super) bytes: Vec<u8>,
    addresses: Vec<u8>,
}

impl Info {
    pub(super) fn new(version: u8, language: u8) -> Info {
        // Length, which is written at the end; version; in DWARF 5 the kind of unit; abbreviations and address size.
        let header: &[u8] = if version == 5 {
            &[0, 0, 0, 0, 5, 0, 1, 8, 0, 0, 0, 0]
        } else {
            &[0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 8]
        };
        let unit = [header, &[1, language], b"main\0", &[8, 0, 0, 0]].concat();
        Info { version, bytes: unit, addresses: vec![0; 8] }
    }

    /// Where the next entry will be.
    pub(super) fn place(&self) -> u32 {
        self.bytes.len() as u32
    }

    pub(super) fn entry(&mut self, number: u8, name: &str) -> u32 {
        let place = self.place();
        self.bytes.push(number);
        self.bytes.extend(name.bytes().chain([0]));
        place
    }

    pub(super) fn typedef(&mut self, name: &str, of: u32) -> u32 {
        let place = self.entry(3, name);
        self.bytes.extend(of.to_le_bytes());
        place
    }

    pub(super) fn structure(&mut self, name: &str, size: u8, kind: u8, descriptor: u64) -> u32 {
        let place = self.entry(4, name);
        self.bytes.extend([size, kind]);
        self.bytes.extend(descriptor.to_le_bytes());
        place
    }

    pub(super) fn pointer(&mut self, name: &str, descriptor: u64) -> u32 {
        let place = self.entry(5, name);
        self.bytes.push(22);
        self.bytes.extend(descriptor.to_le_bytes());
        place
    }

    pub(super) fn map(&mut self, name: &str, of: u32, descriptor: u64) -> u32 {
        let place = self.entry(6, name);
        self.bytes.extend(of.to_le_bytes());
        self.bytes.push(21);
        self.bytes.extend(descriptor.to_le_bytes());
        place
    }

    pub(super) fn variable(&mut self, name: &str, addr: u64, of: u32) {
        let location = if self.version == 5 {
            // The linker pads the index, too.
            let index = (self.addresses.len() / 8 - 1) as u8;
            self.addresses.extend(addr.to_le_bytes());
            vec![0xa1, index | 0x80, 0]
        } else {
            [&[3][..], &addr.to_le_bytes()].concat()
        };
        self.located(name, &location, of);
    }

    fn located(&mut self, name: &str, location: &[u8], of: u32) {
        self.entry(2, name);
        self.bytes.push(location.len() as u8);
        self.bytes.extend(location);
        self.bytes.extend(of.to_le_bytes());
    }

    pub(super) fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        self.bytes.push(0);
        let len = self.bytes.len() as u32 - 4;
        self.bytes[..4].copy_from_slice(&len.to_le_bytes());
        (self.bytes, self.addresses)
    }
}

/// A unit with variables of all kinds.
fn described(version: u8, at: u64) -> (Vec<u8>, Vec<u8>) {
    let mut info = Info::new(version, GO);
    let hub = info.structure("main.hub", 24, 25, 0x40);
    let named = info.typedef("main.hub", hub);
    let pointer = info.pointer("*main.hub", 0x80);
    let counts = info.map("map[string]int", pointer, 0xc0);
    let word = info.structure("uintptr", 8, 12, 0x40_0000);
    let empty = info.structure("struct {}", 0, 25, 0x100);
    let unnamed = info.structure("struct { a int }", 8, 25, 0);
    info.entry(7, "main.main");
    info.variable("main.local", at + 8, pointer);
    info.bytes.push(0);
    info.variable("main.theHub", at, pointer);
    info.variable("main.inline", at + 8, named);
    info.variable("main.counts", at + 32, counts);
    info.variable("main.word", at + 40, word);
    info.variable("main.empty", at + 48, empty);
    info.variable("main.nowhere", 0x10, pointer);
    info.variable("x_crosscall2_ptr", at + 64, pointer);
    info.variable("main.unnamed", at + 48, unnamed);
    info.variable("main.untyped", at + 56, 0xffff);
    info.finish()
}

fn all(at: u64) -> [Variable; 6] {
    [
        variable(at, 8, "main.theHub", Some(0x80)),
        variable(at + 8, 24, "main.inline", Some(0x40)),
        variable(at + 32, 8, "main.counts", Some(0xc0)),
        variable(at + 40, 8, "main.word", None),
        variable(at + 48, 8, "main.unnamed", None),
        variable(at + 56, 0, "main.untyped", None),
    ]
}

pub(super) fn sections<'a>(info: &'a [u8], abbreviations: &'a [u8], addresses: &'a [u8]) -> [Section<'a>; 3] {
    [(".debug_info", info, false), (".debug_abbrev", abbreviations, false), (".debug_addr", addresses, false)]
}

#[test]
fn dwarf_says_where_variables_are_and_of_which_type() {
    let (at, table) = (data(), abbreviations());
    for version in [4, 5] {
        let (info, addresses) = described(version, at);
        let found = read(&sections(&info, &table, &addresses));
        assert_eq!(found.all(), all(at), "{version}");
        // Of unknown size: its first word.
        let untyped = [at + 55, at + 56, at + 63, at + 64].map(|addr| found.containing(addr).is_some());
        assert_eq!(untyped, [true, true, true, false]);
    }
}

#[test]
fn dwarf_and_symbols_are_joined() {
    let (at, abbreviations) = (data(), abbreviations());
    let (info, addresses) = described(5, at);
    let (table, names) = symbols(&[
        (at, 16, OBJECT, "main.other"),
        (at + 56, 16, OBJECT, "main.untyped"),
        (at + 72, 8, OBJECT, "main.assembly"),
    ]);
    let symbols = [(".symtab", &table[..], false), (".strtab", &names[..], false)];
    let found = read(&[&sections(&info, &abbreviations, &addresses)[..], &symbols].concat());
    let mut expected = all(at).to_vec();
    expected[5].size = 16;
    expected.push(variable(at + 72, 8, "main.assembly", None));
    assert_eq!(found.all(), expected);
}

#[test]
fn variables_of_c_are_left_out() {
    let (at, table) = (data(), abbreviations());
    let (go, addresses) = described(5, at);
    let mut foreign = Info::new(5, C);
    foreign.variable("environ", at + 64, 0);
    let (foreign, _) = foreign.finish();
    // Types of the second unit are at other places.
    let found = read(&sections(&[&foreign[..], &go].concat(), &table, &addresses));
    assert_eq!(found.all().len(), 6);
    assert!(found.all().iter().all(|variable| &*variable.name != "environ"));
    // Many of them, each with a table of its own, take nothing from Go's.
    let mut info = go.clone();
    for place in table.len()..table.len() + 1000 {
        let mut foreign = foreign.clone();
        foreign[8..12].copy_from_slice(&(place as u32).to_le_bytes());
        info.extend(foreign);
    }
    let tables = [&table[..], &[0; 32 << 10]].concat();
    assert_eq!(read(&sections(&info, &tables, &addresses)).all(), all(at));
}

#[test]
fn addresses_that_are_not_there() {
    let (at, table) = (data(), abbreviations());
    let endless = [&[0xa1][..], &[0xff; 9], &[1]].concat();
    let too_long = [&[0xa1][..], &[0xff; 12]].concat();
    let locations: [&[u8]; 9] = [
        &[],
        &[3],
        &[3, 1, 2, 3],
        &[0x9c],
        &[0xa1],
        &[0xa1, 0x80],
        // One behind the last one.
        &[0xa1, 1],
        &endless,
        &too_long,
    ];
    for location in locations {
        let mut info = Info::new(5, GO);
        info.variable("main.x", at, 0);
        info.located("main.y", location, 0);
        let (info, addresses) = info.finish();
        let found = read(&sections(&info, &table, &addresses));
        assert_eq!(found.all(), [variable(at, 0, "main.x", None)], "{location:x?}");
    }
    // Without the section, and with a base behind it.
    let (mut info, addresses) = described(5, at);
    assert_eq!(read(&sections(&info, &table, &[])).all(), []);
    let base = info.windows(5).position(|bytes| bytes == b"main\0").unwrap() + 5;
    info[base..base + 4].fill(0xff);
    assert_eq!(read(&sections(&info, &table, &addresses)).all(), []);
}

#[test]
fn typedefs_without_an_end() {
    let (at, table) = (data(), abbreviations());
    let mut info = Info::new(4, GO);
    let itself = info.place();
    info.typedef("main.itself", itself);
    info.variable("main.x", at, itself);
    // Not at an entry: in the header, within one, and at the end.
    for (index, place) in [0, 5, itself + 3, 0xffff_ffff].into_iter().enumerate() {
        info.variable("main.y", at + 8 + 8 * index as u64, place);
    }
    let (info, _) = info.finish();
    let found = read(&sections(&info, &table, &[]));
    assert_eq!(found.all().len(), 5);
    assert!(found.all().iter().all(|variable| (variable.size, variable.descriptor) == (0, None)));
}

#[test]
fn cut_off_or_changed_nothing_panics() {
    let (at, table) = (data(), abbreviations());
    let (symtab, names) = symbols(&[(at, 16, OBJECT, "main.other"), (at + 56, 16, OBJECT, "main.more")]);
    for version in [4, 5] {
        let (info, addresses) = described(version, at);
        let whole = [&info[..], &table, &addresses, &symtab, &names];
        let look = |parts: [&[u8]; 5]| {
            let [info, table, addresses, symtab, names] = parts;
            let symbols = [(".symtab", symtab, false), (".strtab", names, false)];
            let data = with_sections(&[&sections(info, table, addresses)[..], &symbols].concat());
            let image = Image::parse(data.into()).unwrap();
            Variables::find(&image, &image).all().len()
        };
        let most = look(whole);
        for which in 0..whole.len() {
            for at in 0..whole[which].len() {
                let mut parts = whole;
                parts[which] = &whole[which][..at];
                assert!(look(parts) <= most + 2);
                for value in [0, 0xff, whole[which][at] ^ 0x11] {
                    let mut changed = whole[which].to_vec();
                    changed[at] = value;
                    let mut parts = whole;
                    parts[which] = &changed;
                    look(parts);
                }
            }
        }
    }
}

proptest::proptest! {
    #[test]
    fn with_many_bytes_changed_nothing_panics(
        changes in proptest::collection::vec((proptest::num::usize::ANY, proptest::num::u8::ANY), 1..20),
    ) {
        let (mut info, addresses) = described(5, data());
        for (at, value) in changes {
            let at = at % info.len();
            info[at] = value;
        }
        read(&sections(&info, &abbreviations(), &addresses));
    }
}

#[test]
fn a_file_that_was_dropped_is_read_again() {
    let (at, table) = (data(), abbreviations());
    let (info, addresses) = described(5, at);
    let whole = with_sections(&sections(&info, &table, &addresses));
    let open = |data: &[u8]| -> File { file(data, 0) };
    let kept = GoBinary::read_to_keep(open(&whole)).unwrap();
    assert_eq!(kept.variables(None).all(), []);
    assert_eq!(kept.variables(Some(open(&whole))).all(), all(at));
    // Other segments; no program at all; and where the file is still there, nobody asks for another one.
    let mut other = whole.clone();
    other[64 + 8..64 + 16].copy_from_slice(&1u64.to_le_bytes());
    for other in [&other[..], &small_image()[..100], b"#!/bin/sh\n"] {
        assert_eq!(kept.variables(Some(open(other))).all(), []);
    }
    let binary = GoBinary::read(open(&whole)).unwrap();
    assert_eq!(binary.variables(Some(open(b""))).all(), all(at));
}

#[test]
fn units_and_variables_without_an_end() {
    let (at, table) = (data(), abbreviations());
    let look = |most: usize, sections: &[Section<'_>]| {
        let data = with_sections(sections);
        let image = Image::parse(data.into()).unwrap();
        cheap(most, || Variables::find(&image, &image).all().len())
    };
    // Units of nothing but a variable.
    let mut unit = Info::new(5, GO);
    unit.variable("main.x", at, 0);
    let (unit, addresses) = unit.finish();
    let units = unit.repeat((16 * MIB) / unit.len());
    assert_eq!(look(32 * MIB, &sections(&units, &table, &addresses)), 1);
    // A unit of nothing but variables, each of which has a type of its own that has no end.
    let mut info = Info::new(4, GO);
    let start = info.place();
    for index in 0..100_000 {
        info.variable("m.x", at + index % 64, start + index as u32);
    }
    let (info, _) = info.finish();
    let endless = [&info[..], &[b'a'; 4 * MIB]].concat();
    assert!(look(48 * MIB, &sections(&endless, &table, &[])) <= 64);
    // Each variable has the same long name.
    let mut info = Info::new(4, GO);
    for _ in 0..300_000 {
        info.bytes.extend([8, 0, 0, 0, 0, 9, 3]);
        info.bytes.extend(at.to_le_bytes());
        info.bytes.extend([0; 4]);
    }
    let (info, _) = info.finish();
    for len in [16_000, MIB] {
        let name = [vec![b'a'; len], vec![0]].concat();
        let strings = [(".debug_str", &name[..], false)];
        assert!(look(48 * MIB, &[&sections(&info, &table, &[])[..], &strings].concat()) <= 1);
    }
}

#[test]
fn symbols_without_an_end() {
    let at = data();
    let look = |most: usize, table: &[u8], names: &[u8]| {
        let data = with_sections(&[(".symtab", table, false), (".strtab", names, false)]);
        let image = Image::parse(data.into()).unwrap();
        cheap(most, || Variables::find(&image, &image).all().len())
    };
    let (symbol, _) = symbols(&[(at, 8, OBJECT, "")]);
    let table = [&[1, 0, 0, 0][..], &symbol[4..]].concat().repeat(500_000);
    for (len, end) in [(16_000, 0), (MIB, 0), (16_000, b'a')] {
        let names = [&[0][..], b"main.", &vec![b'a'; len], &[end]].concat();
        assert!(look(64 * MIB, &table, &names) <= 1);
    }
    // Short names: as many as are kept of any program.
    let (all, names) = symbols(&[(at, 8, OBJECT, "main.x")]);
    assert_eq!(look(80 * MIB, &all.repeat(500_000), &names), 1);
}

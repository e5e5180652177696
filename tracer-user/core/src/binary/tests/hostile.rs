//! Files that cost more than they have: sparse ones, tables that are read again for every entry, what grows when it is
//! uncompressed. Each test has a bound on memory and on time; the time is generous, because the checks of a debug build
//! and the other tests take theirs.

use super::super::contents::Contents;
use super::super::dwarf;
use super::super::elf::Image;
use super::super::*;
use crate::testing::binary::{self as synthetic, RECIPES, with_sections};
use crate::testing::peak::peak;
use object::elf::{ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

pub(super) const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(10);

/// Runs `run`, which must need no more memory than `most`, and end soon.
pub(super) fn cheap<T>(most: usize, run: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let (done, used) = peak(run);
    let took = began.elapsed();
    assert!(used <= most, "{} KiB, not {}", used >> 10, most >> 10);
    assert!(took < SOON, "{took:?}");
    done
}

pub(super) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// An ELF header with these segments: link-time address, offset and bytes.
fn header(segments: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    header.extend(words(&[0x40_0000, 64, 0]));
    header.extend([0, 0, 0, 0]);
    for field in [64, 56, segments.len() as u16, 64, 0, 0] {
        header.extend(field.to_le_bytes());
    }
    for (vaddr, offset, len) in segments {
        header.extend([1, 0, 0, 0, 6, 0, 0, 0]);
        header.extend(words(&[*offset, *vaddr, *vaddr, *len, *len, 4096]));
    }
    header
}

pub(super) fn file(content: &[u8], len: u64) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.set_len(len.max(content.len() as u64)).unwrap();
    file
}

#[test]
fn a_sparse_file_without_sections_costs_nothing() {
    let file = file(&header(&[(0x40_0000, 0, 2 << 30)]), 2 << 30);
    let found = cheap(MIB, || identify(&file).unwrap());
    assert_eq!(found, Identified::Unsure);
    let read = cheap(4 * MIB, || GoBinary::read_to_keep(file.try_clone().unwrap()));
    assert!(matches!(read, Err(BinaryError::NotGo)));
    let read = cheap(4 * MIB, || GoBinary::read(file));
    assert!(matches!(read, Err(BinaryError::NotGo)));
}

#[test]
fn a_go_program_with_a_hole_costs_what_is_there() {
    let mut data = synthetic::small_image();
    // A fourth segment, of two gigabytes that are not there; and the writable one goes on into them.
    let at = (data.len() as u64).next_multiple_of(4096);
    data[56] = 4;
    let fourth = 64 + 3 * 56;
    data[fourth..fourth + 8].copy_from_slice(&[1, 0, 0, 0, 6, 0, 0, 0]);
    data[fourth + 8..fourth + 56].copy_from_slice(&words(&[at, 0x7000_0000, 0, 2 << 30, 2 << 30, 4096]));
    let third = 64 + 2 * 56;
    data[third + 32..third + 40].copy_from_slice(&(1u64 << 30).to_le_bytes());
    let file = file(&data, at + (2 << 30));
    let binary = cheap(8 * MIB, || GoBinary::read_to_keep(file.try_clone().unwrap())).unwrap();
    assert_eq!(binary.version().raw, RECIPES[1].version);
    assert!(binary.globals().is_ok() && binary.bytes() < 2 * MIB, "{}", binary.bytes());
    assert_eq!(binary.image().read(0x7000_0000, 8), None);
    assert_eq!(binary.image().tail(0x7000_0000 + (1 << 30)), None);
}

#[test]
fn many_segments_of_the_same_bytes_are_read_once() {
    let segments: Vec<_> = (1..=60).map(|number| (number << 32, 4096 * number, 16 << 20)).collect();
    let mut data = header(&segments);
    data.resize(17 << 20, 1);
    let mut image = Image::headers(Contents::of(file(&data, 0)).unwrap()).unwrap();
    cheap(18 * MIB, || image.load(usize::MAX).unwrap());
    assert!(image.bytes() <= 17 * MIB);
    assert_eq!(image.read(3 << 32, 2), Some(&[1, 1][..]));
}

#[test]
fn a_large_program_that_is_not_go_is_looked_through_by_pieces() {
    let segments = [(0x40_0000, 0, 64 << 20)];
    let mut data = header(&segments);
    // Full of the beginnings of what is looked for.
    while data.len() < 64 << 20 {
        data.resize(data.len().next_multiple_of(16), 0);
        data.extend(b"\xff Go buildinf:\x08\x02");
    }
    let file = file(&data, 0);
    drop(data);
    let read = cheap(8 * MIB, || GoBinary::read_to_keep(file));
    assert!(matches!(read, Err(BinaryError::NotGo)));
}

fn compressed(kind: u32, size: u64, data: &[u8]) -> Vec<u8> {
    let mut section = [kind.to_le_bytes(), [0; 4]].concat();
    section.extend(words(&[size, 1]));
    section.extend(data);
    section
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// A unit of DWARF 5 with these entries, whose abbreviations are at `abbreviations`.
pub(super) fn unit(abbreviations: u32, entries: &[u8]) -> Vec<u8> {
    let mut unit = (entries.len() as u32 + 8).to_le_bytes().to_vec();
    unit.extend([5, 0, 1, 8]);
    unit.extend(abbreviations.to_le_bytes());
    unit.extend(entries);
    unit
}

/// Abbreviations, each with this many attributes of no bytes (`DW_FORM_flag_present`), up to so many bytes.
fn abbreviations(attributes: usize, most: usize) -> Vec<u8> {
    let mut table = Vec::new();
    for code in 1u32.. {
        let mut code = code;
        while code >= 0x80 {
            table.push(code as u8 | 0x80);
            code >>= 7;
        }
        table.extend([code as u8, 0x11, 0]);
        (0..attributes).for_each(|_| table.extend([0x3f, 0x19]));
        table.extend([0, 0]);
        if table.len() + 2 * attributes + 16 > most {
            table.push(0);
            return table;
        }
    }
    table
}

fn offsets(data: Vec<u8>) -> Option<std::collections::HashMap<String, u32>> {
    dwarf::offsets(&Image::headers(Contents::Memory(data.into())).unwrap())
}

#[test]
fn tiny_units_with_a_large_table_of_abbreviations() {
    // Each unit begins its table one abbreviation later, so that none is what another one has.
    let table = abbreviations(0, 400 << 10);
    let mut starts = 0;
    let mut info = Vec::new();
    while info.len() < 446 << 10 {
        info.extend(unit(starts, &[1]));
        starts = (starts + 5) % 200_000;
    }
    let data = with_sections(&[(".debug_info", &info, false), (".debug_abbrev", &table, false)]);
    assert!(data.len() < 900 << 10);
    assert_eq!(cheap(16 * MIB, || offsets(data)), None);
}

#[test]
fn entries_with_many_attributes_of_no_bytes() {
    let table = abbreviations(7_000, 16 << 10);
    let info = unit(0, &vec![1; 8 << 20]);
    let named = unit(0, &[1]);
    let info = [named, info].concat();
    let data = with_sections(&[(".debug_info", &info, false), (".debug_abbrev", &table, false)]);
    assert_eq!(cheap(32 * MIB, || offsets(data)), None);
}

/// A unit that is named `runtime` and goes on with these entries. Abbreviation 1 is the unit, 2 a struct with an inline
/// name, 3 a member of it whose type is at a place in the section, 4 one whose name is in `.debug_str`.
fn runtime(entries: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let table = [
        &[1, 0x11, 1, 0x03, 0x08, 0, 0][..],
        &[2, 0x13, 0, 0x03, 0x08, 0x0b, 0x0b, 0, 0],
        &[3, 0x0d, 0, 0x03, 0x08, 0x38, 0x0b, 0x49, 0x10, 0, 0],
        &[4, 0x0d, 0, 0x03, 0x0e, 0x38, 0x0b, 0, 0],
        &[0],
    ];
    (unit(0, &[b"\x01runtime\0", entries].concat()), table.concat())
}

#[test]
fn a_struct_that_holds_itself() {
    let mut entries = b"\x02runtime.g\0\x08".to_vec();
    // Behind the header and the name of the unit.
    let place = 12 + 9u32;
    for _ in 0..4000 {
        entries.extend(b"\x03a\0\x00");
        entries.extend(place.to_le_bytes());
    }
    let (info, table) = runtime(&entries);
    let data = with_sections(&[(".debug_info", &info, false), (".debug_abbrev", &table, false)]);
    let found = cheap(8 * MIB, || offsets(data)).unwrap();
    assert_eq!(found.get("g._size"), Some(&8));
}

#[test]
fn names_without_an_end() {
    let mut entries = b"\x02runtime.g\0\x08".to_vec();
    for _ in 0..40_000 {
        entries.extend([4, 0, 0, 0, 0, 8]);
    }
    let (info, table) = runtime(&entries);
    let strings = vec![b'a'; 8 << 20];
    let sections = [
        (".debug_info", &info[..], false),
        (".debug_abbrev", &table, false),
        (".debug_str", &strings, false),
    ];
    let data = with_sections(&sections);
    assert_eq!(cheap(8 * MIB, || offsets(data)).unwrap().len(), 1);
}

#[test]
fn what_is_small_only_while_it_is_compressed() {
    let table = abbreviations(0, 64);
    // 63 KiB that become 64 MiB of entries, and less that would become a gigabyte.
    let entries = unit(0, &vec![1; 63 << 20]);
    let zlib = compressed(ELFCOMPRESS_ZLIB.0, entries.len() as u64, &zlib(&entries));
    assert!(zlib.len() < 70 << 10, "{}", zlib.len());
    let huge = compressed(ELFCOMPRESS_ZSTD.0, 1 << 30, &zstd::bulk::compress(&vec![0; 1 << 30], 1).unwrap());
    let liar = compressed(ELFCOMPRESS_ZSTD.0, 1 << 20, &zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap());
    let many = compressed(ELFCOMPRESS_ZLIB.0, 200 << 20, &[0; 100]);
    // As much as zlib could have made of it, which nobody but the header says.
    let claim = compressed(ELFCOMPRESS_ZLIB.0, 200 << 20, &[7; 1 << 20]);
    let few = compressed(ELFCOMPRESS_ZSTD.0, 200 << 20, &zstd::bulk::compress(&[0; 100], 1).unwrap());
    for (info, most) in [(&zlib, 66), (&huge, 2), (&liar, 5), (&many, 2), (&claim, 4), (&few, 3)] {
        let data = with_sections(&[(".debug_info", info, true), (".debug_abbrev", &table, false)]);
        assert_eq!(cheap(most * MIB, || offsets(data)), None);
    }
}

#[test]
fn a_compressed_section_has_as_many_bytes_as_it_says() {
    let (info, table) = runtime(b"\x02runtime.g\0\x08");
    let zstd = |data: &[u8]| zstd::bulk::compress(data, 1).unwrap();
    for kind in [ELFCOMPRESS_ZLIB.0, ELFCOMPRESS_ZSTD.0] {
        let compress = |data: &[u8]| if kind == ELFCOMPRESS_ZLIB.0 { zlib(data) } else { zstd(data) };
        let longer = [&info[..], b"\0"].concat();
        for (bytes, said, found) in
            [(&info, info.len(), true), (&info, info.len() + 1, false), (&longer, info.len(), false)]
        {
            let section = compressed(kind, said as u64, &compress(bytes));
            let data = with_sections(&[(".debug_info", &section, true), (".debug_abbrev", &table, false)]);
            assert_eq!(offsets(data).is_some(), found, "{said} said of {}", bytes.len());
        }
    }
}

#[test]
fn a_known_release_is_read_without_a_look_at_its_dwarf() {
    let (mut info, table) = runtime(b"\x02runtime.g\0\x08");
    info.extend(vec![0xff; 32 << 20]);
    let data = with_sections(&[(".debug_info", &info, false), (".debug_abbrev", &table, false)]);
    let file = file(&data, 0);
    drop((data, info));
    let binary = cheap(4 * MIB, || GoBinary::read(file.try_clone().unwrap())).unwrap();
    assert_eq!(*binary.layout().source(), Source::Table("1.26.6".to_owned()));
    // Somebody else's build of the release is not known, and this DWARF lacks fields.
    let at = {
        let mut start = [0; 8192];
        let read = file.read_at(&mut start, 0).unwrap();
        start[..read].windows(8).position(|text| text == b"go1.26.6").unwrap()
    };
    file.write_all_at(b"go1.26.9", at as u64).unwrap();
    let read = cheap(40 * MIB, || GoBinary::read(file));
    assert!(matches!(read, Err(BinaryError::Unsupported(LayoutError::Unconfirmed { .. }))));
}

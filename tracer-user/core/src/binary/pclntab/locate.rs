//! Where the pclntab begins, and the module data that refers to it.

use super::super::bytes::{u32_at, u64_at};
use super::super::elf::{Arch, Image};
use super::Format;

/// First word of the header in Go 1.18 and 1.19, and from 1.20 on.
const MAGICS: [(u32, Format); 2] = [(0xffff_fff0, Format::Go118), (0xffff_fff1, Format::Go120)];
/// Bytes of the header: six bytes of identification in eight, then eight words.
const HEADER: usize = 72;
/// The sections it has to itself; in position-independent executables that were linked externally
/// by Go up to 1.25 it lies within `.data.rel.ro`.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Places that look like a header and are examined. By chance there is none.
const MAX_CANDIDATES: usize = 64;
/// Functions at most: ten times as many as very large programs have.
const MAX_FUNCTIONS: usize = 4 << 20;
/// Words of `moduledata`, the same from 1.18 to 1.27.
pub(super) const MODULEDATA_TEXT: u64 = 22 * 8;
const MODULEDATA_ETEXT: u64 = 23 * 8;

/// The header's fields, as offsets from its start.
pub(super) struct Header {
    pub(super) format: Format,
    pub(super) quantum: u64,
    pub(super) count: usize,
    pub(super) names: usize,
    pub(super) cu: usize,
    pub(super) files: usize,
    pub(super) pcs: usize,
    pub(super) functab: usize,
}

impl Header {
    pub(super) fn parse(data: &[u8], arch: Arch) -> Option<Header> {
        let magic = u32_at(data, 0)?;
        let (_, format) = *MAGICS.iter().find(|(known, _)| *known == magic)?;
        let quantum = match arch {
            Arch::Amd64 => 1,
            Arch::Arm64 => 4,
        };
        if data.get(4..8)? != [0, 0, quantum, 8] {
            return None;
        }
        // Every table begins behind the header and inside the data.
        let word = |at| u64_at(data, at).and_then(|value| usize::try_from(value).ok());
        let table = |at| word(at).filter(|offset| (HEADER..data.len()).contains(offset));
        let (count, functab) = (word(8)?, table(64)?);
        if count == 0 || count > MAX_FUNCTIONS || count > (data.len() - functab) / 8 {
            return None;
        }
        let (names, cu, files, pcs) = (table(32)?, table(40)?, table(48)?, table(56)?);
        Some(Header { format, quantum: u64::from(quantum), count, names, cu, files, pcs, functab })
    }
}

/// Where a pclntab may begin: its own section, else wherever there is a header.
pub(super) fn candidates(image: &Image) -> impl Iterator<Item = u64> {
    let sections = SECTIONS.iter().filter_map(|name| image.section(name));
    let scanned = image.segments().iter().flat_map(|segment| {
        let data = image.read(segment.vaddr, segment.file_size).unwrap_or_default();
        let headers = data.chunks_exact(8).enumerate().filter(|(_, word)| {
            MAGICS.iter().any(|(magic, _)| word.starts_with(&magic.to_le_bytes()) && word.ends_with(&[8]))
        });
        headers.map(|(index, _)| segment.vaddr + index as u64 * 8)
    });
    sections.chain(scanned).take(MAX_CANDIDATES)
}

/// The address of the `moduledata` whose pclntab stands at `vaddr`: the structure that begins with
/// its address and continues with the slices of its tables.
pub(super) fn moduledata(image: &Image, vaddr: u64, header: &Header) -> Option<u64> {
    let relocated =
        image.relocations().iter().filter(|(_, target)| *target == vaddr).map(|(place, _)| *place);
    let plain = image.segments().iter().filter(|segment| !segment.executable).flat_map(|segment| {
        let data = image.read(segment.vaddr, segment.file_size).unwrap_or_default();
        let words = data.chunks_exact(8).enumerate().filter(move |(_, word)| **word == vaddr.to_le_bytes());
        words.map(|(index, _)| segment.vaddr + index as u64 * 8)
    });
    relocated.chain(plain).find(|place| {
        // funcnametab, cutab, filetab, pctab, pclntable, ftab: a slice of three words each.
        // A relocation may name any place, also one at the end of the address space.
        let word = |into: u64| place.checked_add(into).and_then(|at| image.read_ptr(at));
        let tables = [header.names, header.cu, header.files, header.pcs, header.functab, header.functab];
        let slices = tables.iter().zip((8..).step_by(24));
        slices
            .into_iter()
            .all(|(offset, at)| word(at).is_some() && word(at) == vaddr.checked_add(*offset as u64))
            && word(8 + 5 * 24 + 8) == Some(header.count as u64 + 1)
            && word(MODULEDATA_TEXT) < word(MODULEDATA_ETEXT)
    })
}

/// Whether the binary has a section for it.
pub(super) fn has_section(image: &Image) -> bool {
    SECTIONS.iter().any(|name| image.section(name).is_some())
}

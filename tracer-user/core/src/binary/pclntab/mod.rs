//! The pclntab: names, entries, files, lines and inlining of every Go function. The runtime needs
//! it for tracebacks and for the garbage collector, so every Go binary has it, stripped or not.
//!
//! Layout: `src/runtime/symtab.go` (`pcHeader`, `functab`, `_func`, `inlinedCall`) and
//! `src/cmd/link/internal/ld/pcln.go`; unchanged in form from 1.20 to 1.27.

mod pcvalue;
mod tables;

use super::bytes::{c_string, i32_at, u32_at, u64_at};
use super::elf::{Arch, Image};
use bytes::Bytes;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
pub use tables::Frame;
pub(crate) use tables::{FuncData, PcData};

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
const MODULEDATA_TEXT: u64 = 22 * 8;
const MODULEDATA_ETEXT: u64 = 23 * 8;

/// Why a pclntab cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PclntabError {
    /// No header anywhere in the image.
    #[error("it has no pclntab")]
    Missing,
    /// A header was found, but not what it describes.
    #[error("its pclntab is corrupt: {0}")]
    Corrupt(&'static str),
}

/// How `_func` and the inline tree are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Go118,
    Go120,
}

impl Format {
    /// Offset of `_func.funcID`; `nfuncdata` is three bytes on, the arrays behind that.
    fn func_id(self) -> usize {
        match self {
            Format::Go118 => 36,
            Format::Go120 => 40,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its full name, e.g. `net.(*conn).Read`.
    pub name: &'a str,
    /// Link-time address of its first instruction.
    pub entry: u64,
    /// Link-time address behind its last byte (padding included).
    pub end: u64,
    /// Offset of its `_func` in the table.
    record: usize,
}

/// Function indices by a hash of the name, ordered.
struct Names {
    hasher: RandomState,
    hashed: Vec<(u64, u32)>,
}

/// The table, located and checked. All reads are lazy and bounds-checked.
pub struct Pclntab {
    /// From the header to the end of its segment.
    data: Bytes,
    /// From `go:func.*`, the base of all FUNCDATA, to the end of its segment.
    funcdata: Bytes,
    format: Format,
    quantum: u64,
    count: usize,
    text: u64,
    names: usize,
    cu: usize,
    files: usize,
    pcs: usize,
    functab: usize,
    by_name: OnceLock<Names>,
    /// `FuncIDWrapper` of this version.
    wrapper: OnceLock<u8>,
}

impl Pclntab {
    /// Finds the pclntab and the module data that refers to it. `gofunc` is the offset of
    /// `moduledata.gofunc` in this version of Go.
    ///
    /// # Errors
    /// [`PclntabError`], also when the table is there and its module data is not: without it
    /// neither addresses nor inlining can be told from Go 1.26 on.
    pub(crate) fn locate(image: &Image, gofunc: u32) -> Result<Pclntab, PclntabError> {
        let mut verdict = PclntabError::Missing;
        for vaddr in candidates(image) {
            match Pclntab::at(image, vaddr, gofunc) {
                Ok(found) => return Ok(found),
                Err(error) => verdict = error,
            }
        }
        Err(verdict)
    }

    /// Whether there is a pclntab, of a version that can be read or an older one.
    pub(super) fn is_in(image: &Image) -> bool {
        has_section(image)
            || candidates(image).any(|vaddr| {
                image.tail(vaddr).is_some_and(|data| Header::parse(&data, image.arch()).is_some())
            })
    }

    fn at(image: &Image, vaddr: u64, gofunc: u32) -> Result<Pclntab, PclntabError> {
        let corrupt = PclntabError::Corrupt;
        let data = image.tail(vaddr).ok_or(corrupt("it lies outside the file"))?;
        let header = Header::parse(&data, image.arch()).ok_or(corrupt("its header makes no sense"))?;
        let module = moduledata(image, vaddr, &header).ok_or(corrupt("no module data refers to it"))?;
        let read = |offset| module.checked_add(offset).and_then(|at| image.read_ptr(at));
        let text = read(MODULEDATA_TEXT).ok_or(corrupt("the module data has no text"))?;
        let funcdata = read(u64::from(gofunc))
            .and_then(|vaddr| image.tail(vaddr))
            .ok_or(corrupt("the module data has no function data"))?;
        let table = Pclntab {
            funcdata,
            format: header.format,
            quantum: header.quantum,
            count: header.count,
            text,
            names: header.names,
            cu: header.cu,
            files: header.files,
            pcs: header.pcs,
            functab: header.functab,
            by_name: OnceLock::new(),
            wrapper: OnceLock::new(),
            data,
        };
        table.check_order(image)?;
        Ok(table)
    }

    /// Entries ascend and end within the code: what bounds every walk below.
    fn check_order(&self, image: &Image) -> Result<(), PclntabError> {
        let mut last = 0;
        for index in 0..=self.count {
            let entry =
                self.entry_offset(index).ok_or(PclntabError::Corrupt("its function table is cut off"))?;
            if entry < last {
                return Err(PclntabError::Corrupt("its function table is not in order"));
            }
            last = entry;
        }
        let end = self.text.checked_add(u64::from(last));
        let inside = image.segments().iter().filter(|segment| segment.executable).any(|segment| {
            self.text >= segment.vaddr && end.is_some_and(|end| end - segment.vaddr <= segment.file_size)
        });
        inside.then_some(()).ok_or(PclntabError::Corrupt("its functions lie outside the code"))
    }

    /// Offset of a function's entry from the text base; at `count`, the end of the last one.
    fn entry_offset(&self, index: usize) -> Option<u32> {
        u32_at(&self.data, self.functab + index * 8)
    }

    fn function(&self, index: usize) -> Option<Function<'_>> {
        let entry = self.text + u64::from(self.entry_offset(index)?);
        let end = self.text + u64::from(self.entry_offset(index + 1)?);
        let record = self.functab + u32_at(&self.data, self.functab + index * 8 + 4)? as usize;
        Some(Function { name: self.name(i32_at(&self.data, record + 4)?), entry, end, record })
    }

    /// The string at an offset of the name table; `?` where it is no text.
    fn name(&self, offset: i32) -> &str {
        usize::try_from(offset)
            .ok()
            .and_then(|offset| c_string(&self.data, self.names + offset))
            .and_then(|name| std::str::from_utf8(name).ok())
            .unwrap_or("?")
    }

    /// All functions in the order of their addresses.
    pub fn functions(&self) -> impl Iterator<Item = Function<'_>> {
        (0..self.count).filter_map(|index| self.function(index))
    }

    /// The function of this name. Where an assembly wrapper shares the name of the function that
    /// it calls, the latter: `FuncIDWrapper` is the largest function id in every version.
    pub fn find(&self, name: &str) -> Option<Function<'_>> {
        let names = self.by_name.get_or_init(|| self.hash_names());
        let hash = names.hasher.hash_one(name);
        let start = names.hashed.partition_point(|(other, _)| *other < hash);
        (names.hashed.iter().skip(start))
            .take_while(|(other, _)| *other == hash)
            .filter_map(|(_, index)| self.function(*index as usize))
            .filter(|function| function.name == name)
            .min_by_key(|function| self.data.get(function.record + self.format.func_id()))
    }

    fn hash_names(&self) -> Names {
        let hasher = RandomState::new();
        let names = self.functions().map(|function| hasher.hash_one(function.name));
        let mut hashed: Vec<_> = names.zip(0u32..).collect();
        hashed.sort_unstable();
        Names { hasher, hashed }
    }

    /// The function whose code contains a link-time address.
    pub fn function_at(&self, pc: u64) -> Option<Function<'_>> {
        let offset = u32::try_from(pc.checked_sub(self.text)?).ok()?;
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entry_offset(middle + 1)? <= offset {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.function(low).filter(|function| function.entry <= pc && pc < function.end)
    }

    fn file(&self, function: &Function<'_>, index: i32) -> Option<&str> {
        let base = u32_at(&self.data, function.record + 32)? as usize;
        let index = base.checked_add(usize::try_from(index).ok()?)?;
        let offset = u32_at(&self.data, self.cu.checked_add(index.checked_mul(4)?)?)?;
        std::str::from_utf8(c_string(&self.data, self.files.checked_add(offset as usize)?)?).ok()
    }

    /// The entry of the function that the wrapper at `entry` was made for: `go f(x)` starts a
    /// closure that holds `x` and calls `f`. `None`: there is no such wrapper at `entry`.
    pub(crate) fn wrapped(&self, entry: u64) -> Option<u64> {
        let wrapper = self.function_at(entry)?;
        let offset = u32_at(self.funcdata(&wrapper, FuncData::WrapInfo)?, 0)?;
        let entry = self.text.checked_add(u64::from(offset))?;
        (self.function_at(entry)?.entry == entry).then_some(entry)
    }
}

/// The header's fields, as offsets from its start.
struct Header {
    format: Format,
    quantum: u64,
    count: usize,
    names: usize,
    cu: usize,
    files: usize,
    pcs: usize,
    functab: usize,
}

impl Header {
    fn parse(data: &[u8], arch: Arch) -> Option<Header> {
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
fn candidates(image: &Image) -> impl Iterator<Item = u64> {
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
fn moduledata(image: &Image, vaddr: u64, header: &Header) -> Option<u64> {
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
fn has_section(image: &Image) -> bool {
    SECTIONS.iter().any(|name| image.section(name).is_some())
}

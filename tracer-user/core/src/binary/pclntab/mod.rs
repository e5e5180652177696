//! The pclntab: names, entries, files, lines and inlining of every Go function. Every Go binary has it, stripped or
//! not, because the runtime needs it for tracebacks and garbage collection.
//!
//! Layout: `src/runtime/symtab.go` (`pcHeader`, `functab`, `_func`, `inlinedCall`) and
//! `src/cmd/link/internal/ld/pcln.go`; unchanged in form from 1.20 to 1.27.

mod pcvalue;
mod tables;

use super::bytes::{c_string, i32_at, u32_at, u64_at};
use super::elf::{Arch, Image};
use bytes::Bytes;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::OnceLock;
pub use tables::Frame;
pub(crate) use tables::{FuncData, PcData};

/// First word of the header: Go 1.18 and 1.19, and from 1.20 on.
const MAGICS: [(u32, Format); 2] = [(0xffff_fff0, Format::Go118), (0xffff_fff1, Format::Go120)];
/// Bytes of the header: eight of identification, then eight words. No table begins before; since 1.26 the first one
/// begins right here.
const HEADER: usize = 72;
/// Sections that hold nothing but the pclntab. In an externally linked position-independent executable of Go up to 1.25
/// it lies within `.data.rel.ro` and is found by its magic.
const SECTIONS: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
/// Most places with the magic that are examined. A real file has one; a hostile one may be full of them.
const MAX_CANDIDATES: usize = 64;
/// Most functions: ten times as many as very large programs have.
const MAX_FUNCTIONS: usize = 4 << 20;
/// How many times longer the names of all functions are together than the table with everything in it.
const MAX_NAMES_RATIO: usize = 4;
/// Offsets of `text` and `etext` in `moduledata`, the same from 1.18 to 1.27.
const MODULEDATA_TEXT: u64 = 22 * 8;
const MODULEDATA_ETEXT: u64 = 23 * 8;

/// Why the pclntab cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PclntabError {
    /// No section and no segment holds a header.
    #[error("it has no pclntab")]
    Missing,
    /// A header was found, but what it describes is missing or contradicts itself; the text says how.
    #[error("its pclntab is corrupt: {0}")]
    Corrupt(&'static str),
}

/// The form of `_func` and of the inline tree, by the first release with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Go118,
    Go120,
}

impl Format {
    /// Offset of `_func.funcID`. `flag` is one byte on, `nfuncdata` three, and the arrays of offsets four.
    fn func_id(self) -> usize {
        match self {
            Format::Go118 => 36,
            Format::Go120 => 40,
        }
    }
}

/// A function of the table: code that was compiled as one, with what was inlined into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Full name, as the linker has it: `net.(*conn).Read`.
    pub name: &'a str,
    /// Link-time address of the first instruction.
    pub entry: u64,
    /// Link-time address of the next function: behind the last byte, padding included.
    pub end: u64,
    /// Offset of the `_func` from the header.
    record: usize,
}

/// Function indices, ordered by the hash of the name. The hasher is seeded, so a hostile binary cannot choose names
/// that collide.
struct Names {
    hasher: RandomState,
    hashed: Vec<(u64, u32)>,
}

/// The pclntab, located and its order checked. Every lookup reads the file's bytes anew and checks its bounds.
pub struct Pclntab {
    /// The file from the header to the end of the segment: the table does not say how long it is.
    data: Bytes,
    /// The file from `go:func.*`, the base of all FUNCDATA, to the end of the segment.
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
    /// [`Pclntab::wrapper_id`], found on first use by a walk over all functions.
    wrapper: OnceLock<u8>,
}

impl Pclntab {
    /// Finds the pclntab and the module data that refers to it. `gofunc` is the offset of `moduledata.gofunc` in this
    /// version of Go.
    ///
    /// # Errors
    /// [`PclntabError`], also if only the module data is missing: it alone has the text base and the base of FUNCDATA
    /// since Go 1.26.
    pub(crate) fn locate(image: &Image, gofunc: u32) -> Result<Pclntab, PclntabError> {
        let mut verdict = PclntabError::Missing;
        for vaddr in candidates(image) {
            match Pclntab::at(image, vaddr, gofunc) {
                Ok(found) => return Ok(found),
                // A corrupt candidate does not end the search: the magic may occur by chance before the real table.
                Err(error) => verdict = error,
            }
        }
        Err(verdict)
    }

    /// Link-time addresses of what may be the module data of a pclntab: one in any real file.
    pub(super) fn modules(image: &Image) -> impl Iterator<Item = u64> {
        candidates(image).filter_map(|vaddr| {
            let data = image.tail(vaddr)?;
            moduledata(image, vaddr, &Header::parse(&data, data.len(), image.arch())?)
        })
    }

    /// Whether the image has a pclntab, even one whose module data is missing; tells a Go program from another one.
    pub(super) fn is_in(image: &Image) -> bool {
        let mut left = MAX_CANDIDATES;
        has_section(image)
            || image.segments().iter().any(|segment| {
                let found = image.scan(segment, 8, |vaddr, piece| {
                    magics(piece).take_while(|_| left.checked_sub(1).map(|less| left = less).is_some()).find(
                        |into| {
                            let room = segment.file_size - (vaddr - segment.vaddr + *into as u64);
                            let room = usize::try_from(room).unwrap_or(usize::MAX);
                            let header = piece.get(*into..).unwrap_or_default();
                            Header::parse(header, room, image.arch()).is_some()
                        },
                    )
                });
                found.is_some()
            })
    }

    fn at(image: &Image, vaddr: u64, gofunc: u32) -> Result<Pclntab, PclntabError> {
        let corrupt = PclntabError::Corrupt;
        let data = image.tail(vaddr).ok_or(corrupt("it lies outside the file"))?;
        let header =
            Header::parse(&data, data.len(), image.arch()).ok_or(corrupt("its header makes no sense"))?;
        let module = moduledata(image, vaddr, &header).ok_or(corrupt("no module data refers to it"))?;
        let read = |offset| module.checked_add(offset).and_then(|at| image.read_ptr(at));
        // The text base is only here: since 1.26 `textStart` in the header is 0.
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

    /// Checks that entries ascend and end within the code. Binary searches and `function.end - function.entry` rely on
    /// it.
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

    /// Offset of a function's entry from the text base; at index `count`, the end of the last function.
    fn entry_offset(&self, index: usize) -> Option<u32> {
        u32_at(&self.data, self.functab + index * 8)
    }

    fn function(&self, index: usize) -> Option<Function<'_>> {
        let entry = self.text + u64::from(self.entry_offset(index)?);
        let end = self.text + u64::from(self.entry_offset(index + 1)?);
        let record = self.functab + u32_at(&self.data, self.functab + index * 8 + 4)? as usize;
        Some(Function { name: self.name(i32_at(&self.data, record + 4)?), entry, end, record })
    }

    /// The string at an offset of the name table; `?` for bytes that are no text.
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

    /// The function of this name. If an ABI wrapper shares the name with the function that it calls, the function:
    /// `FuncIDWrapper` is the largest function id in every version.
    pub fn find(&self, name: &str) -> Option<Function<'_>> {
        let names = self.by_name.get_or_init(|| self.hash_names());
        let hash = names.hasher.hash_one(name);
        let start = names.hashed.partition_point(|(other, _)| *other < hash);
        (names.hashed.iter().skip(start))
            .take_while(|(other, _)| *other == hash)
            .filter_map(|(_, index)| self.function(*index as usize))
            // Different names may have one hash, so compare the names, too.
            .filter(|function| function.name == name)
            .min_by_key(|function| self.data.get(function.record + self.format.func_id()))
    }

    fn hash_names(&self) -> Names {
        let hasher = RandomState::new();
        // Functions may share a name, but not all of them a long one.
        let mut left = self.data.len().saturating_mul(MAX_NAMES_RATIO);
        let names = self.functions().map_while(|function| {
            left = left.checked_sub(function.name.len())?;
            Some(hasher.hash_one(function.name))
        });
        let mut hashed: Vec<_> = names.zip(0u32..).collect();
        hashed.sort_unstable();
        Names { hasher, hashed }
    }

    /// Link-time addresses of all functions, from the first byte of the first one to the end of the last one.
    pub(crate) fn code(&self) -> Range<u64> {
        self.text..self.text + u64::from(self.entry_offset(self.count).unwrap_or(0))
    }

    /// The function whose code contains a link-time address; a binary search. `None`: not Go code.
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
        // The index is `_func.cuOffset` (at 32) plus the value of `pcfile`: file numbers are local to a compilation
        // unit.
        let base = u32_at(&self.data, function.record + 32)? as usize;
        let index = base.checked_add(usize::try_from(index).ok()?)?;
        let offset = u32_at(&self.data, self.cu.checked_add(index.checked_mul(4)?)?)?;
        std::str::from_utf8(c_string(&self.data, self.files.checked_add(offset as usize)?)?).ok()
    }

    /// The entry of the function that the `go` statement's wrapper at `entry` calls: `go f(x)` starts a closure that
    /// holds `x` and calls `f`. `None`: no such wrapper begins at `entry`.
    pub(crate) fn wrapped(&self, entry: u64) -> Option<u64> {
        let wrapper = self.function_at(entry)?;
        let offset = u32_at(self.funcdata(&wrapper, FuncData::WrapInfo)?, 0)?;
        let entry = self.text.checked_add(u64::from(offset))?;
        // A wrapper's target is an entry; an offset into the middle of a function means a corrupt table.
        (self.function_at(entry)?.entry == entry).then_some(entry)
    }
}

/// The `pcHeader`. All but `format`, `quantum` and `count` are offsets from its start.
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
    /// From the bytes at its beginning; `room`: how many there are to the end of the segment.
    fn parse(data: &[u8], room: usize, arch: Arch) -> Option<Header> {
        let magic = u32_at(data, 0)?;
        let (_, format) = *MAGICS.iter().find(|(known, _)| *known == magic)?;
        let quantum = match arch {
            Arch::Amd64 => 1,
            Arch::Arm64 => 4,
        };
        // `minLC` and `ptrSize` make a chance match of the magic unlikely.
        if data.get(4..8)? != [0, 0, quantum, 8] {
            return None;
        }
        // Every table begins behind the header and within the data, so later sums of offsets start in bounds.
        let word = |at| u64_at(data, at).and_then(|value| usize::try_from(value).ok());
        let table = |at| word(at).filter(|offset| (HEADER..room).contains(offset));
        let (count, functab) = (word(8)?, table(64)?);
        if count == 0 || count > MAX_FUNCTIONS || count > (room - functab) / 8 {
            return None;
        }
        let (names, cu, files, pcs) = (table(32)?, table(40)?, table(48)?, table(56)?);
        Some(Header { format, quantum: u64::from(quantum), count, names, cu, files, pcs, functab })
    }
}

/// Link-time addresses at which a pclntab may begin: its section, then every aligned magic in the segments.
fn candidates(image: &Image) -> impl Iterator<Item = u64> {
    let sections = SECTIONS.iter().filter_map(|name| image.section(name));
    let scanned = image.segments().iter().flat_map(|segment| {
        image.parts(segment).flat_map(|(vaddr, data)| magics(data).map(move |into| vaddr + into as u64))
    });
    sections.chain(scanned).take(MAX_CANDIDATES)
}

/// Where in these bytes a header may begin.
fn magics(data: &[u8]) -> impl Iterator<Item = usize> {
    let headers = data.chunks_exact(8).enumerate().filter(|(_, word)| {
        MAGICS.iter().any(|(magic, _)| word.starts_with(&magic.to_le_bytes()) && word.ends_with(&[8]))
    });
    headers.map(|(index, _)| index * 8)
}

/// The link-time address of the `moduledata` of the pclntab at `vaddr`: a struct that begins with the address `vaddr`
/// and goes on with slices of the tables. In a position-independent executable that address is only in a relocation.
fn moduledata(image: &Image, vaddr: u64, header: &Header) -> Option<u64> {
    let relocated =
        image.relocations().iter().filter(|(_, target)| *target == vaddr).map(|(place, _)| *place);
    let plain = image.segments().iter().filter(|segment| !segment.executable).flat_map(|segment| {
        image.parts(segment).flat_map(move |(at, data)| {
            let words = data.chunks_exact(8).enumerate();
            let words = words.filter(move |(_, word)| **word == vaddr.to_le_bytes());
            words.map(move |(index, _)| at + index as u64 * 8)
        })
    });
    relocated.chain(plain).find(|place| {
        // funcnametab, cutab, filetab, pctab, pclntable, ftab: a slice of three words each.
        // A hostile relocation may name any place, also one at the end of the address space.
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

fn has_section(image: &Image) -> bool {
    SECTIONS.iter().any(|name| image.section(name).is_some())
}

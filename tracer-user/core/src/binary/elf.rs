//! The ELF image: which bytes of the file the kernel maps at which address.
//!
//! Program headers are required, because the kernel needs them; sections are a hint that `strip` or a packer may have
//! removed. [`Image::read_ptr`] applies relative relocations, because in a position-independent executable the pointers
//! of the data are only in the relocation table.

use super::bytes::{array, c_string, u32_at, u64_at};
use super::contents::Contents;
use crate::budget::{self, Exhausted};
use bytes::Bytes;
use object::LittleEndian;
use object::elf::{
    DT_RELA, DT_RELASZ, ELFCLASS32, ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD, ELFDATA2MSB, ELFMAG, EM_AARCH64,
    EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, NT_GNU_BUILD_ID, PF_W, PF_X, PT_DYNAMIC, PT_LOAD,
    R_AARCH64_RELATIVE, R_X86_64_RELATIVE, SHF_COMPRESSED, SHT_NOBITS,
};
use object::read::elf::FileHeader;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::OnceLock;

/// Most `PT_LOAD` segments; linkers make fewer than ten. Every lookup by address goes through all of them.
const MAX_SEGMENTS: usize = 64;
/// Granularity to which [`Image::code`] rounds. Kernels with larger pages map at multiples of it, too.
const PAGE: u64 = 4096;
/// Program headers that are read; linkers make about ten.
const MAX_PROGRAMS: u64 = 1 << 10;
/// Bytes of all segments together, without long holes. The largest Go programs map a few hundred megabytes.
const MAX_MAPPED: u64 = 1 << 30;
/// Bytes that are looked through for what the section table does not tell. Build information stands at the beginning of
/// the writable data.
const MAX_SCANNED: u64 = 256 << 20;
/// Bytes that are looked through at once, and by how many two pieces overlap: what is looked for begins within one and
/// has no more.
const PIECE: u64 = 1 << 20;
const OVERLAP: u64 = 4 << 10;
/// Bytes of the names of all sections.
const MAX_NAMES: u64 = 1 << 20;
/// Bytes of a relocation table. A large position-independent program has half a million relocations, 12 MB.
const MAX_RELOCATIONS: u64 = 256 << 20;
/// Bytes of `Elf64_Ehdr`, `Elf64_Phdr`, `Elf64_Shdr` and `Elf64_Chdr`.
const HEADER: u64 = 64;
const PROGRAM: usize = 56;
const SECTION: usize = 64;
const COMPRESSION: usize = 24;
/// Bytes by which what was compressed grows while it is read.
const GROWTH: usize = 1 << 20;
/// Largest window of zstd, as a power of two: what every decoder has to support (RFC 8878, 3.1.1.1.2). Linkers use
/// 2 MiB.
const MAX_WINDOW: u32 = 23;
/// Most sections that are searched for a name; a Go executable has about forty.
const MAX_SECTIONS: usize = 1024;
/// Bytes of the GNU build id's section, and of the id itself; linkers write 20 or fewer.
const MAX_NOTE: u64 = 4096;
const MAX_BUILD_ID: u32 = 64;
/// `sizeof(Elf64_Rela)`: offset, info, addend.
const RELA: usize = 24;
/// `sizeof(Elf64_Dyn)`: tag, value.
const DYN: usize = 16;

/// The processors that sfgi supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Arch {
    /// The value of `GOARCH`.
    pub fn go_name(self) -> &'static str {
        match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
        }
    }
}

/// Why a file is no usable ELF image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// The file does not begin with `\x7fELF`.
    #[error("it is not an ELF file")]
    NotElf,
    /// `e_ident` says `ELFCLASS32`.
    #[error("it is a 32-bit program; only 64-bit programs are supported")]
    ThirtyTwoBit,
    /// `e_ident` says `ELFDATA2MSB`.
    #[error("it is a big-endian program; only little-endian programs are supported")]
    BigEndian,
    /// Neither x86-64 nor AArch64; the number is `e_machine`.
    #[error("it is a program for an unsupported processor (ELF machine {0}); amd64 and arm64 are supported")]
    Machine(u16),
    /// Neither `ET_EXEC` nor `ET_DYN`; the number is `e_type`.
    #[error("it is not an executable (ELF type {0})")]
    Type(u16),
    /// The file ends before the named part, which its headers announce.
    #[error("it is a truncated ELF file: {0} lies behind its end")]
    Truncated(&'static str),
    /// The headers contradict themselves; the text says how.
    #[error("it is a corrupt ELF file: {0}")]
    Corrupt(&'static str),
}

/// A `PT_LOAD` program header: one range of the file that the kernel maps. [`Image::parse`] has checked that neither
/// `offset + file_size` nor `vaddr + file_size` overflows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub vaddr: u64,
    pub offset: u64,
    /// Bytes that come from the file; the rest of `memory_size` is zero (`.bss`).
    pub file_size: u64,
    pub memory_size: u64,
    pub executable: bool,
    pub writable: bool,
}

impl Segment {
    fn contains(&self, vaddr: u64) -> bool {
        vaddr.checked_sub(self.vaddr).is_some_and(|into| into < self.file_size)
    }
}

/// A stretch of the file that is in memory.
struct Extent {
    offset: u64,
    data: Bytes,
}

impl Extent {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// A section header, as far as it is used.
struct Section {
    name: String,
    addr: u64,
    offset: u64,
    size: u64,
    compressed: bool,
    /// It has no bytes in the file.
    empty: bool,
}

/// An executable file, as the kernel maps it.
pub struct Image {
    /// What is mapped from the file, by offset; empty before [`Image::load`].
    extents: Vec<Extent>,
    /// The whole file, for sections. `None` after [`Image::forget_file`].
    file: Option<Contents>,
    /// The section table, read on first use.
    sections: OnceLock<Vec<Section>>,
    /// The GNU build id, read on first use and before [`Image::forget_file`] drops the section that holds it.
    build_id: OnceLock<Option<String>>,
    arch: Arch,
    pie: bool,
    entry: u64,
    segments: Vec<Segment>,
    /// File offset and size of `PT_DYNAMIC`.
    dynamic: Option<(u64, u64)>,
    relocations: OnceLock<Vec<(u64, u64)>>,
}

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Elf(#[from] ElfError),
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// It maps more than [`MAX_MAPPED`]: so many bytes.
    #[error("it maps {0} bytes")]
    TooLarge(u64),
}

impl Image {
    /// Reads the headers of a whole ELF file that is in memory.
    ///
    /// # Errors
    /// [`ElfError`] says what is wrong with the file. A missing or broken section table is no error.
    pub fn parse(data: Bytes) -> Result<Image, ElfError> {
        let loaded = Image::headers(Contents::Memory(data)).and_then(|mut image| {
            image.load(usize::MAX)?;
            Ok(image)
        });
        loaded.map_err(|error| match error {
            ImageError::Elf(error) => error,
            // Memory fails no read and is counted already.
            ImageError::Io(_) | ImageError::Exhausted(_) | ImageError::TooLarge(_) => {
                ElfError::Corrupt("its segments are larger than any program")
            }
        })
    }

    /// Reads the headers of an ELF file, and nothing else.
    ///
    /// # Errors
    /// As [`Image::parse`], or the file cannot be read.
    pub(crate) fn headers(file: Contents) -> Result<Image, ImageError> {
        let head = file.read(0, HEADER)?;
        let header = file_header(&head)?;
        let arch = match header.e_machine(LittleEndian) {
            EM_X86_64 => Arch::Amd64,
            EM_AARCH64 => Arch::Arm64,
            other => return Err(ElfError::Machine(other.0).into()),
        };
        let file_type = header.e_type(LittleEndian);
        if file_type != ET_EXEC && file_type != ET_DYN {
            return Err(ElfError::Type(file_type.0).into());
        }
        let truncated = || ElfError::Truncated("the program header table");
        let count = u64::from(header.e_phnum(LittleEndian));
        if count > MAX_PROGRAMS {
            return Err(ElfError::Corrupt("it has more segments than any program").into());
        }
        if count > 0 && usize::from(header.e_phentsize(LittleEndian)) != PROGRAM {
            return Err(truncated().into());
        }
        let size = count * PROGRAM as u64;
        let programs = file.read(header.e_phoff(LittleEndian), size)?;
        if (programs.len() as u64) < size {
            return Err(truncated().into());
        }
        let mut segments = Vec::new();
        let mut dynamic = None;
        for program in programs.chunks_exact(PROGRAM) {
            let word = |at| u64_at(program, at).unwrap_or(0);
            let (offset, vaddr, size) = (word(8), word(16), word(32));
            match u32_at(program, 0) {
                Some(kind) if kind == PT_LOAD.0 && segments.len() == MAX_SEGMENTS => {
                    return Err(ElfError::Corrupt("it has more segments than any program").into());
                }
                Some(kind) if kind == PT_LOAD.0 => {
                    // Checked once here: later sums of these fields need no check.
                    let end = offset.checked_add(size).ok_or(ElfError::Corrupt("a segment wraps around"))?;
                    if end > file.len() {
                        return Err(ElfError::Truncated("a segment").into());
                    }
                    vaddr.checked_add(size).ok_or(ElfError::Corrupt("a segment wraps around"))?;
                    let flags = u32_at(program, 4).unwrap_or(0);
                    segments.push(Segment {
                        vaddr,
                        offset,
                        file_size: size,
                        memory_size: word(40),
                        executable: flags & PF_X.0 != 0,
                        writable: flags & PF_W.0 != 0,
                    });
                }
                Some(kind) if kind == PT_DYNAMIC.0 => dynamic = Some((offset, size)),
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(ElfError::Corrupt("it has no segment to load").into());
        }
        let entry = header.e_entry(LittleEndian);
        Ok(Image {
            extents: Vec::new(),
            file: Some(file),
            sections: OnceLock::new(),
            build_id: OnceLock::new(),
            arch,
            pie: file_type == ET_DYN,
            entry,
            segments,
            dynamic,
            relocations: OnceLock::new(),
        })
    }

    /// Reads what the kernel maps of the file, if that has no more than `most` bytes. What lies in long holes of the
    /// file reads as if it were not there.
    ///
    /// # Errors
    /// It has more, the file cannot be read, or the budget does not allow it.
    pub(super) fn load(&mut self, most: usize) -> Result<(), ImageError> {
        let Some(file) = &self.file else { return Ok(()) };
        // Segments may overlap: many may map the same gigabyte.
        let mut ranges: Vec<Range<u64>> =
            self.segments.iter().map(|segment| segment.offset..segment.offset + segment.file_size).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            match merged.last_mut().filter(|last| range.start <= last.end) {
                Some(last) => last.end = last.end.max(range.end),
                None => merged.push(range),
            }
        }
        let mut stretches = Vec::new();
        for range in merged {
            stretches.extend(file.stretches(range)?);
        }
        let total: u64 = stretches.iter().map(|stretch| stretch.end - stretch.start).sum();
        if total > MAX_MAPPED {
            return Err(ImageError::TooLarge(total));
        }
        if matches!(file, Contents::File { .. }) {
            let needed = usize::try_from(total).unwrap_or(usize::MAX);
            budget::check(needed)?;
            if needed > most {
                return Err(Exhausted { limit: budget::limit() }.into());
            }
        }
        for stretch in stretches {
            let data = file.read(stretch.start, stretch.end - stretch.start)?;
            if (data.len() as u64) < stretch.end - stretch.start {
                return Err(ElfError::Truncated("a segment").into());
            }
            self.extents.push(Extent { offset: stretch.start, data });
        }
        Ok(())
    }

    /// A separate debug file, of which only the sections count: its program headers describe the executable that it was
    /// split from, not the bytes in it.
    pub(super) fn debug_file(file: Contents, arch: Arch) -> Option<Image> {
        file_header(&file.read(0, HEADER).ok()?).ok()?;
        Some(Image {
            extents: Vec::new(),
            file: Some(file),
            sections: OnceLock::new(),
            build_id: OnceLock::new(),
            arch,
            pie: false,
            entry: 0,
            segments: Vec::new(),
            dynamic: None,
            relocations: OnceLock::new(),
        })
    }

    /// Drops the whole file. From then on no section is found; the build id stays known.
    pub(super) fn forget_file(&mut self) {
        // The build id's section is about to go.
        let _ = self.build_id();
        self.file = None;
        self.sections = OnceLock::new();
    }

    /// Whether sections can be read: [`Image::forget_file`] was not called.
    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Whether the other one has the same headers and the same build id: the same file, for all that can be told
    /// without reading it.
    pub(super) fn is_same(&self, other: &Image) -> bool {
        (self.entry, &self.segments, self.build_id()) == (other.entry, &other.segments, other.build_id())
    }

    /// Bytes that it keeps in memory.
    pub fn bytes(&self) -> usize {
        self.extents.iter().map(|extent| extent.data.len()).sum()
    }

    /// Looks through a segment, also before [`Image::load`]: `look` gets pieces with their link-time addresses, each of
    /// which begins at a multiple of `align` and overlaps the next one by 4 KiB, until it gives something. Not more
    /// than a bounded number of bytes is looked through, and no long holes.
    pub(super) fn scan<T>(
        &self,
        segment: &Segment,
        align: u64,
        mut look: impl FnMut(u64, &[u8]) -> Option<T>,
    ) -> Option<T> {
        let file = self.file.as_ref()?;
        let stretches = file.stretches(segment.offset..segment.offset + segment.file_size).ok()?;
        let mut left = MAX_SCANNED;
        for stretch in stretches {
            // Relative to the segment: what is looked for is aligned in memory.
            let mut at = segment.offset + (stretch.start - segment.offset).next_multiple_of(align);
            while at < stretch.end && left > 0 {
                let len = (stretch.end - at).min(PIECE + OVERLAP);
                let piece = file.read(at, len).ok()?;
                let found = look(segment.vaddr + (at - segment.offset), &piece);
                if found.is_some() || (piece.len() as u64) < len {
                    return found;
                }
                left = left.saturating_sub(PIECE);
                at += PIECE;
            }
        }
        None
    }

    /// Up to `most` bytes from a link-time address to the end of its segment, also before [`Image::load`].
    pub(super) fn beginning(&self, vaddr: u64, most: u64) -> Option<Bytes> {
        let segment = self.segment_at(vaddr)?;
        let into = vaddr - segment.vaddr;
        self.file.as_ref()?.read(segment.offset + into, (segment.file_size - into).min(most)).ok()
    }

    /// The parts of a segment that are in memory, with their link-time addresses.
    pub(super) fn parts(&self, segment: &Segment) -> impl Iterator<Item = (u64, &[u8])> {
        let (start, end, vaddr) = (segment.offset, segment.offset + segment.file_size, segment.vaddr);
        self.extents.iter().filter_map(move |extent| {
            let (from, to) = (extent.offset.max(start), extent.end().min(end));
            let bytes = extent
                .data
                .get(usize::try_from(from.checked_sub(extent.offset)?).ok()?..)?
                .get(..usize::try_from(to.checked_sub(from)?).ok()?)?;
            Some((vaddr + (from - start), bytes))
        })
    }

    /// The stretch in memory that holds the byte at a file offset, and where that is in it.
    fn extent_at(&self, offset: u64) -> Option<(&Extent, usize)> {
        let behind = self.extents.partition_point(|extent| extent.offset <= offset);
        let extent = self.extents.get(behind.checked_sub(1)?)?;
        let into = usize::try_from(offset - extent.offset).ok()?;
        (into < extent.data.len()).then_some((extent, into))
    }

    /// The processor that `e_machine` names.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Whether the kernel may load it at any address (`ET_DYN`).
    pub fn pie(&self) -> bool {
        self.pie
    }

    /// Link-time address of the entry point.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Whether all `len` bytes at a link-time address lie in one writable segment, `.bss` included: where variables
    /// are.
    pub(super) fn is_writable(&self, vaddr: u64, len: u64) -> bool {
        self.segments.iter().filter(|segment| segment.writable).any(|segment| {
            let room =
                // `memory_size`, not `file_size`: most variables of the runtime are in `.bss`.
                vaddr.checked_sub(segment.vaddr).and_then(|into| segment.memory_size.checked_sub(into));
            room.is_some_and(|room| len <= room)
        })
    }

    fn segment_at(&self, vaddr: u64) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.contains(vaddr))
    }

    /// The file offset of a link-time address, which is what a uprobe is attached to. `None`: not mapped from the file.
    pub fn file_offset(&self, vaddr: u64) -> Option<u64> {
        let segment = self.segment_at(vaddr)?;
        segment.offset.checked_add(vaddr - segment.vaddr)
    }

    /// The GNU build id in hexadecimal. Go's linker writes one since 1.24, C linkers usually do.
    pub fn build_id(&self) -> Option<String> {
        self.build_id.get_or_init(|| self.read_build_id()).clone()
    }

    /// The bytes from a link-time address to the end of its segment in the file, or to a long hole before that, without
    /// a copy.
    pub(crate) fn tail(&self, vaddr: u64) -> Option<Bytes> {
        let segment = self.segment_at(vaddr)?;
        let offset = segment.offset + (vaddr - segment.vaddr);
        let (extent, into) = self.extent_at(offset)?;
        let most = segment.offset + segment.file_size - offset;
        let end = usize::try_from(most).unwrap_or(usize::MAX).saturating_add(into).min(extent.data.len());
        Some(extent.data.slice(into..end))
    }

    /// Link-time address of the first byte of the file. `None`: no segment maps it.
    pub(crate) fn at_file_start(&self) -> Option<u64> {
        self.segments.iter().find(|segment| segment.offset == 0).map(|segment| segment.vaddr)
    }

    /// The first executable segment: its link-time addresses and its file offset, rounded to pages of 4 KiB as a
    /// mapping is. `None`: there is none.
    pub fn code(&self) -> Option<(Range<u64>, u64)> {
        let segment = self.segments.iter().find(|segment| segment.executable)?;
        let end = (segment.vaddr + segment.file_size).checked_next_multiple_of(PAGE)?;
        Some((segment.vaddr / PAGE * PAGE..end, segment.offset / PAGE * PAGE))
    }

    /// Whether a link-time address that comes from the file lies in a writable segment (`.bss` does not count).
    pub(crate) fn writable(&self, vaddr: u64) -> bool {
        self.segment_at(vaddr).is_some_and(|segment| segment.writable)
    }

    /// The `len` bytes at a link-time address, before relocation. `None`: not all lie in one segment of the file.
    pub(crate) fn read(&self, vaddr: u64, len: u64) -> Option<&[u8]> {
        let segment = self.segment_at(vaddr)?;
        let into = vaddr - segment.vaddr;
        if len > segment.file_size - into {
            return None;
        }
        self.at(segment.offset + into, len)
    }

    /// The `len` bytes at a file offset, if they are in memory.
    fn at(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let (extent, into) = self.extent_at(offset)?;
        extent.data.get(into..into.checked_add(usize::try_from(len).ok()?)?)
    }

    /// The pointer at a link-time address, with its relative relocation applied: again a link-time address.
    pub(crate) fn read_ptr(&self, vaddr: u64) -> Option<u64> {
        let relocations = self.relocations();
        // The word in the file does not count where the loader overwrites it.
        if let Ok(index) = relocations.binary_search_by_key(&vaddr, |(place, _)| *place) {
            return relocations.get(index).map(|(_, target)| *target);
        }
        array(self.read(vaddr, 8)?, 0).map(u64::from_le_bytes)
    }

    /// A copy of the `len` bytes at a link-time address, with all relative relocations applied. `None`: not all lie in
    /// one segment of the file that holds data, or the budget does not allow them.
    pub(super) fn relocated(&self, vaddr: u64, len: u64) -> Option<Vec<u8>> {
        let bytes =
            self.read(vaddr, len).filter(|_| self.segment_at(vaddr).is_some_and(|at| !at.executable))?;
        budget::check(bytes.len()).ok()?;
        let mut bytes = bytes.to_vec();
        let relocations = self.relocations();
        let first = relocations.partition_point(|(place, _)| *place < vaddr);
        for (place, target) in relocations.get(first..).unwrap_or_default() {
            let Some(at) = place.checked_sub(vaddr).filter(|at| *at < len) else { break };
            // A pointer that goes beyond the end is none of these bytes.
            if let Some(word) = bytes.get_mut(at as usize..).and_then(|rest| rest.first_chunk_mut()) {
                *word = target.to_le_bytes();
            }
        }
        Some(bytes)
    }

    /// Relative relocations as (place, target), ordered by place; empty if there are none or they cannot be read.
    pub(super) fn relocations(&self) -> &[(u64, u64)] {
        self.relocations.get_or_init(|| self.read_relocations().unwrap_or_default())
    }

    /// Link-time address of a section. `None`: no such section, or it is not mapped.
    pub(super) fn section(&self, name: &str) -> Option<u64> {
        Some(self.named(name)?.addr).filter(|vaddr| *vaddr != 0)
    }

    /// The contents of a section, uncompressed. `None`: no such section, or it has more than `limit` bytes, before or
    /// after, or more than the budget allows.
    pub(super) fn contents(&self, name: &str, limit: u64) -> Option<Bytes> {
        let (section, file) = (self.named(name)?, self.file.as_ref()?);
        if section.empty || section.size > limit {
            return None;
        }
        budget::check(usize::try_from(section.size).ok()?).ok()?;
        let bytes = file.read(section.offset, section.size).ok()?;
        if (bytes.len() as u64) < section.size {
            return None;
        }
        if section.compressed { decompressed(&bytes, limit) } else { Some(bytes) }
    }

    fn named(&self, name: &str) -> Option<&Section> {
        let sections = self.sections.get_or_init(|| self.read_sections().unwrap_or_default());
        sections.iter().find(|section| section.name == name)
    }

    /// Reads the section table; the first sections only, where there are more than in any program.
    fn read_sections(&self) -> Option<Vec<Section>> {
        let file = self.file.as_ref()?;
        let head = file.read(0, HEADER).ok()?;
        let header = file_header(&head).ok()?;
        if usize::from(header.e_shentsize(LittleEndian)) != SECTION {
            return None;
        }
        let count = usize::from(header.e_shnum(LittleEndian)).min(MAX_SECTIONS);
        let table = file.read(header.e_shoff(LittleEndian), (count * SECTION) as u64).ok()?;
        let names = table.chunks_exact(SECTION).nth(usize::from(header.e_shstrndx(LittleEndian).0))?;
        let names = file.read(u64_at(names, 24)?, u64_at(names, 32)?.min(MAX_NAMES)).ok()?;
        let section = |header: &[u8]| {
            let name = c_string(&names, u32_at(header, 0)? as usize)?;
            // Longer names are none of those that are asked for.
            let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= 64)?.to_owned();
            Some(Section {
                name,
                addr: u64_at(header, 16)?,
                offset: u64_at(header, 24)?,
                size: u64_at(header, 32)?,
                compressed: u64_at(header, 8)? & SHF_COMPRESSED.0 != 0,
                empty: u32_at(header, 4)? == SHT_NOBITS.0,
            })
        };
        Some(table.chunks_exact(SECTION).filter_map(section).collect())
    }

    fn read_build_id(&self) -> Option<String> {
        parse_build_id(&self.contents(".note.gnu.build-id", MAX_NOTE)?)
    }

    /// Reads the table that `DT_RELA` of the dynamic section names, as the dynamic loader does: sections may be
    /// missing.
    fn read_relocations(&self) -> Option<Vec<(u64, u64)>> {
        let relative = match self.arch {
            Arch::Amd64 => R_X86_64_RELATIVE.0,
            Arch::Arm64 => R_AARCH64_RELATIVE.0,
        };
        let (offset, size) = self.dynamic?;
        let dynamic = self.at(offset, size)?;
        let tag = |wanted: i64| {
            let entry = dynamic.chunks_exact(DYN).find(|entry| u64_at(entry, 0) == Some(wanted as u64))?;
            u64_at(entry, 8)
        };
        let table = self.read(tag(DT_RELA.0)?, tag(DT_RELASZ.0).filter(|size| *size <= MAX_RELOCATIONS)?)?;
        budget::check(table.len()).ok()?;
        let mut found: Vec<_> = table
            .chunks_exact(RELA)
            .filter(|entry| u32_at(entry, 8) == Some(relative))
            .filter_map(|entry| Some((u64_at(entry, 0)?, u64_at(entry, 16)?)))
            .collect();
        // `read_ptr` searches by place.
        found.sort_unstable();
        Some(found)
    }
}

/// The contents of a compressed section, if they have no more than `limit` bytes.
fn decompressed(section: &[u8], limit: u64) -> Option<Bytes> {
    let (kind, size) = (u32_at(section, 0)?, u64_at(section, 8)?);
    let data = section.get(COMPRESSION..)?;
    let size = usize::try_from(size).ok().filter(|_| size <= limit)?;
    let mut reader: Box<dyn Read> = if kind == ELFCOMPRESS_ZLIB.0 {
        Box::new(flate2::bufread::ZlibDecoder::new(data))
    } else if kind == ELFCOMPRESS_ZSTD.0 {
        let mut reader = zstd::stream::read::Decoder::with_buffer(data).ok()?;
        reader.window_log_max(MAX_WINDOW).ok()?;
        Box::new(reader)
    } else {
        return None;
    };
    // The size is a claim: room is made for what has come, not for what is said.
    let mut bytes = Vec::new();
    while bytes.len() < size {
        let piece = GROWTH.min(size - bytes.len());
        budget::check(piece).ok()?;
        bytes.reserve_exact(piece);
        if reader.by_ref().take(piece as u64).read_to_end(&mut bytes).ok()? == 0 {
            return None;
        }
    }
    // More than is said is no less a lie than less.
    let whole = reader.read(&mut [0]).ok()? == 0;
    whole.then(|| bytes.into())
}

/// The id in the contents of `.note.gnu.build-id`, in hexadecimal.
pub(super) fn parse_build_id(note: &[u8]) -> Option<String> {
    let (name_len, len, kind) = (u32_at(note, 0)?, u32_at(note, 4)?, u32_at(note, 8)?);
    if name_len != 4 || note.get(12..16)? != b"GNU\0" || kind != NT_GNU_BUILD_ID.0 || len > MAX_BUILD_ID {
        return None;
    }
    let bytes = note.get(16..)?.get(..len as usize)?;
    Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The file header of a 64-bit little-endian ELF file of any type and processor.
pub(crate) fn file_header(data: &[u8]) -> Result<&FileHeader64<LittleEndian>, ElfError> {
    // `FileHeader64::parse` only says that it failed; class and byte order are errors the user can understand.
    let ident: [u8; 6] = array(data, 0).ok_or(ElfError::NotElf)?;
    if !ident.starts_with(&ELFMAG) {
        return Err(ElfError::NotElf);
    }
    if ident[4] == ELFCLASS32.0 {
        return Err(ElfError::ThirtyTwoBit);
    }
    if ident[5] == ELFDATA2MSB.0 {
        return Err(ElfError::BigEndian);
    }
    if data.len() < size_of::<FileHeader64<LittleEndian>>() {
        return Err(ElfError::Truncated("the file header"));
    }
    FileHeader64::<LittleEndian>::parse(data)
        .map_err(|_| ElfError::Corrupt("its file header is no ELF header"))
}

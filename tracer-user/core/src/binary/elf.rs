//! The ELF image: which bytes of the file the kernel maps at which address.
//!
//! Program headers are required, because the kernel needs them; sections are a hint that `strip` or a packer may have
//! removed. [`Image::read_ptr`] applies relative relocations, because in a position-independent executable the pointers
//! of the data are only in the relocation table.

use super::bytes::{array, u32_at, u64_at};
use bytes::Bytes;
use object::elf::{
    DT_RELA, DT_RELASZ, ELFCLASS32, ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD, ELFDATA2MSB, ELFMAG, EM_AARCH64,
    EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, NT_GNU_BUILD_ID, PF_W, PF_X, PT_DYNAMIC, PT_LOAD,
    R_AARCH64_RELATIVE, R_X86_64_RELATIVE, SectionHeader64,
};
use object::read::elf::{CompressionHeader, FileHeader, ProgramHeader, SectionHeader};
use object::{CompressedData, CompressionFormat, LittleEndian};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

/// Most `PT_LOAD` segments; linkers make fewer than ten. Every lookup by address goes through all of them.
const MAX_SEGMENTS: usize = 64;
/// Granularity to which [`Image::code`] rounds. Kernels with larger pages map at multiples of it, too.
const PAGE: u64 = 4096;
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
#[derive(Clone, Copy, Debug)]
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

/// An executable file, as the kernel maps it.
pub struct Image {
    /// The file from its first byte to at least the end of the last segment: indices are file offsets.
    data: Bytes,
    /// The whole file, for sections; empty after [`Image::forget_file`].
    file: Bytes,
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

impl Image {
    /// Reads the headers of a whole ELF file.
    ///
    /// # Errors
    /// [`ElfError`] says what is wrong with the file. A missing or broken section table is no error.
    pub fn parse(data: Bytes) -> Result<Image, ElfError> {
        let header = file_header(&data)?;
        let arch = match header.e_machine(LittleEndian) {
            EM_X86_64 => Arch::Amd64,
            EM_AARCH64 => Arch::Arm64,
            other => return Err(ElfError::Machine(other.0)),
        };
        let file_type = header.e_type(LittleEndian);
        if file_type != ET_EXEC && file_type != ET_DYN {
            return Err(ElfError::Type(file_type.0));
        }
        let programs = header
            .program_headers(LittleEndian, &*data)
            .map_err(|_| ElfError::Truncated("the program header table"))?;
        let mut segments = Vec::new();
        let mut dynamic = None;
        for program in programs {
            let (offset, size) = program.file_range(LittleEndian);
            let vaddr = program.p_vaddr(LittleEndian);
            match program.p_type(LittleEndian) {
                PT_LOAD if segments.len() == MAX_SEGMENTS => {
                    return Err(ElfError::Corrupt("it has more segments than any program"));
                }
                PT_LOAD => {
                    // Checked once here: later sums of these fields need no check.
                    let end = offset.checked_add(size).ok_or(ElfError::Corrupt("a segment wraps around"))?;
                    if end > data.len() as u64 {
                        return Err(ElfError::Truncated("a segment"));
                    }
                    vaddr.checked_add(size).ok_or(ElfError::Corrupt("a segment wraps around"))?;
                    let flags = program.p_flags(LittleEndian);
                    segments.push(Segment {
                        vaddr,
                        offset,
                        file_size: size,
                        memory_size: program.p_memsz(LittleEndian),
                        executable: flags.0 & PF_X.0 != 0,
                        writable: flags.0 & PF_W.0 != 0,
                    });
                }
                PT_DYNAMIC => dynamic = Some((offset, size)),
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(ElfError::Corrupt("it has no segment to load"));
        }
        let entry = header.e_entry(LittleEndian);
        let pie = file_type == ET_DYN;
        let (relocations, build_id, file) = (OnceLock::new(), OnceLock::new(), data.clone());
        Ok(Image { arch, pie, entry, segments, dynamic, relocations, data, file, build_id })
    }

    /// A separate debug file, of which only the sections count: its program headers describe the executable that it was
    /// split from, not the bytes in it.
    pub(super) fn debug_file(data: Bytes, arch: Arch) -> Option<Image> {
        file_header(&data).ok()?;
        let (segments, relocations, build_id) = (Vec::new(), OnceLock::new(), OnceLock::new());
        let file = data.clone();
        Some(Image { data, file, arch, pie: false, entry: 0, segments, dynamic: None, relocations, build_id })
    }

    /// Copies what is mapped, so that [`Image::forget_file`] frees the rest. Before anything takes slices of `data`
    /// ([`Image::tail`]): a slice keeps its whole buffer alive. A third of a Go executable is debug information.
    pub(super) fn keep_mapped(&mut self) {
        let end = self.segments.iter().map(|segment| segment.offset + segment.file_size).max().unwrap_or(0);
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(self.data.len());
        self.data = Bytes::copy_from_slice(self.data.get(..end).unwrap_or_default());
    }

    /// Drops the whole file. From then on no section is found; the build id stays known.
    pub(super) fn forget_file(&mut self) {
        // The build id's section is about to go.
        let _ = self.build_id();
        self.file = Bytes::new();
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

    /// The bytes from a link-time address to the end of its segment in the file, without a copy.
    pub(crate) fn tail(&self, vaddr: u64) -> Option<Bytes> {
        let segment = self.segment_at(vaddr)?;
        let end = segment.offset + segment.file_size;
        let start = segment.offset + (vaddr - segment.vaddr);
        let range = usize::try_from(start).ok()?..usize::try_from(end).ok()?;
        (range.end <= self.data.len()).then(|| self.data.slice(range))
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
        let start = usize::try_from(segment.offset + into).ok()?;
        self.data.get(start..start.checked_add(usize::try_from(len).ok()?)?)
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

    /// Relative relocations as (place, target), ordered by place; empty if there are none or they cannot be read.
    pub(super) fn relocations(&self) -> &[(u64, u64)] {
        self.relocations.get_or_init(|| self.read_relocations().unwrap_or_default())
    }

    /// Link-time address of a section. `None`: no such section, or it is not mapped.
    pub(super) fn section(&self, name: &str) -> Option<u64> {
        let vaddr = self.section_header(name)?.sh_addr(LittleEndian);
        (vaddr != 0).then_some(vaddr)
    }

    /// The contents of a section, uncompressed. `None`: no such section, or a compressed one with more than `limit`
    /// bytes. `limit` need not bound an uncompressed section, which cannot be larger than the file.
    pub(super) fn contents(&self, name: &str, limit: u64) -> Option<Cow<'_, [u8]>> {
        let header = self.section_header(name)?;
        let Some((compression, offset, size)) = header.compression(LittleEndian, &*self.file).ok()? else {
            return header.data(LittleEndian, &*self.file).ok().map(Cow::Borrowed);
        };
        let format = match compression.ch_type(LittleEndian) {
            ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
            ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
            _ => return None,
        };
        let uncompressed_size = compression.ch_size(LittleEndian);
        let data = self.file.get(usize::try_from(offset).ok()?..)?.get(..usize::try_from(size).ok()?)?;
        (uncompressed_size <= limit)
            .then(|| CompressedData { format, data, uncompressed_size }.decompress().ok())?
    }

    fn section_header(&self, name: &str) -> Option<&SectionHeader64<LittleEndian>> {
        let header = file_header(&self.file).ok()?;
        let table = header.section_headers(LittleEndian, &*self.file).ok()?;
        let names = table.get(header.shstrndx(LittleEndian, &*self.file).ok()? as usize)?;
        let names = names.data(LittleEndian, &*self.file).ok()?;
        table.iter().take(MAX_SECTIONS).find(|section| {
            let rest = names.get(section.sh_name(LittleEndian) as usize..).unwrap_or_default();
            rest.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        })
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
        let (start, size) = (usize::try_from(offset).ok()?, usize::try_from(size).ok()?);
        let dynamic = self.data.get(start..start.checked_add(size)?)?;
        let tag = |wanted: i64| {
            let entry = dynamic.chunks_exact(DYN).find(|entry| u64_at(entry, 0) == Some(wanted as u64))?;
            u64_at(entry, 8)
        };
        let table = self.read(tag(DT_RELA.0)?, tag(DT_RELASZ.0)?)?;
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

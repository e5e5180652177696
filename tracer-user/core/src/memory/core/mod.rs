//! The memory of a program in a core file, which the kernel wrote when the program died, or `gcore` while it ran.
//!
//! A core file leaves out what can be read elsewhere (`core(5)`, `/proc/PID/coredump_filter`). Of the executable it
//! has the pages that the program wrote to, and often the very first one. The rest comes from the executable itself.

mod notes;
#[cfg(test)]
mod tests;

use super::{Fault, Memory};
use crate::binary::bytes::{u32_at, u64_at};
use crate::binary::{Arch, ElfError, GoBinary, Image, file_header};
use crate::budget::{self, Exhausted};
use crate::files::{self, FileError};
use crate::patience::{self, What};
use notes::Notes;
use object::LittleEndian;
use object::elf::{EM_AARCH64, EM_X86_64, ET_CORE, FileHeader64, PN_XNUM, PT_LOAD, PT_NOTE};
use object::read::elf::FileHeader;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::path::Path;

/// Bytes of a block as `st_blocks` counts them.
const BLOCK: u64 = 512;
/// Bytes that are read with one call.
const CHUNK: usize = 64 << 20;
/// Bytes of an `Elf64_Ehdr`, and of an `Elf64_Phdr`.
const HEADER: usize = 64;
const PROGRAM: usize = 56;
/// Offset of `sh_info` in an `Elf64_Shdr`.
const SH_INFO: u64 = 44;
/// The most program headers that are read. A process has 65,530 mappings at most (`vm.max_map_count`) unless that was
/// raised.
const MAX_PROGRAMS: u64 = 1 << 20;
/// Mappings begin and end at multiples of this on every processor; larger pages are multiples of it, too.
const PAGE: u64 = 4096;

/// Why a file cannot be used as a core file.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// It is no regular file.
    #[error("it {0}")]
    File(FileError),
    #[error("its segments cannot be listed: {0}")]
    Exhausted(#[from] Exhausted),
    /// It is not an ELF file that can be read here.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Another kind of ELF file; the number is its `e_type`.
    #[error("it is not a core file but another ELF file (type {0}); the executable goes to --exe")]
    Type(u16),
    /// The program headers contradict each other or the format.
    #[error("it is a corrupt core file: {0}")]
    Corrupt(&'static str),
    /// The file has no auxiliary vector, and the executable is position-independent, so its place is not known.
    #[error("it does not say where the executable was loaded: its notes are cut off or missing")]
    NoEntry,
    #[error("it is not of this executable ({why}); it was written by {name}: give that with --exe")]
    Other {
        why: &'static str,
        /// The name of the file that ran, or words for it if the core file does not tell.
        name: String,
    },
}

/// A `PT_LOAD` program header: a stretch of the memory of the program.
#[derive(Clone, Copy, Debug)]
struct Load {
    addr: u64,
    offset: u64,
    /// Bytes that are in the file, and bytes that the header announces: fewer are in a file that was cut off.
    there: u64,
    announced: u64,
}

/// A core file with the executable that ran.
pub struct Core<'a> {
    file: File,
    /// By rising address.
    loads: Vec<Load>,
    exe: &'a Image,
    bias: u64,
    pid: i32,
    truncated: Option<String>,
}

impl<'a> Core<'a> {
    /// Opens the core file at `path`, written by the program `binary`.
    ///
    /// # Errors
    /// [`CoreError`], a sentence to put behind the name of the file. A file that ends too early is no error, see
    /// [`Core::truncated`].
    pub fn open(path: &Path, binary: &'a GoBinary) -> Result<Core<'a>, CoreError> {
        Core::read(files::open(path)?, binary)
    }

    /// As [`Core::open`], for a file that is open already.
    ///
    /// # Errors
    /// As [`Core::open`].
    pub fn read(file: File, binary: &'a GoBinary) -> Result<Core<'a>, CoreError> {
        let exe = binary.image();
        let size = file.metadata()?.len();
        let mut bytes = [0; HEADER];
        let len = read_up_to(&file, &mut bytes, 0)?;
        let header = file_header(bytes.get(..len).unwrap_or_default())?;
        let machine = header.e_machine(LittleEndian);
        if header.e_type(LittleEndian) != ET_CORE {
            return Err(CoreError::Type(header.e_type(LittleEndian).0));
        }
        let (mut loads, mut notes, mut end) = (Vec::new(), Notes::default(), 0u64);
        for program in programs(&file, header)?.chunks_exact(PROGRAM) {
            let word = |at| u64_at(program, at).unwrap_or(0);
            let (offset, addr, announced) = (word(8), word(16), word(32));
            let behind = offset.checked_add(announced).ok_or(CoreError::Corrupt("a segment wraps around"))?;
            let there = announced.min(size.saturating_sub(offset));
            match u32_at(program, 0) {
                Some(kind) if kind == PT_LOAD.0 && !addr.is_multiple_of(PAGE) => {
                    return Err(CoreError::Corrupt("a segment does not begin at a page"));
                }
                Some(kind) if kind == PT_LOAD.0 => loads.push(Load { addr, offset, there, announced }),
                Some(kind) if kind == PT_NOTE.0 => notes.read(&file, offset, there),
                _ => continue,
            }
            end = end.max(behind);
        }
        loads.sort_by_key(|load| load.addr);
        let truncated = (end > size).then(|| {
            format!(
                "it is cut off: it has {size} bytes of {end} (a limit of core files, or a full disk); what is \
                 missing cannot be read"
            )
        });
        let bias = match notes.entry() {
            Some(entry) => entry.wrapping_sub(exe.entry()),
            None if exe.pie() => return Err(CoreError::NoEntry),
            None => 0,
        };
        let core = Core { file, loads, exe, bias, pid: notes.pid().unwrap_or(0), truncated };
        let expected = match exe.arch() {
            Arch::Amd64 => EM_X86_64,
            Arch::Arm64 => EM_AARCH64,
        };
        let other = if machine == expected { core.other(&notes) } else { Some("another processor") };
        match other {
            Some(why) => Err(CoreError::Other { why, name: notes.name() }),
            None => Ok(core),
        }
    }

    /// The load bias: what the kernel added to the link-time addresses of the executable.
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// The PID of the process; 0: the file does not tell.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// If the file ends before what it announces, a sentence to put behind its name. What is in the file can still be
    /// read.
    pub fn truncated(&self) -> Option<&str> {
        self.truncated.as_deref()
    }

    /// Looks for a sign that another executable ran; the text says which.
    fn other(&self, notes: &Notes) -> Option<&'static str> {
        // The kernel moves an executable by whole pages, and only a position-independent one.
        if !self.bias.is_multiple_of(PAGE) || (self.bias != 0 && !self.exe.pie()) {
            return Some("it has another entry point");
        }
        let entry = self.exe.entry();
        if let Some((offset, _)) = notes.mapped_at(entry.wrapping_add(self.bias))
            && self.exe.file_offset(entry) != Some(offset)
        {
            return Some("its code lies elsewhere in the file");
        }
        // The page with the headers is in most core files, and no two programs share it: it has the sizes of segments,
        // the address of the entry point and often a build id.
        let first = self.exe.at_file_start()?;
        let (mut there, mut bytes) = (0, [0; PAGE as usize]);
        let addr = first.wrapping_add(self.bias);
        while let Some(part) = bytes.get_mut(there..).filter(|part| !part.is_empty()) {
            match self.in_file(addr.wrapping_add(there as u64), part) {
                Ok(count) if count > 0 => there += count,
                _ => break,
            }
        }
        let same = |ours: &[u8]| bytes.iter().take(there).zip(ours).all(|(a, b)| a == b);
        let ours = self.exe.tail(first).unwrap_or_default();
        (!same(&ours)).then_some("its first page is another")
    }

    /// The last segment that begins at or before this address, and the address where the next one begins.
    fn load_at(&self, addr: u64) -> (Option<&Load>, u64) {
        let behind = self.loads.partition_point(|load| load.addr <= addr);
        let next = self.loads.get(behind).map_or(u64::MAX, |load| load.addr);
        (behind.checked_sub(1).and_then(|at| self.loads.get(at)), next)
    }

    /// Reads what the core file has from an address on. Returns the number of bytes, at most to the next segment; 0:
    /// none.
    fn in_file(&self, addr: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let (Some(load), next) = self.load_at(addr) else { return Ok(0) };
        let into = addr - load.addr;
        let count = load.there.saturating_sub(into).min(next - addr).min(buffer.len() as u64) as usize;
        match buffer.get_mut(..count) {
            Some(part) if count > 0 => read_up_to(&self.file, part, load.offset.saturating_add(into)),
            _ => Ok(0),
        }
    }

    /// Reads from the executable what the core file leaves out. Returns the number of bytes, at most to the next
    /// segment; 0: none.
    fn in_executable(&self, addr: u64, buffer: &mut [u8]) -> usize {
        let (load, next) = self.load_at(addr);
        let vaddr = addr.wrapping_sub(self.bias);
        // A writable page that was announced and is cut off had other contents than the executable: better none than
        // old ones.
        let cut_off = load.is_some_and(|load| addr - load.addr < load.announced);
        if cut_off && self.exe.writable(vaddr) {
            return 0;
        }
        let Some(tail) = self.exe.tail(vaddr) else { return 0 };
        let count = (tail.len() as u64).min(next - addr).min(buffer.len() as u64) as usize;
        buffer.iter_mut().zip(tail.iter()).take(count).for_each(|(to, from)| *to = *from);
        count
    }
}

impl From<FileError> for CoreError {
    fn from(error: FileError) -> CoreError {
        match error {
            FileError::Io(error) => CoreError::Io(error),
            other => CoreError::File(other),
        }
    }
}

impl Memory for Core<'_> {
    /// What is in the file, holes left out: its segments may all lie over each other.
    fn resident(&self) -> Option<u64> {
        let metadata = self.file.metadata().ok()?;
        let there = metadata.blocks().saturating_mul(BLOCK).min(metadata.len());
        Some(there + self.exe.bytes() as u64)
    }

    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let (mut at, mut rest) = (addr, buffer);
        while !rest.is_empty() {
            // The core file first: it has what the program wrote.
            let mut count = self.in_file(at, rest).map_err(|_| Fault::Unmapped(at))?;
            if count == 0 {
                count = self.in_executable(at, rest);
            }
            if count == 0 {
                return Err(Fault::Unmapped(at));
            }
            rest = rest.get_mut(count..).unwrap_or_default();
            at = at.wrapping_add(count as u64);
        }
        Ok(())
    }
}

fn programs(file: &File, header: &FileHeader64<LittleEndian>) -> Result<Vec<u8>, CoreError> {
    let mut count = u64::from(header.e_phnum(LittleEndian));
    if count == u64::from(PN_XNUM) {
        // The number does not fit its field (`PN_XNUM`); `sh_info` of the first section header has it.
        let mut number = [0; 4];
        let at = header.e_shoff(LittleEndian).saturating_add(SH_INFO);
        if read_up_to(file, &mut number, at)? < 4 {
            return Err(ElfError::Truncated("the number of its segments").into());
        }
        count = u64::from(u32::from_le_bytes(number));
    }
    if usize::from(header.e_phentsize(LittleEndian)) != PROGRAM {
        return Err(CoreError::Corrupt("its program headers have another size"));
    }
    if count > MAX_PROGRAMS {
        return Err(CoreError::Corrupt("it has more segments than any program"));
    }
    budget::check(count as usize * (PROGRAM + 2 * size_of::<Load>()))?;
    let mut programs = vec![0; count as usize * PROGRAM];
    if read_up_to(file, &mut programs, header.e_phoff(LittleEndian))? < programs.len() {
        return Err(ElfError::Truncated("the program header table").into());
    }
    Ok(programs)
}

/// Reads until the buffer is full or the file ends. Returns the number of bytes.
fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        // The kernel takes offsets as `i64` and would return an error, but no file reaches that far: it is behind its
        // end.
        let Some(at) = at.checked_add(len as u64).filter(|at| i64::try_from(*at).is_ok()) else { break };
        // One read that hangs is noticed by its age, so none may be long for honest reasons.
        let most = rest.len().min(CHUNK);
        let _reading = patience::reading(What::File);
        match file.read_at(rest.get_mut(..most).unwrap_or_default(), at) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

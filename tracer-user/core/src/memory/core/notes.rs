//! The notes of a core file (Linux `fs/binfmt_elf.c`, `fill_note_info`): which process it was, and where its
//! executable lay.

use super::read_up_to;
use crate::binary::bytes::{u32_at, u64_at};
use std::fs::File;

/// Types of the notes whose owner is `CORE` (`include/uapi/linux/elf.h`).
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_FILE: u32 = 0x4649_4c45;
/// Offset of `pr_pid` in `struct elf_prpsinfo` of 64-bit processors.
const PR_PID: usize = 24;
/// Key of the entry point's address in the auxiliary vector (`include/uapi/linux/auxvec.h`).
const AT_ENTRY: u64 = 9;

/// Bytes of the header of a note. The name and the contents behind it are each padded to a multiple of [`ALIGN`].
const HEADER: usize = 12;
const ALIGN: u64 = 4;
/// The most notes that are read. Each thread has about five.
const MAX_NOTES: usize = 1 << 20;
/// The largest note that is read, bytes. The kernel cuts the list of files at 4 MiB.
const MAX_NOTE: u64 = 8 << 20;

/// Contents of the notes that were found; empty: the file has none of the kind.
#[derive(Default)]
pub(super) struct Notes {
    info: Vec<u8>,
    auxv: Vec<u8>,
    files: Vec<u8>,
    /// How many were looked at: any number of segments may say to hold the same ones.
    seen: usize,
}

impl Notes {
    /// Reads the notes in `size` bytes at `offset` of the file. The first note of each kind counts.
    pub(super) fn read(&mut self, file: &File, offset: u64, size: u64) {
        let mut at = 0u64;
        while self.seen < MAX_NOTES {
            self.seen += 1;
            if at >= size || self.note(file, offset, size, &mut at).is_none() {
                break;
            }
        }
    }

    /// Reads the note at `*at` within the `size` bytes at `offset`, and moves `*at` behind it. `None`: no whole note
    /// is left.
    fn note(&mut self, file: &File, offset: u64, size: u64, at: &mut u64) -> Option<()> {
        // With the five bytes of the owner `CORE\0`: other owners use the same numbers for other notes.
        let mut header = [0; HEADER + 5];
        let read = read_up_to(file, &mut header, offset.checked_add(*at)?).ok()?;
        let [name, len, kind] = [0, 4, 8].map(|at| u32_at(&header, at).unwrap_or(0));
        let start = at.checked_add(HEADER as u64 + u64::from(name).next_multiple_of(ALIGN))?;
        let len = u64::from(len);
        // `*at` moves by at least a header, so the loop of `read` always advances.
        *at = start.checked_add(len.next_multiple_of(ALIGN))?;
        if read < header.len() || start.checked_add(len)? > size {
            return None;
        }
        let to = match kind {
            NT_PRPSINFO => &mut self.info,
            NT_AUXV => &mut self.auxv,
            NT_FILE => &mut self.files,
            _ => return Some(()),
        };
        if to.is_empty() && header.ends_with(b"CORE\0") && len <= MAX_NOTE {
            to.resize(len as usize, 0);
            let read = read_up_to(file, to, offset.checked_add(start)?).ok()?;
            to.truncate(read);
        }
        Some(())
    }

    pub(super) fn pid(&self) -> Option<i32> {
        u32_at(&self.info, PR_PID).and_then(|pid| i32::try_from(pid).ok())
    }

    /// The address of the entry point of the executable in memory.
    pub(super) fn entry(&self) -> Option<u64> {
        let mut entries = self.auxv.chunks_exact(16);
        u64_at(entries.find(|entry| u64_at(entry, 0) == Some(AT_ENTRY))?, 8)
    }

    /// The name of the executable: of the file that was mapped at the entry point.
    pub(super) fn name(&self) -> String {
        let mapped = self.entry().and_then(|entry| self.mapped_at(entry));
        mapped.map_or_else(|| "another program".to_owned(), |(_, name)| name)
    }

    /// The file that was mapped at an address: the offset in it, and its name.
    ///
    /// The note (`NT_FILE`) has the number of mappings, the unit of offsets, three words for each mapping (start,
    /// end, offset), then the names, each with a zero byte behind it.
    pub(super) fn mapped_at(&self, addr: u64) -> Option<(u64, String)> {
        let count = usize::try_from(u64_at(&self.files, 0)?).ok()?;
        let unit = u64_at(&self.files, 8)?;
        let words = self.files.get(16..)?.get(..count.checked_mul(24)?)?;
        let (index, offset) = words.chunks_exact(24).enumerate().find_map(|(index, mapping)| {
            let (start, end) = (u64_at(mapping, 0)?, u64_at(mapping, 8)?);
            let offset = u64_at(mapping, 16)?.checked_mul(unit)?;
            (start <= addr && addr < end).then(|| offset.checked_add(addr - start))?.map(|at| (index, at))
        })?;
        let names = self.files.get(16 + words.len()..)?;
        let name = names.split(|byte| *byte == 0).nth(index)?;
        Some((offset, String::from_utf8_lossy(name).into_owned()))
    }
}

//! Tells whether a file is a Go program, and which, from a few kilobytes of it. The agent and `sfgi ps` look at every
//! program of a host, and executables of hundreds of megabytes are common, so the file is not read whole.

use super::{buildinfo, buildinfo::BuildInfo, elf::parse_build_id};
use crate::patience::{self, What};
use object::{
    LittleEndian, ReadCache, ReadRef, elf::FileHeader64, read::elf::FileHeader as _,
    read::elf::SectionHeader as _,
};
use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

/// Bytes that are read of each build id note.
const MAX_NOTE: u64 = 256;
/// Bytes of build information that are read. The module list of the largest programs has some hundred kilobytes.
const MAX_INFO: u64 = 8 << 20;
/// Bytes of the section name table that are read.
const MAX_NAMES: u64 = 1 << 20;
/// Sections that are looked at; a Go executable has about forty.
const MAX_SECTIONS: u16 = 1024;

/// What the section table says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identified {
    /// No Go program.
    NotGo,
    /// A Go program with build information.
    Go {
        /// The build information; boxed because the other variants are small.
        info: Box<BuildInfo>,
        /// The GNU build id in hexadecimal. Go's linker writes one since 1.24.
        build_id: Option<String>,
        /// Go's own build id, which depends on the contents of the build.
        go_build_id: Option<String>,
    },
    /// The file has a pclntab but no build information, or no sections: only [`GoBinary`](super::GoBinary) can tell.
    Unsure,
}

/// Looks at the section table of a file.
///
/// # Errors
/// The file cannot be read. A file that is no ELF is [`Identified::NotGo`].
pub fn identify(file: &File) -> io::Result<Identified> {
    let _reading = patience::reading(What::Executable);
    let size = file.metadata()?.len();
    let failed = RefCell::new(None);
    // Reads only the ranges that are asked for.
    let cache = ReadCache::new(Noting { file, failed: &failed });
    let looked = look(&cache, size);
    match failed.take() {
        Some(error) => Err(error),
        None => Ok(looked.unwrap_or(Identified::NotGo)),
    }
}

/// A file that keeps the error of a read that failed, because [`ReadRef`] does not tell which it was. An offset beyond what a
/// file can have is an error of the file's headers, so those of `seek` are not kept.
struct Noting<'f> {
    file: &'f File,
    failed: &'f RefCell<Option<io::Error>>,
}

impl Read for Noting<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into).map_err(|error| {
            let kind = error.kind();
            // The caller tries again.
            if kind != io::ErrorKind::Interrupted {
                self.failed.replace(Some(error));
            }
            kind.into()
        })
    }
}

impl Seek for Noting<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// `None`: no ELF file that the kernel would run, or one with a broken section table.
fn look<'d, R: ReadRef<'d>>(data: R, size: u64) -> Option<Identified> {
    let header = FileHeader64::<LittleEndian>::parse(data).ok()?;
    let sections = header.e_shnum(LittleEndian);
    // Without a section table the segments may still hold a Go program.
    if header.e_shoff(LittleEndian) == 0 || sections == 0 {
        return Some(Identified::Unsure);
    }
    if sections > MAX_SECTIONS {
        return None;
    }
    let table = header.section_headers(LittleEndian, data).ok()?;
    let names = table.get(header.e_shstrndx(LittleEndian).0 as usize)?;
    let (at, len) = names.file_range(LittleEndian)?;
    let names = data.read_bytes_at(at, len.min(MAX_NAMES)).ok()?;
    let section = |wanted: &str, most: u64| {
        let found = table.iter().find(|section| {
            let rest = names.get(section.sh_name(LittleEndian) as usize..).unwrap_or_default();
            rest.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
        })?;
        let (at, len) = found.file_range(LittleEndian)?;
        data.read_bytes_at(at, len.min(most).min(size.saturating_sub(at))).ok()
    };
    let Some(blob) = section(".go.buildinfo", MAX_INFO) else {
        // The build information may lie in the data without a section of its own; `BuildInfo::find` searches there.
        let tables = section(".gopclntab", 0).is_some();
        return Some(if tables { Identified::Unsure } else { Identified::NotGo });
    };
    let Some(info) = buildinfo::parse(blob) else { return Some(Identified::Unsure) };
    let build_id = section(".note.gnu.build-id", MAX_NOTE).and_then(parse_build_id);
    let go_build_id = section(".note.go.buildid", MAX_NOTE).and_then(go_note);
    Some(Identified::Go { info: Box::new(info), build_id, go_build_id })
}

/// The text of Go's build id note (`src/cmd/internal/buildid`). It begins at 16: three words, and the name `Go` padded
/// to four bytes.
fn go_note(note: &[u8]) -> Option<String> {
    let len = usize::try_from(super::bytes::u32_at(note, 4)?).ok()?;
    Some(String::from_utf8_lossy(note.get(16..)?.get(..len)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn of(data: &[u8]) -> Identified {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(data).unwrap();
        identify(&file).unwrap()
    }

    #[test]
    fn what_is_no_program_is_none_of_gos() {
        for data in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &[0x7f; 4096]] {
            assert_eq!(of(data), Identified::NotGo);
        }
        assert_eq!(
            identify(&File::open(std::env::current_exe().unwrap()).unwrap()).unwrap(),
            Identified::NotGo
        );
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        // The kernel opens a folder and reads none.
        let folder = File::open(std::env::temp_dir()).unwrap();
        assert_eq!(identify(&folder).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn a_go_program_says_who_it_is_or_that_only_the_whole_tells() {
        let data = crate::testing::binary::small_image();
        assert_ne!(of(&data), Identified::NotGo);
        for end in (0..data.len()).step_by(97) {
            of(&data[..end]);
        }
    }
}

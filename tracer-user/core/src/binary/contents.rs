//! The contents of a file, read by the pieces that are needed: of a gigabyte of debug information none, of a sparse
//! file only what is there.

use super::elf::ElfError;
use crate::patience::{self, What};
use bytes::Bytes;
use rustix::fs::{SeekFrom, seek};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// A hole that is longer than this is left out; a shorter one is read with what lies around it. Page tables and
/// alignment leave holes of some kilobytes in executables that were copied sparsely.
const LONG_HOLE: u64 = 1 << 20;
/// Stretches between long holes: a linker makes none.
const MAX_STRETCHES: usize = 1 << 10;
/// Holes that are asked for, long or short. A sparse copy of a program of a gigabyte has some thousand.
const MAX_HOLES: usize = 1 << 16;
/// Bytes that are read with one call: one that hangs is noticed by its age, so none may be long for honest reasons.
const CHUNK: usize = 8 << 20;

/// Contents in memory, or in a file.
pub(crate) enum Contents {
    Memory(Bytes),
    File { file: File, len: u64 },
}

impl Contents {
    /// Those of an open file, from its first byte on, wherever its position is.
    pub(super) fn of(file: File) -> io::Result<Contents> {
        let _reading = patience::reading(What::Executable);
        let len = file.metadata()?.len();
        Ok(Contents::File { file, len })
    }

    /// As many bytes as the file says to have.
    pub(super) fn len(&self) -> u64 {
        match self {
            Contents::Memory(bytes) => bytes.len() as u64,
            Contents::File { len, .. } => *len,
        }
    }

    /// The bytes at an offset: `len`, or fewer where the contents end. The caller has bounded `len`.
    pub(super) fn read(&self, offset: u64, len: u64) -> io::Result<Bytes> {
        let len = usize::try_from(len.min(self.len().saturating_sub(offset))).unwrap_or(0);
        match self {
            Contents::Memory(bytes) => {
                // `offset` is within the contents, unless `len` is 0.
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes.slice(start..start + len))
            }
            Contents::File { file, .. } => {
                let mut to = vec![0; len];
                let read = read_up_to(file, &mut to, offset)?;
                to.truncate(read);
                Ok(to.into())
            }
        }
    }

    /// The stretches of a range in which there is data, without long holes.
    ///
    /// # Errors
    /// There are more of them than in any program.
    pub(super) fn stretches(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, ElfError> {
        let end = range.end.min(self.len());
        let Contents::File { file, .. } = self else {
            return Ok(std::iter::once(range.start.min(end)..end).collect());
        };
        let many = ElfError::Corrupt("it has more holes than any program");
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut at = range.start;
        let _reading = patience::reading(What::Executable);
        for _ in 0..MAX_HOLES {
            if at >= end {
                return Ok(found);
            }
            let (start, hole) = match next(file, at) {
                Some(Some((start, hole))) => (start.min(end), hole.clamp(start, end.max(start))),
                // Nothing but a hole is left.
                Some(None) => return Ok(found),
                // The file system has no such question: all of it may be data.
                None => (at, end),
            };
            let stretch = start..hole.min(end);
            let full = found.len() == MAX_STRETCHES;
            match found.last_mut() {
                Some(last) if stretch.start - last.end <= LONG_HOLE => last.end = stretch.end,
                _ if stretch.is_empty() => {}
                _ if full => return Err(many),
                _ => found.push(stretch),
            }
            at = hole.max(at + 1);
        }
        Err(many)
    }
}

/// Where the next data at or behind an offset begins and ends. The inner `None`: there is none; the outer one: it
/// cannot be told.
fn next(file: &File, at: u64) -> Option<Option<(u64, u64)>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(start) => Some(Some((start, seek(file, SeekFrom::Hole(start)).ok()?))),
        Err(rustix::io::Errno::NXIO) => Some(None),
        Err(_) => None,
    }
}

/// Reads until the buffer is full or the file ends. Gives how many bytes were there.
fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        let most = rest.len().min(CHUNK);
        let _reading = patience::reading(What::Executable);
        match file.read_at(rest.get_mut(..most).unwrap_or_default(), at.saturating_add(len as u64)) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_holes_are_left_out_and_short_ones_are_not() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 31).unwrap();
        let put = |at: u64| file.write_all_at(b"data", at).unwrap();
        put(0);
        put(64 << 10);
        put(1 << 30);
        let contents = Contents::of(file).unwrap();
        let stretches = contents.stretches(0..1 << 31).unwrap();
        assert_eq!(stretches.len(), 2, "{stretches:?}");
        assert!(stretches[0].start == 0 && stretches[0].end > 64 << 10 && stretches[1].start == 1 << 30);
        let there: u64 = stretches.iter().map(|stretch| stretch.end - stretch.start).sum();
        assert!(there < 1 << 20, "{stretches:?}");
        let within = contents.stretches((1 << 30) + 2..(1 << 30) + 3).unwrap();
        assert_eq!(within.len(), 1);
        assert_eq!(within.first(), Some(&((1 << 30) + 2..(1 << 30) + 3)));
        assert_eq!(contents.stretches(2 << 20..3 << 20).unwrap(), []);
        assert_eq!(&*contents.read(1 << 30, 4).unwrap(), b"data");
        assert_eq!(contents.read((1 << 31) - 2, 100).unwrap().len(), 2);
        assert_eq!(contents.read(u64::MAX, u64::MAX).unwrap().len(), 0);
    }

    #[test]
    fn more_holes_than_any_program_has_are_refused() {
        let file = tempfile::tempfile().unwrap();
        for at in 0..=MAX_STRETCHES as u64 {
            file.write_all_at(b"data", at * 2 * LONG_HOLE).unwrap();
        }
        let contents = Contents::of(file).unwrap();
        assert!(contents.stretches(0..u64::MAX).is_err());
    }
}

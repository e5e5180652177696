//! Files that a user named, or somebody else: read only if they are files, and never more of them than is wanted.
//!
//! What a name leads to is not what the user thinks. `/dev/zero` has no end, a FIFO none until somebody writes, and a
//! sparse file has gigabytes that are nowhere. What the file system says of a size is no bound either.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use crate::patience::{self, What};

/// Why a file was not read. Each message is a clause to be put behind the name of the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened, or not be read to its end.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// It has no contents of its own, or no end; the text says what it is.
    #[error("is {0}, not a regular file: give a file")]
    NotRegular(&'static str),
    /// It has more bytes than any real one.
    #[error("has more than {}, more than is read: give a smaller file", size(*.0))]
    TooLarge(u64),
    /// It was to be text.
    #[error("is not text in UTF-8")]
    NotText,
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> FileError {
        FileError::Io(error)
    }
}

impl FileError {
    /// As an error of input and output, for callers that have no other.
    pub fn into_io(self) -> io::Error {
        match self {
            FileError::Io(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidInput, other.to_string()),
        }
    }
}

/// Bytes in the largest unit in which they are a whole number.
fn size(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 && bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} bytes"),
    }
}

/// Opens a regular file for reading. Does not wait for anybody: neither for the writer of a FIFO nor for a device.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub fn open(path: &Path) -> Result<File, FileError> {
    let _reading = patience::reading(What::File);
    // Without O_NONBLOCK the open itself waits for the writer of a FIFO; it changes nothing for a regular file. A
    // terminal must not become ours.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    regular(&file)?;
    Ok(file)
}

/// Refuses what is no regular file.
///
/// # Errors
/// [`FileError::NotRegular`], or it cannot be asked.
pub fn regular(file: &File) -> Result<(), FileError> {
    let kind = file.metadata()?.file_type();
    let what = match kind {
        _ if kind.is_file() => return Ok(()),
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(FileError::NotRegular(what))
}

/// The contents of a regular file, if it has no more than `most` bytes. Whatever its size is said to be, no more are
/// read.
///
/// # Errors
/// [`FileError`], to be put behind the name of the file.
pub fn read_limited(path: &Path, most: u64) -> Result<Vec<u8>, FileError> {
    read_open(open(path)?, most)
}

/// As [`read_limited`], as text.
///
/// # Errors
/// As [`read_limited`], and [`FileError::NotText`].
pub fn read_text_limited(path: &Path, most: u64) -> Result<String, FileError> {
    String::from_utf8(read_limited(path, most)?).map_err(|_| FileError::NotText)
}

/// As [`read_limited`], of an open file, from where it stands.
///
/// # Errors
/// As [`read_limited`].
pub fn read_open(file: File, most: u64) -> Result<Vec<u8>, FileError> {
    let _reading = patience::reading(What::File);
    let mut bytes = Vec::new();
    // One more shows that there are more.
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(FileError::TooLarge(most)) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::time::{Duration, Instant};

    #[test]
    fn what_is_no_file_or_has_no_end_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let began = Instant::now();
        for (path, what) in [
            (fifo.as_path(), "is a pipe, not a regular file: give a file"),
            (Path::new("/dev/zero"), "is a device, not a regular file: give a file"),
            (dir.path(), "is a directory, not a regular file: give a file"),
        ] {
            assert_eq!(read_limited(path, 1 << 20).unwrap_err().to_string(), what);
        }
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(matches!(read_limited(Path::new("/none"), 1), Err(FileError::Io(_))));
    }

    #[test]
    fn no_more_is_read_than_is_wanted() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Sparse: no disk is used.
        file.as_file().set_len(1 << 40).unwrap();
        let error = read_limited(file.path(), 1 << 20).unwrap_err().to_string();
        assert_eq!(error, "has more than 1 MiB, more than is read: give a smaller file");
        std::fs::write(file.path(), b"abc").unwrap();
        assert_eq!(read_limited(file.path(), 3).unwrap(), b"abc");
        assert_eq!(
            read_limited(file.path(), 2).unwrap_err().to_string(),
            "has more than 2 bytes, more than is read: give a smaller file"
        );
        std::fs::write(file.path(), [0xff]).unwrap();
        assert!(matches!(read_text_limited(file.path(), 3), Err(FileError::NotText)));
    }
}

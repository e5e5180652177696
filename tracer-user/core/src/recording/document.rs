//! Documents in a recording: what only the live program could tell, in its final form.

use super::{
    bytes::{Put, Take},
    frame::{self, Frames, Kind, MAX_RAW, Next},
    player::OpenError,
};
use crate::files;
use std::{
    io::{self, BufReader, Write},
    path::Path,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// Such as `leaks.json`; cut to 100 bytes when it is written.
    pub name: &'a str,
    /// The process it is about.
    pub pid: u32,
    pub body: &'a [u8],
}

/// Appends a document to a recording; it needs nothing of what is there.
///
/// # Errors
/// Those of `out`.
pub fn append(out: &mut impl Write, document: &Document<'_>) -> io::Result<()> {
    let Document { name, pid, body } = document;
    // The rest of the frame is for name, PID and mark.
    let mut pieces = body.chunks(MAX_RAW - (1 << 10)).peekable();
    let mut first = true;
    while first || pieces.peek().is_some() {
        let piece = pieces.next().unwrap_or_default();
        let mut raw = Vec::with_capacity(piece.len() + 64);
        raw.slice(name.get(..name.floor_char_boundary(100)).unwrap_or_default().as_bytes());
        raw.number(u64::from(*pid));
        raw.number(u64::from(first));
        raw.extend_from_slice(piece);
        frame::write(out, Kind::Document, &raw)?;
        first = false;
    }
    out.flush()
}

/// Copies the last document of that name to `out`, of process `pid` where it is given. Says whether there was one.
///
/// # Errors
/// The recording cannot be read, or `out` not written.
pub fn copy_document(
    path: &Path,
    name: &str,
    pid: Option<u32>,
    out: &mut impl Write,
) -> Result<bool, OpenError> {
    // Which document is the last is only known at the end: the first pass counts, the second copies.
    let mut documents = 0;
    each(path, name, pid, |first, _| {
        documents += usize::from(first);
        Ok(())
    })?;
    let mut at = 0;
    each(path, name, pid, |first, body| {
        at += usize::from(first);
        if at == documents { out.write_all(body) } else { Ok(()) }
    })?;
    Ok(documents > 0)
}

fn each(
    path: &Path,
    name: &str,
    pid: Option<u32>,
    mut each: impl FnMut(bool, &[u8]) -> io::Result<()>,
) -> Result<(), OpenError> {
    let mut file = BufReader::new(files::open(path)?);
    super::player::begin(&mut file)?;
    let mut frames = Frames::new(file)?;
    while let Next::Frame(kind, raw) = frames.next()? {
        if kind != Kind::Document {
            continue;
        }
        let mut take = Take(raw);
        let (Ok(its_name), Ok(its_pid), Ok(first)) = (take.text(), take.small::<u32>(), take.number()) else {
            continue;
        };
        if its_name == name && pid.is_none_or(|pid| pid == its_pid) {
            each(first == 1, take.0)?;
        }
    }
    Ok(())
}

//! The form of the file: a header, then frames, each whole in itself and checked, appended one by one.
//!
//! ```text
//! file:  "sfgi rec"  version:u32  0:u32                      16 bytes, little-endian like all of it
//! frame: stored:u32  raw:u32  kind:u8  0:u8[3]  crc:u32      16 bytes, then `stored` bytes of zstd
//! ```
//!
//! `crc` is the CRC-32 of the frame's first twelve bytes and of what is stored. Whatever does not match is
//! where the file ends: a crash or a full disk costs at most the frame that was being written.

use crate::budget;
use crate::session::{About, End};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

pub(crate) const MAGIC: [u8; 8] = *b"sfgi rec";

/// The version that is written; a reader refuses younger ones.
pub(crate) const VERSION: u32 = 2;

/// Bytes of a frame's contents at most, before compression: what a reader must be ready to allocate.
pub(crate) const MAX_RAW: usize = 16 << 20;

/// The level of zstd: 3 halves what 1 leaves at a small price.
const LEVEL: i32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first: JSON of a [`Head`].
    Head,
    Names,
    /// Inputs of targets and the ends of rounds (`items`).
    Data,
    /// A document that only the live program could give (`document`).
    Document,
    /// The last: JSON of a [`Tail`].
    Tail,
    /// A kind of a later version that only adds kinds: it is skipped.
    Other(u8),
}

impl Kind {
    pub(crate) fn byte(self) -> u8 {
        match self {
            Kind::Head => 0,
            Kind::Names => 1,
            Kind::Data => 2,
            Kind::Document => 3,
            Kind::Tail => 4,
            Kind::Other(byte) => byte,
        }
    }

    pub(crate) fn of(byte: u8) -> Kind {
        match byte {
            0 => Kind::Head,
            1 => Kind::Names,
            2 => Kind::Data,
            3 => Kind::Document,
            4 => Kind::Tail,
            other => Kind::Other(other),
        }
    }
}

/// The bytes that a file begins with.
pub(crate) fn header() -> [u8; 16] {
    let mut header = [0; 16];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// One frame as it stands in the file.
pub(crate) fn pack(kind: Kind, raw: &[u8]) -> io::Result<Vec<u8>> {
    debug_assert!(raw.len() <= MAX_RAW);
    let stored = zstd::bulk::compress(raw, LEVEL)?;
    let mut frame = Vec::with_capacity(16 + stored.len());
    frame.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    frame.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    frame.extend_from_slice(&[kind.byte(), 0, 0, 0]);
    let crc = checksum(&frame, &stored);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(&stored);
    Ok(frame)
}

pub(crate) fn write(out: &mut impl Write, kind: Kind, raw: &[u8]) -> io::Result<()> {
    out.write_all(&pack(kind, raw)?)
}

fn checksum(head: &[u8], stored: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(stored);
    hasher.finalize()
}

/// Why there is no further frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file ends within a frame: it was not written to its end.
    #[error("it ends within a frame")]
    CutOff,
    /// The frame's bytes are not those that were written.
    #[error("a checksum does not match")]
    Checksum,
    /// The checksum matches, but no writer makes such a frame.
    #[error("its contents make no sense")]
    Senseless,
    /// What it holds does not fit.
    #[error("its contents need more memory than --memory allows")]
    TooLarge,
}

/// What comes next in a file.
pub(crate) enum Next<'a> {
    Frame(Kind, &'a [u8]),
    Damaged(Damage),
    End,
}

pub(crate) struct Frames<R> {
    input: R,
    /// Bytes of whole frames so far.
    pub(crate) offset: u64,
    stored: Vec<u8>,
    raw: Vec<u8>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl<R: Read> Frames<R> {
    /// `input` must stand behind the file's header.
    pub(crate) fn new(input: R) -> io::Result<Self> {
        let decompressor = zstd::bulk::Decompressor::new()?;
        Ok(Frames { input, offset: 16, stored: Vec::new(), raw: Vec::new(), decompressor })
    }

    pub(crate) fn next(&mut self) -> io::Result<Next<'_>> {
        let mut head = [0; 16];
        match fill(&mut self.input, &mut head)? {
            0 => return Ok(Next::End),
            16 => {}
            _ => return Ok(Next::Damaged(Damage::CutOff)),
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (stored, raw, crc) = (word(0) as usize, word(4) as usize, word(12));
        // Refused before anything is allocated: no writer makes such lengths.
        if raw > MAX_RAW || stored > zstd::zstd_safe::compress_bound(MAX_RAW) {
            return Ok(Next::Damaged(Damage::Checksum));
        }
        self.stored.clear();
        // Allocates as the bytes arrive, whatever length the header claims.
        let got = (&mut self.input).take(stored as u64).read_to_end(&mut self.stored)?;
        if got < stored {
            return Ok(Next::Damaged(Damage::CutOff));
        }
        if checksum(&head[..12], &self.stored) != crc {
            return Ok(Next::Damaged(Damage::Checksum));
        }
        self.raw.clear();
        if budget::reserve(&mut self.raw, raw).is_err() {
            return Ok(Next::Damaged(Damage::TooLarge));
        }
        match self.decompressor.decompress_to_buffer(&self.stored, &mut self.raw) {
            Ok(len) if len == raw => {}
            _ => return Ok(Next::Damaged(Damage::Senseless)),
        }
        self.offset += 16 + stored as u64;
        Ok(Next::Frame(Kind::of(head[8]), &self.raw))
    }
}

/// Reads until `to` is full or the input ends; says how many bytes.
pub(crate) fn fill(input: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < to.len() {
        match input.read(&mut to[len..]) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// The schema of [`Head`] and [`Tail`]: fields may be added, and are ignored by readers that do not know them.
const SCHEMA: &str = "sfgi.recording/1";

/// The first frame: what was recorded, when, and on what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub schema: String,
    /// The version of sfgi that recorded it.
    pub sfgi: String,
    /// When the trace began, `CLOCK_MONOTONIC` nanoseconds: times are shown from here.
    pub start_ts: u64,
    /// The same by the wall clock, nanoseconds since 1970.
    pub start_unix_ns: i64,
    pub kernel: String,
    /// Whether the threads' times on a CPU were recorded.
    pub threads: bool,
    /// The targets, in the order of their numbers.
    pub targets: Vec<About>,
}

impl Head {
    /// Of a trace that begins now; the targets are added by the [`super::Recorder`].
    pub fn new(start_ts: u64, start_unix_ns: i64, threads: bool) -> Head {
        Head {
            schema: SCHEMA.to_owned(),
            sfgi: env!("CARGO_PKG_VERSION").to_owned(),
            start_ts,
            start_unix_ns,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            threads,
            targets: Vec::new(),
        }
    }
}

/// The frame behind the last inputs: how the trace of each target ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    /// In the order of the targets.
    pub ends: Vec<End>,
}

//! Recordings for tests of readers. Headers and checksums are right, so that hostile contents reach the code behind
//! them.

use crate::recording::frame::{self, Frames, Kind, Next};

/// A file with these frames, each a kind and its contents. Frames longer than `frame::MAX_RAW` are left out.
#[must_use]
pub fn file<C: AsRef<[u8]>>(frames: &[(u8, C)]) -> Vec<u8> {
    let mut file = frame::header().to_vec();
    for (kind, contents) in frames {
        if contents.as_ref().len() <= frame::MAX_RAW {
            file.extend(frame::pack(Kind::of(*kind), contents.as_ref()).unwrap_or_default());
        }
    }
    file
}

/// The complete frames of a file, each a kind and its uncompressed contents; stops at the first one that is not whole.
#[must_use]
pub fn frames(file: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    let Ok(mut frames) = Frames::new(file.get(frame::header().len()..).unwrap_or_default()) else {
        return all;
    };
    while let Ok(Next::Frame(kind, raw)) = frames.next() {
        all.push((kind.byte(), raw.to_vec()));
    }
    all
}

/// The first bytes of every recording.
#[must_use]
pub fn header() -> [u8; 16] {
    frame::header()
}

/// Offsets at which the complete frames begin, and the offset behind the last one.
#[must_use]
pub fn boundaries(file: &[u8]) -> Vec<usize> {
    let start = frame::header().len();
    let mut all = vec![start];
    let Ok(mut frames) = Frames::new(file.get(start..).unwrap_or_default()) else { return all };
    while let Ok(Next::Frame(..)) = frames.next() {
        all.push(frames.offset as usize);
    }
    all
}

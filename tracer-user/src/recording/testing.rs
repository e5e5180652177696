//! Files for those who test readers: with what readers check put right, so that the rest can be wrong.

use super::frame::{self, Kind};

/// A file whose first frame has these contents.
#[must_use]
pub fn file(head: &[u8]) -> Vec<u8> {
    let mut file = frame::header().to_vec();
    file.extend(frame(0, head));
    file
}

/// A frame of this kind with these contents; empty if they are too long.
#[must_use]
pub fn frame(kind: u8, contents: &[u8]) -> Vec<u8> {
    if contents.len() > frame::MAX_RAW {
        return Vec::new();
    }
    frame::pack(Kind::of(kind), contents).unwrap_or_default()
}

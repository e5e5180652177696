//! The GNU build id, by which debuggers and profilers find the symbols of a binary.

use super::bytes::u32_at;
use super::elf::Image;
use std::fmt::Write as _;

/// `NT_GNU_BUILD_ID`.
const BUILD_ID: u32 = 3;
/// Bytes of an id; the linkers make 20 or fewer.
const MAX_ID: u32 = 64;

impl Image {
    pub(super) fn read_build_id(&self) -> Option<String> {
        parse_note(&self.tail(self.section(".note.gnu.build-id")?)?)
    }
}

/// The id in a note of the GNU build id, in hexadecimal.
pub(super) fn parse_note(note: &[u8]) -> Option<String> {
    let (name_len, len, kind) = (u32_at(note, 0)?, u32_at(note, 4)?, u32_at(note, 8)?);
    if name_len != 4 || note.get(12..16)? != b"GNU\0" || kind != BUILD_ID || len > MAX_ID {
        return None;
    }
    let mut text = String::new();
    for byte in note.get(16..)?.get(..len as usize)? {
        let _ = write!(text, "{byte:02x}");
    }
    Some(text)
}

//! The wait reasons of a binary, in its own numbering: `runtime.waitReasonStrings`
//! (`src/runtime/runtime2.go`). The numbers change between versions, even within a series, so a
//! tracer compares the texts.
//!
//! The array has no symbol in a stripped binary. `waitReason.String` compares its number with the
//! length of the array, and then refers to it; so in all versions from 1.19 to 1.27.

use super::bytes::u64_at;
use super::code::{Access, Step, steps};
use super::elf::Image;
use super::pclntab::Pclntab;

const FUNCTION: &str = "runtime.waitReason.String";
/// The longest text up to 1.27 has 28 bytes.
const MAX_TEXT: u64 = 64;
/// The number is a byte.
const MAX_COUNT: u64 = 256;

/// The wait reasons by number; number 0 is empty. `None` where they cannot be found.
pub(super) fn find(image: &Image, functions: &Pclntab) -> Option<Vec<String>> {
    let mut count = None;
    for step in steps(image, functions, FUNCTION) {
        match step {
            Step::Compare(bound) => count = Some(bound).filter(|count| *count <= MAX_COUNT),
            // It also refers to the text "unknown wait reason", which is no array of strings.
            Step::Global(addr, Access::Address) => {
                if let Some(found) = strings(image, addr, count?) {
                    return Some(found);
                }
            }
            _ => {}
        }
    }
    None
}

/// The array of Go strings (pointer and length) at `vaddr`, if it looks like the wait reasons.
fn strings(image: &Image, vaddr: u64, count: u64) -> Option<Vec<String>> {
    let one = |index| {
        let at = vaddr.checked_add(index * 16)?;
        let len = u64_at(image.read(at, 16)?, 8).filter(|len| *len <= MAX_TEXT)?;
        if len == 0 {
            return Some(String::new());
        }
        let text = image.read(image.read_ptr(at)?, len)?;
        let printable = text.iter().all(|byte| (b' '..=b'~').contains(byte));
        printable.then(|| String::from_utf8_lossy(text).into_owned())
    };
    let found: Vec<_> = (0..count).map(one).collect::<Option<_>>()?;
    // The first is the zero value, "".
    (found.len() > 1 && found.iter().skip(1).all(|text| !text.is_empty())).then_some(found)
}

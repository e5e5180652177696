//! The wait reasons of a binary, in its own numbering: `runtime.waitReasonStrings`
//! (`src/runtime/runtime2.go`). The numbers change between versions, even within a series, so a
//! tracer compares the texts.
//!
//! The array has no symbol in a stripped binary. `waitReason.String` compares its number with the
//! length of the array, and then refers to it; so in all versions from 1.19 to 1.27.

use super::bytes::u64_at;
use super::elf::Image;
use super::pclntab::Pclntab;
use iced_x86::{Decoder, DecoderOptions, Mnemonic, OpKind, Register};

const FUNCTION: &str = "runtime.waitReason.String";
/// It has 48 bytes.
const MAX_CODE: u64 = 512;
/// The longest text up to 1.27 has 28 bytes.
const MAX_TEXT: u64 = 64;

/// The wait reasons by number; number 0 is empty. `None` where they cannot be found.
pub(super) fn find(image: &Image, functions: &Pclntab) -> Option<Vec<String>> {
    let function = functions.find(FUNCTION)?;
    let code = image.read(function.entry, (function.end - function.entry).min(MAX_CODE))?;
    let mut count = None;
    for instruction in Decoder::with_ip(64, code, function.entry, DecoderOptions::NONE) {
        if instruction.mnemonic() == Mnemonic::Cmp && instruction.op1_kind() == OpKind::Immediate8 {
            count = Some(u64::from(instruction.immediate8()));
        }
        // It also refers to the text "unknown wait reason", which is no array of strings.
        if instruction.memory_base() == Register::RIP
            && let Some(found) = strings(image, instruction.ip_rel_memory_address(), count?)
        {
            return Some(found);
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

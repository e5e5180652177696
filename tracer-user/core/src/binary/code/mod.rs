//! What a function's machine code refers to: the runtime's variables, and fields of its structures.
//! So much of an instruction is the same on every processor; how it is written stands in one file
//! for each.
//!
//! Code is read from its first byte to its last, not along its branches. What is found is therefore
//! what some path does, in the order of the addresses.

mod amd64;
mod arm64;

use super::elf::{Arch, Image};
use super::pclntab::Pclntab;

/// The largest function that is decoded; the largest of those asked for has eight kilobytes.
const MAX_CODE: u64 = 64 << 10;

/// What an instruction does with the memory it refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nothing: it makes the address.
    Address,
    Load(u8),
    Store(u8),
    /// Reads and writes this many bytes.
    Update(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It refers to this link-time address.
    Global(u64, Access),
    /// It refers to memory at a distance from what a register holds: a field of a structure.
    Field {
        /// The register, by the number that the processor gives it.
        base: u8,
        offset: i64,
        access: Access,
    },
    Compare(u64),
}

/// What the instructions of a function tell, in their order; empty where the binary has no such
/// function.
pub(super) fn steps(image: &Image, functions: &Pclntab, name: &str) -> Vec<Step> {
    let Some(function) = functions.find(name) else { return Vec::new() };
    let size = (function.end - function.entry).min(MAX_CODE);
    let code = image.read(function.entry, size).unwrap_or_default();
    match image.arch() {
        Arch::Amd64 => amd64::steps(code, function.entry),
        Arch::Arm64 => arm64::steps(code, function.entry),
    }
}

#[cfg(test)]
mod tests {
    proptest::proptest! {
        #[test]
        fn no_bytes_are_too_strange(
            code in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
            entry in proptest::num::u64::ANY,
        ) {
            for entry in [entry, u64::MAX - 3] {
                super::amd64::steps(&code, entry);
                super::arm64::steps(&code, entry);
            }
        }
    }
}

//! What a function's machine code refers to: the runtime's variables, and fields of its structs. [`Step`] is the same
//! for every processor; `amd64.rs` and `arm64.rs` decode the instructions. `types.rs` looks through the code of all
//! functions.
//!
//! Code is decoded from its first byte to its last and branches are not taken. The steps are therefore those of all
//! paths together, in the order of their addresses.

mod amd64;
mod arm64;
mod callees;
mod flow;
mod locks;
mod types;

use super::elf::{Arch, Image};
use super::pclntab::{Function, Pclntab};
pub(crate) use locks::{ChannelCalls, Hold, Unlocks};
pub(super) use locks::{channel_calls, given_after, lets_go, taken_before, unlocks, used_after};
pub(super) use types::types;
pub use types::{CodeTypes, Described};

/// Bytes of a function that are decoded. The largest function that is asked for (`EVIDENCE`, `globals.rs`) has 8 KiB.
const MAX_CODE: u64 = 64 << 10;

/// What an instruction does with the memory it refers to; the number is how many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// The instruction only computes the address (`lea`, `adrp` and `add`).
    Address,
    Load(u8),
    Store(u8),
    /// Reads and writes, as atomic instructions do.
    Update(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The instruction refers to this link-time address.
    Global(u64, Access),
    /// The instruction refers to memory at `offset` from a register: a field of a struct.
    Field {
        /// The processor's own number of the register.
        base: u8,
        offset: i64,
        access: Access,
    },
    /// The instruction compares with this constant.
    Compare(u64),
}

/// The steps of the function of this name, in the order of their addresses. Empty: the binary has no such function.
pub(super) fn steps(image: &Image, functions: &Pclntab, name: &str) -> Vec<Step> {
    functions.find(name).map(|function| steps_of(image, &function)).unwrap_or_default()
}

fn steps_of(image: &Image, function: &Function<'_>) -> Vec<Step> {
    let code = code_of(image, function).unwrap_or_default();
    decoded(image.arch(), code, function.entry)
}

/// Whether the function of this name stores its first argument where its caller leaves room for that, as long as it has a
/// frame of its own, and is inlined nowhere. Not known of arm64.
pub(super) fn saves_first_argument(image: &Image, functions: &Pclntab, name: &str) -> bool {
    let Some(function) = functions.find(name).filter(|_| image.arch() == Arch::Amd64) else { return false };
    let saves =
        code_of(image, &function).is_some_and(|code| amd64::saves_first_argument(code, function.entry));
    saves && !functions.inlined_callees(&[name]).contains_key(name)
}

/// The code of a function, as much of it as is decoded. `None`: it is not in the file.
fn code_of<'a>(image: &'a Image, function: &Function<'_>) -> Option<&'a [u8]> {
    image.read(function.entry, (function.end - function.entry).min(MAX_CODE))
}

fn decoded(arch: Arch, code: &[u8], entry: u64) -> Vec<Step> {
    match arch {
        Arch::Amd64 => amd64::steps(code, entry),
        Arch::Arm64 => arm64::steps(code, entry),
    }
}

/// The functions that code at `entry` calls by their addresses.
fn calls(arch: Arch, code: &[u8], entry: u64) -> impl Iterator<Item = u64> {
    branches(arch, code, entry).into_iter().filter(|branch| branch.calls).map(|branch| branch.to)
}

/// From where to where code at `entry` jumps.
fn jumps(arch: Arch, code: &[u8], entry: u64) -> Vec<(u64, u64)> {
    let branches = branches(arch, code, entry).into_iter();
    branches.filter(|branch| !branch.calls).map(|branch| (branch.at, branch.to)).collect()
}

/// An instruction that goes on at another address, which it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Branch {
    at: u64,
    to: u64,
    /// It comes back.
    calls: bool,
}

fn branches(arch: Arch, code: &[u8], entry: u64) -> Vec<Branch> {
    match arch {
        Arch::Amd64 => amd64::branches(code, entry),
        Arch::Arm64 => arm64::branches(code, entry),
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
                super::amd64::branches(&code, entry);
                super::arm64::branches(&code, entry);
            }
        }
    }
}

//! Confirms a guessed layout by the binary's own code. The runtime's functions address fields by their offsets, so each
//! offset of the layout must occur in the function that uses the field, with the size and the direction of that use.
//!
//! A layout is a guess if the version is newer than the table, lies between two rows of it, or is a vendor's.

use super::super::code::{Access, Step, steps};
use super::super::elf::Image;
use super::super::pclntab::Pclntab;
use crate::goruntime::Release;
use crate::goruntime::layouts::evidence::{
    EVIDENCE,
    Use::{self, Atomic, Reads, Writes},
};
use std::collections::HashMap;

/// Compares a layout with the code of a binary of this release.
///
/// # Errors
/// The first field whose offset does not occur in the function's code, and that function; also if the binary lacks the
/// function.
pub(super) fn confirm(
    image: &Image,
    functions: &Pclntab,
    offsets: &HashMap<String, u32>,
    release: Release,
) -> Result<(), (&'static str, &'static str)> {
    for (function, fields) in EVIDENCE {
        let steps = steps(image, functions, function);
        for (field, how, _) in fields.iter().filter(|(.., since)| release.minor() >= *since) {
            let there =
                offsets.get(*field).is_some_and(|offset| steps.iter().any(|step| how.is(*step, *offset)));
            if !there {
                return Err((field, function));
            }
        }
    }
    Ok(())
}

impl Use {
    /// Whether a step uses the field at offset `wanted` in this way.
    fn is(self, step: Step, wanted: u32) -> bool {
        let Step::Field { offset, access, .. } = step else { return false };
        let into = i64::from(wanted) - offset;
        match (self, access) {
            // arm64 has no offset in its atomic instructions: an `add` makes the address first, so its size is not
            // seen.
            (Atomic(_), Access::Address) => into == 0,
            (Atomic(size), Access::Load(of) | Access::Update(of)) => into == 0 && of == size,
            (Reads(size), Access::Load(of) | Access::Update(of))
            | (Writes(size), Access::Store(of) | Access::Update(of)) => {
                // One 16-byte access (`ldp`, `movups`) covers two neighbouring words.
                into == 0 && of == size || size == 8 && of == 16 && (into == 0 || into == 8)
            }
            _ => false,
        }
    }
}

//! Whether a layout is the one that a binary's own code was compiled with. The runtime's functions
//! address the fields of its structures by their offsets; those of a layout must be among them, each
//! with the size and the direction of that access.
//!
//! Needed where the layout is a guess: for a version that is newer than the table, between two of
//! its rows, or a vendor's.

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
/// A field that is not where the layout says, and the function whose code shows it; also where the
/// binary has no such function.
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
    /// Whether a step uses the field at `wanted` so. An instruction may access two fields at once.
    fn is(self, step: Step, wanted: u32) -> bool {
        let Step::Field { offset, access, .. } = step else { return false };
        let into = i64::from(wanted) - offset;
        match (self, access) {
            (Atomic(_), Access::Address) => into == 0,
            (Atomic(size), Access::Load(of) | Access::Update(of)) => into == 0 && of == size,
            (Reads(size), Access::Load(of) | Access::Update(of))
            | (Writes(size), Access::Store(of) | Access::Update(of)) => {
                into == 0 && of == size || size == 8 && of == 16 && (into == 0 || into == 8)
            }
            _ => false,
        }
    }
}

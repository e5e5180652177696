//! Types that only code tells: the struct that a closure is, and the type of a variable that holds a map. Descriptors
//! are in every program, but which closure has which, and the types of variables, are in debug information alone.

use super::super::elf::{Arch, Image};
use super::super::pclntab::Pclntab;
use super::amd64::{self, INSTRUCTION, Reference, Refers};
use crate::budget;
use std::ops::Range;

/// Bytes of code that are looked through; the largest Go programs have some hundred megabytes.
const MAX_CODE: usize = 512 << 20;
/// Closures that are noted, and variables; very large programs have some ten thousand places that name one.
const MAX_PAIRS: usize = 1 << 20;
/// Bytes from the instruction that names a closure's descriptor to the one that names its function: what allocates the
/// struct lies between them (`walkClosure` in `src/cmd/compile/internal/walk/closure.go`).
const TO_FUNCTION: u64 = 64;
/// Bytes that the instruction which loads a map may lie before the one that names its type, and behind it: both are
/// arguments of one call (`mapfn` in `src/cmd/compile/internal/walk/walk.go`).
const BEFORE_TYPE: u64 = 14;
const BEHIND_TYPE: u64 = 15;
/// The first byte of a near call, and the bytes of all of it.
const CALL: u8 = 0xe8;
const CALL_SIZE: usize = 5;

/// What a descriptor describes, as far as code tells more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Described {
    /// A struct whose first field may be a closure's function: `struct { F uintptr; X0 *int }`.
    Closure,
    /// A map.
    Map,
}

/// What code tells of types. Both lists are in ascending order; what different places contradict is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeTypes {
    /// Entries of closures' functions, and the descriptors of the structs that begin with such an entry.
    pub closures: Vec<(u64, u64)>,
    /// Variables that hold maps, and the descriptors of the maps.
    pub maps: Vec<(u64, u64)>,
}

/// Looks through all code for it. `described` says what the descriptor at an address in `types` describes. Nothing is
/// found on arm64, where the two halves of an address may lie anywhere.
pub(in crate::binary) fn types(
    image: &Image,
    functions: &Pclntab,
    types: Range<u64>,
    described: &dyn Fn(u64) -> Option<Described>,
) -> CodeTypes {
    if image.arch() != Arch::Amd64 {
        return CodeTypes::default();
    }
    let code = functions.code();
    let (mut left, mut found) = (MAX_CODE, CodeTypes::default());
    for segment in image.segments().iter().filter(|segment| segment.executable) {
        for (start, bytes) in image.parts(segment) {
            let skipped = usize::try_from(code.start.saturating_sub(start)).unwrap_or(usize::MAX);
            let end = usize::try_from(code.end.saturating_sub(start)).unwrap_or(0).min(bytes.len());
            let bytes = bytes.get(skipped..end).unwrap_or_default();
            let bytes = bytes.get(..left).unwrap_or(bytes);
            left -= bytes.len();
            let start = start + skipped as u64;
            let search = Search { image, functions, types: &types, described, bytes, start };
            // What was found up to a bound counts.
            let _ = search.run(&mut found);
        }
    }
    CodeTypes { closures: certain(found.closures), maps: certain(found.maps) }
}

/// In order, without those of which there are several with the same first number.
fn certain(mut pairs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    pairs.sort_unstable();
    pairs.dedup();
    let same = pairs.chunk_by(|one, other| one.0 == other.0);
    same.filter_map(|same| if let [one] = same { Some(*one) } else { None }).collect()
}

struct Search<'a> {
    image: &'a Image,
    functions: &'a Pclntab,
    types: &'a Range<u64>,
    described: &'a dyn Fn(u64) -> Option<Described>,
    /// A stretch of code, and its link-time address.
    bytes: &'a [u8],
    start: u64,
}

impl Search<'_> {
    /// `None`: up to a bound.
    fn run(&self, found: &mut CodeTypes) -> Option<()> {
        // The last ones: a descriptor of a closure's struct and of a map, and a variable, each with where it is named.
        let (mut closure, mut map, mut loaded) = (None, None, None);
        for Reference { at, target, refers } in amd64::references(self.bytes, self.start) {
            if refers == Refers::LoadRbx {
                if self.image.is_writable(target, 8) {
                    if let Some((before, descriptor)) = map
                        && self.together(before, at, BEHIND_TYPE)
                    {
                        note(&mut found.maps, (target, descriptor))?;
                    }
                    loaded = Some((at, target));
                }
                continue;
            }
            let described = if self.types.contains(&target) { (self.described)(target) } else { None };
            match described {
                Some(Described::Closure) => closure = Some((at, target)),
                Some(Described::Map) if refers == Refers::AddressRax => {
                    if let Some((before, variable)) = loaded
                        && self.together(before, at, BEFORE_TYPE)
                    {
                        note(&mut found.maps, (variable, target))?;
                    }
                    map = Some((at, target));
                }
                Some(Described::Map) => {}
                None => {
                    let near = closure.filter(|(before, _)| at - before <= TO_FUNCTION);
                    if let Some((_, descriptor)) = near
                        && self.functions.function_at(target).is_some_and(|function| function.entry == target)
                    {
                        note(&mut found.closures, (target, descriptor))?;
                        // A closure on the stack may come next, which needs no descriptor.
                        closure = None;
                    }
                }
            }
        }
        Some(())
    }

    /// Whether two instructions are no more than `most` bytes apart, and no call is between them: then they make
    /// arguments of the same one.
    fn together(&self, first: u64, second: u64, most: u64) -> bool {
        if second - first > most {
            return false;
        }
        let (from, to) = (first - self.start + INSTRUCTION as u64, second - self.start);
        let between = self.bytes.get(from as usize..to as usize).unwrap_or_default();
        !between.windows(CALL_SIZE).any(|bytes| bytes.first() == Some(&CALL))
    }
}

/// `None`: there are more than in any program.
fn note(pairs: &mut Vec<(u64, u64)>, pair: (u64, u64)) -> Option<()> {
    if pairs.len() == MAX_PAIRS {
        return None;
    }
    budget::reserve(pairs, 1).ok()?;
    pairs.push(pair);
    Some(())
}

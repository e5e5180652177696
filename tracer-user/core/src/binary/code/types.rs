//! Types that only code tells: the struct that a closure is, and what variables hold. Descriptors are in every program,
//! but which closure has which, and the types of variables, are in debug information alone.

use super::super::elf::{Arch, Image};
use super::super::pclntab::Pclntab;
use super::amd64::{self, Reference};
use super::callees::Callees;
use super::flow::{Flow, Told};
use crate::budget;
use std::collections::HashSet;
use std::ops::Range;

/// Bytes of code that are looked through; the largest Go programs have some hundred megabytes.
const MAX_CODE: usize = 512 << 20;
/// What is noted of one kind; very large programs have some ten thousand places that name a closure or a variable.
pub(super) const MAX_PAIRS: usize = 1 << 20;
/// Bytes from the instruction that names a closure's descriptor to the one that names its function: what allocates the
/// struct lies between them (`walkClosure` in `src/cmd/compile/internal/walk/closure.go`).
const TO_FUNCTION: u64 = 64;
/// Bytes of a word.
pub(super) const WORD: u64 = 8;

/// What a descriptor describes, as far as code tells more of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Described {
    /// A struct whose first field may be a closure's function: `struct { F uintptr; X0 *int }`.
    Closure,
    /// A map.
    Map,
    /// Any other type.
    Other,
}

/// What code tells of types. All lists are in ascending order; what different places contradict is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeTypes {
    /// Entries of closures' functions, and the descriptors of the structs that begin with such an entry.
    pub closures: Vec<(u64, u64)>,
    /// Variables that hold maps, and the descriptors of the maps.
    pub maps: Vec<(u64, u64)>,
    /// Variables that hold a pointer, and the descriptor of what it points to.
    pub pointers: Vec<(u64, u64)>,
    /// Variables that hold a pointer to a type that methods name, and its name with its import path as sources have
    /// it: `gopkg.in/yaml.v2.decoder`. None of them is the second word of an interface, which may point to others, too.
    pub receivers: Vec<(u64, Box<str>)>,
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
    let mut found = variables(image, functions, &types, described).unwrap_or_default();
    found.closures = certain(closures(image, functions, &types, described));
    found
}

/// `None`: the budget does not allow it.
fn variables(
    image: &Image,
    functions: &Pclntab,
    types: &Range<u64>,
    described: &dyn Fn(u64) -> Option<Described>,
) -> Option<CodeTypes> {
    let callees = Callees::find(functions)?;
    let mut flow = Flow::new(image, types, described, &callees);
    let mut left = MAX_CODE as u64;
    for function in functions.functions() {
        let size = function.end - function.entry;
        let Some(rest) = left.checked_sub(size) else { break };
        left = rest;
        // What was found up to a bound counts.
        if let Some(code) = image.read(function.entry, size)
            && flow.follow(code, function.entry).is_none()
        {
            break;
        }
    }
    let told = flow.told();
    // As sets and in order.
    budget::check(told.bytes().saturating_mul(4)).ok()?;
    Some(put_together(&told, &callees))
}

/// What is certain of all that was told.
pub(super) fn put_together(told: &Told, callees: &Callees<'_>) -> CodeTypes {
    let interfaces: HashSet<u64> = told.interfaces.iter().copied().collect();
    let numbers: HashSet<u64> = told.numbers.iter().copied().collect();
    let is_made: HashSet<u64> = told.pointers.iter().map(|(variable, _)| *variable).collect();
    let is_map: HashSet<u64> = told.maps.iter().map(|(variable, _)| *variable).collect();
    // The second word of an interface points to what has the type of the first one, whatever that is now.
    let own = |at: u64| !interfaces.contains(&at) && !interfaces.contains(&at.wrapping_sub(WORD));
    // The array of a slice has another length once the slice has grown.
    let is_slice = |at: u64| [1, 2].iter().all(|word| numbers.contains(&at.wrapping_add(word * WORD)));
    let mut variables = CodeTypes {
        closures: Vec::new(),
        maps: certain(told.maps.clone()),
        pointers: certain(told.pointers.clone()),
        receivers: receivers(told, callees),
    };
    variables.maps.retain(|(at, _)| own(*at) && !is_made.contains(at));
    variables.pointers.retain(|(at, _)| own(*at) && !is_map.contains(at) && !is_slice(*at));
    // The descriptor says more than the name: the object may be an array of them.
    variables.receivers.retain(|(at, _)| own(*at) && !is_map.contains(at) && !is_made.contains(at));
    variables
}

/// Of the types of receivers that a variable points to, the one that begins with all others. Nothing is certain of a
/// variable whose only type is what others begin with: its own may be one of those.
fn receivers(told: &Told, callees: &Callees<'_>) -> Vec<(u64, Box<str>)> {
    let (all, within, made) =
        (in_order(told.receivers.clone()), in_order(told.within.clone()), in_order(told.made.clone()));
    let is_within = |inner: u32, outer: u32| within.binary_search(&(inner, outer)).is_ok();
    let of_one = all.chunk_by(|one, other| one.0 == other.0);
    let pairs = of_one.clone().flat_map(|of| of.windows(2)).filter_map(|pair| match pair {
        [(_, one), (_, other)] => Some((*one, *other)),
        _ => None,
    });
    // Which of the two begins with the other is not known.
    let mut doubtful: HashSet<u32> = (told.same.iter().copied().chain(pairs))
        .filter(|(one, other)| !is_within(*one, *other) && !is_within(*other, *one))
        .flat_map(|(one, other)| [one, other])
        .collect();
    // Objects of different types begin with it.
    doubtful.extend(made.windows(2).filter_map(|pair| match pair {
        [(one, _), (other, _)] if one == other => Some(*one),
        _ => None,
    }));
    doubtful.extend(within.iter().map(|(inner, _)| *inner));
    let named = of_one.filter_map(|of| {
        let (variable, outer) = of.iter().find(|(_, of)| !doubtful.contains(of))?;
        let all = of.iter().all(|(_, inner)| inner == outer || is_within(*inner, *outer));
        if all { Some((*variable, callees.name(*outer)?)) } else { None }
    });
    named.collect()
}

/// What is noted of closures in all code.
fn closures(
    image: &Image,
    functions: &Pclntab,
    types: &Range<u64>,
    described: &dyn Fn(u64) -> Option<Described>,
) -> Vec<(u64, u64)> {
    let code = functions.code();
    let (mut left, mut found) = (MAX_CODE, Vec::new());
    for segment in image.segments().iter().filter(|segment| segment.executable) {
        for (start, bytes) in image.parts(segment) {
            let skipped = usize::try_from(code.start.saturating_sub(start)).unwrap_or(usize::MAX);
            let end = usize::try_from(code.end.saturating_sub(start)).unwrap_or(0).min(bytes.len());
            let bytes = bytes.get(skipped..end).unwrap_or_default();
            let bytes = bytes.get(..left).unwrap_or(bytes);
            left -= bytes.len();
            let start = start + skipped as u64;
            let search = Search { functions, types, described, bytes, start };
            // What was found up to a bound counts.
            let _ = search.run(&mut found);
        }
    }
    found
}

/// In order, without those of which there are several with the same first number.
fn certain(pairs: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    let pairs = in_order(pairs);
    let same = pairs.chunk_by(|one, other| one.0 == other.0);
    same.filter_map(|same| if let [one] = same { Some(*one) } else { None }).collect()
}

fn in_order<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}

struct Search<'a> {
    functions: &'a Pclntab,
    types: &'a Range<u64>,
    described: &'a dyn Fn(u64) -> Option<Described>,
    /// A stretch of code, and its link-time address.
    bytes: &'a [u8],
    start: u64,
}

impl Search<'_> {
    /// `None`: up to a bound.
    fn run(&self, found: &mut Vec<(u64, u64)>) -> Option<()> {
        // The last descriptor of a closure's struct, and where it is named.
        let mut closure = None;
        for Reference { at, target } in amd64::references(self.bytes, self.start) {
            let described = if self.types.contains(&target) { (self.described)(target) } else { None };
            match described {
                Some(Described::Closure) => closure = Some((at, target)),
                Some(Described::Map | Described::Other) => {}
                None => {
                    let near = closure.filter(|(before, _)| at - before <= TO_FUNCTION);
                    if let Some((_, descriptor)) = near
                        && self.functions.function_at(target).is_some_and(|function| function.entry == target)
                    {
                        note(found, (target, descriptor))?;
                        // A closure on the stack may come next, which needs no descriptor.
                        closure = None;
                    }
                }
            }
        }
        Some(())
    }
}

/// `None`: there are more than in any program.
pub(super) fn note<T>(noted: &mut Vec<T>, one: T) -> Option<()> {
    if noted.len() == MAX_PAIRS {
        return None;
    }
    budget::reserve(noted, 1).ok()?;
    noted.push(one);
    Some(())
}

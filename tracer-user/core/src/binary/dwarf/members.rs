//! What a variable consists of whose type has no descriptor: its struct is flattened down to what has one, or points to
//! what has one.

use super::super::variables::{MAX_MEMBERS, Member};
use super::types::{Child, Shape, Type, Types};
use super::variables::ADDRESS;
use crate::budget;

/// Structs and arrays in each other.
const MAX_DEPTH: usize = 8;
/// Elements of an array that are looked at.
const MAX_ELEMENTS: u64 = 16;
/// Members of one variable that are looked at: a hostile struct may hold itself.
const MAX_LOOKED_AT: usize = 4096;
/// Bytes of a path; of more no reader would make sense.
const MAX_PATH: usize = 1 << 10;
/// A member that has no name and holds nothing.
const BLANK: &str = "_";
/// The member of `sync/atomic.Pointer` that is the pointer.
const ATOMIC_VALUE: &str = "v";

/// The members of a variable of this type, ordered by offset; no two overlap. None where it has a descriptor, or where
/// the steps are used up.
pub(super) fn members(types: &mut Types<'_, '_>, of: Type) -> Box<[Member]> {
    let (None, Some(size)) = (of.descriptor, of.size) else { return Box::default() };
    let (found, path) = (Vec::new(), String::new());
    let mut flat = Flat { types, found, path, size, end: 0, left: MAX_LOOKED_AT };
    // What was found up to a bound counts.
    let _ = flat.add(of, 0, 0);
    flat.found.into()
}

/// The members of one variable while they are collected.
struct Flat<'t, 'w, 'a> {
    types: &'t mut Types<'w, 'a>,
    found: Vec<Member>,
    /// From the variable to what is looked at.
    path: String,
    /// Bytes of the variable.
    size: u64,
    /// Where the last member ends.
    end: u64,
    /// See [`MAX_LOOKED_AT`].
    left: usize,
}

impl Flat<'_, '_, '_> {
    /// Adds what lies at an offset, or what that consists of. `None`: a bound is met, also further below.
    fn add(&mut self, of: Type, at: u64, depth: usize) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        if !self.types.affordable() {
            return None;
        }
        let Some(size) = of.size.filter(|size| *size > 0) else { return Some(()) };
        if of.descriptor.is_some() {
            return self.keep(at, size, of.descriptor, None);
        }
        match of.shape {
            Shape::Plain => Some(()),
            Shape::Pointer => {
                let points_to = self.descriptor(of.of);
                self.keep(at, size, None, points_to)
            }
            // The pointer is the second of the two words.
            Shape::Interface => self.keep(at.checked_add(ADDRESS as u64)?, ADDRESS as u64, None, None),
            Shape::Slice => {
                let array = self.types.children(&of, 1).first().and_then(|array| array.of);
                let points_to = array.and_then(|array| self.pointee(array));
                self.keep(at, size, None, points_to)
            }
            Shape::Struct | Shape::Atomic | Shape::Array if depth == MAX_DEPTH => Some(()),
            Shape::Array => self.elements(of.of, at, size, depth),
            Shape::Struct | Shape::Atomic => {
                let children = self.types.children(&of, self.left);
                let target = if of.shape == Shape::Atomic { self.target(&children) } else { None };
                children.iter().try_for_each(|child| self.child(child, target, at, depth))
            }
        }
    }

    fn child(&mut self, child: &Child<'_>, target: Option<u64>, at: u64, depth: usize) -> Option<()> {
        let (Some(place), Some(at)) = (child.of, at.checked_add(child.offset)) else { return Some(()) };
        if child.name == BLANK {
            return Some(());
        }
        let of = self.types.of(place);
        self.below(&[".", child.name], |flat| match of {
            Type { shape: Shape::Pointer, of: None, size: Some(size), .. }
                if target.is_some() && child.name == ATOMIC_VALUE =>
            {
                flat.keep(at, size, None, target)
            }
            of => flat.add(of, at, depth + 1),
        })
    }

    /// Adds the first elements of an array of `size` bytes.
    fn elements(&mut self, of: Option<usize>, at: u64, size: u64, depth: usize) -> Option<()> {
        let Some(element) = of.map(|place| self.types.of(place)) else { return Some(()) };
        let stride = element.size.unwrap_or(0);
        let count = size.checked_div(stride).unwrap_or(0).min(MAX_ELEMENTS);
        self.below(&["[]"], |flat| {
            (0..count).try_for_each(|index| flat.add(element, at.checked_add(index * stride)?, depth + 1))
        })
    }

    /// Does something with a longer path.
    fn below(&mut self, parts: &[&str], run: impl FnOnce(&mut Self) -> Option<()>) -> Option<()> {
        let before = self.path.len();
        if before + parts.iter().map(|part| part.len()).sum::<usize>() > MAX_PATH {
            return Some(());
        }
        self.path.extend(parts.iter().copied());
        let done = run(self);
        self.path.truncate(before);
        done
    }

    /// What a `sync/atomic.Pointer` points to: its first member is an array of no such pointers.
    fn target(&mut self, children: &[Child<'_>]) -> Option<u64> {
        let array = self.types.of(children.first()?.of?);
        if array.shape != Shape::Array {
            return None;
        }
        self.pointee(array.of?)
    }

    /// The descriptor of what a pointer type points to.
    fn pointee(&mut self, pointer: usize) -> Option<u64> {
        let of = self.types.of(pointer).of;
        self.descriptor(of)
    }

    fn descriptor(&mut self, of: Option<usize>) -> Option<u64> {
        self.types.of(of?).descriptor
    }

    /// Keeps a member of `size` bytes that has the path. `None`: there are as many as are kept.
    fn keep(
        &mut self,
        offset: u64,
        size: u64,
        descriptor: Option<u64>,
        points_to: Option<u64>,
    ) -> Option<()> {
        let end = offset.checked_add(size)?;
        // Go's linker writes members in their order. Of the variable as a whole nothing is said if nothing is known.
        let nothing = self.path.is_empty() && descriptor.is_none() && points_to.is_none();
        if offset < self.end || end > self.size || nothing {
            return Some(());
        }
        if self.found.len() == MAX_MEMBERS {
            return None;
        }
        budget::check(self.path.len()).ok()?;
        budget::reserve(&mut self.found, 1).ok()?;
        self.found.push(Member { path: self.path.as_str().into(), offset, descriptor, points_to });
        self.end = end;
        Some(())
    }
}

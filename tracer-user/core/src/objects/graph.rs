//! Marks the heap from all roots, about breadth first, and remembers of each object what led to it.
//!
//! The search for leaks needs one bit of an object ([`crate::heap`]). Here an object has three numbers: what led to it
//! first, which is on a shortest way; what led to it from another root, if anything did; and the root of the first. The
//! ways back from an object are in these, without a list of all references. "First" is what is nearest to a root, as
//! far as that was known when it was looked through.

use super::ObjectsError;
use super::recent::Recent;
use super::sweep::Sweep;
use super::typing::{Part, Typing, number};
use crate::budget;
use crate::heap::{ObjectId, Source, Span, Spans, most_read, words};
use crate::memory::{Fault, Range, read_each};
use crate::snapshot::View;
use hashbrown::HashMap;

/// Bytes that are read at once, and pieces of them.
pub(super) const BATCH_BYTES: usize = 1 << 20;
pub(super) const BATCH: usize = 1024;
/// Stands for no object and no root.
const NONE: u32 = u32::MAX;
/// Numbers from here on are those of roots, lower ones those of objects.
const ROOT: u32 = 1 << 31;
/// In [`Graph::other`]: it is from another root. Numbers of objects and roots are below this.
const FAR: u32 = 1 << 30;
/// Most roots that are told apart.
const MAX_ROOTS: usize = FAR as usize;
/// Objects without pointers whose first bytes are read to see whether they are channels, and how many bytes.
const MAX_PLAIN: usize = 1 << 22;
const PLAIN: usize = 96;
/// So many steps that stay in a span are taken at once: each level would need the span read again.
const NEAR: usize = 8;
/// Bytes of a value within an object that are followed.
const MAX_PART: u64 = 1 << 20;

/// What leads to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parent {
    /// The object with this number.
    Object(u32),
    /// A root.
    Root(Source),
}

/// What led to an object.
#[derive(Clone, Copy)]
pub(super) struct Links {
    /// First: an object, or [`ROOT`] and the number of a root.
    first: u32,
    /// As well: with [`FAR`] from another root, if anything did.
    other: u32,
    /// The number of the root of `first`.
    origin: u32,
    /// Objects on the way from the root by `first`, or fewer.
    hops: u32,
}

/// The objects of one target, and what leads to each.
pub(super) struct Graph<'a> {
    pub(super) view: View<'a>,
    pub(super) spans: Spans,
    /// By object.
    pub(super) links: Vec<Links>,
    roots: Vec<Source>,
    numbers: HashMap<Source, u32>,
    /// By object, a bit: it is not looked through ([`crate::heap::structs`]).
    pub(super) never: Vec<u64>,
    /// Objects that were reached and not looked through yet.
    next: Vec<u32>,
    /// Objects that a root refers to.
    pub(super) seeds: Vec<u32>,
    /// By object, a bit: more than finalizers and cleanups lead to it ([`Graph::keep`]). Empty until that is known.
    kept: Vec<u64>,
    /// Objects and bytes that were reached.
    pub(super) reached: (u64, u64),
    read: u64,
    most_read: u64,
    /// Bytes of objects that could not be read.
    pub(super) unread: u64,
}

impl<'a> Graph<'a> {
    /// # Errors
    /// The heap has more objects than can be numbered, or the budget does not allow a graph of them.
    pub(super) fn new(view: View<'a>, spans: Spans) -> Result<Graph<'a>, ObjectsError> {
        let bits = spans.bits() as usize;
        if bits >= FAR as usize {
            return Err(ObjectsError::TooMany(bits as u64, FAR.into()));
        }
        budget::check(bits * size_of::<Links>() + bits / 8)?;
        Ok(Graph {
            links: vec![Links { first: NONE, other: NONE, origin: NONE, hops: 0 }; bits],
            roots: Vec::new(),
            numbers: HashMap::new(),
            never: vec![0; bits.div_ceil(64)],
            next: Vec::new(),
            seeds: Vec::new(),
            kept: Vec::new(),
            reached: (0, 0),
            read: 0,
            most_read: most_read(view.memory),
            unread: 0,
            view,
            spans,
        })
    }

    /// Keeps the object at an address from being looked through.
    pub(super) fn never_scan(&mut self, addr: u64) {
        let object = self.spans.object(addr).and_then(|id| number(self.spans.get(id.span)?, id));
        if let Some(object) = object
            && let Some(bits) = self.never.get_mut(object as usize / 64)
        {
            *bits |= 1 << (object % 64);
        }
    }

    /// Notes a root that has this word.
    pub(super) fn root(&mut self, word: u64, source: Source) -> Result<(), ObjectsError> {
        let Some(id) = self.spans.object(word) else { return Ok(()) };
        let Some((span, object)) =
            self.spans.get(id.span).copied().and_then(|span| Some((span, number(&span, id)?)))
        else {
            return Ok(());
        };
        let root = match self.numbers.get(&source) {
            Some(root) => *root,
            None if self.roots.len() >= MAX_ROOTS => return Ok(()),
            None => {
                budget::check(64)?;
                budget::reserve(&mut self.roots, 1)?;
                let root = self.roots.len() as u32;
                self.roots.push(source);
                self.numbers.insert(source, root);
                root
            }
        };
        budget::reserve(&mut self.seeds, 1)?;
        self.seeds.push(object);
        let by = Links { first: ROOT | root, other: NONE, origin: root, hops: 0 };
        if self.lead((object, span.size, !span.noscan), by) {
            budget::reserve(&mut self.next, 1)?;
            self.next.push(object);
        }
        Ok(())
    }

    /// Notes what leads to an object of so many bytes, which may have pointers. Whether it is to be looked through.
    #[inline]
    fn lead(&mut self, (object, size, scan): (u32, u64, bool), by: Links) -> bool {
        let at = object as usize;
        let Some(links) = self.links.get_mut(at) else { return false };
        if links.first == NONE {
            *links = by;
            self.reached.0 += 1;
            self.reached.1 += size;
            return scan && !is_marked(&self.never, object);
        }
        let mut more = by;
        // A finalizer is told of only where nothing else leads to an object.
        let is_kept = is_marked(&self.kept, object);
        if by.hops < links.hops && !is_kept {
            // Objects are not looked through quite in the order of their distance.
            more = Links { other: links.other, ..*links };
            *links = Links { other: links.other, ..by };
        }
        if links.other == NONE || links.other & FAR == 0 {
            if links.origin != more.origin {
                links.other = more.first | FAR;
            } else if links.other == NONE && links.first != more.first {
                links.other = more.first;
            }
        }
        false
    }

    /// Notes that what was reached so far is kept by more than what roots are noted from now on.
    ///
    /// # Errors
    /// The budget does not allow a bit for each object.
    pub(super) fn keep(&mut self) -> Result<(), ObjectsError> {
        budget::check(self.links.len() / 8)?;
        let bits = |links: &[Links]| {
            links.iter().rev().fold(0, |bits, links| bits << 1 | u64::from(links.first != NONE))
        };
        self.kept = self.links.chunks(64).map(bits).collect();
        Ok(())
    }

    /// Whether more than finalizers and cleanups lead to an object.
    pub(super) fn is_kept(&self, object: u32) -> bool {
        is_marked(&self.kept, object)
    }

    /// Which objects are kept if these are, too, besides those that are kept anyway.
    ///
    /// # Errors
    /// As [`Graph::run`].
    pub(super) fn also_kept(&self, seeds: Vec<u32>) -> Result<impl Fn(u32) -> bool + use<>, ObjectsError> {
        budget::check(self.kept.len() * size_of::<u64>())?;
        let marks = Sweep::beyond(self, self.kept.clone()).marks_from(seeds)?;
        Ok(move |object: u32| is_marked(&marks, object))
    }

    /// Goes on until nothing new is reached, and finds the types of what is. `progress` gets the bytes read so far.
    ///
    /// # Errors
    /// The target has ended or may not be read, or the budget is used up.
    pub(super) fn run(
        &mut self,
        typing: &mut Typing<'a>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), ObjectsError> {
        let mut recent = Recent::new()?;
        loop {
            let mut level = std::mem::take(&mut self.next);
            if level.is_empty() {
                let (late, parts) = typing.left();
                if late.is_empty() && parts.is_empty() {
                    return Ok(());
                }
                self.parts(typing, parts)?;
                level = late;
            }
            // In the order of their places, so that neighbours are read together.
            level.sort_unstable();
            level.dedup();
            let mut rest = &level[..];
            while !rest.is_empty() {
                let mut done = self.recent(typing, &mut recent, rest)?;
                if done == 0 {
                    done = self.batch(typing, rest)?;
                }
                rest = rest.get(done.max(1)..).unwrap_or_default();
                progress(self.read);
            }
            // The list of a level serves the next one, too.
            level.clear();
            if self.next.is_empty() {
                self.next = level;
            }
        }
    }

    /// Looks the first of these objects through, as many as are in spans that are read whole; returns how many.
    fn recent(
        &mut self,
        typing: &mut Typing<'a>,
        recent: &mut Recent,
        objects: &[u32],
    ) -> Result<usize, ObjectsError> {
        recent.begin();
        // By span its number, and behind which of the objects it ends.
        let mut taken: Vec<(u32, Span, usize)> = Vec::new();
        let mut rest = objects;
        while let Some(object) = rest.first() {
            let Some(id) = self.spans.at_bit(u64::from(*object)) else { break };
            let Some(span) = self.spans.get(id.span).copied() else { break };
            if !Recent::takes(&span) || !recent.wants(id.span, &span) {
                break;
            }
            let end = span.bits + u64::from(span.count);
            let of_span = rest.partition_point(|object| u64::from(*object) < end);
            rest = rest.get(of_span.max(1)..).unwrap_or_default();
            taken.push((id.span, span, objects.len() - rest.len()));
        }
        self.read += recent.read(self.view.memory, &self.spans)? as u64;
        let mut from = 0;
        for (number, span, to) in taken {
            let near = objects.get(from..to).unwrap_or_default().to_vec();
            self.near(typing, &span, recent.get(number), near)?;
            from = to;
        }
        Ok(from)
    }

    /// Looks these objects of a span through, and what they lead to in the same span.
    fn near(
        &mut self,
        typing: &mut Typing<'a>,
        span: &Span,
        bytes: &[u8],
        mut near: Vec<u32>,
    ) -> Result<(), ObjectsError> {
        let of_span = span.bits..span.bits + u64::from(span.count);
        for _ in 0..NEAR {
            let before = self.next.len();
            for object in near.drain(..) {
                let at = (u64::from(object) - span.bits) * span.size;
                match bytes.get(at as usize..(at + span.size) as usize) {
                    Some(own) => self.look(typing, (object, span), 0, own)?,
                    None => self.unread += span.size,
                }
            }
            near.extend(self.next.extract_if(before.., |object| of_span.contains(&u64::from(*object))));
            if near.is_empty() {
                break;
            }
        }
        budget::reserve(&mut self.next, near.len())?;
        self.next.append(&mut near);
        Ok(())
    }

    /// Reads the first of these objects, as many as can be read together, and looks them through; returns how many.
    fn batch(&mut self, typing: &mut Typing<'a>, objects: &[u32]) -> Result<usize, ObjectsError> {
        let mut taken: Vec<(u32, Span, u64)> = Vec::new();
        let mut pieces: Vec<Range> = Vec::new();
        let mut total = 0;
        for object in objects {
            let Some((_, span, addr)) = self.place(*object) else { break };
            if Recent::takes(&span) && !taken.is_empty() {
                break;
            }
            if span.size > BATCH_BYTES as u64 {
                if taken.is_empty() {
                    self.large(typing, *object, &span, addr)?;
                    return Ok(1);
                }
                break;
            }
            total += span.size as usize;
            if !taken.is_empty() && (total > BATCH_BYTES || pieces.len() >= BATCH) {
                break;
            }
            match pieces.last_mut().filter(|last| last.addr + last.len as u64 == addr) {
                Some(last) => last.len += span.size as usize,
                None => pieces.push(Range { addr, len: span.size as usize }),
            }
            taken.push((*object, span, addr));
        }
        let (mut bytes, mut whole) = (Vec::new(), Vec::new());
        self.view.memory.scatter(&pieces, &mut bytes, &mut whole)?;
        self.read += bytes.len() as u64;
        let mut rest = &bytes[..];
        let mut pieces = pieces.iter().zip(&whole);
        let mut piece = pieces.next();
        for (object, span, addr) in &taken {
            let Some(own) = rest.split_off(..span.size as usize) else { break };
            while piece.is_some_and(|(range, _)| *addr >= range.addr + range.len as u64 || *addr < range.addr)
            {
                piece = pieces.next();
            }
            if piece.is_some_and(|(_, whole)| *whole) {
                self.look(typing, (*object, span), 0, own)?;
            } else {
                self.unread += span.size;
            }
        }
        Ok(taken.len())
    }

    /// Reads an object in parts, and looks it through.
    fn large(
        &mut self,
        typing: &mut Typing<'a>,
        object: u32,
        span: &Span,
        addr: u64,
    ) -> Result<(), ObjectsError> {
        let mut bytes = Vec::new();
        let mut from = 0;
        while from < span.size {
            if self.read > self.most_read {
                // A terabyte of pages that nobody wrote reads as zeros.
                self.unread += span.size - from;
                break;
            }
            // Whole values, where their size is known.
            let value = typing.form(object).map_or(0, |form| typing.types.get(form.of).size);
            let least = if value == 0 || value > BATCH_BYTES as u64 { BATCH_BYTES as u64 } else { value };
            let piece = BATCH_BYTES as u64 / least * least;
            bytes.resize((span.size - from).min(piece) as usize, 0);
            match self.view.memory.read(addr + from, &mut bytes) {
                Ok(()) => {
                    self.read += bytes.len() as u64;
                    self.look(typing, (object, span), from, &bytes)?;
                }
                Err(Fault::Unmapped(_)) => {
                    self.unread += span.size - from;
                    break;
                }
                Err(fault) => return Err(fault.into()),
            }
            from += bytes.len() as u64;
        }
        Ok(())
    }

    /// Looks words of an object through, `at` bytes behind its begin.
    fn look(
        &mut self,
        typing: &mut Typing<'a>,
        (object, span): (u32, &Span),
        at: u64,
        bytes: &[u8],
    ) -> Result<(), ObjectsError> {
        let Some(by) = self.links.get(object as usize) else { return Ok(()) };
        let by = Links { first: object, other: NONE, origin: by.origin, hops: by.hops.saturating_add(1) };
        typing.scan(&self.spans, object, span, at as usize, bytes);
        for word in words(bytes) {
            let Some(id) = self.spans.object(word) else { continue };
            let Some(span) = self.spans.get(id.span) else { continue };
            if let Some(child) = number(span, id).filter(|child| *child != object)
                && self.lead((child, span.size, !span.noscan), by)
            {
                budget::reserve(&mut self.next, 1)?;
                self.next.push(child);
            }
        }
        Ok(())
    }

    /// Follows values within objects.
    fn parts(&mut self, typing: &mut Typing<'a>, parts: Vec<Part>) -> Result<(), ObjectsError> {
        for parts in parts.chunks(BATCH) {
            let size = |part: &Part| (typing.types.get(part.of).size * part.count).min(MAX_PART) as usize;
            let ranges: Vec<_> =
                parts.iter().map(|part| Range { addr: part.addr, len: size(part) }).collect();
            read_each(self.view.memory, &ranges, |index, bytes| {
                if let Some(part) = parts.get(index) {
                    typing.part(&self.spans, *part, bytes);
                }
            })?;
        }
        Ok(())
    }

    /// Looks at the first bytes of objects without pointers of which nothing is known: channels tell themselves.
    ///
    /// # Errors
    /// As [`Graph::run`].
    pub(super) fn plain(&mut self, typing: &mut Typing<'a>) -> Result<(), ObjectsError> {
        let mut todo = Vec::new();
        for (object, span, addr) in self.reached_objects() {
            let may_be = span.noscan && span.class != 0 && span.size >= PLAIN as u64;
            if may_be && typing.form(object).is_none() && todo.len() < MAX_PLAIN {
                budget::reserve(&mut todo, 1)?;
                todo.push((object, *span, addr));
            }
        }
        for todo in todo.chunks(BATCH) {
            let ranges: Vec<_> = todo.iter().map(|(_, _, addr)| Range { addr: *addr, len: PLAIN }).collect();
            read_each(self.view.memory, &ranges, |index, bytes| {
                if let Some((object, span, _)) = todo.get(index) {
                    typing.plain(*object, span, bytes);
                }
            })?;
        }
        Ok(())
    }

    /// The number of the object at an address; `None`: there is none.
    pub(super) fn at(&self, addr: u64) -> Option<u32> {
        let id = self.spans.object(addr)?;
        number(self.spans.get(id.span)?, id)
    }

    /// The span and the address of an object.
    pub(super) fn place(&self, object: u32) -> Option<(ObjectId, Span, u64)> {
        let id = self.spans.at_bit(u64::from(object))?;
        let span = *self.spans.get(id.span)?;
        Some((id, span, span.base + u64::from(id.index) * span.size))
    }

    /// Whether anything leads to an object.
    pub(super) fn is_reached(&self, object: u32) -> bool {
        self.links.get(object as usize).is_some_and(|links| links.first != NONE)
    }

    /// All objects that anything leads to: number, span, address.
    pub(super) fn reached_objects(&self) -> impl Iterator<Item = (u32, &Span, u64)> {
        let of_span = |span: &'_ Span| (0..span.count).zip((span.base..).step_by(span.size as usize));
        let all = self
            .spans
            .iter()
            .flat_map(move |span| of_span(span).map(move |(index, addr)| (span, index, addr)));
        all.filter_map(|(span, index, addr)| {
            let object = u32::try_from(span.bits + u64::from(index)).ok()?;
            self.is_reached(object).then_some((object, span, addr))
        })
    }

    /// What led to an object: the first, and one from another root.
    pub(super) fn parents(&self, object: u32) -> impl Iterator<Item = Parent> {
        let links = self.links.get(object as usize);
        let both = links.map_or([NONE; 2], |links| [links.first, links.other]);
        both.into_iter().zip([u32::MAX, !FAR]).filter(|(parent, _)| *parent != NONE).filter_map(
            |(parent, bits)| {
                let parent = parent & bits;
                if parent & ROOT == 0 {
                    return Some(Parent::Object(parent));
                }
                self.roots.get((parent & !ROOT) as usize).map(|source| Parent::Root(*source))
            },
        )
    }

    /// Objects and bytes that are reached only through these objects, and they themselves. What moves meanwhile makes
    /// it an estimate.
    ///
    /// # Errors
    /// As [`Graph::run`].
    pub(super) fn only_through(&self, objects: &[u32]) -> Result<(u64, u64), ObjectsError> {
        let mut sweep = Sweep::without(self, objects)?;
        let (count, size) = sweep.all()?;
        Ok((self.reached.0.saturating_sub(count), self.reached.1.saturating_sub(size)))
    }

    /// Of each of these objects what it leads to, itself included, and nothing but these objects does: objects and
    /// bytes. What several lead to counts for the first of them. An estimate, too.
    ///
    /// # Errors
    /// As [`Graph::run`].
    pub(super) fn only_through_each(&self, objects: &[u32]) -> Result<Vec<(u64, u64)>, ObjectsError> {
        let mut sweep = Sweep::without(self, objects)?;
        sweep.all()?;
        objects.iter().map(|object| sweep.within(*object)).collect()
    }

    /// Objects and bytes that were reached, and how many of these have a type.
    pub(super) fn typed(&self, typing: &Typing<'a>) -> super::Share {
        let mut share =
            super::Share { objects: self.reached.0, bytes: self.reached.1, ..super::Share::default() };
        for (_, span, _) in self.reached_objects().filter(|(object, ..)| typing.form(*object).is_some()) {
            share.typed_objects += 1;
            share.typed_bytes += span.size;
        }
        share
    }
}

/// Whether an object has its bit.
pub(super) fn is_marked(marks: &[u64], object: u32) -> bool {
    marks.get(object as usize / 64).is_some_and(|bits| bits >> (object % 64) & 1 != 0)
}

/// Gives an object its bit; whether it had none.
pub(super) fn mark(marks: &mut [u64], object: u32) -> bool {
    let bit = 1_u64 << (object % 64);
    marks.get_mut(object as usize / 64).is_some_and(|bits| {
        let new = *bits & bit == 0;
        *bits |= bit;
        new
    })
}

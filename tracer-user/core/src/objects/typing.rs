//! The types of objects, from what refers to them and from their own words.
//!
//! | what tells the type | which objects | since |
//! | --- | --- | --- |
//! | allocator's header, `mspan.largeType` | with pointers, of more than 512 bytes | 1.22 |
//! | a finalizer's record | those that have one | 1.19 |
//! | a map's header, by the map's type | tables, groups and buckets | 1.19 |
//! | own words: entry of a known function | closures | 1.19 |
//! | own words: counts and element type of an `hchan` | channels | 1.19 |
//! | an itab or descriptor in the word before a pointer | what interfaces hold | 1.19 |
//! | a field of an object or variable whose type is known | what pointers and slices lead to | 1.19 |
//!
//! What the collector's bitmap contradicts ([`super::pointers`]) is no such object.

use super::contexts::ContextKind;
use super::edges::{Edge, Edges, Layouts, To};
use super::form::{Form, Rank, Shape, fits_slot};
use super::itabs::Itabs;
use super::pointers::Pointers;
use crate::binary::bytes::{array, u32_at, u64_at};
use crate::binary::{CodeTypes, Described};
use crate::binary::{Detail, Kind, TypeId, Types};
use crate::budget::{self, Exhausted};
use crate::heap::{ObjectId, Place, Span, Spans, words};
use crate::snapshot::View;
use hashbrown::{HashMap, HashSet};
use std::{mem, ops::Range, rc::Rc};

/// Most values within objects that are followed by themselves, and about what one of them costs us.
const MAX_PARTS: usize = 1 << 20;
const PART_COST: usize = 128;
/// Lowest address of a program.
const LOWEST: u64 = 1 << 12;
/// Largest object without a header (`src/internal/runtime/gc/malloc.go`: `MinSizeForMallocHeader`).
const NO_HEADER: u64 = 512;
/// Bytes of the slots of map headers and of tables, and least bytes of a channel's.
const MAP_SIZE: u64 = 48;
const TABLE_SIZE: u64 = 32;
const LEAST_CHAN: usize = 96;
/// Largest object without a type whose words are looked through for interfaces.
const MAX_RAW: usize = 1 << 16;
/// Offsets in `maps.Map` and `maps.table` (`src/internal/runtime/maps`, 1.24 to 1.27), and in `hmap` (`map.go`, up to 1.23).
const MAP_DIR: usize = 16;
const MAP_DIR_LEN: usize = 24;
const TABLE_GROUPS: usize = 16;
const HMAP_BUCKETS: usize = 16;
const HMAP_OLD_BUCKETS: usize = 24;
/// Offset of `hchan.buf`, of its element's size (two bytes) and of `closed` (four bytes); the same in 1.19 to 1.27.
const CHAN_BUF: usize = 16;
const CHAN_ELEM_SIZE: usize = 24;
const CHAN_CLOSED: usize = 28;

/// Finds types. Objects are numbered by their bits in a bitmap of all objects.
pub(super) struct Typing<'a> {
    view: View<'a>,
    pub(super) types: Types,
    layouts: Layouts,
    itabs: Itabs,
    pointers: Pointers,
    /// By entry of a function in memory, the struct of its closures.
    closures: HashMap<u64, TypeId>,
    /// Where the entries of `closures` lie.
    code: Range<u64>,
    /// Structs in which maps have their keys and elements; of Go 1.23 and before (`true`) they go on elsewhere.
    groups: HashMap<TypeId, bool>,
    /// Nodes of hash tries, which say themselves whether they are entries: what one is then, and what otherwise.
    nodes: HashMap<TypeId, [TypeId; 2]>,
    /// Structs of package context that begin with the context that they were made of.
    own_contexts: Vec<TypeId>,
    /// Structs of package runtime, by name.
    structs: HashMap<&'static str, Option<TypeId>>,
    byte: Option<TypeId>,
    /// Offset of `hchan.elemtype`.
    chan_elem: Option<usize>,
    headers: bool,
    /// By object, a packed [`Form`]; 0: not known.
    forms: Vec<u32>,
    /// By object, a bit: it was looked through with what was known then.
    scanned: Vec<u64>,
    /// Objects whose type became known after they had been looked through.
    late: Vec<u32>,
    /// Values within objects: address, type, how many.
    parts: Vec<Part>,
    seen: HashSet<(u64, TypeId)>,
}

/// Values of one type that lie within an object of another, or of none that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) addr: u64,
    pub(super) of: TypeId,
    pub(super) count: u64,
}

impl<'a> Typing<'a> {
    /// `bits`: length of a bitmap of all objects.
    ///
    /// # Errors
    /// The budget does not allow what is noted of each object.
    pub(super) fn new(view: View<'a>, types: Types, bits: u64) -> Result<Typing<'a>, Exhausted> {
        budget::check(bits as usize * size_of::<u32>() + bits as usize / 8)?;
        let mut groups = HashMap::new();
        for id in types.iter() {
            if let Detail::Map { group: Some(group), swiss } = types.get(id).detail {
                groups.insert(group, !swiss);
            }
        }
        let nodes = types.iter().filter_map(|id| Some((id, node(&types, id)?))).collect();
        Ok(Typing {
            nodes,
            own_contexts: (types.iter())
                .filter(|id| {
                    let kind = ContextKind::of(types.package(*id), types.name(*id));
                    kind.begins_with_its_parent() && types.get(*id).size > 0
                })
                .collect(),
            structs: HashMap::new(),
            byte: types.find("", "uint8"),
            chan_elem: view.binary.layout().field("hchan", "elemtype").map(|at| at as usize),
            headers: view.binary.version().release.objects_have_headers(),
            layouts: Layouts::default(),
            itabs: Itabs::default(),
            pointers: Pointers::new(&view),
            code: 0..0,
            closures: HashMap::new(),
            groups,
            forms: vec![0; bits as usize],
            scanned: vec![0; (bits as usize).div_ceil(64)],
            late: Vec::new(),
            parts: Vec::new(),
            seen: HashSet::new(),
            types,
            view,
        })
    }

    /// What the code tells of types.
    pub(super) fn code_types(&self) -> CodeTypes {
        let (types, bias) = (&self.types, self.view.bias);
        let described = |addr: u64| {
            let id = types.at(addr.wrapping_add(bias))?;
            Some(match types.get(id).kind {
                Kind::Map => Described::Map,
                Kind::Struct if types.is_closure(id) => Described::Closure,
                _ => Described::Other,
            })
        };
        let range = types.range();
        let linked = range.start.wrapping_sub(bias)..range.end.wrapping_sub(bias);
        self.view.binary.code_types(linked, &described)
    }

    /// Learns from the code which closures there are, and follows the variables of which it tells the type.
    pub(super) fn code(&mut self, spans: &Spans, found: &CodeTypes) {
        let (types, bias) = (&self.types, self.view.bias);
        let in_memory = |(addr, descriptor): &(u64, u64)| {
            Some((addr.wrapping_add(bias), types.at(descriptor.wrapping_add(bias))?))
        };
        let closures: HashMap<u64, TypeId> = found.closures.iter().filter_map(in_memory).collect();
        let maps: Vec<_> = found.maps.iter().filter_map(in_memory).collect();
        let mut pointers: Vec<_> = found.pointers.iter().filter_map(in_memory).collect();
        let named = receivers(types);
        pointers.extend(found.receivers.iter().filter_map(|(variable, name)| {
            let (package, own) = split(name)?;
            Some((variable.wrapping_add(bias), *named.get(&(package, own))?))
        }));
        drop(named);
        let first = closures.keys().min().copied().unwrap_or(0);
        self.code = first..closures.keys().max().map_or(0, |last| last + 1);
        self.closures = closures;
        for (variable, map) in maps {
            if let Some(addr) = self.view.word(variable) {
                self.head(spans, addr, Form { shape: Shape::Map, of: map, rank: Rank::Field });
            }
        }
        for (variable, of) in pointers {
            if let Some(addr) = self.view.word(variable) {
                self.values(spans, (addr, 1), of, Rank::Field);
            }
        }
    }

    /// What is known of an object.
    pub(super) fn form(&self, object: u32) -> Option<Form> {
        Form::unpack(*self.forms.get(object as usize)?)
    }

    /// Objects whose type became known after they had been looked through, and values within objects; each once.
    pub(super) fn left(&mut self) -> (Vec<u32>, Vec<Part>) {
        (mem::take(&mut self.late), mem::take(&mut self.parts))
    }

    /// The pointers of a type.
    pub(super) fn edges(&self, of: TypeId) -> Rc<Edges> {
        self.layouts.get(&self.types, of)
    }

    /// Whether the type of an object has a pointer at so many bytes in one of its values. What only looks like one does
    /// not keep anything alive for the collector.
    pub(super) fn may_point(&self, form: Form, within: u64) -> bool {
        let edges = self.layouts.get(&self.types, form.of);
        let bucket = self.groups.contains_key(&form.of);
        bucket || edges.cut || edges.list.iter().any(|edge| u64::from(edge.offset) == within)
    }

    /// Bytes of the allocator's header in objects of this span.
    pub(super) fn header(&self, span: &Span) -> u64 {
        if self.has_header(span) && span.class != 0 { 8 } else { 0 }
    }

    fn has_header(&self, span: &Span) -> bool {
        self.headers && !span.noscan && span.size > NO_HEADER
    }

    /// Follows the pointers of a variable.
    pub(super) fn variable(&mut self, spans: &Spans, of: TypeId, bytes: &[u8]) {
        let edges = self.layouts.of(&self.types, of);
        for edge in &edges.list {
            self.follow(spans, *edge, bytes);
        }
    }

    /// Follows what looks like interfaces in words of which nothing else is known. `rank`: how sure the types of these are.
    pub(super) fn raw(&mut self, spans: &Spans, bytes: &[u8], rank: Rank) {
        let bytes = bytes.get(..MAX_RAW).unwrap_or(bytes);
        let mut before = 0;
        for word in words(bytes) {
            let first = mem::replace(&mut before, word);
            // Descriptors and itabs lie outside of the heap, and at words.
            if first < LOWEST || !first.is_multiple_of(8) || first >> 47 != 0 || word < LOWEST {
                continue;
            }
            if !matches!(spans.find(first), Place::Outside) || spans.object(word).is_none() {
                continue;
            }
            // Since 1.27 itabs lie among the descriptors (`src/runtime/symtab.go`: `moduledata.itaboffset`).
            let concrete = self.types.at(first).or_else(|| self.itabs.at(&self.view, &self.types, first));
            if let Some(concrete) = concrete {
                self.concrete(spans, concrete, word, rank);
            }
        }
    }

    /// Looks an object through: what its own words say of it, and then what its type says of others. `at`: how many
    /// bytes of the object come before these.
    pub(super) fn scan(&mut self, spans: &Spans, object: u32, span: &Span, at: usize, bytes: &[u8]) {
        if let Some(word) = self.scanned.get_mut(object as usize / 64) {
            *word |= 1 << (object % 64);
        }
        let header = self.header(span) as usize;
        if at == 0 {
            self.own(object, spans, span, bytes);
        }
        let Some(form) = self.form(object) else { return self.raw(spans, bytes, Rank::Interface) };
        if form.rank == Rank::Part {
            self.raw(spans, bytes, Rank::Interface);
        }
        let skipped = header.saturating_sub(at);
        self.expand(spans, form, (at + skipped) - header, bytes.get(skipped..).unwrap_or_default());
    }

    /// What the first words of an object say of it.
    fn own(&mut self, object: u32, spans: &Spans, span: &Span, bytes: &[u8]) {
        let first = u64_at(bytes, 0).unwrap_or(0);
        if self.has_header(span) {
            let descriptor = if span.class == 0 {
                self.view.field(span.record, "mspan", "largeType").unwrap_or(0)
            } else {
                first
            };
            if let Some(of) = self.types.at(descriptor) {
                let room = span.size - self.header(span);
                let size = self.types.get(of).size;
                let one = size > room / 2 || fits_slot(size + self.header(span), span.size);
                let shape = if one { Shape::One } else { Shape::Row };
                if size > 0 && size <= room {
                    self.set(object, span, Form { shape, of, rank: Rank::Header });
                }
            }
        } else if self.code.contains(&first) {
            let closure = self.closures.get(&first).copied();
            if let Some(of) = closure.filter(|of| self.types.get(*of).size <= span.size) {
                self.set(object, span, Form { shape: Shape::One, of, rank: Rank::Own });
            }
        } else if let Some(of) = self.channel(bytes) {
            self.set(object, span, Form { shape: Shape::Chan, of, rank: Rank::Own });
        } else if self.form(object).is_none()
            && let Some(of) = self.context(object, spans, span, bytes)
        {
            self.set(object, span, Form { shape: Shape::One, of, rank: Rank::Interface });
        }
    }

    /// The type of package context that an object has if it begins with a context, as all of them do, and only one of
    /// them fits. One that has ended is often referred to by nothing but a stack, which does not say of what type it is.
    fn context(&mut self, object: u32, spans: &Spans, span: &Span, bytes: &[u8]) -> Option<TypeId> {
        let fits = |of: &TypeId| fits_slot(self.types.get(*of).size, span.size);
        let mut fitting: Vec<TypeId> = self.own_contexts.iter().copied().filter(fits).collect();
        let first = u64_at(bytes, 0)
            .filter(|first| *first >= LOWEST && first.is_multiple_of(8) && first >> 47 == 0)?;
        if fitting.is_empty() || !matches!(spans.find(first), Place::Outside) {
            return None;
        }
        if !self.itabs.is_of_context(&self.view, &self.types, first) {
            return None;
        }
        let id = spans.at_bit(u64::from(object))?;
        fitting.retain(|of| {
            let (edges, size) = (self.layouts.of(&self.types, *of), self.types.get(*of).size);
            !self.pointers.refute(&self.view, spans, id, (0, size), &edges)
        });
        if let [of] = fitting[..] { Some(of) } else { None }
    }

    /// The type of the elements if these are the words of a channel (`hchan`).
    pub(super) fn channel(&self, bytes: &[u8]) -> Option<TypeId> {
        let at = self.chan_elem?;
        let (count, cap) = (u64_at(bytes, 0)?, u64_at(bytes, 8)?);
        let addr = u64_at(bytes, at).filter(|addr| self.types.may_be_at(*addr))?;
        let size: u64 = u16::from_le_bytes(array(bytes, CHAN_ELEM_SIZE)?).into();
        let closed = u32_at(bytes, CHAN_CLOSED)?;
        let elem = self.types.at(addr)?;
        let is =
            count <= cap && closed <= 1 && self.types.get(elem).size == size && bytes.len() >= LEAST_CHAN;
        is.then_some(elem)
    }

    fn set(&mut self, object: u32, span: &Span, form: Form) {
        let now = self.form(object);
        let better = match now {
            None => true,
            Some(now) if now.rank == Rank::Part && form.rank == Rank::Part => {
                self.types.get(form.of).size > self.types.get(now.of).size
            }
            Some(now) => form.rank > now.rank,
        };
        let (word, bit) = (object as usize / 64, 1 << (object % 64));
        if better && let Some(entry) = self.forms.get_mut(object as usize) {
            *entry = form.pack();
            let scanned = self.scanned.get(word).is_some_and(|bits| bits & bit != 0);
            if scanned && !span.noscan && budget::reserve(&mut self.late, 1).is_ok() {
                self.late.push(object);
            }
        }
    }

    /// Follows the pointers of an object's values, of which these bytes begin `at` bytes behind the first.
    fn expand(&mut self, spans: &Spans, form: Form, at: usize, bytes: &[u8]) {
        match form.shape {
            Shape::One => {
                let edges = self.layouts.of(&self.types, form.of);
                let from = edges.list.partition_point(|edge| (edge.offset as usize) < at);
                for edge in edges.list.get(from..).unwrap_or_default() {
                    if edge.offset as usize >= at + bytes.len() {
                        break;
                    }
                    self.follow(spans, Edge { offset: edge.offset - at as u32, ..*edge }, bytes);
                }
                if let Some(true) = self.groups.get(&form.of) {
                    self.goes_on(spans, form.of, bytes);
                }
            }
            Shape::Row => {
                let size = self.types.get(form.of).size as usize;
                let edges = self.layouts.of(&self.types, form.of);
                let goes_on = self.groups.get(&form.of) == Some(&true);
                if size == 0 || edges.list.is_empty() && !goes_on {
                    return;
                }
                let first = at.next_multiple_of(size) - at;
                for value in bytes.get(first..).unwrap_or_default().chunks_exact(size) {
                    for edge in &edges.list {
                        self.follow(spans, *edge, value);
                    }
                    if goes_on {
                        self.goes_on(spans, form.of, value);
                    }
                }
            }
            Shape::Map if at == 0 => self.map(spans, form.of, bytes),
            Shape::Chan if at == 0 => {
                if let Some(buffer @ 1..) = u64_at(bytes, CHAN_BUF) {
                    let count = u64_at(bytes, 8).unwrap_or(0);
                    self.values(spans, (buffer, count), form.of, Rank::Own);
                }
            }
            Shape::Table => {
                let group = self.group(form.of);
                if let Some((group, groups)) = group.zip(u64_at(bytes, TABLE_GROUPS)) {
                    let count = u64_at(bytes, TABLE_GROUPS + 8).unwrap_or(0).saturating_add(1);
                    self.values(spans, (groups, count), group, Rank::Map);
                }
            }
            Shape::Directory => {
                for table in words(bytes) {
                    self.head(spans, table, Form { shape: Shape::Table, of: form.of, rank: Rank::Map });
                }
            }
            Shape::Map | Shape::Chan => {}
        }
    }

    /// A bucket's last word is where it goes on.
    fn goes_on(&mut self, spans: &Spans, of: TypeId, bucket: &[u8]) {
        let size = self.types.get(of).size as usize;
        if let Some(next @ 1..) = size.checked_sub(8).and_then(|at| u64_at(bucket, at)) {
            self.values(spans, (next, 1), of, Rank::Map);
        }
    }

    fn group(&self, map: TypeId) -> Option<TypeId> {
        match self.types.get(map).detail {
            Detail::Map { group, .. } => group,
            _ => None,
        }
    }

    fn map(&mut self, spans: &Spans, of: TypeId, bytes: &[u8]) {
        let Detail::Map { group: Some(group), swiss } = self.types.get(of).detail else { return };
        let word = |at| u64_at(bytes, at).unwrap_or(0);
        if swiss && word(MAP_DIR_LEN) == 0 {
            self.values(spans, (word(MAP_DIR), 1), group, Rank::Map);
        } else if swiss {
            self.head(spans, word(MAP_DIR), Form { shape: Shape::Directory, of, rank: Rank::Map });
        } else {
            for at in [HMAP_BUCKETS, HMAP_OLD_BUCKETS] {
                // How many there are the slot tells: more are made than the header counts, for those that overflow.
                self.values(spans, (word(at), u64::MAX), group, Rank::Map);
            }
        }
    }

    fn follow(&mut self, spans: &Spans, edge: Edge, value: &[u8]) {
        let at = edge.offset as usize;
        let Some(word) = u64_at(value, at).filter(|word| *word >= LOWEST) else { return };
        let next = |behind: usize| u64_at(value, at + behind).unwrap_or(0);
        match edge.to {
            To::One(of) => {
                let of = self.nodes.get(&of).map_or(Some(of), |known| {
                    let mut entry = [0];
                    self.view.memory.read(word, &mut entry).ok()?;
                    let [other, is] = *known;
                    Some(if entry == [0] { other } else { is })
                });
                if let Some(of) = of {
                    self.values(spans, (word, 1), of, Rank::Field);
                }
            }
            To::Row(of) => self.values(spans, (word, next(16)), of, Rank::Field),
            To::Locals(of) => self.values(spans, (word, next(8)), of, Rank::Own),
            To::Bytes => {
                if let Some(of) = self.byte {
                    self.values(spans, (word, next(8)), of, Rank::Field);
                }
            }
            To::Map(of) => self.head(spans, word, Form { shape: Shape::Map, of, rank: Rank::Field }),
            To::Chan(of) => {
                if let Some(of) = self.types.elem(of) {
                    self.head(spans, word, Form { shape: Shape::Chan, of, rank: Rank::Field });
                }
            }
            To::Interface | To::Empty => {
                let first = at.checked_sub(8).and_then(|at| u64_at(value, at)).unwrap_or(0);
                let concrete = if edge.to == To::Empty {
                    self.types.at(first)
                } else {
                    self.itabs.at(&self.view, &self.types, first)
                };
                if let Some(concrete) = concrete {
                    self.concrete(spans, concrete, word, Rank::Interface);
                }
            }
            // A closure says itself what it is.
            To::Func | To::Unknown => {}
        }
    }

    /// Follows the data word of an interface that holds this type.
    fn concrete(&mut self, spans: &Spans, of: TypeId, word: u64, rank: Rank) {
        let found = self.types.get(of);
        match found.kind {
            _ if !found.direct => self.values(spans, (word, 1), of, rank),
            Kind::Pointer => {
                if let Some(elem) = self.types.elem(of) {
                    self.values(spans, (word, 1), elem, rank);
                }
            }
            _ => {
                let edges = self.layouts.of(&self.types, of);
                if let Some(edge) = edges.list.first() {
                    self.follow(spans, *edge, &word.to_le_bytes());
                }
            }
        }
    }

    /// Notes that at an address there are so many values of a type.
    fn values(&mut self, spans: &Spans, (addr, count): (u64, u64), of: TypeId, rank: Rank) {
        let Some(id) = spans.object(addr) else { return };
        let (Some(span), found) = (spans.get(id.span), self.types.get(of)) else { return };
        // A header says more than any pointer.
        if found.size == 0 || count == 0 || self.has_header(span) {
            return;
        }
        // Values without pointers lie in slots without pointers, unless they are a part of something larger.
        let base = span.base + u64::from(id.index) * span.size;
        let (at, has_pointers) = (addr - base, found.pointers > 0);
        let bytes = if count == u64::MAX { span.size - at } else { found.size.saturating_mul(count) };
        if bytes > span.size - at || found.size > bytes || has_pointers == span.noscan {
            return;
        }
        let Some(object) = number(span, id) else { return };
        let whole = at == 0 && (count == u64::MAX || fits_slot(bytes, span.size));
        let now = self.form(object);
        let shape = if count == 1 { Shape::One } else { Shape::Row };
        let known = |now: Form| now.of == of && now.shape == shape && now.rank >= rank;
        if !whole && now.is_some_and(|now| now.rank > Rank::Part && (at > 0 || now.of == of))
            // What the object is says what this is, too.
            || whole && now.is_some_and(known)
        {
            return;
        }
        if has_pointers {
            let edges = self.layouts.of(&self.types, of);
            if self.pointers.refute(&self.view, spans, id, (at, found.size), &edges) {
                return;
            }
        }
        if at == 0 {
            self.set(object, span, Form { shape, of, rank: if whole { rank } else { Rank::Part } });
        } else if has_pointers {
            let count = bytes / found.size;
            self.push_part(spans, Part { addr, of, count });
        }
    }

    /// Notes that at an address there is the header of a map or a channel, or what else a map consists of.
    fn head(&mut self, spans: &Spans, addr: u64, form: Form) {
        let Some(id) = spans.object(addr) else { return };
        let Some(span) =
            spans.get(id.span).filter(|span| span.base + u64::from(id.index) * span.size == addr)
        else {
            return;
        };
        let fits = match form.shape {
            Shape::Map => span.size == MAP_SIZE && !span.noscan,
            Shape::Chan => span.size >= LEAST_CHAN as u64,
            Shape::Table => span.size == TABLE_SIZE && !span.noscan,
            _ => !span.noscan,
        };
        if let Some(object) = number(span, id).filter(|_| fits) {
            self.set(object, span, form);
        }
    }

    /// Follows values within an object.
    pub(super) fn part(&mut self, spans: &Spans, part: Part, bytes: &[u8]) {
        self.expand(spans, Form { shape: Shape::Row, of: part.of, rank: Rank::Field }, 0, bytes);
    }

    /// Notes what the words of an object without pointers say of it.
    pub(super) fn plain(&mut self, object: u32, span: &Span, bytes: &[u8]) {
        if let Some(of) = self.channel(bytes) {
            self.set(object, span, Form { shape: Shape::Chan, of, rank: Rank::Own });
        }
    }

    /// The types of which an itab that was met says that they are contexts.
    pub(super) fn contexts(&self) -> impl Iterator<Item = TypeId> {
        self.itabs.contexts.iter().copied()
    }

    /// The concrete type of the itab at an address; `None`: there is none.
    pub(super) fn itab(&mut self, addr: u64) -> Option<TypeId> {
        if addr == 0 { None } else { self.itabs.at(&self.view, &self.types, addr) }
    }

    /// Notes that a pointer to such a value has this address.
    pub(super) fn pointed(&mut self, spans: &Spans, addr: u64, of: TypeId) {
        self.values(spans, (addr, 1), of, Rank::Field);
    }

    /// Notes that a list of the runtime has this struct of its own at an address.
    pub(super) fn runtimes(&mut self, spans: &Spans, of: &'static str, addr: u64) {
        let types = &self.types;
        let known =
            *self.structs.entry(of).or_insert_with(|| types.find("runtime", &format!("runtime.{of}")));
        if let Some(of) = known {
            self.values(spans, (addr, 1), of, Rank::Header);
        }
    }

    /// Notes that a finalizer says what an object is: the descriptor of a pointer to it.
    pub(super) fn finalizer(&mut self, spans: &Spans, addr: u64, pointer: u64) {
        let elem = self.types.at(pointer).and_then(|of| self.types.elem(of));
        let Some(elem) = elem else { return };
        self.values(spans, (addr, 1), elem, Rank::Header);
        // Nothing needs to lead to the object itself, and then it is not looked through.
        self.push_part(spans, Part { addr, of: elem, count: 1 });
    }

    /// Has values within an object followed, once.
    fn push_part(&mut self, spans: &Spans, part: Part) {
        let bytes = self.types.get(part.of).size.saturating_mul(part.count);
        let end = spans.object(part.addr).and_then(|id| spans.range(id)).map(|(base, size)| base + size);
        if end.is_some_and(|end| bytes <= end - part.addr)
            && self.seen.len() < MAX_PARTS
            && budget::check(PART_COST).is_ok()
            && self.seen.insert((part.addr, part.of))
        {
            self.parts.push(part);
        }
    }
}

/// The package and the own name of a type, as function names have both: `net/http.Server`.
fn split(name: &str) -> Option<(&str, &str)> {
    let last = name.rfind('/').map_or(0, |at| at + 1);
    // The last dot: an element of an import path may have some (`gopkg.in/yaml.v2.decoder`).
    let dot = name.get(last..)?.rfind('.')? + last;
    Some((name.get(..dot)?, name.get(dot + 1..)?))
}

/// The types with a name, by package and own name; a package may be called otherwise than its path ends.
fn receivers(types: &Types) -> HashMap<(&str, &str), TypeId> {
    let named = types.iter().filter(|id| !types.package(*id).is_empty() && !types.name(*id).contains('['));
    named.filter_map(|id| Some(((types.package(id), types.name(id).split_once('.')?.1), id))).collect()
}

/// What a node of a hash trie is that is no entry, and one that is (`struct { isEntry bool }` at the begin of `indirect`
/// and `entry`: `src/internal/sync/hashtriemap.go`, 1.24; `src/internal/concurrent`, 1.23). `None`: it is no node.
fn node(types: &Types, id: TypeId) -> Option<[TypeId; 2]> {
    let (package, name) = (types.package(id), types.name(id));
    if !matches!(package, "internal/sync" | "internal/concurrent") {
        return None;
    }
    let (before, arguments) = name.split_once(".node[")?;
    let find = |what| types.find(package, &format!("{before}.{what}[{arguments}"));
    Some([find("indirect")?, find("entry")?])
}

/// The number of an object: its bit in a bitmap of all.
pub(super) fn number(span: &Span, id: ObjectId) -> Option<u32> {
    u32::try_from(span.bits + u64::from(id.index)).ok()
}

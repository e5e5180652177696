//! The pools of a program (`sync.Pool`), what lies in each, and what is wrong with it.
//!
//! [`walk`] reads the runtime's own lists of pools and what their Ps have; [`content`] knows what a value can still have in it.
//!
//! # Standing
//! The target runs on: a value that was in a pool may be taken, filled and put back while it is looked at. So slots and
//! values are read again and again. What was said of a value holds if it was in its slot and the same in every look.
//! Only such values are compared. That the same value is in two slots is certain then: to be an error, it would have had
//! to go to and fro between both in the rhythm of all looks.

mod compare;
mod content;
mod walk;

use super::{Objects, ObjectsError, Root, RootKind, edges};
use crate::binary::bytes::u64_at;
use crate::binary::{Globals, TypeId};
use crate::budget;
use crate::heap::Spans;
use crate::memory::{Range, read_each};
use compare::{Compared, filled, measure, rest, room_of, twice};
use content::Content;
pub use content::Holds;
use hashbrown::{HashMap, HashSet};
use std::{collections::BTreeMap, rc::Rc, time::Duration};
use walk::{Heap, MAX_VALUES, Raw};

/// Values that are compared, and bytes of them that are kept for it.
const MAX_COMPARED: usize = 1 << 16;
/// Looks at a target that runs, and the pause between two.
const LOOKS: usize = 16;
const PAUSE: Duration = Duration::from_millis(1);
/// How often all pools are read until what they have makes sense: a heap that grows has new spans.
const ATTEMPTS: usize = 3;
/// Values that are read together.
const BATCH: usize = 256;
/// So many values must have been emptied to say that others were not, and so many times as many: a value that is emptied when it
/// is taken may have had nothing in it at its last use.
const LEAST_EMPTIED: u64 = 8;
const TIMES_EMPTIED: u64 = 2;
/// Pools for which is looked who keeps them, and ways that are looked at for each.
const MAX_HELD: usize = 256;
const WAYS: usize = 4;
/// The first word of a `Pool`, which is how the place of one is named where types are known.
const FIRST: &str = ".local";

/// Where in a pool a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// Only its P takes it.
    Private,
    /// Other Ps may take it, too.
    Shared,
    /// It is left over from before the last collection; the next one drops it.
    Victim,
}

/// A value in a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pooled {
    /// What the data word of its interface is: of a pointer, what it points to.
    pub addr: u64,
    /// `None`: its descriptor is not known.
    pub of: Option<TypeId>,
    /// Number of the P that has it.
    pub p: u32,
    pub place: Place,
    /// Bytes that the allocator has for it; 0: it lies outside of the heap.
    pub bytes: u64,
    /// Bytes that its slices and texts have room for.
    pub room: u64,
    /// Bytes of the heap that nothing but the values of pools keeps, this one first; itself included.
    pub keeps: u64,
    /// It was in its place and the same in every look.
    pub stands: bool,
    /// Its room is far above the others'.
    pub oversized: bool,
}

/// A value that is in a pool more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twice {
    /// Address of the value; of a slice, of its first element.
    pub addr: u64,
    pub times: u64,
}

/// A field that has something in it in some of the values of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filled {
    pub of: TypeId,
    /// Path of the field in the value; empty: the value itself.
    pub path: String,
    pub holds: Holds,
    /// How many values have something in it; nothing, but room for something; not even that.
    pub full: u64,
    pub emptied: u64,
    pub unset: u64,
    /// Not all that have something in it have the same number of elements.
    pub varies: bool,
    /// Address of one with something in it.
    pub example: u64,
}

/// How many values a P has in a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfP {
    pub private: u64,
    pub shared: u64,
    pub victim: u64,
}

/// A pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    pub addr: u64,
    /// The variable or field that it is: `main.buffers`, `main.server.bufs`. Empty: not known.
    pub name: String,
    /// What keeps it, if it lies in the heap: a way on one line. Empty: not known, or it is a variable.
    pub kept_by: String,
    /// The function that makes values for it. Empty: it has none, or that has no name.
    pub new: String,
    /// It belongs to Go's own library, or it cannot be told whether it does.
    pub is_librarys: bool,
    pub values: Vec<Pooled>,
    /// Values that there was no room for.
    pub left_out: u64,
    /// By P, those that have something.
    pub ps: BTreeMap<u32, OfP>,
    /// The largest of the numbers of Ps that its arrays are for.
    pub procs: u64,
    /// Bytes of its values, each counted once, and of what they keep alive; 0 where that was not measured.
    pub bytes: u64,
    pub keeps: u64,
    pub twice: Vec<Twice>,
    pub filled: Vec<Filled>,
    /// Bytes that a value has room for, in the middle; 0: there are too few to tell.
    pub median: u64,
    /// Why its values are not known, or not all of them, as a clause.
    pub trouble: Option<&'static str>,
}

/// All pools that the runtime has in its lists: those that were used since the last two collections.
#[derive(Debug, Default)]
pub struct Pools {
    /// In the order of their addresses.
    pub list: Vec<Pool>,
    /// Values that were too many to be compared.
    pub not_compared: u64,
}

impl Pool {
    /// How many values are in it.
    pub fn count(&self) -> u64 {
        self.values.len() as u64 + self.left_out
    }

    /// Those with far more room than the others.
    pub fn oversized(&self) -> impl Iterator<Item = &Pooled> {
        self.values.iter().filter(|value| value.oversized)
    }

    /// Fields that are emptied before a value is put back, but not on every way: most values that were used have nothing
    /// in them, and some do. Where a field of varying length has something in it in most of them, values are emptied
    /// when they are taken, and what they still have says nothing.
    pub fn dirty(&self) -> Vec<&Filled> {
        let when_taken =
            |one: &Filled| one.holds.can_be_emptied() && one.varies && one.full > one.emptied + one.unset;
        if self.filled.iter().any(when_taken) {
            return Vec::new();
        }
        let is_dirty = |one: &&Filled| {
            one.holds.can_be_emptied()
                && one.emptied >= LEAST_EMPTIED
                && one.full.saturating_mul(TIMES_EMPTIED) <= one.emptied
        };
        self.filled.iter().filter(is_dirty).collect()
    }

    /// The types of its values, the most frequent first.
    pub fn types(&self) -> Vec<(TypeId, u64)> {
        let mut counts: BTreeMap<TypeId, u64> = BTreeMap::new();
        for of in self.values.iter().filter_map(|value| value.of) {
            *counts.entry(of).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(of, count)| (std::cmp::Reverse(*count), *of));
        counts
    }
}

impl Objects<'_> {
    /// All pools. `stands`: the target does not move. `measure`: how much values keep alive, which takes another pass
    /// over the heap.
    ///
    /// # Errors
    /// Their list is not known or cannot be read, the target has ended, or the budget is used up.
    pub fn pools(&self, stands: bool, measure: bool) -> Result<Pools, ObjectsError> {
        let Some((lists, globals)) = self.pool_lists()? else { return Ok(Pools::default()) };
        // What is in pools was made a moment ago, and may lie where no span was when all objects were read.
        let mut attempts = if stands { 1 } else { ATTEMPTS };
        let (spans, raws) = loop {
            attempts -= 1;
            let spans = Spans::read(&self.view, globals)?;
            let raws = self.raw_pools(&spans, lists);
            let whole = raws.as_ref().is_ok_and(|raws| raws.iter().all(|raw| raw.trouble.is_none()));
            if whole || attempts == 0 {
                break (spans, raws?);
            }
        };
        let mut contents: HashMap<u64, Option<(TypeId, Rc<Content>)>> = HashMap::new();
        let values = raws.iter().flat_map(|raw| &raw.values);
        let mut compared = Vec::new();
        for value in values.clone() {
            let content = contents.entry(value.of).or_insert_with(|| {
                let of = self.typing.types.at(value.of)?;
                Some((of, Rc::new(Content::of(&self.typing.types, of))))
            });
            if let Some((_, content)) = content
                && compared.len() < MAX_COMPARED
            {
                budget::reserve(&mut compared, 1)?;
                let content = Rc::clone(content);
                compared.push(Compared { value: *value, content, fills: Vec::new(), stands: true });
            }
        }
        let not_compared = values.count() as u64 - compared.len() as u64;
        for number in 0..if stands { 1 } else { LOOKS } {
            if number > 0 {
                std::thread::sleep(PAUSE);
            }
            self.look(&mut compared, number == 0)?;
        }
        let keeps = if measure { self.kept_by_values(&raws)? } else { HashMap::new() };
        let by_slot: HashMap<u64, &Compared> = compared.iter().map(|one| (one.value.slot, one)).collect();
        let types = |of: u64| contents.get(&of).and_then(Option::as_ref).map(|(of, _)| *of);
        let made = raws.iter().map(|raw| self.pool(&spans, raw, &by_slot, &types, &keeps));
        let mut list: Vec<Pool> = made.collect();
        for pool in list.iter_mut().take(MAX_HELD) {
            self.hold_pool(pool, lists);
        }
        self.name_pointed(&mut list)?;
        Ok(Pools { list, not_compared })
    }

    /// Reads the pools of these lists, and what they have.
    fn raw_pools(&self, spans: &Spans, lists: [u64; 2]) -> Result<Vec<Raw>, ObjectsError> {
        let room = |addr: u64| rest(spans, addr);
        let heap = Heap { memory: self.view.memory, room: &room };
        let found = walk::pools(heap, lists).map_err(|error| ObjectsError::Heap(error.to_string()))?;
        let (mut raws, mut left) = (Vec::new(), MAX_VALUES);
        for addr in found {
            budget::check(size_of::<Raw>() + size_of::<Pool>())?;
            let raw = walk::pool(heap, addr, left);
            left -= raw.values.len();
            raws.push(raw);
        }
        Ok(raws)
    }

    /// Where the lists of pools lie; `None`: the program has none.
    fn pool_lists(&self) -> Result<Option<([u64; 2], &Globals)>, ObjectsError> {
        let binary = self.view.binary;
        if binary.functions().find("sync.poolCleanup").is_none() {
            return Ok(None);
        }
        let globals = binary.globals().map_err(|error| ObjectsError::Heap(error.to_string()))?;
        let Globals { pools: Some(pools), .. } = globals else {
            let what = "where its pools are listed is not known (sync.poolCleanup does not show it)";
            return Err(ObjectsError::Heap(what.to_owned()));
        };
        Ok(Some(([pools.all, pools.old].map(|addr| addr.wrapping_add(self.view.bias)), globals)))
    }

    /// What each value keeps alive that nothing but the values of pools does, by the number of its object.
    fn kept_by_values(&self, raws: &[Raw]) -> Result<HashMap<u32, u64>, ObjectsError> {
        let values = raws.iter().flat_map(|raw| &raw.values);
        let mut objects: Vec<u32> = values.filter_map(|value| self.graph.at(value.data)).collect();
        objects.sort_unstable();
        objects.dedup();
        objects.truncate(MAX_COMPARED);
        let each = self.graph.only_through_each(&objects)?;
        Ok(objects.into_iter().zip(each).map(|(object, (_, bytes))| (object, bytes)).collect())
    }

    fn pool(
        &self,
        spans: &Spans,
        raw: &Raw,
        by_slot: &HashMap<u64, &Compared>,
        types: &dyn Fn(u64) -> Option<TypeId>,
        keeps: &HashMap<u32, u64>,
    ) -> Pool {
        let mut pool = Pool {
            addr: raw.addr,
            left_out: raw.left_out,
            procs: raw.ps.into_iter().max().unwrap_or(0),
            trouble: raw.trouble,
            ..Pool::default()
        };
        let mut met = HashSet::new();
        for value in &raw.values {
            let object = spans.object(value.data);
            let bytes = object.and_then(|object| spans.range(object)).map_or(0, |(_, size)| size);
            let known = self.graph.at(value.data);
            let kept = known.and_then(|object| keeps.get(&object)).copied().unwrap_or(0);
            let compared = by_slot.get(&value.slot);
            let place = match (value.victim, value.ring) {
                (true, _) => Place::Victim,
                (false, 0) => Place::Private,
                (false, _) => Place::Shared,
            };
            let of_p = pool.ps.entry(value.p).or_default();
            match place {
                Place::Private => of_p.private += 1,
                Place::Shared => of_p.shared += 1,
                Place::Victim => of_p.victim += 1,
            }
            if object.is_some_and(|object| met.insert(object)) {
                pool.bytes += bytes;
                pool.keeps += kept;
            }
            pool.values.push(Pooled {
                addr: value.data,
                of: types(value.of),
                p: value.p,
                place,
                bytes,
                room: compared.map_or(0, |one| room_of(spans, one)),
                keeps: kept,
                stands: compared.is_some_and(|one| one.stands),
                oversized: false,
            });
        }
        let standing: Vec<(&Pooled, &Compared)> = (pool.values.iter().zip(&raw.values))
            .filter(|(pooled, _)| pooled.stands)
            .filter_map(|(pooled, value)| Some((pooled, *by_slot.get(&value.slot)?)))
            .collect();
        let (twice, filled) = (twice(spans, &standing), filled(&standing));
        (pool.twice, pool.filled) = (twice, filled);
        measure(&mut pool);
        pool.new = self.function_of(raw.new);
        pool
    }

    /// The name of the function of a closure; empty: there is none.
    fn function_of(&self, closure: u64) -> String {
        if closure == 0 { String::new() } else { self.closure(closure).unwrap_or_default() }
    }

    /// Finds the name of a pool, what keeps it, and whose it is.
    fn hold_pool(&self, pool: &mut Pool, lists: [u64; 2]) {
        let within = |name: &str| name.strip_suffix(FIRST).unwrap_or(name).to_owned();
        pool.name = within(&self.variable_name(pool.addr));
        let mut owner = package(&pool.name).to_owned();
        if let Some(object) = self.graph.at(pool.addr) {
            let types = &self.typing.types;
            let place = self.graph.place(object);
            if let Some((form, (_, span, addr))) = self.typing.form(object).zip(place) {
                let within_object = pool.addr - addr;
                let at = within_object.saturating_sub(self.typing.header(&span));
                let at = at.checked_rem(types.get(form.of).size).unwrap_or(0);
                let name = within(&edges::path(types, form.of, at));
                pool.name = format!("{}{name}", types.name(form.of));
                owner = types.package(form.of).to_owned();
            }
            // The runtime's own lists lead to every pool.
            let is_list = |root: &Root| {
                root.kind == RootKind::Variable
                    && lists.iter().any(|list| (*list..*list + 8).contains(&root.addr))
            };
            let ways = self.ways(pool.addr, WAYS).unwrap_or_default();
            let way = ways.iter().find(|way| !is_list(&way.root));
            pool.kept_by = way.map(|way| within(&way.to_string())).unwrap_or_default();
        }
        let function = package(&pool.new);
        if !function.is_empty() {
            owner = function.to_owned();
        }
        pool.is_librarys = owner.is_empty() || self.is_library(&owner);
    }

    /// Names pools that are no variables, but that variables point to: `var buffers = &sync.Pool{…}`.
    fn name_pointed(&self, list: &mut [Pool]) -> Result<(), ObjectsError> {
        let mut unnamed: HashMap<u64, &mut Pool> = (list.iter_mut())
            .filter(|pool| pool.name.is_empty() && !self.is_object(pool.addr))
            .map(|pool| (pool.addr, pool))
            .collect();
        if unnamed.is_empty() {
            return Ok(());
        }
        let pointers = self.known.variables.all().iter().filter(|variable| variable.size == 8);
        let pointers: Vec<_> = pointers.collect();
        for pointers in pointers.chunks(BATCH) {
            let at = |addr: u64| Range { addr: addr.wrapping_add(self.view.bias), len: 8 };
            let ranges: Vec<_> = pointers.iter().map(|variable| at(variable.addr)).collect();
            read_each(self.view.memory, &ranges, |index, bytes| {
                let pool = u64_at(bytes, 0).and_then(|addr| unnamed.get_mut(&addr));
                if let Some((pool, variable)) = pool.zip(pointers.get(index)) {
                    pool.name = variable.name.to_string();
                    if pool.new.is_empty() {
                        pool.is_librarys = self.is_library(package(&pool.name));
                    }
                }
            })?;
        }
        Ok(())
    }

    /// Whether a package is one of Go's own library: its path has no dot in its first element, as those of modules
    /// have, and it is none of the main module.
    fn is_library(&self, package: &str) -> bool {
        let first = package.split('/').next().unwrap_or_default();
        let module = self.view.binary.info().module.as_deref().unwrap_or_default();
        let of_module =
            package.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        package != "main" && !first.contains('.') && (module.is_empty() || !of_module)
    }
}

/// The package of a function or variable: `net/http` of `net/http.(*conn).serve`.
fn package(name: &str) -> &str {
    let last = name.rfind('/').map_or(0, |at| at + 1);
    let dot = name.get(last..).and_then(|rest| rest.find('.')).map_or(0, |dot| last + dot);
    name.get(..dot).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_dirty_where_most_are_emptied_and_some_are_not() {
        let field = |full, emptied, unset, varies| Filled {
            of: TypeId(1),
            path: ".buf".to_owned(),
            holds: Holds::Slice,
            full,
            emptied,
            unset,
            varies,
            example: 1,
        };
        let dirty = |filled: Vec<Filled>| Pool { filled, ..Pool::default() }.dirty().len();
        assert_eq!(dirty(vec![field(1, 9, 0, false)]), 1);
        assert_eq!(dirty(vec![field(4, 8, 0, true)]), 1);
        assert_eq!(dirty(vec![field(5, 8, 0, true)]), 0, "no rule, by so many");
        assert_eq!(dirty(vec![field(2, 4, 0, true)]), 0, "too few to tell");
        assert_eq!(dirty(vec![field(3, 2, 0, true)]), 0, "emptied when they are taken");
        assert_eq!(dirty(vec![field(4, 0, 0, false)]), 0, "of a fixed length");
        assert_eq!(dirty(vec![field(1, 0, 5, false)]), 0, "made when it is needed");
        assert_eq!(dirty(vec![field(1, 1, 0, false)]), 0, "too few to tell");
        assert_eq!(
            dirty(vec![field(1, 9, 0, false), field(11, 0, 0, true)]),
            0,
            "the other field is emptied late"
        );
        let text = Filled { holds: Holds::Text, ..field(1, 9, 0, false) };
        assert_eq!(dirty(vec![text]), 0, "what is set at each use is no remnant");
    }

    #[test]
    fn packages_end_at_the_first_dot_of_the_last_element() {
        for (name, is) in [
            ("net/http.(*conn).serve", "net/http"),
            ("main.init.func1", "main"),
            ("gopkg.in/yaml%2ev2.pool", "gopkg.in/yaml%2ev2"),
            ("github.com/a/b.buffers", "github.com/a/b"),
            ("", ""),
        ] {
            assert_eq!(package(name), is);
        }
    }
}

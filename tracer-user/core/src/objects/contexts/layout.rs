//! Where the structs of package `context`, and the maps and closures that hold contexts, have what; by the descriptors.

use super::ContextKind;
use crate::binary::{Detail, Kind, TypeId, Types};
use hashbrown::{HashMap, HashSet};

/// Where a struct has what of a context; offsets in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) kind: ContextKind,
    pub(super) of: TypeId,
    pub(super) size: u64,
    /// The interface of the parent.
    pub(super) above: Option<usize>,
    pub(super) done: Option<usize>,
    pub(super) children: Option<usize>,
    /// The error, and whether it is an `atomic.Value`.
    pub(super) err: Option<(usize, bool)>,
    pub(super) deadline: Option<usize>,
    pub(super) key: Option<usize>,
    pub(super) value: Option<usize>,
}

impl Plan {
    pub(super) fn of(types: &Types, of: TypeId) -> Plan {
        let kind = ContextKind::of(types.package(of), types.name(of));
        let mut plan = Plan {
            kind,
            of,
            size: types.get(of).size,
            above: None,
            done: None,
            children: None,
            err: None,
            deadline: None,
            key: None,
            value: None,
        };
        plan.fields(types, of, 0, true);
        plan
    }

    /// Takes the fields of a struct, and of the `cancelCtx` in it.
    fn fields(&mut self, types: &Types, of: TypeId, base: u64, outer: bool) {
        for field in types.fields(of) {
            let (name, at) = (types.field_name(field), (base + field.offset) as usize);
            let Some(of) = field.of else { continue };
            let is_context = is_context(types, of);
            match name {
                "cancelCtx" if outer => self.fields(types, of, base + field.offset, false),
                _ if is_context && self.above.is_none() => self.above = Some(at),
                _ if self.kind == ContextKind::Other => {}
                "done" => self.done = Some(at),
                "children" => self.children = Some(at),
                "err" => self.err = Some((at, types.get(of).kind == Kind::Struct)),
                "deadline" => self.deadline = Some(at),
                "key" if self.kind == ContextKind::Value => self.key = Some(at),
                "val" if self.kind == ContextKind::Value => self.value = Some(at),
                _ => {}
            }
        }
    }
}

/// Whether a type is the interface `context.Context`.
fn is_context(types: &Types, of: TypeId) -> bool {
    types.get(of).kind == Kind::Interface
        && types.package(of) == "context"
        && types.name(of) == "context.Context"
}

/// Seconds from the year 1 and from 1885 to 1970 (`src/time/time.go`: `unixToInternal`, `wallToInternal`).
const SINCE_YEAR_1: i64 = 62_135_596_800;
const SINCE_1885: i64 = 2_682_288_000;

/// A `time.Time { wall uint64; ext int64; loc }` in nanoseconds since 1970; 0: none, or out of range.
pub(super) fn unix_ns(wall: u64, ext: u64) -> i64 {
    let nanoseconds = (wall & 0x3fff_ffff) as i64;
    // The highest bit says that the seconds are in `wall`, and `ext` is the monotonic clock.
    let seconds = if wall >> 63 != 0 {
        ((wall << 1) >> 31) as i64 - SINCE_1885
    } else {
        ext.cast_signed().saturating_sub(SINCE_YEAR_1)
    };
    seconds
        .checked_mul(1_000_000_000)
        .and_then(|ns| ns.checked_add(nanoseconds))
        .filter(|ns| *ns > 0)
        .unwrap_or(0)
}

/// Where the keys of a map lie in one of its groups or buckets.
pub(super) struct Slots {
    /// Bytes of a group.
    pub(super) size: usize,
    pub(super) swiss: bool,
    /// Offset of the first key, and bytes from one to the next.
    pub(super) first: usize,
    pub(super) stride: usize,
}

impl Slots {
    /// By the fields of the group: `slots [8]struct { key; elem }`, or `keys [8]K` of a bucket.
    pub(super) fn of(types: &Types, group: TypeId) -> Option<Slots> {
        let field = |name: &str| types.fields(group).iter().find(|field| types.field_name(field) == name);
        let (swiss, keys) = match field("slots") {
            Some(slots) => (true, slots),
            None => (types.name(group).starts_with("map.group["), field("keys")?),
        };
        let Detail::Array { elem: Some(elem), .. } = types.get(keys.of?).detail else { return None };
        let (size, stride) = (types.get(group).size as usize, types.get(elem).size as usize);
        (size > 0 && stride >= 16).then_some(Slots { size, swiss, first: keys.offset as usize, stride })
    }
}

/// Which types may hold contexts by themselves: as children, or in closures.
pub(super) struct Holding {
    /// Groups of maps whose keys are `context.canceler`.
    pub(super) groups: HashSet<TypeId>,
    /// Closures, with the offsets of what they have captured of contexts.
    pub(super) closures: HashMap<TypeId, Vec<usize>>,
}

impl Holding {
    pub(super) fn of(types: &Types, plans: &HashMap<TypeId, Plan>) -> Holding {
        let mut holding = Holding { groups: HashSet::new(), closures: HashMap::new() };
        for id in types.iter() {
            let found = types.get(id);
            if let Detail::Map { group: Some(group), .. } = found.detail
                && types.name(id) == "map[context.canceler]struct {}"
            {
                holding.groups.insert(group);
            }
            let fields = types.fields(id);
            if types.is_closure(id) {
                let captured = fields.iter().filter(|field| {
                    let elem = field.of.and_then(|of| types.elem(of));
                    elem.is_some_and(|elem| plans.contains_key(&elem))
                });
                holding.closures.insert(id, captured.map(|field| field.offset as usize).collect());
            }
        }
        holding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_with_and_without_the_monotonic_clock() {
        // 2021-01-01 00:00:00.5 UTC.
        let unix = 1_609_459_200_i64;
        let wall = 1 << 63 | ((unix + SINCE_1885) as u64) << 30 | 500_000_000;
        assert_eq!(unix_ns(wall, 7), unix * 1_000_000_000 + 500_000_000);
        assert_eq!(unix_ns(500_000_000, (unix + SINCE_YEAR_1) as u64), unix * 1_000_000_000 + 500_000_000);
        assert_eq!(unix_ns(0, 0), 0);
        assert_eq!(unix_ns(0, u64::MAX), 0);
        assert_eq!(unix_ns(0, i64::MAX as u64), 0, "beyond what can be told");
    }
}

//! The choice and the order of goroutines.

use regex::Regex;
use sfgi_core::{
    goruntime::State,
    names::Names,
    snapshot::{Goroutine, Snapshot, StackId},
};
use std::collections::{HashMap, HashSet};

/// Conditions on a goroutine. All that are set must hold.
#[derive(Debug, Default)]
pub struct Choice {
    /// Its state is one of these; empty: any.
    pub states: Vec<State>,
    /// Its wait reason matches; `None`: any.
    pub reason: Option<Regex>,
    /// A function on its stack, or the one that created it, matches.
    pub func: Option<Regex>,
    /// It has waited for at least so many nanoseconds by the runtime's count; 0: any.
    pub older_ns: u64,
    /// It has one of these ids; empty: any.
    pub goids: HashSet<u64>,
    /// It waits for this object, an index into [`Snapshot::objects`].
    pub object: Option<u32>,
    /// The runtime's own goroutines, too.
    pub system: bool,
}

/// The order of goroutines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By goid.
    Goid,
    /// By the time waited, longest first; unknown ones at the end.
    Age,
    /// By state, then by wait reason.
    State,
    /// By the innermost function of the stack.
    Func,
    /// By the function that created them.
    Creator,
}

impl Choice {
    /// Indices of the chosen goroutines, in the order of the snapshot.
    pub fn of(&self, snapshot: &Snapshot, names: &mut Names) -> Vec<u32> {
        // A million goroutines have few different stacks and creators, so each is matched once.
        let mut stacks = HashMap::new();
        let mut creators = HashMap::new();
        let wanted = |(_, goroutine): &(u32, &Goroutine)| {
            self.holds(goroutine, names)
                && self.func.as_ref().is_none_or(|func| {
                    stack_matches(func, goroutine.stack, snapshot, names, &mut stacks)
                        || creator_matches(func, goroutine, names, &mut creators)
                })
        };
        (0..).zip(&snapshot.goroutines).filter(wanted).map(|(index, _)| index).collect()
    }

    /// The conditions that need no names, which are asked first because names are dear.
    fn holds(&self, goroutine: &Goroutine, names: &Names) -> bool {
        (self.system || !goroutine.system)
            && (self.goids.is_empty() || self.goids.contains(&goroutine.goid))
            && (self.states.is_empty() || self.states.contains(&goroutine.state))
            && self.object.is_none_or(|object| goroutine.waits.iter().any(|wait| wait.object == object))
            && (self.older_ns == 0 || names.waiting_ns(goroutine).is_some_and(|ns| ns >= self.older_ns))
            && self.reason.as_ref().is_none_or(|reason| reason.is_match(names.reason(goroutine)))
    }
}

fn stack_matches(
    func: &Regex,
    stack: StackId,
    snapshot: &Snapshot,
    names: &mut Names,
    known: &mut HashMap<StackId, bool>,
) -> bool {
    *known.entry(stack).or_insert_with(|| {
        let pcs = snapshot.stacks.get(stack);
        pcs.iter().any(|pc| names.lines(*pc).iter().any(|line| func.is_match(&line.site.func)))
    })
}

fn creator_matches(
    func: &Regex,
    goroutine: &Goroutine,
    names: &mut Names,
    known: &mut HashMap<u64, bool>,
) -> bool {
    // Goroutine 1 was made by the runtime, whatever its `gopc` says.
    goroutine.goid != 1
        && *known
            .entry(goroutine.gopc)
            .or_insert_with(|| names.creator(goroutine).is_some_and(|site| func.is_match(&site.func)))
}

impl Order {
    /// Sorts indices; equal goroutines keep their order.
    pub fn sort(self, chosen: &mut [u32], snapshot: &Snapshot, names: &mut Names) {
        let goroutine = |index: u32| snapshot.goroutines.get(index as usize);
        match self {
            Order::Goid => chosen.sort_by_key(|index| goroutine(*index).map(|found| found.goid)),
            Order::Age => chosen.sort_by_key(|index| {
                std::cmp::Reverse(goroutine(*index).and_then(|found| names.waiting_ns(found)))
            }),
            Order::State => chosen.sort_by_cached_key(|index| {
                goroutine(*index).map(|found| (found.state.to_string(), names.reason(found).to_owned()))
            }),
            Order::Func => {
                let mut known = HashMap::new();
                chosen.sort_by_cached_key(|index| {
                    let stack = goroutine(*index)?.stack;
                    let top = known.entry(stack).or_insert_with(|| {
                        names.stack(snapshot.stacks.get(stack)).first().map(|line| line.site.func.clone())
                    });
                    top.clone()
                });
            }
            Order::Creator => chosen.sort_by_cached_key(|index| {
                goroutine(*index).and_then(|found| names.creator(found)).map(|site| site.func)
            }),
        }
    }
}

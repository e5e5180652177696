//! Steps that wait until nothing older can come.

use hashbrown::HashMap;
use sfgi_core::{goruntime::State, model::Step};
use std::{cmp::Reverse, collections::BinaryHeap};

/// How long a step waits, nanoseconds of the target's time. The model holds a creation back for up to a second.
const WAIT_NS: u64 = 1_100_000_000;

/// How many steps wait at most; above, the oldest go, and what is older still is told with a later time.
const CAPACITY: usize = 1 << 17;

/// Steps by time; those of one goroutine stay in the order in which they came.
#[derive(Default)]
pub(super) struct Pending {
    heap: BinaryHeap<Reverse<Waiting>>,
    /// By goid: how many wait, and the time of the last.
    last: HashMap<u64, (usize, u64)>,
    /// By thread: the last that happened there, if it was a switch from one coroutine to another.
    switches: HashMap<u32, Switch>,
    /// How many ever came.
    count: u64,
    newest_ts: u64,
}

/// A thread went over to another goroutine.
struct Switch {
    /// Who had it before.
    by_goid: u64,
    ts: u64,
    number: u64,
}

/// One that waits.
struct Waiting {
    ts: u64,
    /// Twice the number of those before, so that something fits between two.
    number: u64,
    what: Told,
}

/// What can be told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    /// Something happened.
    Step(Step),
    /// So many events were lost.
    Lost(u64),
}

impl Told {
    /// Whose it is; 0: nobody's.
    fn goid(&self) -> u64 {
        if let Told::Step(step) = self { step.goid } else { 0 }
    }
}

impl Pending {
    pub(super) fn push(&mut self, ts: u64, what: Told) {
        let mut ts = ts;
        if what.goid() != 0 {
            let last = self.last.entry(what.goid()).or_default();
            ts = ts.max(last.1);
            *last = (last.0 + 1, ts);
        }
        self.newest_ts = self.newest_ts.max(ts);
        self.count += 1;
        let mut number = 2 * self.count;
        if let Told::Step(step) = &what
            && let Some(switch) = self.switched(step, ts, number)
        {
            (ts, number) = (switch.ts, switch.number - 1);
        }
        self.heap.push(Reverse(Waiting { ts, number, what }));
    }

    /// If a coroutine ends here, the switch with which its thread went over to another.
    fn switched(&mut self, step: &Step, ts: u64, number: u64) -> Option<Switch> {
        let before = self.switches.remove(&step.tid);
        if (step.from, step.to) == (State::Waiting, State::Running) && step.by_goid != 0 {
            self.switches.insert(step.tid, Switch { by_goid: step.by_goid, ts, number });
        }
        before.filter(|switch| switch.by_goid == step.goid && step.to.is_dead())
    }

    /// The next one that has waited long enough, with its time.
    pub(super) fn pop_due(&mut self) -> Option<(u64, Told)> {
        let Reverse(first) = self.heap.peek()?;
        let due = first.ts.saturating_add(WAIT_NS) <= self.newest_ts || self.heap.len() > CAPACITY;
        if due { self.pop() } else { None }
    }

    /// The next one.
    pub(super) fn pop(&mut self) -> Option<(u64, Told)> {
        let Reverse(Waiting { ts, what, .. }) = self.heap.pop()?;
        if let Some((waiting, _)) = self.last.get_mut(&what.goid()) {
            *waiting -= 1;
            if *waiting == 0 {
                self.last.remove(&what.goid());
            }
        }
        Some((ts, what))
    }

    /// Whether [`Pending::pop_due`] has something.
    pub(super) fn is_due(&self) -> bool {
        self.oldest_ts().is_some_and(|ts| ts.saturating_add(WAIT_NS) <= self.newest_ts)
            || self.heap.len() > CAPACITY
    }

    /// The time of the first.
    pub(super) fn oldest_ts(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(first)| first.ts)
    }

    /// Whether something waits that this goroutine did.
    pub(super) fn has(&self, goid: u64) -> bool {
        self.last.contains_key(&goid)
    }

    /// The first step of every goroutine that has one, in the order in which they will be told.
    pub(super) fn firsts(&self) -> Vec<Step> {
        let mut steps: HashMap<u64, (u64, u64, Step)> = HashMap::new();
        for Reverse(Waiting { ts, number, what }) in &self.heap {
            if let Told::Step(step) = what
                && step.goid != 0
                && steps.get(&step.goid).is_none_or(|first| (*ts, *number) < (first.0, first.1))
            {
                steps.insert(step.goid, (*ts, *number, *step));
            }
        }
        let mut steps: Vec<(u64, u64, Step)> = steps.into_values().collect();
        steps.sort_unstable_by_key(|(ts, number, _)| (*ts, *number));
        steps.into_iter().map(|(_, _, step)| step).collect()
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.number == other.number
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> std::cmp::Ordering {
        (self.ts, self.number).cmp(&(other.ts, other.number))
    }
}

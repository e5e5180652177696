//! Steps that wait until nothing older can come: the model tells some late, and readers take no step back in time.

use hashbrown::HashMap;
use sfgi_core::{goruntime::State, model::Step};
use std::{cmp::Reverse, collections::BinaryHeap};

/// How long a step waits, nanoseconds of the target's time: more than the second for which the model holds back a
/// creation (`HOLD_CREATE_NS`, `model/goroutines.rs`).
const WAIT_NS: u64 = 1_100_000_000;

/// Most steps that wait. Above it the oldest go early, and a step that is older still gets a later time.
const CAPACITY: usize = 1 << 17;

/// Steps by time. Steps of one goroutine keep the order in which they came.
#[derive(Default)]
pub(super) struct Pending {
    heap: BinaryHeap<Reverse<Waiting>>,
    /// By goid: the number of steps that wait, and the time of the last.
    last: HashMap<u64, (usize, u64)>,
    /// By thread: its last step, if that was a switch from one coroutine to another.
    switches: HashMap<u32, Switch>,
    /// Steps that ever came; numbers them.
    count: u64,
    newest_ts: u64,
}

/// A thread's change from one coroutine to another.
struct Switch {
    /// The goroutine that had the thread before.
    by_goid: u64,
    ts: u64,
    number: u64,
}

/// An entry of the heap, ordered by time, then by number.
struct Waiting {
    ts: u64,
    /// Twice the count, so that an end of a coroutine fits before its switch.
    number: u64,
    what: Told,
}

/// What is written when it is due.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    Step(Step),
    /// The number of lost events.
    Lost(u64),
}

impl Told {
    /// The goroutine; 0: none.
    fn goid(&self) -> u64 {
        if let Told::Step(step) = self { step.goid } else { 0 }
    }
}

impl Pending {
    pub(super) fn push(&mut self, ts: u64, what: Told) {
        let mut ts = ts;
        if what.goid() != 0 {
            let last = self.last.entry(what.goid()).or_default();
            // A step that was held back or came late has its own time, but the order of a goroutine's steps is right.
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

    /// The switch that took the thread from a coroutine which ends with this step.
    fn switched(&mut self, step: &Step, ts: u64, number: u64) -> Option<Switch> {
        let before = self.switches.remove(&step.tid);
        if (step.from, step.to) == (State::Waiting, State::Running) && step.by_goid != 0 {
            self.switches.insert(step.tid, Switch { by_goid: step.by_goid, ts, number });
        }
        before.filter(|switch| switch.by_goid == step.goid && step.to.is_dead())
    }

    /// The next entry that has waited long enough, with its time.
    pub(super) fn pop_due(&mut self) -> Option<(u64, Told)> {
        let Reverse(first) = self.heap.peek()?;
        let due = first.ts.saturating_add(WAIT_NS) <= self.newest_ts || self.heap.len() > CAPACITY;
        if due { self.pop() } else { None }
    }

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

    /// Whether [`Pending::pop_due`] returns an entry.
    pub(super) fn is_due(&self) -> bool {
        self.oldest_ts().is_some_and(|ts| ts.saturating_add(WAIT_NS) <= self.newest_ts)
            || self.heap.len() > CAPACITY
    }

    /// The time of the next entry.
    pub(super) fn oldest_ts(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(first)| first.ts)
    }

    /// Whether a step of this goroutine waits.
    pub(super) fn has(&self, goid: u64) -> bool {
        self.last.contains_key(&goid)
    }

    /// The first step of every goroutine, in the order in which they will be written.
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

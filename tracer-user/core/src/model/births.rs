//! Set A only: joins a `go` statement with the goroutine that it made.
//!
//! The probe on `newproc1` stands at its entry, where the new goroutine has no `g` and no id yet; a probe on its
//! return would be single-stepped, at ten times the price. The goroutine's first `execute` tells the rest. [`Births`]
//! pairs the two by creator, `go` statement and closure, the oldest first.

use crate::event::{Birth, Event, NewProc, status};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// One `newproc1` event whose goroutine has not run yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) ts: u64,
    pub(super) tid: u32,
    pub(super) birth: Birth,
}

/// What `newproc1` and the first `execute` both tell: the creator (0 up to Go 1.20, where `g` has no `parentGoid`),
/// the return address of the `go` statement, and the closure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Join {
    parent_goid: u64,
    gopc: u64,
    funcval: u64,
}

/// The queue of one [`Join`]: the numbers of its oldest and its newest `go` statement.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: u64,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    expected: Expected,
    /// Number of the next entry with the same [`Join`].
    next: Option<u64>,
    claimed: bool,
}

/// All queues in one ring: entry `n` is at index `n - oldest`.
#[derive(Debug)]
pub(super) struct Births {
    entries: VecDeque<Entry>,
    oldest: u64,
    lines: HashMap<Join, Line>,
    /// Goroutines that were created parked, for a coroutine (Go 1.23+): `coroswitch_m` switches to them, so their
    /// first run is no `execute`.
    parked: VecDeque<Expected>,
    /// The first so many of `parked` date from before a loss and are not claimed any more.
    doubtful: usize,
    records_parent: bool,
}

impl Births {
    /// `records_parent`: the release keeps `g.parentGoid` (Go 1.21+).
    pub(super) fn new(records_parent: bool) -> Births {
        Births {
            entries: VecDeque::new(),
            oldest: 0,
            lines: HashMap::new(),
            parked: VecDeque::new(),
            doubtful: 0,
            records_parent,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() + self.parked.len()
    }

    fn join(&self, birth: &Birth) -> Join {
        let parent_goid = if self.records_parent { birth.parent_goid } else { 0 };
        Join { parent_goid, gopc: birth.gopc, funcval: birth.funcval }
    }

    /// Remembers the `go` statement of `event` until its goroutine runs.
    pub(super) fn expect(&mut self, event: &Event, new: &NewProc) {
        let birth = birth_of(event.goid, new);
        let expected = Expected { ts: event.ts, tid: event.tid, birth };
        if event.to == status::WAITING {
            self.parked.push_back(expected);
            return;
        }
        let number = self.oldest + self.entries.len() as u64;
        let line = self.lines.entry(self.join(&birth)).or_insert(Line { first: number, last: number });
        // The queue existed already: append behind its newest entry.
        if line.last != number {
            let behind = line.last.wrapping_sub(self.oldest) as usize;
            line.last = number;
            if let Some(entry) = self.entries.get_mut(behind) {
                entry.next = Some(number);
            }
        }
        self.entries.push_back(Entry { expected, next: None, claimed: false });
    }

    /// Takes out the `go` statement of a goroutine that runs for the first time; `None` if it was lost or precedes
    /// the trace.
    pub(super) fn claim(&mut self, birth: &Birth) -> Option<Expected> {
        let first = self.lines.get(&self.join(birth))?.first;
        let expected = self.take(first)?;
        // Entries are claimed in any order but leave at the front only, so that `n - oldest` stays the index of entry
        // `n`.
        while self.entries.front().is_some_and(|entry| entry.claimed) {
            self.entries.pop_front();
            self.oldest += 1;
        }
        Some(expected)
    }

    /// Takes out the creation of a goroutine that is switched to for the first time. A switch tells only who
    /// switches, so the oldest one that this goroutine made is taken: who makes an iterator usually asks it first. A
    /// goroutine that another one switches to first stays without its creation.
    pub(super) fn claim_parked(&mut self, creator: u64) -> Option<Expected> {
        let mut sure = self.parked.iter().enumerate().skip(self.doubtful);
        let (index, _) = sure.find(|(_, expected)| expected.birth.parent_goid == creator)?;
        self.parked.remove(index)
    }

    /// Takes out the oldest `go` statement from before `before_ts` whose goroutine has not run.
    pub(super) fn overdue(&mut self, before_ts: u64) -> Option<Expected> {
        while let Some(entry) = self.entries.front() {
            if !entry.claimed && entry.expected.ts >= before_ts {
                break;
            }
            let expected = if entry.claimed { None } else { self.take(self.oldest) };
            self.entries.pop_front();
            self.oldest += 1;
            if expected.is_some() {
                return expected;
            }
        }
        let expected = self.parked.pop_front_if(|expected| expected.ts < before_ts)?;
        self.doubtful = self.doubtful.saturating_sub(1);
        Some(expected)
    }

    /// Marks entry `number`, which must be the oldest of its queue, as claimed.
    fn take(&mut self, number: u64) -> Option<Expected> {
        let entry = self.entries.get_mut(number.checked_sub(self.oldest)? as usize)?;
        entry.claimed = true;
        let (expected, next) = (entry.expected, entry.next);
        let join = self.join(&expected.birth);
        if let Some(line) = self.lines.get_mut(&join).filter(|line| line.first == number) {
            match next {
                Some(next) => line.first = next,
                None => drop(self.lines.remove(&join)),
            }
        }
        Some(expected)
    }

    /// Events were lost. One missing event would shift all later pairs of its queue, so nothing that is here already
    /// is paired any more; `overdue` still announces it without an id.
    pub(super) fn doubt(&mut self) {
        self.lines.clear();
        self.doubtful = self.parked.len();
    }

    pub(super) fn clear(&mut self) {
        *self = Births::new(self.records_parent);
    }
}

/// The [`Birth`] of the goroutine that `creator` makes by this call of `newproc1`.
pub(super) fn birth_of(creator: u64, new: &NewProc) -> Birth {
    Birth { parent_goid: creator, gopc: new.callerpc, startpc: new.startpc, funcval: new.funcval }
}

//! Set A: `go` statements whose goroutine has not run yet. `newproc1` is seen at its entry, where
//! the new goroutine has no name; its first run tells the rest, and the two are joined in order.

use crate::event::{Birth, Event, NewProc, status};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// A `go` statement that was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) ts: u64,
    pub(super) tid: u32,
    pub(super) birth: Birth,
}

/// What both ends know: the creator (0 up to 1.20, which does not record it), the `go` statement
/// and the closure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Join {
    parent_goid: u64,
    gopc: u64,
    funcval: u64,
}

/// The waiting line of one [`Join`]: numbers of `go` statements, oldest first.
#[derive(Clone, Copy, Debug)]
struct Line {
    first: u64,
    last: u64,
}

#[derive(Debug)]
struct Entry {
    expected: Expected,
    /// Number of the next one in the same line.
    next: Option<u64>,
    claimed: bool,
}

/// All lines, in one ring: entry `n` is at `n - oldest`.
#[derive(Debug)]
pub(super) struct Births {
    entries: VecDeque<Entry>,
    oldest: u64,
    lines: HashMap<Join, Line>,
    /// Goroutines that were created parked, for a coroutine (Go 1.23+): they never run by
    /// `execute`, but are switched to.
    parked: VecDeque<Expected>,
    /// How many of `parked` must not be claimed any more.
    doubtful: usize,
    records_parent: bool,
}

impl Births {
    /// `records_parent`: the version keeps `g.parentGoid` (Go 1.21+).
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

    /// A `go` statement, seen in `event`.
    pub(super) fn expect(&mut self, event: &Event, new: &NewProc) {
        let birth = birth_of(event.goid, new);
        let expected = Expected { ts: event.ts, tid: event.tid, birth };
        if event.to == status::WAITING {
            self.parked.push_back(expected);
            return;
        }
        let number = self.oldest + self.entries.len() as u64;
        let line = self.lines.entry(self.join(&birth)).or_insert(Line { first: number, last: number });
        // A line that was there already: this one comes behind its last.
        if line.last != number {
            let behind = line.last.wrapping_sub(self.oldest) as usize;
            line.last = number;
            if let Some(entry) = self.entries.get_mut(behind) {
                entry.next = Some(number);
            }
        }
        self.entries.push_back(Entry { expected, next: None, claimed: false });
    }

    /// The `go` statement of a goroutine that runs for the first time.
    pub(super) fn claim(&mut self, birth: &Birth) -> Option<Expected> {
        let first = self.lines.get(&self.join(birth))?.first;
        let expected = self.take(first)?;
        while self.entries.front().is_some_and(|entry| entry.claimed) {
            self.entries.pop_front();
            self.oldest += 1;
        }
        Some(expected)
    }

    /// The creation of a coroutine's goroutine that is switched to for the first time: the oldest
    /// that this goroutine made, because who makes an iterator usually asks it first. Another one
    /// stays unnamed.
    pub(super) fn claim_parked(&mut self, creator: u64) -> Option<Expected> {
        let mut sure = self.parked.iter().enumerate().skip(self.doubtful);
        let (index, _) = sure.find(|(_, expected)| expected.birth.parent_goid == creator)?;
        self.parked.remove(index)
    }

    /// An old `go` statement, one from before `before_ts`: its goroutine is long in coming.
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

    /// Marks entry `number`, the first of its line, as claimed.
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

    /// Events were lost: who belongs together cannot be told any more for what is here already.
    pub(super) fn doubt(&mut self) {
        self.lines.clear();
        self.doubtful = self.parked.len();
    }

    pub(super) fn clear(&mut self) {
        *self = Births::new(self.records_parent);
    }
}

/// What a `go` statement tells of the goroutine to come.
pub(super) fn birth_of(creator: u64, new: &NewProc) -> Birth {
    Birth { parent_goid: creator, gopc: new.callerpc, startpc: new.startpc, funcval: new.funcval }
}

//! Counts and times per wait reason, wait site, system-call site and creation site, made from
//! steps: what `sfgi trace -c` shows.

use super::{Goroutines, Histogram, Measure, Step, What, Whats};
use crate::event::Stack;
use crate::goruntime::State;
use hashbrown::HashMap;
use std::hash::Hash;

/// How many rows a table has at most, if its maker does not say otherwise.
const ROWS: usize = 1024;

/// A table with at most so many rows; what comes for a further key goes into the row `other`.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    rows: HashMap<K, V>,
    limit: usize,
    /// Everything that found no row of its own.
    pub other: V,
    /// How many entries `other` is made of.
    pub merged: u64,
}

impl<K: Eq + Hash, V: Default> Table<K, V> {
    fn new(limit: usize) -> Self {
        Table { rows: HashMap::new(), limit, other: V::default(), merged: 0 }
    }

    fn row(&mut self, key: K) -> &mut V {
        if self.rows.len() < self.limit || self.rows.contains_key(&key) {
            return self.rows.entry(key).or_default();
        }
        self.merged += 1;
        &mut self.other
    }

    /// The rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.rows.iter()
    }

    /// The row of this key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }
}

/// A place where goroutines wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WaitSite {
    /// Index of the wait reason.
    pub reason: u8,
    /// Where.
    pub stack: Stack,
}

/// Times of one kind.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Those that ended and whose beginning was seen, nanoseconds.
    pub ended: Histogram,
    /// How many ended whose beginning was not seen.
    pub unmeasured: u64,
    /// How many have not ended (set by [`Summary::close`]).
    pub open: u64,
    /// The longest of these so far, nanoseconds.
    pub open_longest_ns: u64,
}

impl Times {
    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Times) {
        self.ended.merge(&other.ended);
        self.unmeasured += other.unmeasured;
        self.open += other.open;
        self.open_longest_ns = self.open_longest_ns.max(other.open_longest_ns);
    }

    fn end(&mut self, duration_ns: Option<u64>) {
        match duration_ns {
            Some(duration_ns) => self.ended.add(duration_ns),
            None => self.unmeasured += 1,
        }
    }

    fn still_open(&mut self, age_ns: u64) {
        self.open += 1;
        self.open_longest_ns = self.open_longest_ns.max(age_ns);
    }
}

/// What came of one `go` statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Creation {
    /// Entry of the function its goroutines run (of the last one seen).
    pub startpc: u64,
    /// Goroutines it made during the trace.
    pub created: u64,
    /// Its goroutines that ended during the trace, also those made before.
    pub exited: u64,
    /// Those of `created` that were not named, because they did not run at once or the mode does
    /// not see them.
    unnamed: u64,
    /// Those of `exited` whose creation was not seen by name.
    foundlings: u64,
}

impl Creation {
    /// How many of those made during the trace have not ended.
    pub fn alive(&self) -> u64 {
        let named = (self.created - self.unnamed).saturating_sub(self.exited - self.foundlings);
        named + self.unnamed.saturating_sub(self.foundlings)
    }
}

/// The tables of one trace.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Waits by index of the wait reason.
    pub reasons: Table<u8, Times>,
    /// Waits by place.
    pub wait_sites: Table<WaitSite, Times>,
    /// System calls and cgo calls by place.
    pub syscall_sites: Table<Stack, Times>,
    /// `go` statements by return address (`gopc`).
    pub creations: Table<u64, Creation>,
    /// How many steps were illegal.
    pub illegal: u64,
}

impl Default for Summary {
    fn default() -> Self {
        Summary::with_rows(ROWS)
    }
}

impl Summary {
    /// A summary whose tables have at most this many rows each.
    pub fn with_rows(limit: usize) -> Self {
        Summary {
            reasons: Table::new(limit),
            wait_sites: Table::new(limit),
            syscall_sites: Table::new(limit),
            creations: Table::new(limit),
            illegal: 0,
        }
    }

    /// The kinds of steps that count.
    pub fn counts() -> Whats {
        Whats::from_iter([What::Unblock, What::SyscallExit, What::Create, What::Exit, What::Illegal])
    }

    /// Counts one step.
    pub fn add(&mut self, step: &Step) {
        let measured = step.duration_ns.filter(|_| step.measure == Measure::Exact);
        match step.what {
            What::Unblock => {
                let site = WaitSite { reason: step.reason, stack: step.stack.unwrap_or_default() };
                self.reasons.row(step.reason).end(measured);
                self.wait_sites.row(site).end(measured);
            }
            What::SyscallExit => {
                self.syscall_sites.row(step.stack.unwrap_or_default()).end(measured);
            }
            What::Create | What::Exit => self.creation(step),
            What::Illegal => self.illegal += 1,
            _ => {}
        }
    }

    fn creation(&mut self, step: &Step) {
        let Some(birth) = step.birth else { return };
        let row = self.creations.row(birth.gopc);
        row.startpc = birth.startpc;
        if step.what == What::Create {
            row.created += 1;
            row.unnamed += u64::from(step.goid == 0);
        } else {
            row.exited += 1;
            row.foundlings += u64::from(step.duration_ns.is_none());
        }
    }

    /// Counts what has not ended at `now_ts` (the end of the trace). Call it once.
    pub fn close(&mut self, goroutines: &Goroutines, now_ts: u64) {
        for goroutine in goroutines.iter().filter(|goroutine| goroutine.since_ts != 0) {
            let age_ns = now_ts.saturating_sub(goroutine.since_ts);
            let stack = goroutine.site;
            match goroutine.state {
                State::Waiting | State::Leaked => {
                    let site = WaitSite { reason: goroutine.reason, stack };
                    self.reasons.row(goroutine.reason).still_open(age_ns);
                    self.wait_sites.row(site).still_open(age_ns);
                }
                State::Syscall => self.syscall_sites.row(stack).still_open(age_ns),
                _ => {}
            }
        }
    }
}

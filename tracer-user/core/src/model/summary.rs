//! Counts and times per wait reason, wait site, system-call site and creation site, made from
//! steps: what `sfgi trace -c` shows.

use super::{Goroutines, Measure, Step, What, Whats};
use crate::event::Stack;
use crate::goruntime::State;
use hashbrown::HashMap;
use std::hash::Hash;

/// Rows of a table unless its maker says otherwise. The bound is for a target with any number of places.
const ROWS: usize = 1024;

/// A table with at most `limit` rows; what comes for a further key goes into the row `other`.
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

    pub fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WaitSite {
    pub reason: u8,
    pub stack: Stack,
}

/// Durations of waits, or of system calls.
#[derive(Clone, Debug, Default)]
pub struct Times {
    /// Durations whose beginning and end were seen, nanoseconds.
    pub ended: Histogram,
    /// How many ended whose beginning was not seen, or only by a snapshot.
    pub unmeasured: u64,
    /// How many have not ended (set by [`Summary::close`]).
    pub open: u64,
    /// The longest of these so far, nanoseconds.
    pub open_longest_ns: u64,
}

impl Times {
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
    /// Those of `created` without a goid: they did not run soon enough, or the mode does not see them run.
    unnamed: u64,
    /// Those of `exited` whose creation was not seen under their goid.
    foundlings: u64,
}

impl Creation {
    /// How many of those made during the trace have not ended.
    pub fn alive(&self) -> u64 {
        // Ends of foundlings are set against unnamed creations only; a surplus was created before the trace.
        let named = (self.created - self.unnamed).saturating_sub(self.exited - self.foundlings);
        named + self.unnamed.saturating_sub(self.foundlings)
    }
}

/// The tables of one trace.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Waits by index of the wait reason.
    pub reasons: Table<u8, Times>,
    /// Waits by reason and stack.
    pub wait_sites: Table<WaitSite, Times>,
    /// System calls and cgo calls by place.
    pub syscall_sites: Table<Stack, Times>,
    /// `go` statements by return address (`gopc`).
    pub creations: Table<u64, Creation>,
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

    /// The kinds of steps that [`Summary::add`] uses.
    pub fn counts() -> Whats {
        Whats::from_iter([What::Unblock, What::SyscallExit, What::Create, What::Exit, What::Illegal])
    }

    pub fn add(&mut self, step: &Step) {
        // What a snapshot or `g.waitsince` tells is a bound or an estimate, and would blur the histogram.
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

    /// Counts what has not ended at `now_ts` (the end of the trace). Call it once: it adds.
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

/// Classes per power of two. A class is at most 1/32 of its value wide and speaks for its middle,
/// so that a quantile is off by at most 1/64 (1.6 %).
const PER_OCTAVE: u64 = 32;

/// A histogram of any `u64`; it takes as much memory as its largest value needs, 15 KiB at most.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    classes: Vec<u64>,
    count: u64,
    total: u64,
    max: u64,
}

impl Histogram {
    pub fn add(&mut self, value: u64) {
        let class = class_of(value);
        if self.classes.len() <= class {
            self.classes.resize(class + 1, 0);
        }
        self.classes[class] += 1;
        self.count += 1;
        self.total = self.total.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Counts everything that another one counted.
    pub fn merge(&mut self, other: &Histogram) {
        if self.classes.len() < other.classes.len() {
            self.classes.resize(other.classes.len(), 0);
        }
        for (mine, theirs) in self.classes.iter_mut().zip(&other.classes) {
            *mine += theirs;
        }
        self.count += other.count;
        self.total = self.total.saturating_add(other.total);
        self.max = self.max.max(other.max);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum; it stops at `u64::MAX`.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest, exactly; 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The smallest value that a share of `per_mille`/1000 does not exceed, to 1.6 %; 0 if there
    /// is none.
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let rank = u128::from(self.count) * u128::from(per_mille.min(1000));
        let rank = rank.div_ceil(1000).max(1);
        // The largest value is known exactly.
        if rank >= u128::from(self.count) {
            return self.max;
        }
        let mut below = 0u128;
        for (class, &count) in self.classes.iter().enumerate() {
            below += u128::from(count);
            if below >= rank {
                return middle_of(class).min(self.max);
            }
        }
        self.max
    }
}

/// Values below 64 have a class each; of larger ones, the five bits behind the first one count.
fn class_of(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(6);
    (u64::from(shift) * PER_OCTAVE + (value >> shift)) as usize
}

fn middle_of(class: usize) -> u64 {
    let class = class as u64;
    let shift = (class / PER_OCTAVE).saturating_sub(1);
    let lowest = (class - shift * PER_OCTAVE) << shift;
    lowest + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_are_contiguous_and_the_last_fits() {
        assert_eq!(class_of(0), 0);
        assert_eq!(class_of(63), 63);
        assert_eq!(class_of(64), 64);
        assert_eq!(class_of(65), 64);
        assert_eq!(class_of(66), 65);
        assert_eq!(class_of(127), 95);
        assert_eq!(class_of(128), 96);
        assert_eq!(class_of(u64::MAX), 1919);
        assert_eq!(middle_of(63), 63);
        assert_eq!(middle_of(64), 65);
    }

    #[test]
    fn nothing_has_no_quantiles() {
        let empty = Histogram::default();
        assert_eq!((empty.count(), empty.total(), empty.max(), empty.quantile(500)), (0, 0, 0, 0));
    }

    #[test]
    fn quantiles_of_one_to_hundred() {
        let mut histogram = Histogram::default();
        (1..=100).rev().for_each(|value| histogram.add(value * 1000));
        assert_eq!((histogram.count(), histogram.total(), histogram.max()), (100, 5_050_000, 100_000));
        for (per_mille, exact) in [(500, 50_000), (990, 99_000), (10, 1_000), (0, 1_000)] {
            let got = histogram.quantile(per_mille);
            assert!(got.abs_diff(exact) * 64 <= exact, "{per_mille}: {got} is too far from {exact}");
        }
        assert_eq!(histogram.quantile(1000), 100_000);
    }

    proptest! {
        #[test]
        fn a_class_is_never_far_from_its_values(value: u64) {
            prop_assert!(middle_of(class_of(value)).abs_diff(value) <= value / 64 + 1);
        }

        #[test]
        fn quantiles_are_near_the_exact_ones(
            mut values in prop::collection::vec(any::<u64>().prop_map(|v| v >> (v % 60)), 1..200),
            per_mille in 0u64..=1000,
        ) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.add(*value));
            values.sort_unstable();
            let rank = (values.len() as u64 * per_mille).div_ceil(1000).max(1);
            let exact = values[rank as usize - 1];
            prop_assert!(histogram.quantile(per_mille).abs_diff(exact) <= exact / 64 + 1);
        }
    }
}

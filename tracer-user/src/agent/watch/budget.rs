//! The decisions about CPU time. Pure: time and readings are arguments, so the tests need neither a clock nor probes.
//! [`Bucket`] decides whether a scan may begin, [`Pace`] in which mode the probes of a target stand, and
//! [`correction`] estimates how far the calibrated price of a hit is off.

use crate::probe::{Calibration, Programs};
use sfgi_core::event::Mode;

/// The most seconds of the budget that can be saved up, so that a quiet hour does not pay for a storm.
const SAVED_SECONDS: f64 = 20.0;
/// The least capacity of the bucket, CPU seconds, however small the budget. A look at a heap is assumed to cost half
/// of that (`LOOK_COST` in `core/state.rs`) and could otherwise never begin.
const LEAST_SECONDS: f64 = 0.1;

/// The part of the budget that is used. The rest is for what no meter sees: the work that the kernel does on behalf
/// of the agent.
const USED_SHARE: f64 = 0.95;

/// A bucket of CPU seconds. It fills at the pace of the budget, and all CPU time of the agent is taken out, whatever
/// it was for. The level may be negative: a debt is paid off before anything begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bucket {
    level: f64,
    /// What the tasks that run now will probably cost. The meter sees the cost only as it is spent.
    promised: f64,
    last: Option<Meter>,
}

/// A reading of the meter: the time, and the CPU time used since the start, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Meter {
    at: f64,
    used: f64,
}

impl Bucket {
    /// A bucket that holds the least capacity: the first scans are paid for, too.
    pub(crate) fn new() -> Bucket {
        Bucket { level: LEAST_SECONDS, promised: 0.0, last: None }
    }

    /// Takes a reading at `at` with `used` CPU seconds since the start. `budget` in cores.
    pub(crate) fn read(&mut self, at: f64, used: f64, budget: f64) {
        if let Some(last) = self.last {
            let passed = (at - last.at).max(0.0);
            self.level =
                (self.level + passed * USED_SHARE * budget - (used - last.used).max(0.0)).min(most(budget));
        }
        self.last = Some(Meter { at, used });
    }

    /// Whether something may begin.
    pub(crate) fn has_left(&self) -> bool {
        self.level - self.promised > 0.0
    }

    /// Notes that a task begins that will probably cost `cost`.
    pub(crate) fn promise(&mut self, cost: f64) {
        self.promised += cost;
    }

    /// Notes that the task is over, with the `cost` that was promised; the meter has seen the real one.
    pub(crate) fn settle(&mut self, cost: f64) {
        // Sums of floating point numbers do not cancel exactly.
        self.promised = (self.promised - cost).max(0.0);
    }
}

fn most(budget: f64) -> f64 {
    (budget * SAVED_SECONDS).max(LEAST_SECONDS)
}

/// A reading above this multiple of the budget steps down at once. One that is only a little above must be confirmed
/// by the next.
const FAR: f64 = 2.0;
/// Seconds until a mode that was too dear is tried again: `FIRST_PAUSE`, doubled at each failure up to `LAST_PAUSE`.
/// Each try costs the target a sample.
const FIRST_PAUSE: f64 = 15.0;
const LAST_PAUSE: f64 = 1800.0;
/// Seconds that a mode must stand within the budget for earlier failures to be forgotten.
const FORGIVEN: f64 = 600.0;

/// A reading of what a session of probes costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    /// The time of the reading, seconds on a monotonic clock.
    pub(crate) at: f64,
    /// The cost to the target and the agent together, cores.
    pub(crate) cores: f64,
    /// What it may cost, cores.
    pub(crate) budget: f64,
}

/// What to do with the probes of a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    /// Leave things as they are.
    Stay,
    /// Remove the probes and try this mode instead; `Poll`: none.
    Down(Mode),
    /// Remove the probes and begin anew with the wanted mode.
    Change,
    /// Try this mode and, where it is too dear, the cheaper ones.
    Try(Mode),
}

/// Decides when probes of one target are tried and when they are removed. Times are seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Pace {
    /// When the probes were attached; `None`: there are none.
    since: Option<f64>,
    /// The last reading was above the budget.
    above: bool,
    /// No mode is tried before this time.
    next: f64,
    /// The last pause; 0: no failure is remembered.
    pause: f64,
}

impl Pace {
    /// Decides for a target whose probes stand in `mode`. `reading`: a new reading, if there is one.
    pub(crate) fn with_probes(&mut self, mode: Mode, wanted: Mode, reading: Option<Reading>) -> Step {
        // Without a reading, too: what nobody wants must not cost anything more.
        if wanted < mode {
            return Step::Change;
        }
        let Some(Reading { at, cores, budget }) = reading else { return Step::Stay };
        let since = *self.since.get_or_insert(at);
        if cores <= budget {
            self.above = false;
            if at - since >= FORGIVEN {
                self.pause = 0.0;
            }
            return if mode < wanted && at >= self.next { self.up(at) } else { Step::Stay };
        }
        let confirmed = std::mem::replace(&mut self.above, true);
        if cores > FAR * budget || confirmed {
            self.refused(at);
            return Step::Down(below(mode));
        }
        Step::Stay
    }

    /// Decides for a target without probes.
    pub(crate) fn without(&mut self, wanted: Mode, at: f64) -> Step {
        (self.since, self.above) = (None, false);
        if wanted == Mode::Poll || at < self.next {
            return Step::Stay;
        }
        Step::Try(wanted)
    }

    /// Notes that probes stand now; `less`: in a cheaper mode than the wanted one, which was too dear.
    pub(crate) fn attached(&mut self, at: f64, less: bool) {
        (self.since, self.above) = (Some(at), false);
        if less {
            self.refused(at);
        }
    }

    /// Notes that a mode was too dear, and doubles the pause.
    pub(crate) fn refused(&mut self, at: f64) {
        self.pause = if self.pause == 0.0 { FIRST_PAUSE } else { (self.pause * 2.0).min(LAST_PAUSE) };
        self.next = at + self.pause;
    }

    /// Forgets earlier failures, because another mode is wanted.
    pub(crate) fn ask(&mut self) {
        *self = Pace { since: self.since, ..Pace::default() };
    }

    /// The time before which no mode is tried.
    pub(crate) fn next(&self) -> f64 {
        self.next
    }

    fn up(&mut self, at: f64) -> Step {
        // Counted as a failure in advance: if the closer mode is too dear again, the next attempt comes later.
        self.refused(at);
        Step::Change
    }
}

fn below(mode: Mode) -> Mode {
    match mode {
        Mode::Full => Mode::Wait,
        Mode::Wait => Mode::Life,
        Mode::Life | Mode::Poll => Mode::Poll,
    }
}

/// Bounds of the correction. Beyond them a reading is taken for a disturbance, not for a price.
const LEAST_FACTOR: f64 = 0.5;
const MOST_FACTOR: f64 = 10.0;
/// With fewer runs than this between two readings their average says little.
const ENOUGH: u64 = 1000;

/// The factor by which hits are dearer than calibrated; `None`: the kernel does not count, or too few runs lie
/// between the readings.
///
/// A hit is a trap and a run of a BPF program. The kernel counts the time of the runs only. A run that takes longer
/// than at the calibration (a stack to walk, caches that other programs use) makes the hit dearer by as much. The
/// trap suffers from the same caches, so it is taken to be dearer by half the proportion.
pub(super) fn correction(
    calibration: &Calibration,
    before: Option<Programs>,
    now: Option<Programs>,
) -> Option<f64> {
    let (then, now) = (before.unwrap_or_default(), now?);
    let (runs, ns) = (now.runs.checked_sub(then.runs)?, now.ns.checked_sub(then.ns)?);
    let expected = calibration.program_ns.filter(|expected| *expected > 0.0)?;
    if runs < ENOUGH {
        return None;
    }
    let run = ns as f64 / runs as f64;
    // The price and the part of the program are of separate measurements; the trap must not come out negative.
    let whole = calibration.emulated_ns.max(expected);
    let trap = whole - expected;
    let dearer = run / expected;
    Some(((run + trap * (1.0 + (dearer - 1.0) / 2.0)) / whole).clamp(LEAST_FACTOR, MOST_FACTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_time_no_more_is_begun_than_the_budget_pays_for() {
        let (budget, cost) = (0.02, 0.005);
        let mut bucket = Bucket::new();
        let (mut used, mut begun) = (0.0, 0);
        for tick in 0..6000 {
            bucket.read(f64::from(tick) * 0.1, used, budget);
            while bucket.has_left() {
                bucket.promise(cost);
                begun += 1;
                used += cost;
                bucket.settle(cost);
                bucket.read(f64::from(tick) * 0.1, used, budget);
            }
        }
        let allowed = 600.0 * USED_SHARE * budget + LEAST_SECONDS;
        assert!((used - allowed).abs() <= 2.0 * cost, "{begun} begun, {used} used of {allowed}");
    }

    #[test]
    fn what_runs_already_counts() {
        let mut bucket = Bucket::new();
        bucket.read(0.0, 0.0, 0.0);
        bucket.promise(LEAST_SECONDS);
        assert!(!bucket.has_left());
        bucket.settle(LEAST_SECONDS);
        assert!(bucket.has_left());
    }

    #[test]
    fn a_debt_is_paid_off_before_anything_begins() {
        let mut bucket = Bucket::new();
        bucket.read(0.0, 0.0, 0.1);
        bucket.read(1.0, 9.6, 0.1);
        assert!(!bucket.has_left());
        bucket.read(99.0, 9.6, 0.1);
        assert!(!bucket.has_left());
        bucket.read(102.0, 9.6, 0.1);
        assert!(bucket.has_left());
    }

    const BUDGET: f64 = 0.02;

    fn reading(at: f64, cores: f64) -> Option<Reading> {
        Some(Reading { at, cores, budget: BUDGET })
    }

    #[test]
    fn what_is_far_above_the_budget_goes_at_once() {
        let mut pace = Pace::default();
        pace.attached(0.0, false);
        assert_eq!(pace.with_probes(Mode::Full, Mode::Full, reading(0.5, 0.7)), Step::Down(Mode::Wait));
        assert_eq!(pace.next(), 0.5 + FIRST_PAUSE);
    }

    #[test]
    fn what_is_a_little_above_must_be_confirmed() {
        let mut pace = Pace::default();
        pace.attached(0.0, false);
        assert_eq!(pace.with_probes(Mode::Wait, Mode::Wait, reading(0.5, 0.025)), Step::Stay);
        assert_eq!(pace.with_probes(Mode::Wait, Mode::Wait, reading(1.0, 0.01)), Step::Stay);
        assert_eq!(pace.with_probes(Mode::Wait, Mode::Wait, reading(1.5, 0.025)), Step::Stay);
        assert_eq!(pace.with_probes(Mode::Wait, Mode::Wait, reading(2.0, 0.025)), Step::Down(Mode::Life));
    }

    #[test]
    fn each_failure_puts_the_next_attempt_off_further() {
        let (mut pace, mut at, mut pauses) = (Pace::default(), 0.0, Vec::new());
        for _ in 0..12 {
            assert_eq!(pace.without(Mode::Full, at), Step::Try(Mode::Full));
            pace.refused(at);
            pauses.push(pace.next() - at);
            assert_eq!(pace.without(Mode::Full, pace.next() - 0.1), Step::Stay);
            at = pace.next();
        }
        assert_eq!(pauses[..3], [FIRST_PAUSE, 2.0 * FIRST_PAUSE, 4.0 * FIRST_PAUSE]);
        assert_eq!(pauses.last(), Some(&LAST_PAUSE));
    }

    #[test]
    fn a_mode_below_the_wanted_one_is_raised_when_its_pause_is_over() {
        let mut pace = Pace::default();
        pace.attached(0.0, true);
        assert_eq!(pace.with_probes(Mode::Life, Mode::Full, reading(FIRST_PAUSE - 1.0, 0.001)), Step::Stay);
        assert_eq!(pace.with_probes(Mode::Life, Mode::Full, reading(FIRST_PAUSE, 0.001)), Step::Change);
        // That was one more attempt.
        assert_eq!(pace.with_probes(Mode::Life, Mode::Full, reading(FIRST_PAUSE + 1.0, 0.001)), Step::Stay);
    }

    #[test]
    fn what_is_not_wanted_any_more_goes_and_a_new_wish_is_tried_at_once() {
        let mut pace = Pace::default();
        pace.attached(0.0, true);
        assert_eq!(pace.with_probes(Mode::Wait, Mode::Poll, reading(1.0, 0.001)), Step::Change);
        pace.refused(1.0);
        assert_eq!(pace.without(Mode::Wait, 2.0), Step::Stay);
        pace.ask();
        assert_eq!(pace.without(Mode::Wait, 2.0), Step::Try(Mode::Wait));
        assert_eq!(pace.without(Mode::Poll, 2.0), Step::Stay);
    }

    const MEASURED: Calibration =
        Calibration { emulated_ns: 1500.0, single_stepped_ns: 5000.0, program_ns: Some(500.0) };

    fn after(run_ns: u64) -> Option<f64> {
        let before = Programs { runs: 10_000, ns: 1 };
        let now = Programs { runs: 20_000, ns: 1 + 10_000 * run_ns };
        correction(&MEASURED, Some(before), Some(now))
    }

    #[test]
    fn what_is_as_measured_is_not_corrected() {
        assert_eq!(after(500), Some(1.0));
    }

    #[test]
    fn dearer_runs_make_dearer_hits() {
        assert_eq!(after(1000), Some((1000.0 + 1500.0) / 1500.0));
        assert_eq!(after(1_000_000), Some(MOST_FACTOR));
        assert!(after(400).is_some_and(|factor| factor < 1.0));
    }

    #[test]
    fn where_nothing_is_counted_nothing_is_corrected() {
        assert_eq!(correction(&MEASURED, None, None), None);
        assert_eq!(correction(&MEASURED, None, Some(Programs { runs: 10, ns: 1_000_000 })), None);
        let unknown = Calibration { program_ns: None, ..MEASURED };
        assert_eq!(correction(&unknown, None, Some(Programs { runs: 10_000, ns: 1 })), None);
    }
}

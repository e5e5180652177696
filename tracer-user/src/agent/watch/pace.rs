//! When probes are tried, and when they are taken away: a decision made of numbers, without a clock and without
//! probes.

use sfgi_core::event::Mode;

/// A reading so many times above the budget is enough to step down at once; one that is only a little above must
/// be confirmed.
const FAR: f64 = 2.0;
/// Seconds after which a mode that was too dear is tried again; doubled each time, at most to the second.
const FIRST_PAUSE: f64 = 15.0;
const LAST_PAUSE: f64 = 1800.0;
/// A mode that stood so long forgets earlier failures.
const FORGIVEN: f64 = 600.0;

/// What a session of probes costs: cores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::agent) struct Reading {
    /// Seconds, on any clock.
    pub(in crate::agent) at: f64,
    /// What it costs the program, and us.
    pub(in crate::agent) cores: f64,
    /// What it may.
    pub(in crate::agent) budget: f64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::agent) enum Step {
    /// Leave things as they are.
    Stay,
    /// Take the probes away, and try this mode in their place; `Poll`: none.
    Down(Mode),
    /// Take them away and begin anew: another mode is wanted.
    Change,
    /// Try this mode and, where it is too dear, those below.
    Try(Mode),
}

/// The history of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::agent) struct Pace {
    /// Since when there are probes, seconds.
    since: Option<f64>,
    /// The last reading was above the budget.
    above: bool,
    /// Not before this.
    next: f64,
    /// How long that was put off.
    pause: f64,
}

impl Pace {
    /// What to do with a process that has probes for `mode`.
    pub(in crate::agent) fn with_probes(
        &mut self,
        mode: Mode,
        wanted: Mode,
        reading: Option<Reading>,
    ) -> Step {
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

    /// What to do with one that has none.
    pub(in crate::agent) fn without(&mut self, wanted: Mode, at: f64) -> Step {
        (self.since, self.above) = (None, false);
        if wanted == Mode::Poll || at < self.next {
            return Step::Stay;
        }
        Step::Try(wanted)
    }

    /// Probes stand now, for less than was wanted if `less`.
    pub(in crate::agent) fn attached(&mut self, at: f64, less: bool) {
        (self.since, self.above) = (Some(at), false);
        if less {
            self.refused(at);
        }
    }

    /// A mode was too dear.
    pub(in crate::agent) fn refused(&mut self, at: f64) {
        self.pause = if self.pause == 0.0 { FIRST_PAUSE } else { (self.pause * 2.0).min(LAST_PAUSE) };
        self.next = at + self.pause;
    }

    /// Someone wants something else: earlier failures do not count.
    pub(in crate::agent) fn ask(&mut self) {
        *self = Pace { since: self.since, ..Pace::default() };
    }

    /// When the next attempt may be made.
    pub(in crate::agent) fn next(&self) -> f64 {
        self.next
    }

    fn up(&mut self, at: f64) -> Step {
        // If it fails, the next attempt comes later.
        self.refused(at);
        Step::Change
    }
}

/// The next cheaper mode.
pub(in crate::agent) fn below(mode: Mode) -> Mode {
    match mode {
        Mode::Full => Mode::Wait,
        Mode::Wait => Mode::Life,
        Mode::Life | Mode::Poll => Mode::Poll,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

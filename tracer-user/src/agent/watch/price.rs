//! What a hit of a probe costs a program: what was measured when the agent began, corrected by what the kernel counts
//! since.
//!
//! A hit is a trap and the run of a program. The kernel counts the time of the runs, not that of the traps; so a run
//! that takes longer than it did at the measurement (a stack to walk, caches that somebody else uses) makes the hit
//! dearer by as much, and the trap dearer in proportion by the half of that: it suffers from the same caches.

use crate::probe::{Calibration, Programs};

/// How far a correction may go: the kernel's count cannot be that wrong.
const LEAST: f64 = 0.5;
const MOST: f64 = 10.0;
/// Runs that say something.
const ENOUGH: u64 = 1000;

/// By how much hits are dearer than they were measured to be.
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
    let whole = calibration.emulated_ns.max(expected);
    let trap = whole - expected;
    let dearer = run / expected;
    Some(((run + trap * (1.0 + (dearer - 1.0) / 2.0)) / whole).clamp(LEAST, MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(after(1_000_000), Some(MOST));
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

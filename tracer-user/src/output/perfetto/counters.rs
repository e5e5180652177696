//! The numbers of goroutines by state.

use super::packets::{Packets, counted};
use sfgi_core::goruntime::State;
use std::io::{self, Write};

/// Changed counters are written at most once in so many nanoseconds: a value for each transition would make the trace
/// far larger.
const COUNTER_NS: u64 = 1_000_000;

/// Names of the counters, in the order of [`counter`].
const COUNTED: [&str; 4] = ["running", "runnable", "waiting", "syscall"];

/// The counters of one process.
pub(super) struct Counters {
    all: [Counter; COUNTED.len()],
    /// Time of the last writing.
    ts: u64,
}

#[derive(Clone, Copy, Default)]
struct Counter {
    track: u64,
    value: u64,
    written: u64,
}

impl Counters {
    /// Makes a track for each counter below `parent`.
    pub(super) fn new(parent: u64, out: &mut Packets<impl Write>) -> io::Result<Counters> {
        let mut all = [Counter::default(); COUNTED.len()];
        for (counter, what) in all.iter_mut().zip(COUNTED) {
            counter.track = out.track(counted(parent, &format!("goroutines {what}"), "goroutines"))?;
        }
        Ok(Counters { all, ts: 0 })
    }

    pub(super) fn counts(state: State) -> bool {
        counter(state).is_some()
    }

    pub(super) fn moved(&mut self, before: State, after: State) {
        if let Some(counter) = counter(before).and_then(|at| self.all.get_mut(at)) {
            // A goroutine that was never counted in may leave: of a hostile target any step can come.
            counter.value = counter.value.saturating_sub(1);
        }
        if let Some(counter) = counter(after).and_then(|at| self.all.get_mut(at)) {
            counter.value += 1;
        }
    }

    /// Writes the counters that changed, if [`COUNTER_NS`] has passed or `now` demands it.
    pub(super) fn write(&mut self, ts: u64, now: bool, out: &mut Packets<impl Write>) -> io::Result<()> {
        if !now && ts < self.ts.saturating_add(COUNTER_NS) {
            return Ok(());
        }
        self.ts = self.ts.max(ts);
        for counter in self.all.iter_mut().filter(|counter| counter.written != counter.value) {
            counter.written = counter.value;
            out.counter(counter.track, self.ts, counter.value)?;
        }
        Ok(())
    }
}

/// Index of the counter of a state; `None`: not counted.
fn counter(state: State) -> Option<usize> {
    Some(match state {
        State::Running | State::CopyStack => 0,
        State::Runnable => 1,
        State::Waiting | State::Preempted | State::Leaked => 2,
        State::Syscall => 3,
        State::Unknown | State::Idle | State::Dead | State::DeadExtra | State::Invalid(_) => return None,
    })
}

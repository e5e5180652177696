//! The states of a goroutine, under Go's names.

use serde::{Deserialize, Serialize};
use std::fmt;
use tracer_common::status;

/// What a goroutine is doing: `g.atomicstatus` without the scan bit (`src/runtime/runtime2.go`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum State {
    /// Not known yet: the first event came in mid-life, or from a probe that does not see the state.
    #[default]
    Unknown,
    /// The `g` is being allocated.
    Idle,
    /// On a run queue, waiting for a P.
    Runnable,
    /// Executes Go code on a thread. Since Go 1.26 it has no P for a moment at either edge of a system call.
    Running,
    /// Between `entersyscall` and `exitsyscall`: in a system call or in C code.
    Syscall,
    /// Blocked on what the wait reason names, unless the wait is fake
    /// ([`WaitReason::is_fake`](super::WaitReason::is_fake)).
    Waiting,
    /// Ended, or not begun: the `g` is on a free list or being set up.
    Dead,
    /// Running, while its stack is being moved to a larger or smaller one.
    CopyStack,
    /// Stopped by `suspendG`, for the garbage collector or Go's own tracer.
    Preempted,
    /// Waiting, and judged leaked by the runtime's own leak detection (Go 1.26+).
    Leaked,
    /// The spare goroutine of a C thread that is not in Go code (Go 1.26+; `Dead` before).
    DeadExtra,
    /// A number that no version of the runtime uses.
    Invalid(u8),
}

/// States by their number. A table, because the model converts two numbers for every event.
static BY_STATUS: [State; 256] = {
    let mut all = [State::Unknown; 256];
    // A `while` loop, because `for` is not allowed in a constant.
    let mut raw = 0;
    while raw < all.len() {
        all[raw] = State::of_status(raw as u8);
        raw += 1;
    }
    all
};

impl State {
    /// The state for a status word without the scan bit, or for `status::UNSAID`.
    #[inline]
    pub fn from_status(raw: u8) -> State {
        BY_STATUS[usize::from(raw)]
    }

    const fn of_status(raw: u8) -> State {
        match raw {
            status::IDLE => State::Idle,
            status::RUNNABLE => State::Runnable,
            status::RUNNING => State::Running,
            status::SYSCALL => State::Syscall,
            status::WAITING => State::Waiting,
            status::DEAD => State::Dead,
            status::COPYSTACK => State::CopyStack,
            status::PREEMPTED => State::Preempted,
            status::LEAKED => State::Leaked,
            status::DEADEXTRA => State::DeadExtra,
            status::UNSAID => State::Unknown,
            other => State::Invalid(other),
        }
    }

    /// The runtime's number of the state; `None` for [`State::Unknown`] and [`State::Invalid`].
    pub fn status(self) -> Option<u8> {
        Some(match self {
            State::Idle => status::IDLE,
            State::Runnable => status::RUNNABLE,
            State::Running => status::RUNNING,
            State::Syscall => status::SYSCALL,
            State::Waiting => status::WAITING,
            State::Dead => status::DEAD,
            State::CopyStack => status::COPYSTACK,
            State::Preempted => status::PREEMPTED,
            State::Leaked => status::LEAKED,
            State::DeadExtra => status::DEADEXTRA,
            State::Unknown | State::Invalid(_) => return None,
        })
    }

    /// One state of each kind, at the index [`State::ordinal`].
    pub(crate) const KINDS: [State; 12] = [
        State::Unknown,
        State::Idle,
        State::Runnable,
        State::Running,
        State::Syscall,
        State::Waiting,
        State::Dead,
        State::CopyStack,
        State::Preempted,
        State::Leaked,
        State::DeadExtra,
        State::Invalid(0),
    ];

    /// The state's index in [`State::KINDS`]. Not the runtime's number: those have gaps.
    #[inline]
    pub(crate) const fn ordinal(self) -> usize {
        match self {
            State::Unknown => 0,
            State::Idle => 1,
            State::Runnable => 2,
            State::Running => 3,
            State::Syscall => 4,
            State::Waiting => 5,
            State::Dead => 6,
            State::CopyStack => 7,
            State::Preempted => 8,
            State::Leaked => 9,
            State::DeadExtra => 10,
            State::Invalid(_) => 11,
        }
    }

    /// Whether `g.waitreason` means something in this state.
    pub fn waits(self) -> bool {
        matches!(self, State::Waiting | State::Leaked)
    }

    /// Whether a goroutine in this state keeps its stack until something else moves it: it waits, or is in a system
    /// call or in C code.
    pub fn stays(self) -> bool {
        self.waits() || self == State::Syscall
    }

    /// Whether the `g` belongs to no goroutine: it stays in `allgs` for the next one.
    pub fn is_dead(self) -> bool {
        matches!(self, State::Dead | State::DeadExtra)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Unknown => "unknown",
            State::Idle => "idle",
            State::Runnable => "runnable",
            State::Running => "running",
            State::Syscall => "syscall",
            State::Waiting => "waiting",
            State::Dead => "dead",
            State::CopyStack => "copystack",
            State::Preempted => "preempted",
            State::Leaked => "leaked",
            State::DeadExtra => "dead (extra)",
            State::Invalid(raw) => return write!(f, "status {raw}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_at_its_ordinal() {
        for (at, kind) in State::KINDS.into_iter().enumerate() {
            assert_eq!(kind.ordinal(), at, "{kind}");
        }
        for raw in 0..=u8::MAX {
            let state = State::from_status(raw);
            assert!(matches!(state, State::Unknown | State::Invalid(_)) || state.status() == Some(raw));
        }
    }
}

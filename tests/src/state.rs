//! The goroutine states that both accounts speak of, and the transitions between them.

use std::fmt;

/// A state of a goroutine, by the names of `src/runtime/runtime2.go`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Not known to the observer.
    Unknown,
    /// Not there, not yet or no more: `_Gidle`, `_Gdead`, `_Gdeadextra`; `NotExist` in Go's trace.
    Dead,
    /// In a run queue.
    Runnable,
    /// Executing Go code.
    Running,
    /// In a system call or in C.
    Syscall,
    /// Parked.
    Waiting,
    /// Stopped by a suspension (`_Gpreempted`); Go's trace has no such state.
    Preempted,
}

impl State {
    /// The state that `go tool trace -d=parsed` calls `name` (`GoState` in `src/internal/trace`).
    pub fn of_go(name: &str) -> Option<State> {
        Some(match name {
            "Undetermined" => State::Unknown,
            "NotExist" => State::Dead,
            "Runnable" => State::Runnable,
            "Running" => State::Running,
            "Syscall" => State::Syscall,
            "Waiting" => State::Waiting,
            _ => return None,
        })
    }

    /// The state that `sfgi trace --format json` calls `name`.
    pub fn of_sfgi(name: &str) -> Option<State> {
        Some(match name {
            "unknown" => State::Unknown,
            "idle" | "dead" | "dead (extra)" => State::Dead,
            "runnable" => State::Runnable,
            "running" => State::Running,
            "syscall" => State::Syscall,
            "waiting" => State::Waiting,
            "preempted" => State::Preempted,
            _ => return None,
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Unknown => "unknown",
            State::Dead => "dead",
            State::Runnable => "runnable",
            State::Running => "running",
            State::Syscall => "syscall",
            State::Waiting => "waiting",
            State::Preempted => "preempted",
        })
    }
}

/// One step of one goroutine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts: u64,
    pub from: State,
    pub to: State,
    /// The reason in the observer's words; may be empty.
    pub reason: String,
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}→{} {}", self.ts, self.from, self.to, self.reason)
    }
}

//! What comes out of the model: one [`Step`] for each thing that happened to a goroutine.

use super::Bypass;
use crate::event::{Birth, Stack};
use crate::goruntime::Release;
use crate::goruntime::State;
use std::fmt;

/// One thing that happened, in the runtime's own terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, `CLOCK_MONOTONIC` nanoseconds. Steps come nearly, not strictly, in this order: one
    /// that had to be held back (see `Goroutines::settle`) or arrived late keeps its own time.
    pub ts: u64,
    /// The goroutine; 0: not known (the `go` statement was seen, the goroutine was not).
    pub goid: u64,
    /// Address of its `runtime.g`; 0: not known.
    pub g: u64,
    /// The thread it happened on: the goroutine's own, or that of the one who woke or made it.
    pub tid: u32,
    pub what: What,
    /// State before, as the runtime said it.
    pub from: State,
    pub to: State,
    /// Why it waits, or waited: an index into the binary's wait reasons; 0: none.
    pub reason: u8,
    /// Who did it: the goroutine that woke, made, or switched to this one; 0: the scheduler
    /// itself (a timer, the network poller, the garbage collector), or not known.
    pub by_goid: u64,
    /// How long the state that ends here lasted, nanoseconds: `Unblock` the wait, `Start` the
    /// time in the run queue, `Found` what it is in, `SyscallExit` the system call, `Block`, `Preempt` and
    /// `SyscallEnter` the time it ran, `Exit` the goroutine's life, `GcEnd` the collection,
    /// `ThreadOff` the time on the CPU, `ThreadOn` the time off it, `ThreadWake` the sleep.
    /// `None` where the beginning was not seen.
    pub duration_ns: Option<u64>,
    pub measure: Measure,
    /// Return addresses: `Block`, `Unblock` and `Found` where it waits or waited, `SyscallEnter` and
    /// `SyscallExit` where it called.
    pub stack: Option<Stack>,
    /// What it waits or waited for, with `Block` and `Unblock`: the address as [`crate::event::Payload::Stack`] has it. 0: not known,
    /// or nothing that has one. The `Block` of a `select`, which waits for several channels, has none, its `Unblock` the one
    /// that it went on with.
    pub object: u64,
    /// Where the goroutine comes from: with `Create`, `Found`, `Exit` and the first `Start`, if known.
    pub birth: Option<Birth>,
    pub note: Note,
}

/// How far to trust a duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// Beginning and end were seen.
    #[default]
    Exact,
    /// A snapshot found it so: it lasted at least so long.
    AtLeast,
    /// The runtime's own estimate (`g.waitsince`). A garbage collection that finds a goroutine waiting stamps it with
    /// the time of the collection before (`work.tstart`, which `gcMark` sets after the stacks were marked). The
    /// estimate is too long by up to the time between the two collections: two minutes at most in an idle program.
    About,
}

/// What happened: the kind of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// A goroutine begins to exist (a `go` statement, `iter.Pull`, a C thread that calls Go).
    Create,
    /// It was there before the trace: `to` is the state a snapshot found it in. Comes just before the
    /// first thing that happens to it.
    Found,
    /// It gets a thread: runnable → running.
    Start,
    /// It begins to wait: → waiting.
    Block,
    /// Its wait is over: waiting → runnable, or → running where a coroutine is switched to.
    Unblock,
    /// It enters a system call or C: → syscall.
    SyscallEnter,
    /// It comes back from a system call or from C: syscall → running, or → runnable where it found no P.
    SyscallExit,
    /// It gives up its thread but could go on (`Gosched`, time slice over, no P after a system
    /// call), or is stopped by the garbage collector.
    Preempt,
    /// It ends: → dead. A C thread's goroutine ends when the thread leaves Go, and is created again by the next call.
    Exit,
    /// The runtime's own collector found it leaked, or takes that back (Go 1.26+).
    Leak,
    /// A change that the runtime would never make; the note says why.
    Illegal,
    GcStart,
    /// The mark phase of a garbage collection ends.
    GcEnd,
    /// The goroutine's thread loses its CPU.
    ThreadOff,
    /// The goroutine's thread gets a CPU.
    ThreadOn,
    /// The goroutine's thread becomes runnable for the kernel.
    ThreadWake,
    /// The process replaced its program; nothing of before exists any more.
    Exec,
}

impl What {
    pub const ALL: [What; 17] = [
        What::Create,
        What::Found,
        What::Start,
        What::Block,
        What::Unblock,
        What::SyscallEnter,
        What::SyscallExit,
        What::Preempt,
        What::Exit,
        What::Leak,
        What::Illegal,
        What::GcStart,
        What::GcEnd,
        What::ThreadOff,
        What::ThreadOn,
        What::ThreadWake,
        What::Exec,
    ];

    /// Its name in every output.
    pub fn name(self) -> &'static str {
        match self {
            What::Create => "create",
            What::Found => "found",
            What::Start => "start",
            What::Block => "block",
            What::Unblock => "unblock",
            What::SyscallEnter => "syscall_enter",
            What::SyscallExit => "syscall_exit",
            What::Preempt => "preempt",
            What::Exit => "exit",
            What::Leak => "leak",
            What::Illegal => "illegal",
            What::GcStart => "gc_start",
            What::GcEnd => "gc_end",
            What::ThreadOff => "thread_off",
            What::ThreadOn => "thread_on",
            What::ThreadWake => "thread_wake",
            What::Exec => "exec",
        }
    }

    /// What a legal change of state is called; `None` for one that says nothing about the
    /// goroutine (its `g` is being made, its stack moves).
    #[inline]
    pub(super) fn of(from: State, to: State) -> Option<What> {
        BY_CHANGE[from.ordinal()][to.ordinal()]
    }

    const fn of_change(from: State, to: State) -> Option<What> {
        // The order counts: a creation or an end goes before what else the two states could mean.
        Some(match (from, to) {
            (State::Idle | State::CopyStack, _) | (_, State::CopyStack) => return None,
            (State::Dead | State::DeadExtra, _) => What::Create,
            (_, State::Dead | State::DeadExtra) => What::Exit,
            (State::Leaked, _) | (_, State::Leaked) => What::Leak,
            (State::Preempted, _) | (_, State::Preempted) => What::Preempt,
            (_, State::Syscall) => What::SyscallEnter,
            (State::Syscall, _) => What::SyscallExit,
            (_, State::Waiting) => What::Block,
            (State::Waiting, _) => What::Unblock,
            (_, State::Running) => What::Start,
            _ => What::Preempt,
        })
    }
}

/// By the states before and after: a table, because it is looked up for every event.
static BY_CHANGE: [[Option<What>; State::KINDS.len()]; State::KINDS.len()] = {
    let mut all = [[None; State::KINDS.len()]; State::KINDS.len()];
    let mut at = 0;
    // A constant allows no `for` loop.
    while at < State::KINDS.len() * State::KINDS.len() {
        let (from, to) = (at / State::KINDS.len(), at % State::KINDS.len());
        all[from][to] = What::of_change(State::KINDS[from], State::KINDS[to]);
        at += 1;
    }
    all
};

/// A set of step kinds, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whats(u32);

impl Whats {
    pub const ALL: Whats = Whats((1 << What::ALL.len()) - 1);

    #[inline]
    pub fn contains(self, what: What) -> bool {
        self.0 & (1 << what as u32) != 0
    }

    pub fn or(self, other: Whats) -> Whats {
        Whats(self.0 | other.0)
    }

    pub fn and(self, other: Whats) -> Whats {
        Whats(self.0 & other.0)
    }
}

impl FromIterator<What> for Whats {
    fn from_iter<I: IntoIterator<Item = What>>(all: I) -> Whats {
        Whats(all.into_iter().fold(0, |set, what| set | 1 << what as u32))
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What else there is to say about a step; its `Display` is one sentence, empty for [`Note::None`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Note {
    #[default]
    None,
    /// No probe reported the step; it is known from what came after it.
    Bypass(Bypass),
    /// Illegal: no place in this Go version makes this change.
    NotInGraph { release: Release },
    /// Illegal: the runtime says that the goroutine was in `said`, but it was last seen in
    /// `seen`, and nothing explains how it got from there to here.
    Contradiction {
        seen: State,
        /// The state before, as the runtime says.
        said: State,
    },
    /// `ThreadOff`: the thread could have gone on, the kernel gave the CPU to another one.
    KernelPreempted,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::None => Ok(()),
            Note::Bypass(bypass) => write!(f, "{}", bypass.what()),
            Note::NotInGraph { release } => write!(f, "the runtime of {release} never makes this change"),
            Note::Contradiction { seen, said, .. } => {
                write!(f, "the runtime says it was {said}, but it was last seen {seen}")
            }
            Note::KernelPreempted => f.write_str("preempted by the kernel"),
        }
    }
}

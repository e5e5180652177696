//! Bypasses: changes of state that no probe of the set sees, or that two probes report. Each has a name, a condition
//! and its place in the runtime's source. A contradiction that no bypass explains is illegal.

use super::Setup;
use crate::event::{Kind, Mode, Set};
use crate::goruntime::State;

/// Why a reported change does not start from the state last seen although the runtime did nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bypass {
    /// Set A. waiting → runnable without `ready`: `findRunnable` (first result of the network
    /// poller, GC worker, trace reader) and `park_m` whose unlock function refused do it
    /// themselves and execute the goroutine at once (`proc.go`).
    DirectWake,
    /// Set A. preempted → waiting by `suspendG`, before `resumeG` calls `ready` (`preempt.go`). Mode `wait` does not
    /// probe the stop, so it does not count the `ready` as a wake-up.
    ResumeG,
    /// Set A. running → runnable where `goschedImpl` is inlined: seen when it is executed again.
    GoschedInlined,
    /// Set A. running → preempted where `preemptPark` is inlined: seen when `resumeG` readies it.
    PreemptParkInlined,
    /// Set A. running → syscall at the end of a C callback where `reentersyscall` is inlined: seen
    /// when it comes back (`cgocall.go: cgocallbackg`).
    ReentersyscallInlined,
    /// Set A. dead → syscall by `needm`, which does not know its goroutine yet: seen at the
    /// `exitsyscall` that follows on the thread.
    NeedM,
    /// Set A. `exitsyscall` found no P: up to 1.25 the goroutine went from syscall to runnable
    /// (`exitsyscall0`), from 1.26 it was running in between (`exitsyscallNoP`).
    SyscallNoP,
    /// Set A. A function that calls another one that is probed for the same change (`gosched_m`:
    /// `goschedImpl`; `entersyscall`: `reentersyscall`; `coroswitch_m`: `gdestroy`).
    NestedEntry,
    /// Set B. `coroswitch_m` falls back on `casgstatus` for what its event has already told
    /// (`coro.go`: the CAS met a scan bit, or the goroutine is in a synctest bubble).
    CoroFallback,
    /// Set B, Go 1.26+. `reentersyscall` or `exitsyscall` falls back on `casgstatus` for what its
    /// event has already told (`proc.go`: the CAS met a scan bit, or the goroutine is in a synctest bubble).
    SyscallFallback,
    /// Set B. The end of a fake wait, during which the goroutine was running.
    FakeWait,
    /// Set B. `casGFromPreempted` failed: another `suspendG` was faster (`preempt.go`).
    FailedCas,
    /// Set B, Go 1.26+. leaked → waiting by a plain CAS at the next leak cycle
    /// (`mgcmark.go: allGsSnapshotSortedForGC`).
    LeakReset,
}

impl Bypass {
    pub const ALL: [Bypass; 13] = [
        Bypass::DirectWake,
        Bypass::ResumeG,
        Bypass::GoschedInlined,
        Bypass::PreemptParkInlined,
        Bypass::ReentersyscallInlined,
        Bypass::NeedM,
        Bypass::SyscallNoP,
        Bypass::NestedEntry,
        Bypass::CoroFallback,
        Bypass::SyscallFallback,
        Bypass::FakeWait,
        Bypass::FailedCas,
        Bypass::LeakReset,
    ];

    /// What happened, in a few words.
    pub fn what(self) -> &'static str {
        match self {
            Bypass::DirectWake => "woken by the scheduler, which ran it at once",
            Bypass::ResumeG => "stopped by suspendG, resumed by resumeG",
            Bypass::GoschedInlined => "gave up its thread in an inlined goschedImpl",
            Bypass::PreemptParkInlined => "stopped in an inlined preemptPark",
            Bypass::ReentersyscallInlined => "went back to C through an inlined reentersyscall",
            Bypass::NeedM => "a C thread came in through needm",
            Bypass::SyscallNoP => "no P was free after the system call",
            Bypass::NestedEntry => "told by the calling function already",
            Bypass::CoroFallback => "told by coroswitch_m already",
            Bypass::SyscallFallback => "told by entersyscall or exitsyscall already",
            Bypass::FakeWait => "was executing on the system stack",
            Bypass::FailedCas => "the CAS failed, another suspendG was faster",
            Bypass::LeakReset => "reset by the next leak cycle",
        }
    }
}

/// A reported change, beside what was known of the goroutine before.
pub(super) struct Told {
    pub(super) kind: Kind,
    pub(super) from: State,
    pub(super) to: State,
    pub(super) seen: State,
    /// Kind of the event that told `seen`.
    pub(super) last: Kind,
    /// Whether that event came from the same thread.
    pub(super) same_thread: bool,
    /// Whether this goroutine took part in the thread's last coroutine switch.
    pub(super) switched: bool,
}

/// How a reported change relates to the state last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another event has reported it already, or it is no change.
    Counted,
    /// What led here is not probed in this mode.
    Unwatched,
    /// The goroutine went through these states unseen.
    Through(Bypass, &'static [State]),
    Contradicts,
}

/// Judges a change that does not start from the state last seen.
pub(super) fn judge(told: &Told, setup: &Setup) -> Verdict {
    if counted(told, setup).is_some() {
        return Verdict::Counted;
    }
    match through(told, setup) {
        Some((bypass, path)) => Verdict::Through(bypass, path),
        None if setup.mode != Mode::Full => Verdict::Unwatched,
        None => Verdict::Contradicts,
    }
}

/// The bypass by which another probe has reported this change already.
fn counted(told: &Told, setup: &Setup) -> Option<Bypass> {
    use State::{Preempted, Runnable, Running, Syscall};
    let last = told.last;
    match told.kind {
        // The probe stands at the entry, where the outcome of the CAS is not known yet.
        Kind::FromPreempted if told.seen != Preempted => Some(Bypass::FailedCas),
        // `resumeG` readies a goroutine whose stop this mode does not probe.
        Kind::Ready if setup.mode != Mode::Full => Some(Bypass::ResumeG),
        Kind::SyscallEnter if told.seen == Syscall && last == Kind::SyscallEnter && told.same_thread => {
            Some(Bypass::NestedEntry)
        }
        Kind::Destroy if told.seen.is_dead() && last == Kind::CoroSwitch && told.same_thread => {
            Some(Bypass::NestedEntry)
        }
        Kind::GoschedImpl if told.seen == Runnable && last == Kind::Gosched && told.same_thread => {
            Some(Bypass::NestedEntry)
        }
        Kind::Status | Kind::StatusSyscall
            if setup.release.syscalls_pass_casgstatus_by() && told.same_thread && told.seen == told.to =>
        {
            match (told.from, told.to, last) {
                (Running, Syscall, Kind::SyscallEnter) | (Syscall, Running, Kind::SyscallExit) => {
                    Some(Bypass::SyscallFallback)
                }
                _ => coro_fallback(told),
            }
        }
        Kind::Status | Kind::StatusPark | Kind::StatusSyscall | Kind::StatusWake => coro_fallback(told),
        _ => None,
    }
}

/// The fallback of `coroswitch_m`, whose own event has already told that one goroutine waits and the other runs.
fn coro_fallback(told: &Told) -> Option<Bypass> {
    use State::{Runnable, Running, Waiting};
    // The three `casgstatus` calls of the fallback, each beside the state that the switch event left.
    let again = matches!(
        (told.seen, told.from, told.to),
        (Waiting, Running, Waiting) | (Running, Waiting, Runnable) | (Running, Runnable, Running)
    );
    (told.switched && again && told.last == Kind::CoroSwitch).then_some(Bypass::CoroFallback)
}

/// The states between the one seen and the one reported, where a bypass explains them.
fn through(told: &Told, setup: &Setup) -> Option<(Bypass, &'static [State])> {
    use State::{Leaked, Preempted, Runnable, Running, Syscall, Waiting};
    let blind = |kind| setup.blind.contains(&kind);
    // An event of set B tells the state before, too: only a plain CAS leaves a gap.
    if setup.set == Set::B {
        return (told.seen == Leaked && told.from == Waiting && setup.release.has_leaked())
            .then_some((Bypass::LeakReset, &[Waiting]));
    }
    match (told.kind, told.seen) {
        (Kind::Execute, Waiting) => Some((Bypass::DirectWake, &[Runnable])),
        (Kind::Ready, Preempted) => Some((Bypass::ResumeG, &[Waiting])),
        (Kind::Execute, Running) if blind(Kind::GoschedImpl) => Some((Bypass::GoschedInlined, &[Runnable])),
        (Kind::Ready, Running) if blind(Kind::PreemptPark) => {
            Some((Bypass::PreemptParkInlined, &[Preempted, Waiting]))
        }
        (Kind::SyscallExit | Kind::DropM, Running) if blind(Kind::SyscallEnter) => {
            Some((Bypass::ReentersyscallInlined, &[Syscall]))
        }
        _ => None,
    }
}

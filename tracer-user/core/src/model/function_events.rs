//! Set A: what the entries of the scheduler's functions mean. They tell what is about to happen,
//! not what was before.

use super::births::birth_of;
use super::machine::Move;
use super::say::unnamed_create;
use super::{Bypass, Goroutines, Note, Step};
use crate::event::{Event, Kind, Mode, Payload, Set};
use crate::goruntime::State;

impl Goroutines {
    /// Any event of a function that changes states.
    pub(super) fn function(&mut self, event: &Event, out: &mut Vec<Step>) {
        match event.kind {
            Kind::FirstRun => self.first_run(event, out),
            Kind::SyscallExit => self.syscall_exit(event, out),
            Kind::SyscallExitNoP => self.syscall_exit_no_p(event, out),
            _ => {
                if let Some((from, to)) = self.canonical(event.kind) {
                    let at = self.whose(event, out);
                    self.change(at, event, Move::new(event, from, to), out);
                }
            }
        }
    }

    /// The change that a function makes when nothing is in its way.
    fn canonical(&self, kind: Kind) -> Option<(State, State)> {
        Some(match kind {
            Kind::Execute => (State::Runnable, State::Running),
            Kind::Park => (State::Running, State::Waiting),
            Kind::Ready | Kind::Inject => (State::Waiting, State::Runnable),
            Kind::Gosched | Kind::Goyield | Kind::GoschedImpl => (State::Running, State::Runnable),
            Kind::PreemptPark => (State::Running, State::Preempted),
            Kind::Destroy => (State::Running, State::Dead),
            Kind::SyscallEnter | Kind::SyscallBlock => (State::Running, State::Syscall),
            Kind::DropM => (State::Syscall, self.spare()),
            _ => return None,
        })
    }

    /// The state of a C thread's goroutine that is not in use.
    fn spare(&self) -> State {
        if self.setup.release.has_dead_extra() { State::DeadExtra } else { State::Dead }
    }

    /// `newproc1`: the goroutine to come has no name before it runs. Where its first run is not
    /// probed, this is all there is.
    pub(super) fn new_proc(&mut self, event: &Event, out: &mut Vec<Step>) {
        let Payload::NewProc(new) = event.payload else { return };
        if self.setup.mode != Mode::Full {
            out.push(unnamed_create(event.ts, event.tid, birth_of(event.goid, &new)));
            return;
        }
        if self.births.len() >= self.setup.capacity {
            self.announce_oldest(out);
        }
        self.births.expect(event, &new);
    }

    fn announce_oldest(&mut self, out: &mut Vec<Step>) {
        if let Some(expected) = self.births.overdue(u64::MAX) {
            out.push(unnamed_create(expected.ts, expected.tid, expected.birth));
        }
    }

    /// `execute` of a goroutine that never ran: names the one that `newproc1` made.
    fn first_run(&mut self, event: &Event, out: &mut Vec<Step>) {
        let Payload::Birth(birth) = event.payload else { return };
        let at = self.whose(event, out);
        if let Some(expected) = self.births.claim(&birth) {
            let payload = Payload::Birth(expected.birth);
            let born = Event { ts: expected.ts, tid: expected.tid, kind: Kind::NewProc, payload, ..*event };
            self.change(at, &born, Move::new(&born, State::Dead, State::Runnable), out);
        } else {
            self.introduce(at, event, out);
        }
        let run = Event { kind: Kind::Execute, ..*event };
        self.change(at, &run, Move::new(&run, State::Runnable, State::Running), out);
    }

    /// `exitsyscall`. Up to 1.25 it may still fail to find a P, and then the goroutine never ran:
    /// held back until its next event. A C thread's first one names the goroutine of `needm`.
    fn syscall_exit(&mut self, event: &Event, out: &mut Vec<Step>) {
        let at = self.whose(event, out);
        let needm_ts = std::mem::take(&mut self.threads.at(event.tid).needm_ts);
        let unused = self.known(at).is_none_or(State::is_dead);
        if needm_ts != 0 && unused && self.setup.set == Set::A {
            let came = Event { ts: needm_ts.min(event.ts), kind: Kind::NeedM, ..*event };
            let note = Note::Bypass(Bypass::NeedM);
            let change = Move { from: self.spare(), to: State::Syscall, reason: 0, note };
            self.advance(at, &came, &change, out);
        }
        if self.exit_is_held() && event.ts >= self.store.at(at).last_ts {
            self.hold(at, event, State::Running, out);
        } else {
            self.change(at, event, Move::new(event, State::Syscall, State::Running), out);
        }
    }

    /// `exitsyscall0` (≤ 1.25) or `exitsyscallNoP`: no P was free.
    fn syscall_exit_no_p(&mut self, event: &Event, out: &mut Vec<Step>) {
        let at = self.store.resolve(event.g, event.goid);
        let goroutine = self.store.at(at);
        goroutine.held = None;
        let said = goroutine.state == State::Running && goroutine.last == Kind::SyscallExit;
        let from =
            if self.setup.release.runs_before_it_has_a_p() || said { State::Running } else { State::Syscall };
        let note = Note::Bypass(Bypass::SyscallNoP);
        self.change(at, event, Move { note, ..Move::new(event, from, State::Runnable) }, out);
    }
}

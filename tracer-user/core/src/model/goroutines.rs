//! Entry point of the model: events in, steps out. This file says what each kind of event means and which events must
//! wait for the next one of their goroutine; `machine` judges the changes.

use super::{
    Bypass, Goroutine, Merged, Note, Seen, Setup, Step, What, Whats,
    births::{Births, birth_of},
    machine::{Machine, Move, bare, found, unnamed_create},
    store::Key,
};
use crate::{
    event::{By, Event, Kind, Mode, Payload, Set, Switch},
    goruntime::{State, WaitReason, transitions::Graph},
};
use std::collections::VecDeque;

/// How long a creation waits for its goid, nanoseconds of the target's time: up to Go 1.23, and always in set A, a
/// later event tells it.
const HOLD_CREATE_NS: u64 = 1_000_000_000;

/// How long an `exitsyscall` is held back in case an `exitsyscall0` follows, which means that it found no P. The
/// goroutine's next event releases it sooner; the span allows for the kernel taking the thread's CPU in between.
const HOLD_EXIT_NS: u64 = 10_000_000;

/// An event that can only be reported with the next one of its goroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    kind: Kind,
    ts: u64,
    tid: u32,
    to: State,
}

/// Goroutines with a held event, by the event's time, oldest first.
#[derive(Debug, Default)]
struct Queues {
    creates: VecDeque<(u64, Key)>,
    exits: VecDeque<(u64, Key)>,
}

impl Queues {
    /// Takes out the next entry whose span is over at `now_ts`.
    fn due(&mut self, now_ts: u64) -> Option<(u64, Key)> {
        [(&mut self.exits, HOLD_EXIT_NS), (&mut self.creates, HOLD_CREATE_NS)]
            .into_iter()
            .find_map(|(queue, hold_ns)| queue.pop_front_if(|(ts, _)| ts.saturating_add(hold_ns) <= now_ts))
    }
}

/// All goroutines of one target, rebuilt from its events.
#[derive(Debug)]
pub struct Goroutines {
    machine: Machine,
    graph: Graph,
    /// The number of [`WaitReason::Coroutine`]; 0 where the version has none.
    coroutine: u8,
    births: Births,
    held: Queues,
    /// Time of the last `GcStart` without a `GcEnd`; 0: none.
    gc_since: u64,
    lost: u64,
}

impl Goroutines {
    /// Knows nothing yet: every goroutine is unknown until an event tells of it.
    pub fn new(setup: Setup) -> Self {
        Goroutines {
            graph: Graph::of_casgstatus(setup.release),
            coroutine: setup.wait_reasons.number(WaitReason::Coroutine).unwrap_or(0),
            births: Births::new(setup.release.records_parent()),
            machine: Machine::new(setup),
            held: Queues::default(),
            gc_since: 0,
            lost: 0,
        }
    }

    /// Lets the model leave out steps of other kinds: making steps is most of its work.
    pub fn want(&mut self, wanted: Whats) {
        self.machine.want(wanted);
    }

    /// Takes one event and appends its steps to `out`. A contradiction comes only out of the next
    /// [`Goroutines::settle`], because a late event may still explain it.
    pub fn apply(&mut self, event: &Event, out: &mut Vec<Step>) {
        match event.kind {
            Kind::NewProc => self.new_proc(event, out),
            Kind::NeedM => self.machine.threads.at(event.tid).needm_ts = event.ts,
            Kind::GcStart | Kind::GcEnd => self.collection(event, out),
            Kind::ThreadOff | Kind::ThreadOn | Kind::ThreadWake => self.thread(event, out),
            Kind::Exec => self.exec(event, out),
            _ if event.g == 0 => {} // no probe sends this
            Kind::Status
            | Kind::StatusWake
            | Kind::StatusPark
            | Kind::StatusSyscall
            | Kind::PreemptScan
            | Kind::FromPreempted => {
                self.status(event, out);
            }
            Kind::StatusCreate => self.status_create(event, out),
            Kind::CoroSwitch => self.coroutine_switch(event, out),
            _ => self.function(event, out),
        }
    }

    /// Events were lost, the last of them not after `until_ts`: no earlier state may contradict a later event, and
    /// waiting contradictions are dropped. Call it before the events of the drain that found the loss are applied.
    pub fn lost(&mut self, count: u64, until_ts: u64) {
        if count != 0 {
            self.lost = self.lost.saturating_add(count);
            self.machine.doubt(until_ts);
            self.births.doubt();
        }
    }

    /// Reports what was held back for something that did not come (contradictions, creations without a goid, returns
    /// from system calls) and forgets the dead. Call it after each batch with a time before which every event has
    /// been applied, `u64::MAX` at the end.
    ///
    /// Returns whether it changed anything: if not, a replay of the events may leave the call out.
    pub fn settle(&mut self, up_to_ts: u64, out: &mut Vec<Step>) -> bool {
        // What was held back comes first: it may explain a contradiction, or be one.
        let released = self.release_due(up_to_ts, out);
        let convicted = self.machine.convict(up_to_ts, out);
        self.machine.store.forget_dead(up_to_ts) | released | convicted
    }

    /// Takes over a snapshot whose reading began at `began_ts`. Call it when every event up to its end
    /// has been applied: what an event told is better than what a snapshot saw, unless it was lost.
    /// `complete`: every goroutine that there was is in it.
    ///
    /// A state that comes from here is shown, but never held against an event: the goroutine may
    /// have moved between the two looks of the snapshot.
    pub fn merge(&mut self, all: &[Seen], began_ts: u64, complete: bool) -> Merged {
        self.machine.merge(all, began_ts, complete)
    }

    /// The goroutine with this id, if it is remembered.
    pub fn get(&self, goid: u64) -> Option<&Goroutine> {
        self.machine.store.by_goid(goid)
    }

    /// All goroutines that are remembered, the recently dead among them; in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Goroutine> {
        self.machine.store.iter()
    }

    /// How many are remembered; never more than the capacity.
    pub fn len(&self) -> usize {
        self.machine.store.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often an event came for a goroutine that there was no room to remember.
    pub fn refused(&self) -> u64 {
        self.machine.store.refused()
    }

    /// How many lost events [`Goroutines::lost`] was told of.
    pub fn lost_events(&self) -> u64 {
        self.lost
    }

    #[cfg(test)]
    pub(super) fn threads_and_births(&self) -> (usize, usize) {
        (self.machine.threads.len(), self.births.len())
    }

    fn collection(&mut self, event: &Event, out: &mut Vec<Step>) {
        let began = std::mem::take(&mut self.gc_since);
        let (what, duration_ns) = if event.kind == Kind::GcStart {
            self.gc_since = event.ts;
            (What::GcStart, None)
        } else {
            (What::GcEnd, (began != 0).then(|| event.ts.saturating_sub(began)))
        };
        out.push(Step { duration_ns, ..bare(event, what) });
    }

    fn exec(&mut self, event: &Event, out: &mut Vec<Step>) {
        // The counts of lost and refused events stay: they are about the trace, not about the program.
        self.machine.clear();
        self.births.clear();
        self.held = Queues::default();
        self.gc_since = 0;
        out.push(bare(event, What::Exec));
    }

    /// A thread gets or leaves a CPU, or wakes.
    fn thread(&mut self, event: &Event, out: &mut Vec<Step>) {
        let thread = self.machine.threads.at(event.tid);
        let since = |ts: u64| (ts != 0 && ts <= event.ts).then(|| event.ts - ts);
        let (what, duration_ns) = match event.kind {
            Kind::ThreadOff => (What::ThreadOff, since(thread.on_ts)),
            Kind::ThreadOn => (What::ThreadOn, since(thread.off_ts)),
            _ => (What::ThreadWake, since(thread.off_ts)),
        };
        match event.kind {
            Kind::ThreadOff => (thread.on_ts, thread.off_ts) = (0, event.ts),
            Kind::ThreadOn => (thread.on_ts, thread.off_ts) = (event.ts, 0),
            _ => {}
        }
        // After a loss the thread may run another goroutine by now.
        let (running, running_ts) = (thread.running, thread.running_ts);
        let running = running.filter(|_| !self.machine.is_doubtful(running_ts));
        let mut step = Step { duration_ns, ..bare(event, what) };
        if what == What::ThreadOff && event.from != 0 {
            step.note = Note::KernelPreempted;
        }
        if let Some(at) = running.and_then(|key| self.machine.store.find(key)) {
            let goroutine = self.machine.store.at(at);
            (step.goid, step.g) = (goroutine.goid, goroutine.g);
            (step.from, step.to) = (goroutine.state, goroutine.state);
            if what == What::ThreadOn && goroutine.state == State::Running {
                // The thread may have lost its CPU before the goroutine came to it.
                let running_ns = event.ts.saturating_sub(goroutine.since_ts);
                goroutine.off_cpu_ns += duration_ns.unwrap_or(0).min(running_ns);
            }
        }
        out.push(step);
    }
}

/// Set B: what the events of `casgstatus` and of the two functions beside it mean; and coroutine switches, which both
/// sets have.
impl Goroutines {
    /// Events of `casgstatus`, and of `casGToPreemptScan` and `casGFromPreempted`, which change the status by a CAS
    /// of their own.
    fn status(&mut self, event: &Event, out: &mut Vec<Step>) {
        let at = self.whose(event, out);
        let (from, to) = match event.kind {
            Kind::PreemptScan => (State::Running, State::Preempted),
            Kind::FromPreempted => (State::Preempted, State::Waiting),
            _ => (State::from_status(event.from), State::from_status(event.to)),
        };
        // `graph` has the edges of `casgstatus`; the other two functions make one change each.
        let own_cas = matches!(event.kind, Kind::PreemptScan | Kind::FromPreempted);
        if !own_cas && !self.graph.has(from, to) {
            self.machine.condemn(at, event, from, to, out);
        } else if from == State::Waiting && to == State::Running {
            self.fake_wait_ends(at, event, out);
        } else if (from, to) == (State::Running, State::Waiting)
            && self.machine.setup.wait_reasons.get(event.reason).is_fake()
        {
            // A fake wait begins: the goroutine goes on running.
        } else if !matches!((from, to), (State::Idle | State::CopyStack, _) | (_, State::CopyStack)) {
            // All but the making of a `g` and the moving of a stack, during which the goroutine runs on.
            self.machine.change(at, event, Move::new(event, from, to), out);
        }
    }

    /// The end of a fake wait, the only case in which `casgstatus` takes waiting to running. Its beginning was not
    /// reported, so neither is its end, unless it passed for a real wait (up to Go 1.19 the reason can be stale),
    /// which ends here.
    fn fake_wait_ends(&mut self, at: usize, event: &Event, out: &mut Vec<Step>) {
        match self.machine.known(at) {
            Some(State::Running) => {}
            None if event.ts >= self.machine.store.at(at).last_ts => {
                self.machine.adopt(at, event, State::Running, 0);
            }
            None => {}
            Some(_) => self.machine.change(at, event, Move::new(event, State::Waiting, State::Running), out),
        }
    }

    /// `casgstatus` out of dead: a new goroutine, on a `g` that may have had another one.
    fn status_create(&mut self, event: &Event, out: &mut Vec<Step>) {
        let (from, to) = (State::from_status(event.from), State::from_status(event.to));
        let before = self.machine.store.peek(event.g);
        if let Some(at) = before {
            self.release(at, out);
            let old = self.machine.store.at(at);
            // Older than the last event on this `g`: it is late, unless another goroutine uses the `g` now.
            if event.ts < old.last_ts && (event.goid == 0 || old.goid == 0 || old.goid == event.goid) {
                let change = Move::new(event, from, to);
                self.machine.late(at, event, &change, out);
                return;
            }
        }
        let seen = before.and_then(|at| self.machine.known(at)).filter(|seen| *seen != from);
        let at = self.machine.store.renew(event.g, event.goid, event.ts);
        if !self.graph.has(from, to) {
            self.machine.condemn(at, event, from, to, out);
            return;
        }
        if let Some(seen) = seen {
            let change = Move::new(event, from, to);
            self.machine.accuse(at, event, &change, seen, out);
        }
        // Up to Go 1.23 the goid is missing where the P's cache of ids was used up; the goroutine's next event tells
        // it.
        if event.goid != 0 {
            self.machine.change(at, event, Move::new(event, from, to), out);
            return;
        }
        if let Payload::Birth(birth) = event.payload {
            self.machine.store.at(at).birth = Some(birth);
        }
        self.machine.store.at(at).reason = event.reason;
        self.hold(at, event, to, out);
    }

    /// `coroswitch_m`: one goroutine waits (or ends, which an event of its own tells), the other runs at once on the
    /// same thread.
    fn coroutine_switch(&mut self, event: &Event, out: &mut Vec<Step>) {
        let Payload::Switch(Switch { next_g, next_goid, exit }) = event.payload else { return };
        if exit == 0 {
            let at = self.whose(event, out);
            let waits = Event { reason: self.coroutine, ..*event };
            self.machine.change(at, &waits, Move::new(&waits, State::Running, State::Waiting), out);
        } else if self.machine.setup.set == Set::A {
            // `gdestroy`, which comes next, may be inlined; where it is not, its event counts as `NestedEntry`.
            let at = self.whose(event, out);
            self.machine.change(at, event, Move::new(event, State::Running, State::Dead), out);
        }
        if next_g != 0 {
            let payload = Payload::By(By { by_goid: event.goid, object: 0 });
            let reason = self.coroutine;
            let next = Event { g: next_g, goid: next_goid, reason, payload, ..*event };
            let at = self.whose(&next, out);
            self.first_switch(at, &next, event.goid, out);
            self.machine.change(at, &next, Move::new(&next, State::Waiting, State::Running), out);
        }
        // In set B `casgstatus` may repeat these changes: `Bypass::CoroFallback` knows them by this.
        self.machine.threads.at(event.tid).switched = [event.g, next_g];
    }

    /// Set A: reports the creation of a goroutine that `newproc1` made parked, at the first switch to it.
    fn first_switch(&mut self, at: usize, next: &Event, by_goid: u64, out: &mut Vec<Step>) {
        if self.machine.store.at(at).last_ts != 0 {
            return;
        }
        let Some(expected) = self.births.claim_parked(by_goid) else { return };
        let payload = Payload::Birth(expected.birth);
        let born = Event { ts: expected.ts, tid: expected.tid, kind: Kind::NewProc, payload, ..*next };
        self.machine.change(at, &born, Move::new(&born, State::Dead, State::Waiting), out);
    }
}

/// Set A: what the entries of the scheduler's functions mean. They tell what is about to happen, not what was before.
impl Goroutines {
    /// An event of one of the scheduler's functions.
    fn function(&mut self, event: &Event, out: &mut Vec<Step>) {
        match event.kind {
            Kind::FirstRun => self.first_run(event, out),
            Kind::SyscallExit => self.syscall_exit(event, out),
            Kind::SyscallExitNoP => self.syscall_exit_no_p(event, out),
            _ => {
                if let Some((from, to)) = self.canonical(event.kind) {
                    let at = self.whose(event, out);
                    self.machine.change(at, event, Move::new(event, from, to), out);
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

    /// The state of a C thread's goroutine that no thread uses.
    fn spare(&self) -> State {
        if self.machine.setup.release.has_dead_extra() { State::DeadExtra } else { State::Dead }
    }

    /// `newproc1`. The goroutine has no id before it runs; a mode that does not probe its first run reports the
    /// creation without one.
    fn new_proc(&mut self, event: &Event, out: &mut Vec<Step>) {
        let Payload::NewProc(new) = event.payload else { return };
        if self.machine.setup.mode != Mode::Full {
            out.push(unnamed_create(event.ts, event.tid, birth_of(event.goid, &new)));
            return;
        }
        // The queue of `go` statements has the bound of the goroutines.
        if self.births.len() >= self.machine.setup.capacity {
            self.announce_oldest(out);
        }
        self.births.expect(event, &new);
    }

    fn announce_oldest(&mut self, out: &mut Vec<Step>) {
        if let Some(expected) = self.births.overdue(u64::MAX) {
            out.push(unnamed_create(expected.ts, expected.tid, expected.birth));
        }
    }

    /// `execute` of a goroutine that has never run: gives its id to the creation that `newproc1` told.
    fn first_run(&mut self, event: &Event, out: &mut Vec<Step>) {
        let Payload::Birth(birth) = event.payload else { return };
        let at = self.whose(event, out);
        if let Some(expected) = self.births.claim(&birth) {
            let payload = Payload::Birth(expected.birth);
            let born = Event { ts: expected.ts, tid: expected.tid, kind: Kind::NewProc, payload, ..*event };
            self.machine.change(at, &born, Move::new(&born, State::Dead, State::Runnable), out);
        } else {
            self.introduce(at, event, out);
        }
        let run = Event { kind: Kind::Execute, ..*event };
        self.machine.change(at, &run, Move::new(&run, State::Runnable, State::Running), out);
    }

    /// `exitsyscall`. Up to Go 1.25 it may still find no P, and then the goroutine did not run: the event is held
    /// back until the goroutine's next. A C thread's first `exitsyscall` names the goroutine that `needm` took.
    fn syscall_exit(&mut self, event: &Event, out: &mut Vec<Step>) {
        let at = self.whose(event, out);
        let needm_ts = std::mem::take(&mut self.machine.threads.at(event.tid).needm_ts);
        let unused = self.machine.known(at).is_none_or(State::is_dead);
        if needm_ts != 0 && unused && self.machine.setup.set == Set::A {
            let came = Event { ts: needm_ts.min(event.ts), kind: Kind::NeedM, ..*event };
            let note = Note::Bypass(Bypass::NeedM);
            let change = Move { from: self.spare(), to: State::Syscall, reason: 0, note };
            self.machine.advance(at, &came, &change, out);
        }
        if self.exit_is_held() && event.ts >= self.machine.store.at(at).last_ts {
            self.hold(at, event, State::Running, out);
        } else {
            self.machine.change(at, event, Move::new(event, State::Syscall, State::Running), out);
        }
    }

    /// `exitsyscall0` (≤ 1.25) or `exitsyscallNoP`: no P was free.
    fn syscall_exit_no_p(&mut self, event: &Event, out: &mut Vec<Step>) {
        let at = self.machine.store.resolve(event.g, event.goid);
        let goroutine = self.machine.store.at(at);
        // A held `exitsyscall` was the first half of this: the goroutine never ran.
        // If it was held for too long, it has been reported as running.
        goroutine.held = None;
        let said = goroutine.state == State::Running && goroutine.last == Kind::SyscallExit;
        let from = if self.machine.setup.release.runs_before_it_has_a_p() || said {
            State::Running
        } else {
            State::Syscall
        };
        let note = Note::Bypass(Bypass::SyscallNoP);
        self.machine.change(at, event, Move { note, ..Move::new(event, from, State::Runnable) }, out);
    }
}

/// Events that are only understood together with the next one of their goroutine, and what to do when that does not
/// come.
impl Goroutines {
    /// Keeps an event until the next one of its goroutine.
    fn hold(&mut self, at: usize, event: &Event, to: State, out: &mut Vec<Step>) {
        let held = Held { kind: event.kind, ts: event.ts, tid: event.tid, to };
        let key = self.machine.store.key(at);
        if self.machine.store.find(key).is_none() {
            self.replay(at, held, out); // not remembered: there is no next one
            return;
        }
        let goroutine = self.machine.store.at(at);
        goroutine.held = Some(held);
        goroutine.last_ts = goroutine.last_ts.max(event.ts);
        // Only an `exitsyscall` is held with running as its target state; everything else held is a creation.
        let queue = if to == State::Running { &mut self.held.exits } else { &mut self.held.creates };
        queue.push_back((event.ts, key));
        if queue.len() > self.machine.setup.capacity
            && let Some((ts, key)) = queue.pop_front()
        {
            self.release_key(ts, key, out);
        }
    }

    fn release_key(&mut self, ts: u64, key: Key, out: &mut Vec<Step>) {
        // The event of this entry may have been released since, and the goroutine may hold a younger one.
        if let Some(at) = self.machine.store.find(key)
            && self.machine.store.at(at).held.is_some_and(|held| held.ts == ts)
        {
            self.release(at, out);
        }
    }

    /// Reports what is held of this goroutine.
    #[cold]
    fn release(&mut self, at: usize, out: &mut Vec<Step>) {
        if let Some(held) = self.machine.store.at(at).held.take() {
            self.replay(at, held, out);
        }
    }

    fn replay(&mut self, at: usize, held: Held, out: &mut Vec<Step>) {
        let goroutine = self.machine.store.at(at);
        let payload = match (held.to, goroutine.birth) {
            (State::Running, _) | (_, None) => Payload::None,
            (_, Some(birth)) => Payload::Birth(birth),
        };
        let event = Event {
            ts: held.ts,
            g: goroutine.g,
            goid: goroutine.goid,
            tid: held.tid,
            kind: held.kind,
            from: 0,
            to: 0,
            reason: goroutine.reason,
            payload,
        };
        let from = if held.to == State::Running { State::Syscall } else { State::Dead };
        self.machine.change(at, &event, Move::new(&event, from, held.to), out);
    }

    /// The place of an event's goroutine; reports first what is held of it and how a snapshot found it.
    #[inline]
    fn whose(&mut self, event: &Event, out: &mut Vec<Step>) -> usize {
        let at = self.machine.store.resolve(event.g, event.goid);
        if self.machine.store.at(at).held.is_some() {
            self.release(at, out);
        }
        // `first_run` introduces the goroutine itself: one whose `go` statement was seen is created, not found.
        if event.kind != Kind::FirstRun {
            self.introduce(at, event, out);
        }
        at
    }

    /// Reports `Found` before the first event of a goroutine that only a snapshot has shown.
    #[inline]
    fn introduce(&mut self, at: usize, event: &Event, out: &mut Vec<Step>) {
        let goroutine = self.machine.store.at(at);
        if goroutine.by_snapshot && goroutine.last_ts == 0 {
            out.push(found(goroutine, event));
        }
    }

    /// Reports what was held for longer than its span; returns whether there was any.
    fn release_due(&mut self, now_ts: u64, out: &mut Vec<Step>) -> bool {
        let mut any = false;
        while let Some((ts, key)) = self.held.due(now_ts) {
            self.release_key(ts, key, out);
            any = true;
        }
        while let Some(expected) = self.births.overdue(now_ts.saturating_sub(HOLD_CREATE_NS)) {
            out.push(unnamed_create(expected.ts, expected.tid, expected.birth));
            any = true;
        }
        any
    }

    /// Whether a return from a system call and its failure to find a P come as two events, so that the first must be
    /// held.
    fn exit_is_held(&self) -> bool {
        let late = !self.machine.setup.release.runs_before_it_has_a_p();
        late && self.machine.setup.set == Set::A && self.machine.setup.mode == Mode::Full
    }
}

//! Set B: what the events of `casgstatus` and of the two functions beside it mean; and coroutine
//! switches, which both sets have.

use super::machine::Move;
use super::{Goroutines, Set, Step};
use crate::event::{By, Event, Kind, Payload, Switch};
use crate::goruntime::State;

impl Goroutines {
    /// `casgstatus`, `casGToPreemptScan`, `casGFromPreempted`.
    pub(super) fn status(&mut self, event: &Event, out: &mut Vec<Step>) {
        let at = self.whose(event, out);
        let (from, to) = match event.kind {
            Kind::PreemptScan => (State::Running, State::Preempted),
            Kind::FromPreempted => (State::Preempted, State::Waiting),
            _ => (State::from_status(event.from), State::from_status(event.to)),
        };
        let own_cas = matches!(event.kind, Kind::PreemptScan | Kind::FromPreempted);
        if !own_cas && !self.graph.has(from, to) {
            self.condemn(at, event, from, to, out);
        } else if from == State::Waiting && to == State::Running {
            self.fake_wait_ends(at, event, out);
        } else if (from, to) == (State::Running, State::Waiting)
            && self.setup.wait_reasons.get(event.reason).is_fake()
        {
            // A fake wait begins: the goroutine goes on running.
        } else if !matches!((from, to), (State::Idle | State::CopyStack, _) | (_, State::CopyStack)) {
            self.change(at, event, Move::new(event, from, to), out);
        }
    }

    /// `casgstatus` takes waiting to running only at the end of a fake wait. Its beginning was not
    /// reported, so there is nothing to say; but where it was taken for a real one (up to 1.19
    /// the reason can be stale), it ends here.
    fn fake_wait_ends(&mut self, at: usize, event: &Event, out: &mut Vec<Step>) {
        match self.known(at) {
            Some(State::Running) => {}
            None if event.ts >= self.store.at(at).last_ts => self.adopt(at, event, State::Running, 0),
            None => {}
            Some(_) => self.change(at, event, Move::new(event, State::Waiting, State::Running), out),
        }
    }

    /// `casgstatus` out of dead: a new goroutine, on a `g` that may have had another one.
    pub(super) fn status_create(&mut self, event: &Event, out: &mut Vec<Step>) {
        let (from, to) = (State::from_status(event.from), State::from_status(event.to));
        let before = self.store.peek(event.g);
        if let Some(at) = before {
            self.release(at, out);
            let old = self.store.at(at);
            if event.ts < old.last_ts && (event.goid == 0 || old.goid == 0 || old.goid == event.goid) {
                let change = Move::new(event, from, to);
                self.late(at, event, &change, out);
                return;
            }
        }
        let seen = before.and_then(|at| self.known(at)).filter(|seen| *seen != from);
        let at = self.store.renew(event.g, event.goid, event.ts);
        if !self.graph.has(from, to) {
            self.condemn(at, event, from, to, out);
            return;
        }
        if let Some(seen) = seen {
            let change = Move::new(event, from, to);
            self.accuse(at, event, &change, seen, out);
        }
        if event.goid != 0 {
            self.change(at, event, Move::new(event, from, to), out);
            return;
        }
        if let Payload::Birth(birth) = event.payload {
            self.store.at(at).birth = Some(birth);
        }
        self.store.at(at).reason = event.reason;
        self.hold(at, event, to, out);
    }

    /// `coroswitch_m`: the one waits (or ends, which is told by its own event), the other runs on
    /// the same thread at once.
    pub(super) fn coroutine_switch(&mut self, event: &Event, out: &mut Vec<Step>) {
        let Payload::Switch(Switch { next_g, next_goid, exit }) = event.payload else { return };
        if exit == 0 {
            let at = self.whose(event, out);
            let waits = Event { reason: self.coroutine, ..*event };
            self.change(at, &waits, Move::new(&waits, State::Running, State::Waiting), out);
        } else if self.setup.set == Set::A {
            // gdestroy, which it calls next, may be inlined.
            let at = self.whose(event, out);
            self.change(at, event, Move::new(event, State::Running, State::Dead), out);
        }
        if next_g != 0 {
            let payload = Payload::By(By { by_goid: event.goid });
            let reason = self.coroutine;
            let next = Event { g: next_g, goid: next_goid, reason, payload, ..*event };
            let at = self.whose(&next, out);
            self.first_switch(at, &next, event.goid, out);
            self.change(at, &next, Move::new(&next, State::Waiting, State::Running), out);
        }
        self.threads.at(event.tid).switched = [event.g, next_g];
    }

    /// Set A: names the goroutine that `newproc1` created parked, if it is one of these.
    fn first_switch(&mut self, at: usize, next: &Event, by_goid: u64, out: &mut Vec<Step>) {
        if self.store.at(at).last_ts != 0 {
            return;
        }
        let Some(expected) = self.births.claim_parked(by_goid) else { return };
        let payload = Payload::Birth(expected.birth);
        let born = Event { ts: expected.ts, tid: expected.tid, kind: Kind::NewProc, payload, ..*next };
        self.change(at, &born, Move::new(&born, State::Dead, State::Waiting), out);
    }
}

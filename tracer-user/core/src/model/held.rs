//! Events that are only understood together with the next one of their goroutine, and what to do
//! when that does not come.

use super::machine::Move;
use super::say::{found, unnamed_create};
use super::store::Key;
use super::{Goroutines, Step};
use crate::event::{Event, Kind, Mode, Payload, Set};
use crate::goruntime::State;
use std::collections::VecDeque;

/// How long a creation may be held back for its goid, nanoseconds of the target's time.
pub(super) const HOLD_CREATE_NS: u64 = 1_000_000_000;

/// How long the return from a system call may be held back to see whether it found a P. Its next
/// event releases it sooner; on a busy machine the kernel may take the thread's CPU in between.
pub(super) const HOLD_EXIT_NS: u64 = 10_000_000;

/// An event that is kept with its goroutine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    kind: Kind,
    ts: u64,
    tid: u32,
    to: State,
}

/// Whose events are kept, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queues {
    creates: VecDeque<(u64, Key)>,
    exits: VecDeque<(u64, Key)>,
}

impl Queues {
    /// The next one whose time is over at `now_ts`.
    fn due(&mut self, now_ts: u64) -> Option<(u64, Key)> {
        [(&mut self.exits, HOLD_EXIT_NS), (&mut self.creates, HOLD_CREATE_NS)]
            .into_iter()
            .find_map(|(queue, hold_ns)| queue.pop_front_if(|(ts, _)| ts.saturating_add(hold_ns) <= now_ts))
    }
}

impl Goroutines {
    /// Keeps an event until the next one of its goroutine.
    pub(super) fn hold(&mut self, at: usize, event: &Event, to: State, out: &mut Vec<Step>) {
        let held = Held { kind: event.kind, ts: event.ts, tid: event.tid, to };
        let key = self.store.key(at);
        if self.store.find(key).is_none() {
            self.replay(at, held, out); // not remembered: there is no next one
            return;
        }
        let goroutine = self.store.at(at);
        goroutine.held = Some(held);
        goroutine.last_ts = goroutine.last_ts.max(event.ts);
        let queue = if to == State::Running { &mut self.held.exits } else { &mut self.held.creates };
        queue.push_back((event.ts, key));
        if queue.len() > self.setup.capacity
            && let Some((ts, key)) = queue.pop_front()
        {
            self.release_key(ts, key, out);
        }
    }

    fn release_key(&mut self, ts: u64, key: Key, out: &mut Vec<Step>) {
        if let Some(at) = self.store.find(key)
            && self.store.at(at).held.is_some_and(|held| held.ts == ts)
        {
            self.release(at, out);
        }
    }

    /// Takes what was kept of this goroutine.
    #[cold]
    pub(super) fn release(&mut self, at: usize, out: &mut Vec<Step>) {
        if let Some(held) = self.store.at(at).held.take() {
            self.replay(at, held, out);
        }
    }

    fn replay(&mut self, at: usize, held: Held, out: &mut Vec<Step>) {
        let goroutine = self.store.at(at);
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
        self.change(at, &event, Move::new(&event, from, held.to), out);
    }

    /// The goroutine of an event, with what was kept of it said first.
    #[inline]
    pub(super) fn whose(&mut self, event: &Event, out: &mut Vec<Step>) -> usize {
        let at = self.store.resolve(event.g, event.goid);
        if self.store.at(at).held.is_some() {
            self.release(at, out);
        }
        // The first run may turn out to be that of a goroutine whose `go` statement was seen.
        if event.kind != Kind::FirstRun {
            self.introduce(at, event, out);
        }
        at
    }

    /// Before the first event of a goroutine that a snapshot found: says how it was found.
    #[inline]
    pub(super) fn introduce(&mut self, at: usize, event: &Event, out: &mut Vec<Step>) {
        let goroutine = self.store.at(at);
        if goroutine.by_snapshot && goroutine.last_ts == 0 {
            out.push(found(goroutine, event));
        }
    }

    /// Says what has been kept for too long, and whether there was any.
    pub(super) fn release_due(&mut self, now_ts: u64, out: &mut Vec<Step>) -> bool {
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

    /// Whether this version and set see the two halves of a return from a system call that found
    /// no P apart, so that the first must be held back.
    pub(super) fn exit_is_held(&self) -> bool {
        let late = !self.setup.release.runs_before_it_has_a_p();
        late && self.setup.set == Set::A && self.setup.mode == Mode::Full
    }
}

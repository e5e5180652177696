//! The machine itself: takes one change of state, judges it against what was seen before, and
//! says it as a [`Step`].

use super::bypass::{Bypass, Told, Verdict, judge};
use super::say::{learn, say, stack_of};
use super::store::Key;
use super::{Goroutines, Measure, Note, Step, What};
use crate::event::{Event, Payload};
use crate::goruntime::State;

/// Contradictions that wait for a late event to explain them; more are said at once.
const MAX_ACCUSED: usize = 1024;

/// A contradiction that a late event may still explain.
#[derive(Debug)]
pub(super) struct Accusation {
    key: Key,
    /// The last state seen, moved on by late events.
    seen: State,
    pub(super) illegal: Step,
}

/// A change of one goroutine, as an event tells it.
#[derive(Clone, Copy)]
pub(super) struct Move {
    pub(super) from: State,
    pub(super) to: State,
    pub(super) reason: u8,
    pub(super) note: Note,
}

impl Move {
    pub(super) fn new(event: &Event, from: State, to: State) -> Move {
        Move { from, to, reason: event.reason, note: Note::None }
    }
}

impl Goroutines {
    /// Takes a change: judges it, says what the probes passed over, and says it.
    #[inline]
    pub(super) fn change(&mut self, at: usize, event: &Event, mut change: Move, out: &mut Vec<Step>) {
        let goroutine = self.store.at(at);
        if event.ts < goroutine.last_ts {
            self.late(at, event, &change, out);
            return;
        }
        let seen = if goroutine.by_snapshot { Some(goroutine.state) } else { self.known(at) };
        match seen.filter(|seen| *seen != change.from) {
            Some(seen) if !self.explain(at, event, &mut change, seen, out) => {}
            _ => self.advance(at, event, &change, out),
        }
    }

    /// The goroutine was last seen in another state than it is said to come from: finds out why, and says what the
    /// probes passed over. Says whether the change still counts.
    #[inline(never)]
    fn explain(
        &mut self,
        at: usize,
        event: &Event,
        change: &mut Move,
        seen: State,
        out: &mut Vec<Step>,
    ) -> bool {
        let goroutine = self.store.at(at);
        let (last, same_thread) = (goroutine.last, goroutine.tid == event.tid);
        let by_snapshot = goroutine.by_snapshot;
        let &mut Move { from, to, .. } = change;
        let switched = self.threads.at(event.tid).switched.contains(&event.g);
        let told = Told { kind: event.kind, from, to, seen, last, same_thread, switched };
        match judge(&told, &self.setup) {
            Verdict::Counted => return false,
            Verdict::Unwatched => {}
            Verdict::Through(bypass, path) => {
                change.note = Note::Bypass(bypass);
                self.walk(at, event, seen, bypass, path, out);
            }
            // The goroutine may have moved while the snapshot was taken.
            Verdict::Contradicts if by_snapshot => {}
            Verdict::Contradicts => self.accuse(at, event, change, seen, out),
        }
        true
    }

    /// Says the states that a goroutine went through unseen.
    fn walk(&mut self, at: usize, e: &Event, seen: State, by: Bypass, path: &[State], out: &mut Vec<Step>) {
        let mut from = seen;
        for &to in path {
            let reason = self.store.at(at).reason;
            let unseen = Event { payload: Payload::None, ..*e };
            self.advance(at, &unseen, &Move { from, to, reason, note: Note::Bypass(by) }, out);
            from = to;
        }
    }

    /// Moves a goroutine on and says so.
    #[inline]
    pub(super) fn advance(&mut self, at: usize, event: &Event, change: &Move, out: &mut Vec<Step>) {
        let &Move { from, to, reason, .. } = change;
        let (doubt_until, wanted) = (self.doubt_until, self.wanted);
        let goroutine = self.store.at(at);
        // What is doubtful at its beginning (0: it was not seen) has no duration.
        let seen = goroutine.since_ts > doubt_until || goroutine.since_is != Measure::Exact;
        let seen_whole = seen && goroutine.state == from;
        let lasted = seen_whole.then(|| event.ts.saturating_sub(goroutine.since_ts));
        match What::of(from, to) {
            Some(what) if wanted.contains(what) => out.push(say(goroutine, event, change, what, lasted)),
            Some(what) => learn(goroutine, event, what),
            None => {}
        }
        let leaked = from == State::Leaked || to == State::Leaked; // the wait goes on
        if from == State::Running {
            goroutine.running_ns += lasted.unwrap_or(0);
        }
        if matches!(to, State::Waiting | State::Preempted) && !leaked {
            goroutine.reason = reason;
        }
        if matches!(to, State::Waiting | State::Syscall) && !leaked {
            goroutine.site = stack_of(event).unwrap_or_default();
        }
        let since = leaked.then_some((goroutine.since_ts, goroutine.since_is));
        self.adopt(at, event, to, event.ts);
        if let Some(since) = since {
            let goroutine = self.store.at(at);
            (goroutine.since_ts, goroutine.since_is) = since;
        }
    }

    /// Takes over a state, and which thread the goroutine is on.
    #[inline]
    pub(super) fn adopt(&mut self, at: usize, event: &Event, to: State, since_ts: u64) {
        let on_thread = |state| matches!(state, State::Running | State::Syscall);
        let key = self.store.key(at);
        let goroutine = self.store.at(at);
        let (from, from_tid) = (goroutine.state, goroutine.tid);
        (goroutine.state, goroutine.since_ts, goroutine.told_ts) = (to, since_ts, event.ts);
        (goroutine.by_snapshot, goroutine.since_is) = (false, Measure::Exact);
        (goroutine.tid, goroutine.last, goroutine.last_ts) = (event.tid, event.kind, event.ts);
        if to.is_dead() {
            self.store.bury(at);
        }
        if on_thread(to) {
            let thread = self.threads.at(event.tid);
            (thread.running, thread.running_ts) = (Some(key), event.ts);
        }
        if on_thread(from) && !(on_thread(to) && from_tid == event.tid) {
            let thread = self.threads.at(from_tid);
            thread.running = thread.running.filter(|running| *running != key);
        }
    }

    /// An event that came after younger ones of its goroutine: it is said, but changes nothing,
    /// and may explain what the younger ones were accused of.
    #[cold]
    pub(super) fn late(&mut self, at: usize, event: &Event, change: &Move, out: &mut Vec<Step>) {
        let key = self.store.key(at);
        if let Some(what) = What::of(change.from, change.to) {
            out.push(say(self.store.at(at), event, change, what, None));
        }
        self.accused.retain_mut(|accusation| {
            if accusation.key == key && accusation.seen == change.from {
                accusation.seen = change.to;
            }
            accusation.seen != accusation.illegal.from
        });
    }

    /// Nothing explains this change: it will be called illegal, unless a late event does.
    pub(super) fn accuse(
        &mut self,
        at: usize,
        event: &Event,
        change: &Move,
        seen: State,
        out: &mut Vec<Step>,
    ) {
        let key = self.store.key(at);
        let goroutine = self.store.at(at);
        let note = Note::Contradiction { seen, said: change.from };
        let illegal = say(goroutine, event, &Move { note, ..*change }, What::Illegal, None);
        if self.accused.len() < MAX_ACCUSED {
            self.accused.push(Accusation { key, seen, illegal });
        } else {
            out.push(illegal);
        }
    }

    /// A change that no place in this version's runtime makes. It is said at once, also after a
    /// loss, because the event alone proves it.
    pub(super) fn condemn(&mut self, at: usize, event: &Event, from: State, to: State, out: &mut Vec<Step>) {
        let note = Note::NotInGraph { release: self.setup.release };
        let goroutine = self.store.at(at);
        let change = Move { from, to, reason: event.reason, note };
        out.push(say(goroutine, event, &change, What::Illegal, None));
        if event.ts >= goroutine.last_ts {
            self.adopt(at, event, to, event.ts);
        }
    }
}

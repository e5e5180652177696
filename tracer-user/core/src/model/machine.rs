//! Takes one change of state, judges it against the state last seen, and reports it as a [`Step`].

use super::{
    Bypass, Goroutine, Measure, Note, Setup, Step, What, Whats,
    bypass::{Told, Verdict, judge},
    store::{Key, Store, Threads},
};
use crate::{
    event::{Birth, By, Event, Payload, Stack},
    goruntime::State,
};

/// Contradictions that may wait for a late event to explain them; further ones are reported at once, which bounds the
/// list whatever a target does.
const MAX_ACCUSED: usize = 1024;

/// A contradiction that a late event may still explain.
#[derive(Debug)]
struct Accusation {
    key: Key,
    /// The last state seen, moved on by late events.
    seen: State,
    illegal: Step,
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

/// The states of all goroutines, and how they change.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) setup: Setup,
    pub(super) store: Store,
    pub(super) threads: Threads,
    wanted: Whats,
    /// Events up to this time may have been lost: states that were told until then are doubtful.
    doubt_until: u64,
    accused: Vec<Accusation>,
}

impl Machine {
    pub(super) fn new(setup: Setup) -> Machine {
        Machine {
            store: Store::new(setup.capacity),
            threads: Threads::new(setup.capacity),
            wanted: Whats::ALL,
            doubt_until: 0,
            accused: Vec::new(),
            setup,
        }
    }

    pub(super) fn want(&mut self, wanted: Whats) {
        self.wanted = wanted;
    }

    /// Events were lost, the last of them not after `until_ts`.
    pub(super) fn doubt(&mut self, until_ts: u64) {
        self.doubt_until = self.doubt_until.max(until_ts);
        self.accused.clear();
    }

    /// Whether something that was told at this time may have been overtaken by a lost event.
    pub(super) fn is_doubtful(&self, ts: u64) -> bool {
        ts <= self.doubt_until
    }

    /// Reports the contradictions up to this time that nothing has explained; returns whether there were any.
    pub(super) fn convict(&mut self, up_to_ts: u64, out: &mut Vec<Step>) -> bool {
        let before = out.len();
        out.extend(
            self.accused
                .extract_if(.., |accusation| accusation.illegal.ts <= up_to_ts)
                .map(|due| due.illegal),
        );
        out.len() > before
    }

    /// The process replaced its program: no goroutine or thread of before exists any more.
    pub(super) fn clear(&mut self) {
        self.store.clear();
        self.threads.clear();
        self.accused.clear();
    }

    /// The state of the goroutine at this place, if it may be held against an event: told by an event and not in
    /// doubt.
    pub(super) fn known(&mut self, at: usize) -> Option<State> {
        let doubt_until = self.doubt_until;
        let goroutine = self.store.at(at);
        (goroutine.told_ts > doubt_until && goroutine.state != State::Unknown).then_some(goroutine.state)
    }

    /// Judges a change and reports it, after the states that the probes passed over.
    #[inline]
    pub(super) fn change(&mut self, at: usize, event: &Event, mut change: Move, out: &mut Vec<Step>) {
        let goroutine = self.store.at(at);
        if event.ts < goroutine.last_ts {
            self.late(at, event, &change, out);
            return;
        }
        // A snapshot's state can be explained by a bypass, but `explain` never accuses on its ground.
        let seen = if goroutine.by_snapshot { Some(goroutine.state) } else { self.known(at) };
        match seen.filter(|seen| *seen != change.from) {
            Some(seen) if !self.explain(at, event, &mut change, seen, out) => {}
            _ => self.advance(at, event, &change, out),
        }
    }

    /// Finds out why a goroutine comes from another state than the one last seen, and reports the states that the
    /// probes passed over. Returns whether the change still counts.
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

    /// Reports the states that a goroutine passed unseen, at the time of the event that shows it.
    fn walk(&mut self, at: usize, e: &Event, seen: State, by: Bypass, path: &[State], out: &mut Vec<Step>) {
        let mut from = seen;
        for &to in path {
            let reason = self.store.at(at).reason;
            // Stack, waker and birth belong to the change that was seen.
            let unseen = Event { payload: Payload::None, ..*e };
            self.advance(at, &unseen, &Move { from, to, reason, note: Note::Bypass(by) }, out);
            from = to;
        }
    }

    /// Moves a goroutine on and reports it.
    #[inline]
    pub(super) fn advance(&mut self, at: usize, event: &Event, change: &Move, out: &mut Vec<Step>) {
        let &Move { from, to, reason, .. } = change;
        let (doubt_until, wanted) = (self.doubt_until, self.wanted);
        let goroutine = self.store.at(at);
        // A state whose beginning is doubtful or was not seen (0) has no duration.
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
            goroutine.object = object_of(event);
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
            // Another goroutine may run on that thread by now.
            let thread = self.threads.at(from_tid);
            thread.running = thread.running.filter(|running| *running != key);
        }
    }

    /// An event that came after younger ones of its goroutine. It is reported but changes nothing, and may explain
    /// what the younger ones were accused of.
    #[cold]
    pub(super) fn late(&mut self, at: usize, event: &Event, change: &Move, out: &mut Vec<Step>) {
        let key = self.store.key(at);
        if let Some(what) = What::of(change.from, change.to) {
            out.push(say(self.store.at(at), event, change, what, None));
        }
        // Late events lead on from the state last seen; a chain that arrives where the accused change begins explains
        // it.
        self.accused.retain_mut(|accusation| {
            if accusation.key == key && accusation.seen == change.from {
                accusation.seen = change.to;
            }
            accusation.seen != accusation.illegal.from
        });
    }

    /// Holds a change that nothing explains, to report it as illegal unless a late event explains it.
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

    /// Reports a change that no place in this release's runtime makes: at once and also after a loss, because the
    /// event alone proves it.
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

/// A step that is about no goroutine's state.
pub(super) fn bare(event: &Event, what: What) -> Step {
    Step {
        ts: event.ts,
        goid: event.goid,
        g: event.g,
        tid: event.tid,
        what,
        from: State::Unknown,
        to: State::Unknown,
        reason: 0,
        by_goid: 0,
        duration_ns: None,
        measure: Measure::Exact,
        stack: None,
        object: 0,
        birth: None,
        note: Note::None,
    }
}

/// The creation of a goroutine that has not been seen itself.
pub(super) fn unnamed_create(ts: u64, tid: u32, birth: Birth) -> Step {
    Step {
        ts,
        goid: 0,
        g: 0,
        tid,
        what: What::Create,
        from: State::Dead,
        to: State::Runnable,
        reason: 0,
        by_goid: birth.parent_goid,
        duration_ns: None,
        measure: Measure::Exact,
        stack: None,
        object: 0,
        birth: Some(birth),
        note: Note::None,
    }
}

/// A goroutine that was there before the trace, as a snapshot found it: said before its first event.
pub(super) fn found(of: &Goroutine, event: &Event) -> Step {
    let waited = (of.since_is != Measure::Exact).then(|| event.ts.saturating_sub(of.since_ts));
    Step {
        goid: of.goid,
        g: of.g,
        to: of.state,
        reason: of.reason,
        by_goid: parent_of(of),
        duration_ns: waited,
        measure: of.since_is,
        stack: (!of.site.is_empty()).then_some(of.site),
        birth: of.birth,
        ..bare(event, What::Found)
    }
}

/// Takes over what an event tells of the goroutine itself.
#[inline]
fn learn(of: &mut Goroutine, event: &Event, what: What) {
    if let Some(birth) = birth_of(event) {
        // Up to Go 1.20 `g` has no parent: the parent that `newproc1` told stays.
        let parent_goid = if birth.parent_goid != 0 { birth.parent_goid } else { parent_of(of) };
        of.birth = Some(Birth { parent_goid, ..birth });
    }
    if what == What::Create {
        of.created_ts = Some(event.ts);
    }
}

/// The step of a change; `lasted` is how long the state before did.
#[inline]
fn say(of: &mut Goroutine, event: &Event, change: &Move, what: What, lasted: Option<u64>) -> Step {
    // The duration of an exit is that of the life, which is exact or missing.
    let measure = if what == What::Exit || lasted.is_none() { Measure::Exact } else { of.since_is };
    let &Move { from, to, note, .. } = change;
    learn(of, event, what);
    // Where the beginning of the wait was not seen, `of.reason` is that of an earlier wait.
    let reason = match (from, to) {
        (State::Waiting, _) if lasted.is_some() => of.reason,
        (State::Waiting, _) | (_, State::Waiting | State::Preempted) => change.reason,
        _ => 0,
    };
    let site = (!of.site.is_empty() && lasted.is_some()).then_some(of.site);
    Step {
        ts: event.ts,
        goid: of.goid,
        g: of.g,
        tid: event.tid,
        what,
        from,
        to,
        reason,
        by_goid: by(event, what, of),
        duration_ns: match what {
            What::Exit => of.created_ts.map(|created| event.ts.saturating_sub(created)),
            What::Create | What::Illegal => None,
            _ => lasted,
        },
        measure,
        stack: match what {
            What::Block | What::SyscallEnter => stack_of(event),
            What::Unblock | What::SyscallExit => site,
            _ => None,
        },
        object: match (what, object_of(event)) {
            (What::Unblock, 0) if lasted.is_some() => of.object,
            (What::Block | What::Unblock, object) => object,
            _ => 0,
        },
        birth: match what {
            What::Create | What::Exit => of.birth,
            What::Start if birth_of(event).is_some() => of.birth,
            _ => None,
        },
        note,
    }
}

fn by(event: &Event, what: What, of: &Goroutine) -> u64 {
    match (event.payload, what) {
        (Payload::By(by), What::Unblock | What::Illegal) => by.by_goid,
        (_, What::Create) => parent_of(of),
        _ => 0,
    }
}

fn object_of(event: &Event) -> u64 {
    match event.payload {
        Payload::Stack { object, .. } | Payload::By(By { object, .. }) => object,
        _ => 0,
    }
}

fn parent_of(of: &Goroutine) -> u64 {
    of.birth.map_or(0, |birth| birth.parent_goid)
}

fn birth_of(event: &Event) -> Option<Birth> {
    match event.payload {
        Payload::Birth(birth) => Some(birth),
        _ => None,
    }
}

fn stack_of(event: &Event) -> Option<Stack> {
    match event.payload {
        Payload::Stack { stack, .. } if !stack.is_empty() => Some(stack),
        _ => None,
    }
}

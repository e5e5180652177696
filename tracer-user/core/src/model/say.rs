//! Puts what happened into words: makes the [`Step`]s.

use super::machine::Move;
use super::{Goroutine, Measure, Note, Step, What};
use crate::event::{Birth, Event, Payload, Stack};
use crate::goruntime::State;

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
        birth: None,
        note: Note::None,
    }
}

/// The creation of a goroutine that was not seen itself.
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

/// What an event tells of the goroutine itself.
#[inline]
pub(super) fn learn(of: &mut Goroutine, event: &Event, what: What) {
    if let Some(birth) = birth_of(event) {
        let parent_goid = if birth.parent_goid != 0 { birth.parent_goid } else { parent_of(of) };
        of.birth = Some(Birth { parent_goid, ..birth });
    }
    if what == What::Create {
        of.created_ts = Some(event.ts);
    }
}

/// Puts a change into words; `lasted` is how long the state before did.
#[inline]
pub(super) fn say(of: &mut Goroutine, event: &Event, change: &Move, what: What, lasted: Option<u64>) -> Step {
    let measure = if what == What::Exit || lasted.is_none() { Measure::Exact } else { of.since_is };
    let &Move { from, to, note, .. } = change;
    learn(of, event, what);
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
        birth: match what {
            What::Create | What::Exit => of.birth,
            What::Start if birth_of(event).is_some() => of.birth,
            _ => None,
        },
        note,
    }
}

/// Who did it.
fn by(event: &Event, what: What, of: &Goroutine) -> u64 {
    match (event.payload, what) {
        (Payload::By(by), What::Unblock | What::Illegal) => by.by_goid,
        (_, What::Create) => parent_of(of),
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

pub(super) fn stack_of(event: &Event) -> Option<Stack> {
    match event.payload {
        Payload::Stack(stack) if !stack.is_empty() => Some(stack),
        _ => None,
    }
}

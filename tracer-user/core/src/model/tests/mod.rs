//! The model's tests. Most are timelines: lines of events in, lines of steps out.
//!
//! An event: `10 m1 g7 casgstatus 2>4 chan receive`: time, thread, goroutine, function and what
//! it was told. `g7@3` is goroutine 7 on the `g` of goroutine 3, `g0@3` one without a goid yet.
//! Then, in any order: a wait reason, `by g1`, `pc=5,6`, `fn=9` (funcval), `parent=g1`, `to g8`,
//! `exit`, `parked`. Lines beginning with `--` are calls: `-- lost`, `-- settle 50`.
//!
//! A step: `10 g7 block running→waiting chan receive 5ns by g1 pc=5,6 (note)`.

mod bounds;
mod illegal;
mod modes;
mod seen;
mod set_a;
mod set_b;
mod summary;
mod table;

use super::*;
use crate::event::{Birth, By, Event, NewProc, Payload, Stack, Switch};
use crate::goruntime::Release;
use crate::goruntime::State;
use crate::testing::timeline::{REASONS, event};
use std::fmt::Write;

pub(super) fn setup(minor: u32, set: Set) -> Setup {
    Setup {
        release: Release::new(minor),
        set,
        mode: Mode::Full,
        wait_reasons: REASONS.map(String::from).to_vec().into(),
        blind: Vec::new(),
        capacity: 1000,
    }
}

pub(super) fn set_a(minor: u32) -> Setup {
    setup(minor, Set::A)
}

pub(super) fn set_b(minor: u32) -> Setup {
    setup(minor, Set::B)
}

/// Applies the events and compares the steps; at the end everything is settled.
#[track_caller]
pub(super) fn timeline(setup: Setup, events: &str, expected: &str) -> Goroutines {
    let (model, steps) = run(setup, events);
    let got: Vec<String> = steps.iter().map(line).collect();
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(got == expected, "got:\n{}\nexpected:\n{}", got.join("\n"), expected.join("\n"));
    model
}

pub(super) fn run(setup: Setup, events: &str) -> (Goroutines, Vec<Step>) {
    let (mut model, mut steps) = (Goroutines::new(setup), Vec::new());
    let mut last_ts = 0;
    for text in events.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match text.strip_prefix("-- ") {
            Some("lost") => model.lost(1, last_ts),
            Some(call) => {
                let up_to = call.strip_prefix("settle ").and_then(|ts| ts.parse().ok());
                model.settle(up_to.expect("-- lost or -- settle TS"), &mut steps);
            }
            None => {
                let event = event(text);
                last_ts = last_ts.max(event.ts);
                model.apply(&event, &mut steps);
            }
        }
    }
    model.settle(u64::MAX, &mut steps);
    (model, steps)
}

/// The line a step reads as.
pub(super) fn line(step: &Step) -> String {
    let mut line = format!("{} g{} {}", step.ts, step.goid, step.what);
    let mut put = |text: std::fmt::Arguments<'_>| line.write_fmt(text).expect("a String takes all");
    if (step.from, step.to) != (State::Unknown, State::Unknown) {
        put(format_args!(" {}→{}", step.from, step.to));
    }
    match REASONS.get(usize::from(step.reason)) {
        Some(&"") => {}
        Some(reason) => put(format_args!(" {reason}")),
        None => put(format_args!(" reason {}", step.reason)),
    }
    if let Some(duration_ns) = step.duration_ns {
        put(format_args!(" {}{duration_ns}ns", ["", "≥", "~"][step.measure as usize]));
    }
    if step.by_goid != 0 {
        put(format_args!(" by g{}", step.by_goid));
    }
    if let Some(stack) = step.stack {
        let pcs: Vec<String> = stack.pcs().iter().map(u64::to_string).collect();
        put(format_args!(" pc={}", pcs.join(",")));
    }
    if let Some(birth) = step.birth {
        put(format_args!(" born={},{}", birth.gopc, birth.startpc));
    }
    if step.note != Note::None {
        put(format_args!(" ({})", step.note));
    }
    line
}

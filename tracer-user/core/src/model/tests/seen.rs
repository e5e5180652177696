//! What a snapshot adds to the events.

use super::*;
use crate::model::Merged;

fn site(pc: u64) -> Stack {
    Stack::of(&[pc])
}

fn seen(goid: u64, state: State, reason: u8, since_ts: u64) -> Seen {
    let birth = Birth { parent_goid: 1, gopc: 40, startpc: 30, funcval: 0 };
    let waits = state == State::Waiting;
    Seen {
        g: goid * 0x1000,
        goid,
        state,
        reason,
        since_ts,
        tid: 0,
        birth,
        site: if waits { site(77) } else { Stack::default() },
    }
}

/// Events, then a snapshot begun at `began_ts`, then events.
fn around(setup: Setup, before: &str, (began_ts, all): (u64, &[Seen]), after: &str) -> (Vec<String>, Merged) {
    let (mut model, mut steps) = (Goroutines::new(setup), Vec::new());
    let mut apply = |model: &mut Goroutines, text: &str| {
        for text in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match text {
                "-- lost" => model.lost(1, began_ts - 1),
                _ => model.apply(&event(text), &mut steps),
            }
        }
        model.settle(if text == after { u64::MAX } else { 0 }, &mut steps);
    };
    apply(&mut model, before);
    let merged = model.merge(all, began_ts, true);
    apply(&mut model, after);
    (steps.iter().map(line).collect(), merged)
}

#[test]
fn a_goroutine_parked_before_is_introduced_by_its_first_event() {
    let parked = seen(7, State::Waiting, 1, 100);
    let (steps, merged) = around(
        set_b(24),
        "",
        (1000, &[parked]),
        "2000 m1 g7 casgstatus 4>1 by g3
         2010 m2 g7 casgstatus 1>2",
    );
    assert_eq!(
        steps,
        [
            "2000 g7 found unknown→waiting chan receive ~1900ns by g1 pc=77 born=40,30",
            "2000 g7 unblock waiting→runnable chan receive ~1900ns by g3 pc=77",
            "2010 g7 start runnable→running 10ns",
        ]
    );
    assert_eq!(merged, Merged { seen: 1, new: 1, corrected: 0, ended: 0 });
}

#[test]
fn without_a_stamp_it_waits_at_least_since_the_snapshot() {
    let (steps, _) =
        around(set_b(24), "", (1000, &[seen(7, State::Waiting, 1, 0)]), "2000 m1 g7 casgstatus 4>1 by g3");
    assert_eq!(steps[1], "2000 g7 unblock waiting→runnable chan receive ≥1000ns by g3 pc=77");
}

#[test]
fn what_the_scheduler_woke_unseen_is_said_to_have_been_woken() {
    let (steps, _) = around(set_a(24), "", (1000, &[seen(7, State::Waiting, 9, 0)]), "2000 m1 g7 execute");
    assert_eq!(
        steps[1..],
        [
            "2000 g7 unblock waiting→runnable IO wait ≥1000ns pc=77 (woken by the scheduler, which ran it at once)",
            "2000 g7 start runnable→running 0ns (woken by the scheduler, which ran it at once)",
        ]
    );
}

#[test]
fn events_are_better_than_snapshots() {
    let (steps, merged) = around(
        set_b(24),
        "1500 m1 g7 casgstatus 1>2
         900 m2 g8 casgstatus 1>2",
        (1000, &[seen(7, State::Waiting, 1, 0), seen(8, State::Waiting, 1, 0)]),
        "2000 m1 g7 casgstatus 2>4 chan receive
         2000 m2 g8 casgstatus 2>4 chan receive",
    );
    assert_eq!(steps[2], "2000 g7 block running→waiting chan receive 500ns");
    assert_eq!(steps[3], "2000 g8 block running→waiting chan receive 1100ns");
    assert_eq!((merged.new, merged.corrected), (0, 0));
}

#[test]
fn a_snapshot_is_never_held_against_an_event() {
    let (steps, _) =
        around(set_b(24), "", (1000, &[seen(7, State::Waiting, 1, 0)]), "2000 m1 g7 casgstatus 2>1");
    assert!(steps.iter().all(|step| !step.contains("illegal")), "{steps:?}");
    assert_eq!(steps.last().unwrap(), "2000 g7 preempt running→runnable");
}

#[test]
fn after_a_loss_the_snapshot_says_how_things_stand() {
    let (steps, merged) = around(
        set_b(24),
        "100 m1 g7 casgstatus 1>2
         100 m2 g8 casgstatus 1>2
         100 m3 g9 casgstatus 1>2
         -- lost",
        (1000, &[seen(7, State::Waiting, 1, 0), seen(8, State::Running, 0, 0)]),
        "2000 m1 g7 casgstatus 4>1 by g3",
    );
    assert_eq!(merged, Merged { seen: 2, new: 0, corrected: 1, ended: 1 });
    assert_eq!(steps.last().unwrap(), "2000 g7 unblock waiting→runnable chan receive ≥1000ns by g3 pc=77");
}

#[test]
fn a_goroutine_made_during_the_snapshot_is_not_introduced() {
    let (steps, _) = around(
        set_a(24),
        "900 m1 g1 newproc1 pc=40,30 fn=5",
        (1000, &[seen(7, State::Runnable, 0, 0)]),
        "2000 m2 g7 firstrun parent=g1 pc=40,30 fn=5",
    );
    assert!(steps[0].contains("create") || steps[0].contains("start"), "{steps:?}");
    assert!(steps.iter().all(|step| !step.contains("found")), "{steps:?}");
}

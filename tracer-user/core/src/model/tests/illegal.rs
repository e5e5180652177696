//! What is illegal, and only that.

use super::*;

#[test]
fn an_edge_that_is_not_in_the_graph() {
    timeline(
        set_b(24),
        "10 m1 g7 casgstatus 2>4 chan receive
         20 m1 g7 casgstatus 4>6
         30 m1 g7 casgstatus 6>1 pc=1,2",
        "10 g7 block running→waiting chan receive
         20 g7 illegal waiting→dead (the runtime of Go 1.24 never makes this change)
         30 g7 create dead→runnable born=1,2",
    );
}

#[test]
fn a_parked_goroutine_taken_somewhere_and_back() {
    // What the fixture does that moves a parked goroutine by linkname.
    timeline(
        set_b(26),
        "10 m1 g7 casgstatus 2>4 chan receive pc=5
         20 m1 g1 casgstatus 1>2
         21 m1 g7 casgstatus 4>9 chan receive
         22 m1 g7 casgstatus 9>4 chan receive
         30 m1 g7 casgstatus 4>1 chan receive by g1",
        "10 g7 block running→waiting chan receive pc=5
         20 g1 start runnable→running
         21 g7 illegal waiting→preempted chan receive (the runtime of Go 1.26 never makes this change)
         22 g7 illegal preempted→waiting chan receive (the runtime of Go 1.26 never makes this change)
         30 g7 unblock waiting→runnable chan receive 8ns by g1 pc=5",
    );
}

#[test]
fn a_number_no_version_uses() {
    timeline(
        set_b(24),
        "10 m1 g7 casgstatus 4>5",
        "10 g7 illegal waiting→status 5 (the runtime of Go 1.24 never makes this change)",
    );
}

#[test]
fn what_is_not_in_the_graph_is_illegal_also_after_a_loss_and_at_first_sight() {
    timeline(
        set_b(24),
        "-- lost
         10 m1 g7 casgstatus 1>6",
        "10 g7 illegal runnable→dead (the runtime of Go 1.24 never makes this change)",
    );
}

#[test]
fn versions_differ() {
    let illegal = |minor, text: &str| {
        let (_, steps) = run(set_b(minor), &format!("10 m1 g7 casgstatus {text}"));
        steps.iter().any(|step| step.what == What::Illegal)
    };
    // (edge, first and last Go 1.minor in which casgstatus makes it)
    for (edge, first, last) in [
        ("6>4 coroutine", 23, 27),
        ("1>4 coroutine", 22, 22),
        ("3>1", 19, 25),
        ("6>3", 19, 25),
        ("3>6", 19, 25),
        ("11>3", 26, 27),
        ("3>11", 26, 27),
        ("4>10 select", 26, 27),
        ("10>4 select", 27, 27),
        ("2>6", 19, 27),
        ("2>9", 0, 0),
        ("9>4", 0, 0),
        ("10>1", 0, 0),
        ("0>1", 0, 0),
    ] {
        for minor in 19..=27 {
            let legal = (first..=last).contains(&minor);
            assert_eq!(illegal(minor, edge), !legal, "{edge} in Go 1.{minor}");
        }
    }
}

#[test]
fn the_old_state_contradicts_the_last_one_seen() {
    timeline(
        set_b(24),
        "10 m1 g7 casgstatus 2>4 chan receive
         40 m1 g7 casgstatus 2>4 select
         -- settle 39
         -- settle 40
         50 m1 g7 casgstatus 4>1 select",
        "10 g7 block running→waiting chan receive
         40 g7 block running→waiting select
         40 g7 illegal running→waiting select (the runtime says it was running, but it was last seen waiting)
         50 g7 unblock waiting→runnable select 10ns",
    );
}

#[test]
fn a_contradiction_waits_for_the_time_up_to_which_all_is_known() {
    let (mut model, mut out) = (Goroutines::new(set_b(24)), Vec::new());
    model.apply(&event("10 m1 g7 casgstatus 2>4 select"), &mut out);
    model.apply(&event("40 m1 g7 casgstatus 1>2"), &mut out);
    model.settle(39, &mut out);
    assert!(out.iter().all(|step| step.what != What::Illegal));
    model.settle(40, &mut out);
    let last = out.last().expect("settled");
    assert_eq!(last.what, What::Illegal);
    assert_eq!(last.note, Note::Contradiction { seen: State::Waiting, said: State::Runnable });
}

#[test]
fn late_events_explain_only_what_they_lead_to() {
    // 20 → 50 misses 30 and 40; only one of them arrives in the end.
    timeline(
        set_b(24),
        "20 m1 g7 casgstatus 2>4 select
         50 m1 g7 casgstatus 2>1
         40 m1 g7 casgstatus 1>2
         -- settle 50
         60 m1 g8 casgstatus 2>4 select
         90 m1 g8 casgstatus 2>1
         70 m1 g8 casgstatus 4>1 select
         80 m1 g8 casgstatus 1>2
         -- settle 90",
        "20 g7 block running→waiting select
         50 g7 preempt running→runnable
         40 g7 start runnable→running
         50 g7 illegal running→runnable (the runtime says it was running, but it was last seen waiting)
         60 g8 block running→waiting select
         90 g8 preempt running→runnable
         70 g8 unblock waiting→runnable select
         80 g8 start runnable→running",
    );
}

#[test]
fn a_g_that_begins_again_while_its_goroutine_lives() {
    timeline(
        set_b(24),
        "10 m1 g7@3 casgstatus 2>4 select
         20 m1 g8@3 casgstatus 6>1 pc=1,2",
        "10 g7 block running→waiting select
         20 g8 create dead→runnable born=1,2
         20 g8 illegal dead→runnable (the runtime says it was dead, but it was last seen waiting)",
    );
}

#[test]
fn a_bypass_does_not_excuse_another_thread_or_another_change() {
    // The fallback of coroswitch_m happens on its own thread.
    let (_, steps) = run(
        set_b(25),
        "10 m1 g1 coroswitch_m to g7
         20 m2 g7 casgstatus 4>1 coroutine by g3",
    );
    assert!(steps.iter().any(|step| step.what == What::Illegal));
    // Up to 1.25 system calls have no fast path that could be told twice.
    for (minor, expected) in [(25, 1), (26, 0)] {
        let (_, steps) = run(
            set_b(minor),
            "10 m1 g7 entersyscall
             11 m1 g7 casgstatus 2>3",
        );
        assert_eq!(steps.iter().filter(|step| step.what == What::Illegal).count(), expected);
    }
    // A leaked goroutine is only reset, not run.
    let (_, steps) = run(
        set_b(26),
        "10 m1 g7 casgstatus 4>10 select
         20 m1 g7 casgstatus 1>2",
    );
    assert!(steps.iter().any(|step| step.what == What::Illegal));
}

#[test]
fn functions_that_contradict_each_other() {
    for (events, seen) in [
        ("10 m1 g7 park_m select\n 20 m1 g7 park_m select", State::Waiting),
        ("10 m1 g7 execute\n 20 m1 g7 execute", State::Running),
        ("10 m1 g7 execute\n 20 m1 g7 ready", State::Running),
        ("10 m1 g7 ready\n 20 m1 g7 ready", State::Runnable),
        ("10 m1 g7 entersyscall\n 20 m1 g7 gosched_m", State::Syscall),
        ("10 m1 g7 entersyscall\n 20 m2 g7 entersyscall", State::Syscall),
        ("10 m1 g7 gdestroy\n 20 m1 g7 execute", State::Dead),
        ("10 m1 g7 gosched_m\n 15 m1 g7 execute\n 17 m1 g7 park_m\n 20 m1 g7 goschedImpl", State::Waiting),
    ] {
        let (_, steps) = run(set_a(26), events);
        let notes: Vec<Note> =
            steps.iter().filter(|step| step.what == What::Illegal).map(|step| step.note).collect();
        assert!(
            matches!(notes[..], [Note::Contradiction { seen: got, .. }] if got == seen),
            "{events}: {notes:?}"
        );
    }
}

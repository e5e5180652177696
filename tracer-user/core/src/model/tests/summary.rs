//! Sums over steps.

use super::*;

fn sum(setup: Setup, limit: usize, events: &str, end_ts: u64) -> Summary {
    let (mut model, mut steps) = (Goroutines::new(setup), Vec::new());
    for text in events.lines() {
        model.apply(&event(text.trim()), &mut steps);
    }
    let mut summary = Summary::with_rows(limit);
    steps.iter().for_each(|step| summary.add(step));
    summary.close(&model, end_ts);
    summary
}

#[test]
fn waits_by_reason_and_by_place() {
    let summary = sum(
        set_b(24),
        9,
        "5 m1 g3 casgstatus 4>1 select
         10 m1 g1 casgstatus 2>4 select pc=5,6
         10 m1 g2 casgstatus 2>4 select pc=5,7
         30 m1 g1 casgstatus 4>1 select
         40 m1 g2 casgstatus 4>1 select
         50 m1 g4 casgstatus 2>4 chan receive pc=8
         60 m1 g5 casgstatus 2>4 chan receive pc=8",
        1060,
    );
    let select = summary.reasons.get(&2).expect("select");
    assert_eq!((select.ended.count(), select.ended.total(), select.ended.max()), (2, 50, 30));
    assert_eq!((select.ended.quantile(500), select.unmeasured, select.open), (20, 1, 0));
    let here = summary.wait_sites.get(&WaitSite { reason: 2, stack: Stack::of(&[5, 7]) }).expect("the site");
    assert_eq!((here.ended.count(), here.ended.max()), (1, 30));
    let open = summary.wait_sites.get(&WaitSite { reason: 1, stack: Stack::of(&[8]) }).expect("the site");
    assert_eq!((open.ended.count(), open.open, open.open_longest_ns), (0, 2, 1010));
}

#[test]
fn system_calls_by_place() {
    let summary = sum(
        set_b(26),
        9,
        "10 m1 g1 entersyscall pc=5
         30 m1 g1 exitsyscall
         40 m1 g2 entersyscall pc=5",
        100,
    );
    let site = summary.syscall_sites.get(&Stack::of(&[5])).expect("the site");
    assert_eq!((site.ended.count(), site.ended.total(), site.open, site.open_longest_ns), (1, 20, 1, 60));
}

#[test]
fn creations_by_place() {
    let events = "10 m1 g1 casgstatus 6>1 pc=1,2
        11 m1 g2 casgstatus 6>1 pc=1,2
        12 m1 g3 casgstatus 6>1 pc=3,4
        13 m1 g1 casgstatus 1>2
        14 m1 g1 casgstatus 2>6";
    let summary = sum(set_b(24), 9, events, 20);
    let counts =
        |gopc| summary.creations.get(&gopc).map(|row| (row.startpc, row.created, row.exited, row.alive()));
    assert_eq!(counts(1), Some((2, 2, 1, 1)));
    assert_eq!(counts(3), Some((4, 1, 0, 1)));
}

#[test]
fn who_was_made_before_the_trace_does_not_count_against_who_was_made_in_it() {
    let summary = sum(
        set_a(24),
        9,
        "10 m1 g7 gdestroy parent=g1 pc=1,2
         11 m1 g8 gdestroy parent=g1 pc=1,2
         12 m1 g1 newproc1 pc=1,2 fn=9
         13 m1 g9 firstrun parent=g1 pc=1,2 fn=9",
        20,
    );
    let row = summary.creations.get(&1).expect("the site");
    assert_eq!((row.created, row.exited, row.alive()), (1, 2, 1));
}

#[test]
fn in_life_mode_ends_are_set_against_creations() {
    let summary = sum(
        Setup { mode: Mode::Life, ..set_a(24) },
        9,
        "10 m1 g1 newproc1 pc=1,2 fn=9
         11 m1 g1 newproc1 pc=1,2 fn=9
         12 m1 g7 gdestroy parent=g1 pc=1,2",
        20,
    );
    let row = summary.creations.get(&1).expect("the site");
    assert_eq!((row.created, row.exited, row.alive()), (2, 1, 1));
}

#[test]
fn rows_are_bounded_and_the_rest_is_counted_together() {
    let summary = sum(
        set_b(24),
        2,
        "10 m1 g1 casgstatus 6>1 pc=1,2
         11 m1 g2 casgstatus 6>1 pc=3,4
         12 m1 g3 casgstatus 6>1 pc=5,6
         13 m1 g4 casgstatus 6>1 pc=7,8
         14 m1 g5 casgstatus 6>1 pc=1,2",
        20,
    );
    assert_eq!(summary.creations.iter().count(), 2);
    assert_eq!(summary.creations.get(&1).map(|row| row.created), Some(2));
    assert_eq!((summary.creations.other.created, summary.creations.merged), (2, 2));
}

#[test]
fn illegal_steps_are_counted() {
    assert_eq!(sum(set_b(24), 9, "10 m1 g1 casgstatus 1>6", 20).illegal, 1);
}

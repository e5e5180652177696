//! Ordinary builds: `casgstatus` tells both states.

use super::*;

#[test]
fn an_ordinary_life() {
    let model = timeline(
        set_b(24),
        "10 m1 g7 casgstatus 6>1 parent=g1 pc=100,200
         15 m2 g7 casgstatus 1>2
         20 m2 g7 casgstatus 2>4 chan receive pc=5,6
         50 m1 g7 casgstatus 4>1 chan receive by g1
         52 m3 g7 casgstatus 1>2
         60 m3 g7 casgstatus 2>3
         75 m3 g7 casgstatus 3>2
         80 m3 g7 casgstatus 2>1
         81 m3 g7 casgstatus 1>2
         90 m3 g7 casgstatus 2>6",
        "10 g7 create dead→runnable by g1 born=100,200
         15 g7 start runnable→running 5ns
         20 g7 block running→waiting chan receive 5ns pc=5,6
         50 g7 unblock waiting→runnable chan receive 30ns by g1 pc=5,6
         52 g7 start runnable→running 2ns
         60 g7 syscall_enter running→syscall 8ns
         75 g7 syscall_exit syscall→running 15ns
         80 g7 preempt running→runnable 5ns
         81 g7 start runnable→running 1ns
         90 g7 exit running→dead 80ns born=100,200",
    );
    assert_eq!((model.len(), model.refused()), (0, 0), "the dead are forgotten in the end");
}

#[test]
fn first_seen_in_mid_life_has_no_duration_it_was_not_seen_to_begin() {
    timeline(
        set_b(24),
        "50 m1 g7 casgstatus 4>1 chan receive by g1
         52 m3 g7 casgstatus 1>2
         60 m3 g7 casgstatus 2>6",
        "50 g7 unblock waiting→runnable chan receive by g1
         52 g7 start runnable→running 2ns
         60 g7 exit running→dead",
    );
}

#[test]
fn a_g_is_reused() {
    timeline(
        set_b(24),
        "10 m1 g7@3 casgstatus 6>1 pc=1,2
         11 m1 g7@3 casgstatus 1>2
         12 m1 g7@3 casgstatus 2>6
         13 m1 g8@3 casgstatus 6>1 pc=3,4
         14 m1 g8@3 casgstatus 1>2
         15 m1 g8@3 casgstatus 2>4 select",
        "10 g7 create dead→runnable born=1,2
         11 g7 start runnable→running 1ns
         12 g7 exit running→dead 2ns born=1,2
         13 g8 create dead→runnable born=3,4
         14 g8 start runnable→running 1ns
         15 g8 block running→waiting select 1ns",
    );
}

#[test]
fn both_of_a_reused_g_can_be_asked_for() {
    let mut model = Goroutines::new(set_b(24));
    let mut out = Vec::new();
    for text in ["10 m1 g7@3 casgstatus 2>6", "13 m1 g8@3 casgstatus 6>1"] {
        model.apply(&event(text), &mut out);
    }
    assert_eq!(model.get(7).map(|goroutine| goroutine.state), Some(State::Dead));
    assert_eq!(model.get(8).map(|goroutine| goroutine.state), Some(State::Runnable));
    model.settle(2_000_000_000, &mut out);
    assert!(model.get(7).is_none());
    assert_eq!(model.get(8).map(|goroutine| goroutine.g), Some(0x3000));
    assert_eq!(model.iter().count(), 1);
}

#[test]
fn the_goid_is_learned_late_up_to_1_23() {
    timeline(
        set_b(22),
        "10 m1 g0@3 casgstatus 6>1 parent=g1 pc=1,2
         15 m2 g7@3 casgstatus 1>2
         16 m2 g7@3 casgstatus 2>6
         20 m1 g0@3 casgstatus 6>1 parent=g1 pc=1,2",
        "10 g7 create dead→runnable by g1 born=1,2
         15 g7 start runnable→running 5ns
         16 g7 exit running→dead 6ns born=1,2
         20 g0 create dead→runnable by g1 born=1,2",
    );
}

#[test]
fn a_creation_without_goid_is_held_back_for_a_second() {
    let (mut model, mut out) = (Goroutines::new(set_b(22)), Vec::new());
    model.apply(&event("10 m1 g0@3 casgstatus 6>1 pc=1,2"), &mut out);
    model.settle(1_000_000_009, &mut out);
    assert!(out.is_empty());
    model.settle(1_000_000_010, &mut out);
    assert_eq!(out.iter().map(line).collect::<Vec<_>>(), ["10 g0 create dead→runnable born=1,2"]);
}

#[test]
fn stopped_by_the_garbage_collector() {
    // Two suspendG race for it; the second CAS fails.
    timeline(
        set_b(25),
        "10 m1 g7 casgstatus 1>2
         20 m1 g7 casGToPreemptScan preempted
         25 m2 g7 casGFromPreempted preempted
         26 m3 g7 casGFromPreempted preempted
         30 m2 g7 casgstatus 4>1 preempted by g3
         32 m1 g7 casgstatus 1>2",
        "10 g7 start runnable→running
         20 g7 preempt running→preempted preempted 10ns
         25 g7 preempt preempted→waiting preempted 5ns
         30 g7 unblock waiting→runnable preempted 5ns by g3
         32 g7 start runnable→running 2ns",
    );
}

#[test]
fn fake_waits_are_running() {
    timeline(
        set_b(24),
        "10 m1 g7 casgstatus 1>2
         20 m1 g7 casgstatus 2>4 garbage collection
         21 m1 g7 casgstatus 4>2 garbage collection
         25 m1 g7 casgstatus 4>2 dumping heap
         30 m1 g7 casgstatus 2>4 select",
        "10 g7 start runnable→running
         30 g7 block running→waiting select 20ns",
    );
}

#[test]
fn the_end_of_a_fake_wait_with_a_stale_reason_up_to_1_19() {
    // gcBgMarkWorker sets no reason of its own there; the beginning was filtered by its stack.
    timeline(
        set_b(19),
        "10 m1 g7 casgstatus 4>1 GC worker (idle)
         11 m1 g7 casgstatus 1>2
         30 m1 g7 casgstatus 4>2 GC worker (idle)
         40 m1 g7 casgstatus 2>4 GC worker (idle)",
        "10 g7 unblock waiting→runnable GC worker (idle)
         11 g7 start runnable→running 1ns
         40 g7 block running→waiting GC worker (idle) 29ns",
    );
}

#[test]
fn a_fake_wait_taken_for_a_real_one_ends_as_one() {
    timeline(
        set_b(19),
        "10 m1 g7 casgstatus 1>2
         20 m1 g7 casgstatus 2>4 chan receive
         30 m1 g7 casgstatus 4>2 garbage collection",
        "10 g7 start runnable→running
         20 g7 block running→waiting chan receive 10ns
         30 g7 unblock waiting→running chan receive 10ns",
    );
}

#[test]
fn the_end_of_a_fake_wait_tells_that_an_unknown_goroutine_runs() {
    timeline(
        set_b(27),
        "30 m1 g7 casgstatus 4>2 stopping the world
         40 m1 g7 casgstatus 2>4 select",
        "40 g7 block running→waiting select",
    );
}

const COROUTINE: &str = "1 m1 g1 casgstatus 1>2
    10 m1 g7 casgstatus 6>4 coroutine parent=g1 pc=1,2
    20 m1 g1 coroswitch_m to g7
    30 m1 g7 coroswitch_m to g1
    40 m1 g1 coroswitch_m to g7
    50 m1 g7 coroswitch_m to g1 exit
    51 m1 g7 casgstatus 2>6
    60 m1 g1 casgstatus 2>4 select";

const COROUTINE_STEPS: &str = "1 g1 start runnable→running
    10 g7 create dead→waiting coroutine by g1 born=1,2
    20 g1 block running→waiting coroutine 19ns
    20 g7 unblock waiting→running coroutine 10ns by g1
    30 g7 block running→waiting coroutine 10ns
    30 g1 unblock waiting→running coroutine 10ns by g7
    40 g1 block running→waiting coroutine 10ns
    40 g7 unblock waiting→running coroutine 10ns by g1
    50 g1 unblock waiting→running coroutine 10ns by g7
    51 g7 exit running→dead 41ns born=1,2
    60 g1 block running→waiting select 10ns";

#[test]
fn a_coroutine_switches_and_ends() {
    timeline(set_b(23), COROUTINE, COROUTINE_STEPS);
}

#[test]
fn a_coroutine_falls_back_on_casgstatus_in_a_bubble() {
    timeline(
        set_b(25),
        "1 m1 g1 casgstatus 1>2
         10 m1 g7 casgstatus 6>4 coroutine parent=g1 pc=1,2
         20 m1 g1 coroswitch_m to g7
         21 m1 g1 casgstatus 2>4 coroutine
         22 m1 g7 casgstatus 4>1 coroutine by g7
         23 m1 g7 casgstatus 1>2
         30 m1 g7 coroswitch_m to g1
         31 m1 g7 casgstatus 2>4 coroutine
         32 m1 g1 casgstatus 4>1 coroutine by g1
         33 m1 g1 casgstatus 1>2
         40 m1 g1 coroswitch_m to g7
         42 m1 g7 casgstatus 4>1 coroutine by g7
         43 m1 g7 casgstatus 1>2
         50 m1 g7 coroswitch_m to g1 exit
         51 m1 g7 casgstatus 2>6
         52 m1 g1 casgstatus 4>1 coroutine by g1
         53 m1 g1 casgstatus 1>2
         60 m1 g1 casgstatus 2>4 select",
        COROUTINE_STEPS,
    );
}

#[test]
fn a_coroutine_is_parked_after_its_creation_in_1_22() {
    timeline(
        set_b(22),
        "10 m1 g7 casgstatus 6>1 parent=g1 pc=1,2
         11 m1 g7 casgstatus 1>4 coroutine
         20 m1 g1 coroswitch_m to g7",
        "10 g7 create dead→runnable by g1 born=1,2
         11 g7 block runnable→waiting coroutine 1ns
         20 g1 block running→waiting coroutine
         20 g7 unblock waiting→running coroutine 9ns by g1",
    );
}

#[test]
fn system_calls_from_1_26() {
    timeline(
        set_b(26),
        "10 m1 g7 casgstatus 1>2
         20 m1 g7 entersyscall pc=5
         30 m1 g7 exitsyscall
         40 m1 g7 entersyscall pc=6
         41 m1 g7 casgstatus 2>3
         50 m1 g7 exitsyscall
         51 m1 g7 casgstatus 3>2
         52 m1 g7 casgstatus 2>1
         60 m1 g7 casgstatus 1>2
         61 m1 g7 casgstatus 2>3
         62 m1 g7 exitsyscall",
        "10 g7 start runnable→running
         20 g7 syscall_enter running→syscall 10ns pc=5
         30 g7 syscall_exit syscall→running 10ns pc=5
         40 g7 syscall_enter running→syscall 10ns pc=6
         50 g7 syscall_exit syscall→running 10ns pc=6
         52 g7 preempt running→runnable 2ns
         60 g7 start runnable→running 8ns
         61 g7 syscall_enter running→syscall 1ns
         62 g7 syscall_exit syscall→running 1ns",
    );
}

#[test]
fn no_p_after_a_system_call_up_to_1_25() {
    timeline(
        set_b(25),
        "20 m1 g7 casgstatus 2>3
         30 m1 g7 casgstatus 3>1
         33 m2 g7 casgstatus 1>2",
        "20 g7 syscall_enter running→syscall
         30 g7 syscall_exit syscall→runnable 10ns
         33 g7 start runnable→running 3ns",
    );
}

#[test]
fn a_c_thread_calls_go_up_to_1_25() {
    timeline(
        set_b(25),
        "10 m9 g7 casgstatus 6>3
         11 m9 g7 casgstatus 3>2
         15 m9 g7 casgstatus 2>3
         16 m9 g7 casgstatus 3>6
         20 m9 g7 casgstatus 6>3
         26 m9 g7 casgstatus 3>6",
        "10 g7 create dead→syscall
         11 g7 syscall_exit syscall→running 1ns
         15 g7 syscall_enter running→syscall 4ns
         16 g7 exit syscall→dead 6ns
         20 g7 create dead→syscall
         26 g7 exit syscall→dead 6ns",
    );
}

#[test]
fn a_c_thread_calls_go_from_1_26() {
    timeline(
        set_b(26),
        "10 m9 g7 casgstatus 11>3
         11 m9 g7 exitsyscall
         15 m9 g7 entersyscall
         21 m9 g7 exitsyscall
         25 m9 g7 entersyscall
         26 m9 g7 casgstatus 3>11",
        "10 g7 create dead (extra)→syscall
         11 g7 syscall_exit syscall→running 1ns
         15 g7 syscall_enter running→syscall 4ns
         21 g7 syscall_exit syscall→running 6ns
         25 g7 syscall_enter running→syscall 4ns
         26 g7 exit syscall→dead (extra) 16ns",
    );
}

#[test]
fn found_leaked_by_the_runtime_twice() {
    // The reset before the second cycle is a plain CAS; 1.27 also takes main's back.
    timeline(
        set_b(27),
        "10 m1 g7 casgstatus 2>4 chan receive pc=5
         50 m1 g7 casgstatus 4>10 chan receive
         90 m1 g7 casgstatus 4>10 chan receive
         91 m1 g1 casgstatus 4>10 select (no cases)
         92 m1 g1 casgstatus 10>4 select (no cases)",
        "10 g7 block running→waiting chan receive pc=5
         50 g7 leak waiting→leaked chan receive 40ns
         90 g7 leak leaked→waiting chan receive 80ns (reset by the next leak cycle)
         90 g7 leak waiting→leaked chan receive 80ns (reset by the next leak cycle)
         91 g1 leak waiting→leaked select (no cases)
         92 g1 leak leaked→waiting select (no cases)",
    );
}

#[test]
fn a_late_event_is_said_but_changes_nothing() {
    let model = timeline(
        set_b(24),
        "10 m1 g7 casgstatus 6>1 pc=1,2
         20 m2 g7 casgstatus 2>4 chan receive pc=5
         15 m2 g7 casgstatus 1>2
         -- settle 25
         30 m1 g7 casgstatus 4>1 by g1",
        "10 g7 create dead→runnable born=1,2
         20 g7 block running→waiting chan receive pc=5
         15 g7 start runnable→running
         30 g7 unblock waiting→runnable chan receive 10ns by g1 pc=5",
    );
    assert_eq!(model.get(7).map(|goroutine| goroutine.since_ts), Some(30));
}

#[test]
fn a_late_creation_is_no_new_goroutine() {
    let model = timeline(
        set_b(24),
        "20 m2 g7 casgstatus 1>2
         10 m1 g7 casgstatus 6>1 parent=g1 pc=1,2
         30 m2 g7 casgstatus 2>6",
        "20 g7 start runnable→running
         10 g7 create dead→runnable by g1 born=1,2
         30 g7 exit running→dead 20ns born=1,2",
    );
    assert_eq!(model.refused(), 0);
}

#[test]
fn after_a_loss_nothing_is_held_against_a_goroutine_and_no_time_is_invented() {
    timeline(
        set_b(24),
        "10 m1 g7 casgstatus 2>4 chan receive
         10 m1 g8 casgstatus 2>4 chan receive
         -- lost
         40 m1 g7 casgstatus 2>4 select
         41 m1 g8 casgstatus 4>1 chan receive
         -- settle 41
         50 m1 g7 casgstatus 4>1 select",
        "10 g7 block running→waiting chan receive
         10 g8 block running→waiting chan receive
         40 g7 block running→waiting select
         41 g8 unblock waiting→runnable chan receive
         50 g7 unblock waiting→runnable select 10ns",
    );
}

#[test]
fn a_loss_that_is_reported_after_its_batch_takes_the_accusation_back() {
    timeline(
        set_b(24),
        "10 m1 g7 casgstatus 2>4 chan receive
         40 m1 g7 casgstatus 2>4 select
         -- lost
         -- settle 40",
        "10 g7 block running→waiting chan receive
         40 g7 block running→waiting select",
    );
}

#[test]
fn threads_know_whose_time_it_is() {
    let model = timeline(
        set_b(24),
        "5 m1 g0@0 on
         10 m1 g7 casgstatus 1>2
         20 m1 g0@0 off runnable
         30 m1 g0@0 on
         40 m1 g7 casgstatus 2>3
         41 m1 g0@0 off
         60 m1 g0@0 wake
         61 m1 g0@0 on
         62 m1 g7 casgstatus 3>2
         70 m1 g7 casgstatus 2>4 chan receive
         71 m1 g0@0 off",
        "5 g0 thread_on
         10 g7 start runnable→running
         20 g7 thread_off running→running 15ns (preempted by the kernel)
         30 g7 thread_on running→running 10ns
         40 g7 syscall_enter running→syscall 30ns
         41 g7 thread_off syscall→syscall 11ns
         60 g7 thread_wake syscall→syscall 19ns
         61 g7 thread_on syscall→syscall 20ns
         62 g7 syscall_exit syscall→running 22ns
         70 g7 block running→waiting chan receive 8ns
         71 g0 thread_off 10ns",
    );
    let goroutine = model.get(7).map(|goroutine| (goroutine.running_ns, goroutine.off_cpu_ns));
    assert_eq!(goroutine, Some((38, 10)));
}

#[test]
fn after_a_loss_a_thread_does_not_know_its_goroutine() {
    timeline(
        set_b(24),
        "10 m1 g7 casgstatus 1>2
         -- lost
         20 m1 g0@0 off",
        "10 g7 start runnable→running
         20 g0 thread_off",
    );
}

#[test]
fn collections_have_a_length() {
    timeline(
        set_b(24),
        "5 m1 g3@0 gcend
         10 m1 g3@0 gcstart
         90 m1 g4@0 gcend",
        "5 g3 gc_end
         10 g3 gc_start
         90 g4 gc_end 80ns",
    );
}

#[test]
fn after_an_exec_nothing_of_before_exists() {
    let model = timeline(
        set_b(24),
        "10 m1 g7 casgstatus 2>4 chan receive
         20 m1 g0@0 exec
         30 m1 g7 casgstatus 1>2",
        "10 g7 block running→waiting chan receive
         20 g0 exec
         30 g7 start runnable→running",
    );
    assert_eq!(model.len(), 1);
}

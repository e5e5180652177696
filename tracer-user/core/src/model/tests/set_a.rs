//! PGO builds: the functions tell what is about to happen.

use super::*;

#[test]
fn an_ordinary_life() {
    timeline(
        set_a(24),
        "10 m1 g1 newproc1 pc=100,200 fn=9
         15 m2 g7 firstrun parent=g1 pc=100,200 fn=9
         20 m2 g7 park_m chan receive pc=5,6
         50 m1 g7 ready by g1
         52 m3 g7 execute
         60 m3 g7 entersyscall pc=8
         60 m3 g7 entersyscall pc=9
         75 m3 g7 exitsyscall
         80 m3 g7 gosched_m
         80 m3 g7 goschedImpl
         81 m3 g7 execute
         85 m3 g7 goyield_m
         86 m3 g7 execute
         87 m3 g7 goschedImpl
         88 m3 g7 execute
         90 m3 g7 gdestroy parent=g1 pc=100,200",
        "10 g7 create dead→runnable by g1 born=100,200
         15 g7 start runnable→running 5ns born=100,200
         20 g7 block running→waiting chan receive 5ns pc=5,6
         50 g7 unblock waiting→runnable chan receive 30ns by g1 pc=5,6
         52 g7 start runnable→running 2ns
         60 g7 syscall_enter running→syscall 8ns pc=8
         75 g7 syscall_exit syscall→running 15ns pc=8
         80 g7 preempt running→runnable 5ns
         81 g7 start runnable→running 1ns
         85 g7 preempt running→runnable 4ns
         86 g7 start runnable→running 1ns
         87 g7 preempt running→runnable 1ns
         88 g7 start runnable→running 1ns
         90 g7 exit running→dead 80ns born=100,200",
    );
}

#[test]
fn creations_are_joined_in_order() {
    timeline(
        set_a(24),
        "10 m1 g1 newproc1 pc=1,2 fn=9
         11 m1 g1 newproc1 pc=1,2 fn=9
         12 m2 g2 newproc1 pc=1,2 fn=9
         13 m1 g1 newproc1 pc=3,4 fn=8
         20 m1 g33 firstrun parent=g1 pc=3,4 fn=8
         21 m1 g22 firstrun parent=g2 pc=1,2 fn=9
         22 m1 g30 firstrun parent=g1 pc=1,2 fn=9
         23 m1 g31 firstrun parent=g1 pc=1,2 fn=9",
        "13 g33 create dead→runnable by g1 born=3,4
         20 g33 start runnable→running 7ns born=3,4
         12 g22 create dead→runnable by g2 born=1,2
         21 g22 start runnable→running 9ns born=1,2
         10 g30 create dead→runnable by g1 born=1,2
         22 g30 start runnable→running 12ns born=1,2
         11 g31 create dead→runnable by g1 born=1,2
         23 g31 start runnable→running 12ns born=1,2",
    );
}

#[test]
fn up_to_1_20_the_creator_is_known_from_newproc1_only() {
    timeline(
        set_a(19),
        "10 m1 g1 newproc1 pc=1,2 fn=9
         20 m1 g7 firstrun pc=1,2 fn=9
         30 m1 g7 gdestroy pc=1,2",
        "10 g7 create dead→runnable by g1 born=1,2
         20 g7 start runnable→running 10ns born=1,2
         30 g7 exit running→dead 20ns born=1,2",
    );
}

#[test]
fn a_goroutine_that_does_not_run_is_announced_without_a_name() {
    timeline(
        set_a(24),
        "10 m1 g1 newproc1 pc=1,2 fn=9
         -- settle 1000000010
         1000000011 m1 g1 newproc1 pc=1,2 fn=9
         -- settle 1000000011
         1000000020 m1 g7 firstrun parent=g1 pc=1,2 fn=9
         1000000030 m1 g8 firstrun parent=g1 pc=1,2 fn=9",
        "10 g0 create dead→runnable by g1 born=1,2
         1000000011 g7 create dead→runnable by g1 born=1,2
         1000000020 g7 start runnable→running 9ns born=1,2
         1000000030 g8 start runnable→running born=1,2",
    );
}

#[test]
fn after_a_loss_no_first_run_is_joined_with_what_was_before() {
    timeline(
        set_a(24),
        "10 m1 g1 newproc1 pc=1,2 fn=9
         -- lost
         20 m1 g7 firstrun parent=g1 pc=1,2 fn=9
         30 m1 g1 newproc1 pc=1,2 fn=9
         35 m1 g8 firstrun parent=g1 pc=1,2 fn=9",
        "20 g7 start runnable→running born=1,2
         30 g8 create dead→runnable by g1 born=1,2
         35 g8 start runnable→running 5ns born=1,2
         10 g0 create dead→runnable by g1 born=1,2",
    );
}

#[test]
fn woken_by_the_scheduler_itself() {
    // The first result of the network poller, or an unlock function that refused to park.
    timeline(
        set_a(24),
        "10 m1 g7 execute
         20 m1 g7 park_m IO wait pc=5
         50 m1 g7 execute
         60 m1 g7 park_m IO wait pc=5
         70 m2 g7 injectglist
         71 m1 g7 execute",
        "10 g7 start runnable→running
         20 g7 block running→waiting IO wait 10ns pc=5
         50 g7 unblock waiting→runnable IO wait 30ns pc=5 (woken by the scheduler, which ran it at once)
         50 g7 start runnable→running 0ns (woken by the scheduler, which ran it at once)
         60 g7 block running→waiting IO wait 10ns pc=5
         70 g7 unblock waiting→runnable IO wait 10ns pc=5
         71 g7 start runnable→running 1ns",
    );
}

#[test]
fn stopped_by_the_garbage_collector() {
    timeline(
        set_a(24),
        "10 m1 g7 execute
         20 m1 g7 preemptPark preempted
         30 m2 g7 ready by g3
         32 m1 g7 execute",
        "10 g7 start runnable→running
         20 g7 preempt running→preempted preempted 10ns
         30 g7 preempt preempted→waiting preempted 10ns (stopped by suspendG, resumed by resumeG)
         30 g7 unblock waiting→runnable preempted 0ns by g3 (stopped by suspendG, resumed by resumeG)
         32 g7 start runnable→running 2ns",
    );
}

#[test]
fn inlined_functions_are_excused_only_where_the_binary_inlines_them() {
    let preempted = "10 m1 g7 execute\n 20 m1 g7 execute\n 30 m1 g7 park_m select";
    let stopped = "10 m1 g7 execute\n 20 m2 g7 ready by g3\n 30 m1 g7 execute";
    let callback = "10 m1 g7 entersyscall\n 20 m1 g7 exitsyscall\n 30 m1 g7 exitsyscall\n 31 m1 g7 park_m";
    timeline(
        Setup { blind: vec![Kind::GoschedImpl], ..set_a(26) },
        preempted,
        "10 g7 start runnable→running
         20 g7 preempt running→runnable 10ns (gave up its thread in an inlined goschedImpl)
         20 g7 start runnable→running 0ns (gave up its thread in an inlined goschedImpl)
         30 g7 block running→waiting select 10ns",
    );
    timeline(
        Setup { blind: vec![Kind::PreemptPark], ..set_a(26) },
        stopped,
        "10 g7 start runnable→running
         20 g7 preempt running→preempted 10ns (stopped in an inlined preemptPark)
         20 g7 preempt preempted→waiting 0ns (stopped in an inlined preemptPark)
         20 g7 unblock waiting→runnable 0ns by g3 (stopped in an inlined preemptPark)
         30 g7 start runnable→running 10ns",
    );
    timeline(
        Setup { blind: vec![Kind::SyscallEnter], ..set_a(26) },
        callback,
        "10 g7 syscall_enter running→syscall
         20 g7 syscall_exit syscall→running 10ns
         30 g7 syscall_enter running→syscall 10ns (went back to C through an inlined reentersyscall)
         30 g7 syscall_exit syscall→running 0ns (went back to C through an inlined reentersyscall)
         31 g7 block running→waiting 1ns",
    );
    for events in [preempted, stopped, callback] {
        let (_, steps) = run(set_a(26), events);
        assert_eq!(steps.iter().filter(|step| step.what == What::Illegal).count(), 1, "{events}");
    }
}

#[test]
fn no_p_after_a_system_call_up_to_1_25() {
    timeline(
        set_a(25),
        "20 m1 g7 entersyscall pc=5
         30 m1 g7 exitsyscall
         31 m1 g7 exitsyscall0
         33 m2 g7 execute
         40 m2 g7 entersyscallblock pc=6
         50 m2 g7 exitsyscall
         60 m2 g7 park_m select",
        "20 g7 syscall_enter running→syscall pc=5
         31 g7 syscall_exit syscall→runnable 11ns pc=5 (no P was free after the system call)
         33 g7 start runnable→running 2ns
         40 g7 syscall_enter running→syscall 7ns pc=6
         50 g7 syscall_exit syscall→running 10ns pc=6
         60 g7 block running→waiting select 10ns",
    );
}

#[test]
fn no_p_after_a_system_call_from_1_26() {
    timeline(
        set_a(26),
        "20 m1 g7 entersyscall
         30 m1 g7 exitsyscall
         31 m1 g7 exitsyscallNoP
         33 m2 g7 execute",
        "20 g7 syscall_enter running→syscall
         30 g7 syscall_exit syscall→running 10ns
         31 g7 preempt running→runnable 1ns (no P was free after the system call)
         33 g7 start runnable→running 2ns",
    );
}

#[test]
fn a_return_from_a_system_call_is_held_back_for_ten_milliseconds() {
    timeline(
        set_a(25),
        "20 m1 g7 entersyscall
         30 m1 g7 exitsyscall
         -- settle 10000029
         10000030 m1 g0@0 gcstart
         -- settle 10000030
         10000040 m1 g0@0 gcend
         10000050 m1 g7 exitsyscall0",
        "20 g7 syscall_enter running→syscall
         10000030 g0 gc_start
         30 g7 syscall_exit syscall→running 10ns
         10000040 g0 gc_end 10ns
         10000050 g7 preempt running→runnable 10000020ns (no P was free after the system call)",
    );
}

#[test]
fn a_c_thread_calls_go() {
    for (minor, spare) in [(25, "dead"), (26, "dead (extra)")] {
        timeline(
            set_a(minor),
            "10 m9 g0@0 needm
             12 m9 g7 exitsyscall
             15 m9 g7 entersyscall
             21 m9 g7 exitsyscall
             25 m9 g7 entersyscall
             26 m9 g7 dropm
             30 m8 g0@0 needm
             32 m8 g7 exitsyscall
             35 m8 g7 entersyscall
             36 m8 g7 dropm",
            &"10 g7 create SPARE→syscall (a C thread came in through needm)
              12 g7 syscall_exit syscall→running 2ns
              15 g7 syscall_enter running→syscall 3ns
              21 g7 syscall_exit syscall→running 6ns
              25 g7 syscall_enter running→syscall 4ns
              26 g7 exit syscall→SPARE 16ns
              30 g7 create SPARE→syscall (a C thread came in through needm)
              32 g7 syscall_exit syscall→running 2ns
              35 g7 syscall_enter running→syscall 3ns
              36 g7 exit syscall→SPARE 6ns"
                .replace("SPARE", spare),
        );
    }
}

#[test]
fn a_coroutine_switches_and_ends() {
    timeline(
        set_a(25),
        "1 m1 g1 execute
         10 m1 g1 newproc1 pc=1,2 fn=9 parked
         20 m1 g1 coroswitch_m to g7
         30 m1 g7 coroswitch_m to g1
         40 m1 g1 coroswitch_m to g7
         50 m1 g7 coroswitch_m to g1 exit
         51 m1 g7 gdestroy parent=g1 pc=1,2
         60 m1 g1 park_m select",
        "1 g1 start runnable→running
         20 g1 block running→waiting coroutine 19ns
         10 g7 create dead→waiting coroutine by g1 born=1,2
         20 g7 unblock waiting→running coroutine 10ns by g1
         30 g7 block running→waiting coroutine 10ns
         30 g1 unblock waiting→running coroutine 10ns by g7
         40 g1 block running→waiting coroutine 10ns
         40 g7 unblock waiting→running coroutine 10ns by g1
         50 g7 exit running→dead 40ns born=1,2
         50 g1 unblock waiting→running coroutine 10ns by g7
         60 g1 block running→waiting select 10ns",
    );
}

#[test]
fn a_g_is_reused() {
    timeline(
        set_a(24),
        "10 m1 g7@3 execute
         12 m1 g7@3 gdestroy pc=1,2
         13 m1 g1 newproc1 pc=3,4 fn=9
         14 m1 g8@3 firstrun parent=g1 pc=3,4 fn=9",
        "10 g7 start runnable→running
         12 g7 exit running→dead born=1,2
         13 g8 create dead→runnable by g1 born=3,4
         14 g8 start runnable→running 1ns born=3,4",
    );
}

#[test]
fn a_late_event_is_said_but_changes_nothing() {
    timeline(
        set_a(26),
        "10 m1 g7 park_m chan receive
         30 m2 g7 execute
         20 m1 g7 ready by g1
         -- settle 30
         40 m2 g7 park_m select",
        "10 g7 block running→waiting chan receive
         30 g7 unblock waiting→runnable chan receive 20ns (woken by the scheduler, which ran it at once)
         30 g7 start runnable→running 0ns (woken by the scheduler, which ran it at once)
         20 g7 unblock waiting→runnable by g1
         40 g7 block running→waiting select 10ns",
    );
}

#[test]
fn a_return_that_is_held_back_does_not_make_what_is_doubtful_certain() {
    timeline(
        set_a(25),
        "10 m1 g7 execute
         10 m2 g8 entersyscall
         -- lost
         30 m1 g7 exitsyscall
         30 m2 g8 exitsyscall
         40 m1 g7 park_m select
         40 m2 g8 park_m select",
        "10 g7 start runnable→running
         10 g8 syscall_enter running→syscall
         30 g7 syscall_exit syscall→running
         40 g7 block running→waiting select 10ns
         30 g8 syscall_exit syscall→running
         40 g8 block running→waiting select 10ns",
    );
}

//! Modes that see less.

use super::*;

fn watching(mode: Mode) -> Setup {
    Setup { mode, ..set_a(24) }
}

#[test]
fn wait_mode_sees_waits_creations_and_ends() {
    timeline(
        watching(Mode::Wait),
        "10 m1 g1 newproc1 pc=1,2 fn=9
         20 m2 g7 park_m chan receive pc=5
         50 m1 g7 ready by g1
         60 m2 g7 park_m select pc=6
         70 m1 g7 injectglist
         90 m2 g7 gdestroy parent=g1 pc=1,2",
        "10 g0 create dead→runnable by g1 born=1,2
         20 g7 block running→waiting chan receive pc=5
         50 g7 unblock waiting→runnable chan receive 30ns by g1 pc=5
         60 g7 block running→waiting select pc=6
         70 g7 unblock waiting→runnable select 10ns pc=6
         90 g7 exit running→dead born=1,2",
    );
}

#[test]
fn wait_mode_does_not_invent_the_end_of_a_wait() {
    // The first wake-up came from findRunnable, the last ready from resumeG.
    timeline(
        watching(Mode::Wait),
        "20 m2 g7 park_m IO wait pc=5
         60 m2 g7 park_m select pc=6
         70 m1 g7 ready by g1
         80 m1 g7 ready by g3",
        "20 g7 block running→waiting IO wait pc=5
         60 g7 block running→waiting select pc=6
         70 g7 unblock waiting→runnable select 10ns by g1 pc=6",
    );
}

#[test]
fn life_mode_sees_creations_and_ends() {
    timeline(
        watching(Mode::Life),
        "10 m1 g1 newproc1 pc=1,2 fn=9
         90 m2 g7 gdestroy parent=g1 pc=1,2
         95 m2 g8@7 gdestroy parent=g1 pc=1,2",
        "10 g0 create dead→runnable by g1 born=1,2
         90 g7 exit running→dead born=1,2
         95 g8 exit running→dead born=1,2",
    );
}

use super::*;

/// The steps of a line such as `"10 dead>runnable, 20 runnable>running"`, with times in milliseconds. A reason
/// follows the states: `"30 running>waiting preempted"`.
fn steps(text: &str) -> Vec<Transition> {
    text.split(", ").filter(|step| !step.is_empty()).map(step).collect()
}

fn step(text: &str) -> Transition {
    let (ms, rest) = text.split_once(' ').unwrap();
    let (states, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let (from, to) = states.split_once('>').unwrap();
    let state = |name| State::of_sfgi(name).unwrap();
    let ts = ms.parse::<u64>().unwrap() * 1_000_000;
    Transition { ts, from: state(from), to: state(to), reason: reason.to_owned() }
}

/// Compares one goroutine in a recording from 0 to 1000 ms, the edges included.
fn compare_steps(minor: u32, go: &str, sfgi: &str) -> Result<Agreement, String> {
    let recording = Recording { goroutines: BTreeMap::from([(1, steps(go))]), begin: 0, end: 1_000_000_000 };
    let (agreement, disagreements) = compare(minor, &recording, &BTreeMap::from([(1, steps(sfgi))]));
    match disagreements.first() {
        Some(disagreement) => Err(disagreement.to_string()),
        None => Ok(agreement),
    }
}

const LIFE: &str = "150 dead>runnable, 200 runnable>running, 300 running>waiting, 400 waiting>runnable, \
                    500 runnable>running, 600 running>dead";

#[test]
fn the_same_life_agrees() {
    let agreement = compare_steps(26, LIFE, LIFE).unwrap();
    assert_eq!((agreement.transitions, agreement.same), (6, 6));
    assert!(agreement.classes.is_empty());
}

#[test]
fn a_missing_an_added_and_a_changed_step_disagree() {
    let without = LIFE.replace("400 waiting>runnable, ", "");
    let with = LIFE.replace("600 ", "550 running>runnable, 560 runnable>running, 600 ");
    let changed = LIFE.replace("300 running>waiting, 400 waiting>runnable", "300 running>runnable");
    for other in [without, with, changed] {
        compare_steps(26, LIFE, &other).unwrap_err();
        compare_steps(26, &other, LIFE).unwrap_err();
    }
}

#[test]
fn a_missing_first_and_last_step_disagree() {
    compare_steps(26, LIFE, LIFE.strip_prefix("150 dead>runnable, ").unwrap()).unwrap_err();
    compare_steps(26, LIFE, LIFE.strip_suffix(", 600 running>dead").unwrap()).unwrap_err();
    compare_steps(26, LIFE.strip_prefix("150 dead>runnable, ").unwrap(), LIFE).unwrap_err();
    compare_steps(26, LIFE.strip_suffix(", 600 running>dead").unwrap(), LIFE).unwrap_err();
}

#[test]
fn a_goroutine_that_only_one_side_saw_disagrees() {
    compare_steps(26, LIFE, "").unwrap_err();
    compare_steps(26, "", LIFE).unwrap_err();
}

#[test]
fn what_lies_before_and_after_the_recording_is_left_out() {
    let go = "100 running>waiting sleep, 200 waiting>runnable";
    let sfgi = format!("1 waiting>running, {go}, 950 runnable>running, 1100 running>waiting");
    let agreement = compare_steps(26, go, &sfgi).unwrap();
    assert_eq!(agreement.classes, BTreeMap::from([(Class::OutsideRecording, 3)]));
    // But not what lies inside.
    compare_steps(26, go, &sfgi.replace("950", "850")).unwrap_err();
}

#[test]
fn a_lost_processor_goes_through_runnable_only_in_gos_account() {
    let go = "100 running>syscall, 200 syscall>runnable, 201 runnable>running, 300 running>dead";
    let sfgi = "100 running>syscall, 200 syscall>running, 300 running>dead";
    let agreement = compare_steps(25, go, sfgi).unwrap();
    assert_eq!(agreement.classes, BTreeMap::from([(Class::LostProcessor, 1)]));
    assert_eq!(compare_steps(25, go, go).unwrap().same, 4);
}

#[test]
fn an_exit_without_processor_passes_running_since_1_26() {
    let go = "100 running>syscall, 200 syscall>runnable, 300 runnable>running";
    let sfgi = "100 running>syscall, 200 syscall>running, 201 running>runnable, 300 runnable>running";
    let agreement = compare_steps(26, go, sfgi).unwrap();
    assert_eq!(agreement.classes, BTreeMap::from([(Class::ExitWithoutProcessor, 1)]));
    compare_steps(25, go, sfgi).unwrap_err();
}

#[test]
fn an_exit_without_processor_passes_running_before_1_26_only_where_the_thread_stalled() {
    let go = "100 running>syscall, 200 syscall>runnable, 300 runnable>running";
    let sfgi = |back| {
        format!("100 running>syscall, {back} syscall>running, 200 running>runnable, 300 runnable>running")
    };
    let agreement = compare_steps(25, go, &sfgi(190)).unwrap();
    assert_eq!(agreement.classes, BTreeMap::from([(Class::StalledExit, 1)]));
    compare_steps(25, go, &sfgi(191)).unwrap_err();
}

#[test]
fn rules_that_fit_at_first_and_fail_later_are_taken_back() {
    // Both rules fit at 200; only one of them leads to the end.
    let go = "100 running>syscall, 200 syscall>runnable, 300 runnable>running, 400 running>runnable, \
              500 runnable>running";
    let lost = "100 running>syscall, 200 syscall>running, 400 running>runnable, 500 runnable>running";
    let without = "100 running>syscall, 200 syscall>running, 201 running>runnable, 300 runnable>running, \
                   400 running>runnable, 500 runnable>running";
    let class = |sfgi| compare_steps(26, go, sfgi).unwrap().classes.into_keys().next();
    assert_eq!(class(lost), Some(Class::LostProcessor));
    assert_eq!(class(without), Some(Class::ExitWithoutProcessor));
}

#[test]
fn a_suspension_is_one_wait_in_gos_account() {
    let go = "100 running>waiting preempted, 200 waiting>runnable, 300 runnable>running";
    let sfgi = "100 running>preempted, 110 preempted>waiting, 200 waiting>runnable, 300 runnable>running";
    let agreement = compare_steps(24, go, sfgi).unwrap();
    assert_eq!(agreement.classes, BTreeMap::from([(Class::Suspended, 1)]));
    compare_steps(24, &go.replace("preempted", "sleep"), sfgi).unwrap_err();
}

#[test]
fn a_coroutine_switch_goes_through_runnable_only_in_gos_account() {
    let go = "100 dead>waiting, 200 waiting>runnable, 201 runnable>running, 300 running>waiting";
    let sfgi = "100 dead>waiting, 200 waiting>running, 300 running>waiting";
    let agreement = compare_steps(25, go, sfgi).unwrap();
    assert_eq!(agreement.classes, BTreeMap::from([(Class::CoroutineSwitch, 1)]));
}

#[test]
fn the_goroutine_of_a_c_thread_is_made_before_its_first_use() {
    let go = "200 dead>syscall, 210 syscall>running, 220 running>syscall, 230 syscall>dead";
    let sfgi = format!("100 idle>dead, {go}");
    let agreement = compare_steps(26, go, &sfgi).unwrap();
    assert_eq!(agreement.classes, BTreeMap::from([(Class::ExtraGoroutineMade, 1)]));
}

#[test]
fn an_unknown_state_is_first_sight() {
    let go = "100 waiting>runnable, 200 runnable>running";
    let agreement = compare_steps(25, go, &go.replace("waiting", "unknown")).unwrap();
    assert_eq!(agreement.classes, BTreeMap::from([(Class::FirstSight, 1)]));
    compare_steps(25, go, &go.replace("runnable>running", "unknown>running")).unwrap_err();
    let unseen = compare_steps(25, go, "150 runnable>running").unwrap();
    assert_eq!(unseen.classes, BTreeMap::from([(Class::FirstSight, 1)]));
    let seen_before = "110 running>waiting, 150 runnable>running";
    compare_steps(25, go, seen_before).unwrap_err();
}

#[test]
fn only_the_reader_of_the_trace_may_run_without_a_wake() {
    let step = |ts, from, to, reason: &str| Transition { ts, from, to, reason: reason.to_owned() };
    let account = |reason| {
        with_wakes_of_the_reader(&[
            step(1, State::Running, State::Waiting, reason),
            step(5, State::Runnable, State::Running, ""),
        ])
    };
    assert_eq!(account("chan receive").len(), 2);
    let [_, wake, run] = &account(READER)[..] else { panic!("no wake") };
    assert_eq!((wake.ts, wake.from, wake.to), (5, State::Waiting, State::Runnable));
    assert_eq!((run.from, run.to), (State::Runnable, State::Running));
}

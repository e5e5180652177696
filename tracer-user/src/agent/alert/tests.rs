//! Timelines: at which second a test feeds what, and which levels follow; also over a restart of the agent.

use super::*;
use crate::agent::{
    config::{ServiceLevels, Signs, Thresholds},
    picture::{Identity, Memory, Scan},
};

fn thresholds(count: u64) -> Thresholds {
    Thresholds { count: Some(count), ..Thresholds::default() }
}

/// L1 at 1, L2 at 100, L3 at 1000, L4 at 10,000; held for a minute, cleared after five.
fn config() -> config::Alerts {
    config::Alerts {
        hold: Duration::from_secs(60),
        clear_after: Duration::from_secs(300),
        observe: thresholds(1),
        warn: thresholds(100),
        intervene: thresholds(1000),
        isolate: thresholds(10_000),
        ..config::Alerts::default()
    }
}

fn id(pid: u32) -> ProcessId {
    ProcessId { pid, start_ticks: 9, program: 0 }
}

fn leak(count: u64, verdict: Verdict) -> LeakView {
    LeakView { verdict, count, ..sfgi_core::testing::leak("send-without-receiver", "", "") }
}

fn process(pid: u32, leaks: Vec<LeakView>) -> ProcessPicture {
    let identity = Identity { service: "shop".into(), ..Identity::default() };
    ProcessPicture {
        id: id(pid),
        identity: identity.into(),
        leaks: leaks.into(),
        ..ProcessPicture::default()
    }
}

fn picture(second: u64, processes: Vec<ProcessPicture>) -> Picture {
    Picture {
        monotonic_ns: second * 1_000_000_000,
        unix_ns: second * 1_000_000_000,
        processes: processes.into_iter().map(Arc::new).collect(),
        ..Picture::default()
    }
}

/// Feeds one group with `(second, count)`; the changes as `second:from>to`.
fn run(alerts: &mut Alerts, line: &[(u64, u64)], verdict: Verdict) -> Vec<String> {
    let mut all = Vec::new();
    for (second, count) in line {
        let leaks = if *count == 0 { Vec::new() } else { vec![leak(*count, verdict)] };
        all.extend(
            alerts
                .feed(&picture(*second, vec![process(7, leaks)]))
                .iter()
                .map(|change| show(*second, change)),
        );
    }
    all
}

fn show(second: u64, change: &Change) -> String {
    let word =
        |level: Option<LevelName>| level.map_or("-".to_owned(), |level| format!("L{}", level.number()));
    format!("{second}:{}>{}", word(change.from), word(change.to))
}

#[test]
fn a_level_rises_when_its_threshold_was_passed_for_the_whole_time() {
    let line = [(0, 5), (30, 150), (59, 150), (60, 150), (89, 150), (90, 150), (91, 150)];
    assert_eq!(run(&mut Alerts::new(config()), &line, Verdict::Proven), ["60:->L1", "90:L1>L2"]);
}

#[test]
fn a_peak_raises_nothing() {
    let line = [(0, 5000), (30, 5000), (50, 0), (70, 5000), (129, 5000)];
    assert!(run(&mut Alerts::new(config()), &line, Verdict::Proven).is_empty());
}

#[test]
fn a_level_falls_after_its_time_and_below_the_hysteresis_only() {
    let mut alerts = Alerts::new(config());
    // 90 is below 100 and not below 80.
    let line =
        [(0, 150), (60, 150), (70, 90), (800, 90), (900, 70), (1100, 90), (1101, 70), (1400, 70), (1401, 70)];
    assert_eq!(run(&mut alerts, &line, Verdict::Proven), ["60:->L2", "1401:L2>L1"]);
    assert_eq!(run(&mut alerts, &[(1500, 0), (1799, 0), (1800, 0)], Verdict::Proven), ["1800:L1>-"]);
    assert_eq!(alerts.active().count(), 0);
}

#[test]
fn one_group_is_one_alert_and_acts_once_for_each_level() {
    let mut alerts = Alerts::new(config());
    let mut actions = Vec::new();
    for second in 0..200 {
        let count = if second < 100 { 2000 } else { 20_000 };
        for change in alerts.feed(&picture(second, vec![process(7, vec![leak(count, Verdict::Likely)])])) {
            actions.extend(change.actions().into_iter().map(|action| match action {
                Action::WantDetail(alert) => (second, "detail", alert.level),
                Action::KeepEvidence(alert) => (second, "keep", alert.level),
                Action::RunHook(alert) => (second, "hook", alert.level),
            }));
        }
    }
    let intervene = ["detail", "keep"].map(|what| (60, what, LevelName::Intervene));
    assert_eq!(actions, [intervene[0], intervene[1], (160, "hook", LevelName::Isolate)]);
    assert_eq!(alerts.active().count(), 1);
    let alert = alerts.active().next().unwrap();
    assert_eq!(alert.reason, "20000 goroutines, the threshold is 10000");
}

#[test]
fn suspects_rise_no_higher_than_they_may() {
    let line = [(0, 5000), (60, 5000), (600, 5000)];
    assert_eq!(run(&mut Alerts::new(config()), &line, Verdict::Suspect), ["60:->L1"]);
}

#[test]
fn a_service_has_thresholds_of_its_own() {
    let mut config = config();
    let mine = ServiceLevels {
        name: "sh*".parse().unwrap(),
        observe: None,
        warn: Some(thresholds(5)),
        intervene: Some(Thresholds::default()),
        isolate: None,
    };
    config.service.push(mine);
    let line = [(0, 5), (60, 5), (61, 5000), (200, 5000)];
    assert_eq!(run(&mut Alerts::new(config), &line, Verdict::Proven), ["60:->L2"]);
}

#[test]
fn each_threshold_counts_by_itself() {
    let alerts = config::Alerts {
        warn: Thresholds {
            growth_per_minute: Some(10.0),
            age: Some(Duration::from_secs(60)),
            pinned: Some(1 << 20),
            memory_share: Some(0.5),
            count: None,
        },
        observe: Thresholds::default(),
        intervene: Thresholds::default(),
        ..config::Alerts::default()
    };
    let level = |measured: Measured| level(&alerts, "any", &measured, 1.0).map(|(level, _)| level);
    let nothing = Measured { count: 1_000_000, limit: Some(1000), ..Measured::default() };
    assert_eq!(level(nothing.clone()), None);
    for measured in [
        Measured { growth_per_minute: 10.0, ..nothing.clone() },
        Measured { age: Duration::from_secs(60), ..nothing.clone() },
        Measured { pinned: 1 << 20, limit: None, ..nothing.clone() },
        Measured { pinned: 500, ..nothing },
    ] {
        assert_eq!(level(measured.clone()), Some(LevelName::Warn), "{measured:?}");
    }
}

#[test]
fn what_has_ended_has_no_alert() {
    let mut alerts = Alerts::new(config());
    run(&mut alerts, &[(0, 5), (60, 5)], Verdict::Proven);
    let changes = alerts.feed(&picture(61, Vec::new()));
    assert_eq!(changes.iter().map(|change| show(61, change)).collect::<Vec<_>>(), ["61:L1>-"]);
    assert_eq!(changes[0].alert.reason, "the process has ended");
    assert!(alerts.known.is_empty() && alerts.signs.is_empty());
}

#[test]
fn a_reload_keeps_levels_until_the_new_thresholds_say_otherwise() {
    let mut alerts = Alerts::new(config());
    run(&mut alerts, &[(0, 150), (60, 150)], Verdict::Proven);
    alerts.reload(config::Alerts { warn: thresholds(500), ..config() });
    assert_eq!(run(&mut alerts, &[(61, 150), (360, 150), (361, 150)], Verdict::Proven), ["361:L2>L1"]);
}

fn with_signs(second: u64, heap: u64, goroutines: u64) -> Picture {
    let mut process = process(7, Vec::new());
    process.scan = Some(Arc::new(Scan { goroutines, ..Scan::default() }));
    process.memory = Memory { heap_bytes: Some(heap), ..Memory::default() };
    picture(second, vec![process])
}

fn signs() -> config::Alerts {
    let signs = Signs {
        heap: Some(0.2),
        goroutines: Some(0.2),
        mutex_wait: None,
        hold: Duration::from_secs(600),
        level: LevelName::Warn,
    };
    config::Alerts { signs, ..config() }
}

/// Feeds 30 minutes, a look each ten seconds; when a level changed.
fn signs_over(heap: impl Fn(u64) -> u64, goroutines: impl Fn(u64) -> u64) -> Vec<String> {
    let mut alerts = Alerts::new(signs());
    let seconds = (0..1800).step_by(10);
    let feed = |second| {
        let changes = alerts.feed(&with_signs(second, heap(second), goroutines(second)));
        changes.iter().map(|change| show(second, change)).collect::<Vec<_>>()
    };
    seconds.flat_map(feed).collect()
}

#[test]
fn signs_that_rise_together_for_the_whole_time_are_an_alert() {
    let rising = |second| 1000 + second;
    assert_eq!(signs_over(rising, rising), ["600:->L2"]);
}

#[test]
fn one_sign_alone_and_one_step_of_both_are_none() {
    let rising = |second| 1000 + second;
    let flat = |_| 1000;
    let step = |second| if second < 900 { 1000 } else { 2000 };
    let wave = |second: u64| 1000 + (second % 300) * 3;
    assert!(signs_over(rising, flat).is_empty());
    assert!(signs_over(flat, rising).is_empty());
    assert!(signs_over(step, step).is_empty());
    assert!(signs_over(wave, wave).is_empty());
}

const SETTLE: Duration = Duration::from_secs(300);

/// As [`process`], and looked at.
fn looked(leaks: Vec<LeakView>) -> ProcessPicture {
    ProcessPicture { leaks_unix_ns: 1, ..process(7, leaks) }
}

/// Another agent, which goes on from what this one remembers.
fn restarted(alerts: &Alerts, config: config::Alerts) -> Alerts {
    let json = serde_json::to_vec(&alerts.remembered()).unwrap();
    let mut next = Alerts::new(config);
    next.remember(serde_json::from_slice(&json).unwrap(), SETTLE);
    next
}

fn feed(alerts: &mut Alerts, second: u64, process: ProcessPicture) -> Vec<String> {
    alerts.feed(&picture(second, vec![process])).iter().map(|change| show(second, change)).collect()
}

/// An agent with an alert at L3.
fn intervened() -> Alerts {
    let mut alerts = Alerts::new(config());
    assert_eq!(run(&mut alerts, &[(0, 2000), (60, 2000)], Verdict::Proven), ["60:->L3"]);
    alerts
}

#[test]
fn an_alert_goes_on_as_it_was_and_nothing_is_done_again() {
    let before = intervened();
    let mut alerts = restarted(&before, config());
    let changes = alerts.feed(&picture(100, vec![process(7, Vec::new())]));
    assert_eq!(changes.iter().map(|change| show(100, change)).collect::<Vec<_>>(), ["100:L3>L3"]);
    assert!(changes.iter().all(|change| change.actions().is_empty()));
    assert_eq!(alerts.active().collect::<Vec<_>>(), before.active().collect::<Vec<_>>());
    let leaks = || vec![leak(2000, Verdict::Proven)];
    for second in [130, 131, 500, 5000] {
        assert!(feed(&mut alerts, second, looked(leaks())).is_empty());
    }
    // A second agent more changes nothing about it.
    let mut alerts = restarted(&restarted(&alerts, config()), config());
    assert_eq!(feed(&mut alerts, 6000, looked(leaks())), ["6000:L3>L3"]);
    assert_eq!(alerts.active().next().unwrap().since_unix_ns, 60 * 1_000_000_000);
}

#[test]
fn no_level_falls_before_all_can_be_known_again() {
    let mut alerts = restarted(&intervened(), config());
    // No look, for however long: nothing is known.
    assert_eq!(feed(&mut alerts, 100, process(7, Vec::new())), ["100:L3>L3"]);
    assert!(feed(&mut alerts, 3000, process(7, Vec::new())).is_empty());
    // It is found late, and as less than it was: no second rise comes of that.
    assert!(feed(&mut alerts, 3010, looked(Vec::new())).is_empty());
    assert!(feed(&mut alerts, 3200, looked(vec![leak(2000, Verdict::Suspect)])).is_empty());
    assert!(feed(&mut alerts, 3320, looked(vec![leak(2000, Verdict::Proven)])).is_empty());
    // One that is not found again ends after that and its own time.
    let mut alerts = restarted(&intervened(), config());
    feed(&mut alerts, 100, looked(Vec::new()));
    assert!((101..700).all(|second| feed(&mut alerts, second, looked(Vec::new())).is_empty()));
    assert_eq!(feed(&mut alerts, 700, looked(Vec::new())), ["700:L3>-"]);
}

#[test]
fn timers_go_on_without_the_time_in_which_nobody_looked() {
    // Rising: 40 of 60 seconds have passed for L4 at the end.
    let mut before = intervened();
    run(&mut before, &[(100, 20_000), (140, 20_000)], Verdict::Proven);
    let mut alerts = restarted(&before, config());
    let leaks = || vec![leak(20_000, Verdict::Proven)];
    assert_eq!(feed(&mut alerts, 1000, looked(leaks())), ["1000:L3>L3"]);
    assert!(feed(&mut alerts, 1019, looked(leaks())).is_empty());
    assert_eq!(feed(&mut alerts, 1020, looked(leaks())), ["1020:L3>L4"]);
    // Falling: 200 of 300.
    let mut before = intervened();
    run(&mut before, &[(100, 0), (300, 0)], Verdict::Proven);
    let mut alerts = restarted(&before, config());
    assert_eq!(feed(&mut alerts, 1000, looked(Vec::new())), ["1000:L3>L3"]);
    assert!(feed(&mut alerts, 1099, looked(Vec::new())).is_empty());
    assert_eq!(feed(&mut alerts, 1100, looked(Vec::new())), ["1100:L3>-"]);
}

#[test]
fn another_process_of_the_same_number_inherits_nothing() {
    let mut alerts = restarted(&intervened(), config());
    let other = ProcessId { start_ticks: 10, ..id(7) };
    assert!(feed(&mut alerts, 100, ProcessPicture { id: other, ..looked(Vec::new()) }).is_empty());
    assert_eq!(alerts.remembered().len(), 1);
    // The one that it was about is waited for, but not for ever.
    assert_eq!(feed(&mut alerts, 400, ProcessPicture { id: other, ..looked(Vec::new()) }), ["400:L3>-"]);
    assert!(alerts.remembered().is_empty() && alerts.active().next().is_none());
    // The same one with another program.
    let mut alerts = restarted(&intervened(), config());
    let identity = Identity { exe: "/bin/other".into(), ..Identity::default() };
    let changes = feed(&mut alerts, 100, ProcessPicture { identity: identity.into(), ..looked(Vec::new()) });
    assert_eq!(changes, ["100:L3>-"]);
}

#[test]
fn signs_that_agreed_are_looked_for_as_long_as_they_take() {
    let rising = |second: u64| with_signs(second, 1000 + second, 1000 + second);
    let mut before = Alerts::new(signs());
    (0..=600).step_by(10).for_each(|second| drop(before.feed(&rising(second))));
    let mut alerts = restarted(&before, signs());
    let all: Vec<String> = (610..2000)
        .step_by(10)
        .flat_map(|second| {
            alerts.feed(&rising(second)).iter().map(|change| show(second, change)).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(all, ["610:L2>L2"]);
}

#[test]
fn what_is_at_rest_is_always_the_same() {
    let mut alerts = intervened();
    let kept = alerts.remembered();
    run(&mut alerts, &[(900, 2000)], Verdict::Proven);
    assert_eq!(alerts.remembered(), kept);
}

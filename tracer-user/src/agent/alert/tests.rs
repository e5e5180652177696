//! Timelines: what is fed at which second, and the levels that come of it.

mod remember;

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

fn leak(count: u64, verdict: Verdict) -> LeakGroup {
    LeakGroup {
        id: "0f".into(),
        class: "send-without-receiver".into(),
        verdict,
        count,
        ..LeakGroup::testing()
    }
}

fn process(pid: u32, leaks: Vec<LeakGroup>) -> ProcessPicture {
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
        name: "sh*".into(),
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
    let limits = Limits::of(&config::Alerts {
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
    });
    let level = |measured: Measured| limits.level("any", &measured, 1.0).map(|(level, _)| level);
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

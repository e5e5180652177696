//! What outlives the agent: an alert is taken from one agent to the next as the store does it.

use super::*;

const SETTLE: Duration = Duration::from_secs(300);

/// As [`process`], and looked at.
fn looked(leaks: Vec<LeakGroup>) -> ProcessPicture {
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

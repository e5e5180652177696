use super::*;
use crate::agent::picture::{Events, Identity, Picture, ProcessId, Scan, StateCount};
use std::sync::Arc;

fn process(pid: u32, service: &str) -> Arc<ProcessPicture> {
    let identity = Identity { service: service.into(), exe: "/srv/a".into(), ..Identity::default() };
    let states = vec![StateCount { state: "waiting".into(), reason: "chan receive".into(), count: 3 }];
    let mut blocked = Distribution::default();
    for ns in [500, 2_000_000, u64::MAX] {
        blocked.add(ns);
    }
    let events = Events { blocked: vec![("select".into(), blocked)], ..Events::default() };
    Arc::new(ProcessPicture {
        id: ProcessId { pid, start_ticks: 1, program: 0 },
        identity: identity.into(),
        scan: Some(Scan { states, ..Scan::default() }.into()),
        events: Some(events.into()),
        ..ProcessPicture::default()
    })
}

fn about<'a>(picture: &'a Picture, dropped: &'a Dropped, max_series: usize) -> About<'a> {
    About { picture, alerts: &[], dropped, max_series }
}

#[test]
fn names_follow_the_conventions() {
    let picture = Picture { processes: vec![process(1, "a")], ..Picture::default() };
    let dropped = Dropped::new();
    for family in families(&about(&picture, &dropped, 10)) {
        assert!(family.name.starts_with("sfgi_"), "{}", family.name);
        assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        assert!(family.help.ends_with('.'), "{}", family.name);
    }
}

#[test]
fn a_hostile_name_stays_within_its_quotes() {
    let hostile = "a\"} 1\nsfgi_evil\u{1b}[31m 1\\";
    let picture = Picture { processes: vec![process(1, hostile)], ..Picture::default() };
    let text = text(&families(&about(&picture, &Dropped::new(), 10)));
    assert!(!text.lines().any(|line| line.starts_with("sfgi_evil")));
    let expected = r#"sfgi_goroutines{pid="1",service="a\"} 1\nsfgi_evil?[31m 1\\",state="waiting",reason="chan receive"} 3"#;
    assert!(text.contains(expected), "{text}");
}

#[test]
fn a_histogram_counts_all_below_each_bound() {
    let picture = Picture { processes: vec![process(1, "a")], ..Picture::default() };
    let text = text(&families(&about(&picture, &Dropped::new(), 10)));
    let value = |le: &str| {
        let start = format!(
            "sfgi_goroutine_blocked_seconds_bucket{{pid=\"1\",service=\"a\",reason=\"select\",le=\"{le}\"}} "
        );
        text.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    };
    assert_eq!(value("0.000001").as_deref(), Some("1"));
    assert_eq!(value("0.004096").as_deref(), Some("2"));
    assert_eq!(value("1073.741824").as_deref(), Some("2"));
    assert_eq!(value("+Inf").as_deref(), Some("3"));
    assert!(
        text.contains("sfgi_goroutine_blocked_seconds_count{pid=\"1\",service=\"a\",reason=\"select\"} 3")
    );
}

#[test]
fn what_is_above_the_cap_is_dropped_and_counted() {
    let processes = (0..50).map(|pid| process(pid, "a")).collect();
    let picture = Picture { processes, ..Picture::default() };
    let none = Dropped::new();
    let families = families(&about(&picture, &none, 20));
    let info = families.iter().find(|family| family.name == "sfgi_process_info").unwrap();
    assert_eq!((info.series.len(), info.dropped), (20, 30));
    assert!(families.iter().all(|family| family.series.len() <= 20));
}

//! Documents of an observation made by hand, over the small binary of the target's tests.

use super::*;
use serde_json::Value;
use sfgi_core::names::Names;
use sfgi_core::{
    detect::{Rules, Scope, Thresholds, detect},
    goruntime::State,
    heap::{DeadSet, Edge, Facts, Look, Observed, Sign, TimerKind, TimerSite, Waits},
    leaks::views,
    snapshot::{Goroutine, Object, ObjectKind, Pc, Snapshot, StackId, Trust, Wait, Wants},
    testing::binary::{entry_of, small_binary},
};
use std::{path::Path, sync::Arc};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1000 * SECOND;
/// Numbers of the small binary's wait reasons.
const CHAN_RECEIVE: u8 = 2;
const MUTEX_LOCK: u8 = 5;

fn goroutine(goid: u64, stack: StackId, reason: u8, waits: Vec<Wait>) -> Goroutine {
    Goroutine {
        goid,
        g: 0xc000_0000 + goid,
        state: State::Waiting,
        scan: false,
        trust: Trust::Still,
        reason,
        waiting_since_ns: NOW - 400 * SECOND - goid * SECOND,
        parent_goid: 1,
        gopc: entry_of("main.main") + 5,
        startpc: entry_of("main.main"),
        tid: 0,
        stamp: 0,
        resume_pc: 0,
        stack_bounds: (0, 0),
        waits_known: true,
        locked: false,
        system: false,
        labels: 0,
        stack,
        args: (0, 0),
        waits,
    }
}

/// Two goroutines that nothing can wake receive from channels of their own, one with labels; two wait for
/// each other's locks; four wait for a channel that a variable leads to, and become more; and there are
/// timers.
fn observed() -> Observed {
    let mut snapshot = Snapshot { taken_ns: (NOW - SECOND / 500, NOW), ..Snapshot::default() };
    let inner = Pc::of_return(entry_of("main.main") + 13);
    let receive = snapshot.stacks.intern(&[inner, Pc::of_return(entry_of("runtime.main") + 9)]).unwrap();
    let lock = snapshot.stacks.intern(&[Pc::of_return(entry_of("main.main") + 20)]).unwrap();
    snapshot.labels = vec![vec![("user".into(), "a \"b\"".into())]];
    let channel = |receivers| ObjectKind::Channel {
        len: 0,
        cap: 8,
        closed: false,
        timer: false,
        element_size: 16,
        receivers,
        senders: 0,
    };
    let kinds = [
        channel(1),
        channel(1),
        ObjectKind::Mutex { locked: true },
        ObjectKind::Mutex { locked: true },
        channel(4),
    ];
    let object = |(addr, kind)| Object { addr, kind, waiters: Vec::new() };
    snapshot.objects = (0xc000_1000..).step_by(0x60).zip(kinds).map(object).collect();
    let wait = |object, wants| vec![Wait { object, wants }];
    snapshot.goroutines = vec![
        goroutine(7, receive, CHAN_RECEIVE, wait(0, Wants::Receive)),
        Goroutine { labels: 1, ..goroutine(8, receive, CHAN_RECEIVE, wait(1, Wants::Receive)) },
        goroutine(9, lock, MUTEX_LOCK, wait(2, Wants::Lock)),
        goroutine(10, lock, MUTEX_LOCK, wait(3, Wants::Lock)),
    ];
    snapshot.goroutines.extend((11..15).map(|goid| Goroutine {
        gopc: entry_of("main.main") + 21,
        ..goroutine(goid, receive, CHAN_RECEIVE, wait(4, Wants::Receive))
    }));
    let dead = Facts { unreachable: true, looks: 5, since_ns: NOW - SECOND, ..Facts::default() };
    let locked = Facts { set: Some(0), ..dead.clone() };
    let mut facts = vec![dead.clone(), dead.clone(), locked.clone(), locked];
    facts.extend((1..=4).rev().map(|looks| Facts { unreachable: false, looks, ..dead.clone() }));
    let site = (entry_of("main.main") + 21, entry_of("main.main"));
    let look = |number: u64| Look {
        at_ns: NOW - (5 - number) * SECOND / 4,
        counts: [(site, number.min(4))].into(),
        after_gap: false,
    };
    let edge = |waiter, object, holder| Edge { waiter, object, holder, sign: Sign::Stack, place: None };
    Observed {
        took_ns: SECOND,
        snapshot,
        facts,
        waits: Waits::testing(4, vec![edge(2, 2, 3), edge(3, 3, 2)]),
        sets: vec![DeadSet { members: vec![2, 3], edges: vec![edge(2, 2, 3), edge(3, 3, 2)] }],
        looks: (1..=4).map(look).collect(),
        timers: vec![TimerSite {
            func: entry_of("main.main"),
            kind: TimerKind::AfterFunc,
            count: 60,
            fires_in_ns: (SECOND, 3600 * SECOND),
            unreachable: false,
        }],
        passes: 4,
        scanned: (52_428_800, 41_000_000),
        ..Observed::default()
    }
}

/// What is detected in it, as `show` writes it.
fn written(observed: Observed, show: impl FnOnce(&mut Vec<u8>, &Document<'_>, &mut Names)) -> String {
    let binary = Arc::new(small_binary());
    let mut names = Names::new(Arc::clone(&binary), 0, &observed.snapshot);
    let rules = Rules::built_in().unwrap();
    let report = detect(&observed, &rules, &Scope::default(), &Thresholds::default(), &mut names);
    let scanned = report.scanned;
    let groups = views(report, &observed, &[4096, 0, 1 << 20], &mut names);
    let leaks = Leaks {
        observed,
        groups,
        accepted: Vec::new(),
        scanned,
        objects_doubt: None,
        pools_doubt: None,
        pool_objects: None,
        descriptors: Vec::new(),
    };
    let go_version = &binary.version().raw;
    let document = Document { pid: Some(4711), exe: Path::new("/srv/shop"), go_version, leaks: &leaks };
    let mut out = Vec::new();
    show(&mut out, &document, &mut names);
    String::from_utf8(out).unwrap()
}

fn text(observed: Observed) -> String {
    written(observed, |out, found, names| LeakText::new(out, found.leaks, names, false).write().unwrap())
}

fn json(observed: Observed, one_line: bool) -> String {
    written(observed, |out, found, names| write_json(out, found, names, one_line).unwrap())
}

fn sarif(observed: Observed) -> String {
    let text = written(observed, |out, found, _| write_sarif(out, found).unwrap());
    text.replace(concat!("\"", env!("CARGO_PKG_VERSION"), "\""), "\"VERSION\"")
}

#[test]
fn as_text() {
    insta::assert_snapshot!(text(observed()));
}

#[test]
fn as_json() {
    let text = json(observed(), false);
    insta::assert_snapshot!(text);
    let document: Value = serde_json::from_str(&text).unwrap();
    let in_a_line = json(observed(), true);
    assert_eq!(in_a_line.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&in_a_line).unwrap(), document);
    // What refers to each other fits.
    for leak in document["leaks"].as_array().unwrap() {
        let group = &document["groups"][leak["group"].as_u64().unwrap() as usize];
        assert!(group["goids"].as_array().unwrap().contains(&leak["goid"]));
        assert_eq!((&leak["verdict"], &leak["class"]), (&group["verdict"], &group["class"]));
    }
    let leaks = document["leaks"].as_array().unwrap().len() as u64;
    let summary = document["summary"].as_object().unwrap();
    assert_eq!(summary.values().map(|number| number.as_u64().unwrap()).sum::<u64>(), leaks);
}

#[test]
fn as_sarif() {
    let text = sarif(observed());
    insta::assert_snapshot!(text);
    assert_valid_sarif(&serde_json::from_str(&text).unwrap());
}

/// What the schema of SARIF 2.1.0 requires of the parts that we write.
#[track_caller]
fn assert_valid_sarif(document: &Value) {
    assert_eq!(document["version"], "2.1.0");
    for run in document["runs"].as_array().unwrap() {
        let driver = &run["tool"]["driver"];
        assert!(driver["name"].is_string());
        let rules = driver["rules"].as_array().unwrap();
        for rule in rules {
            assert!(rule["id"].is_string());
            for text in ["shortDescription", "fullDescription", "help"] {
                assert!(rule[text]["text"].is_string(), "{text}");
            }
        }
        for invocation in run["invocations"].as_array().unwrap() {
            assert!(invocation["executionSuccessful"].is_boolean());
        }
        for result in run["results"].as_array().unwrap() {
            assert!(!result["message"]["text"].as_str().unwrap().is_empty());
            assert!(["none", "note", "warning", "error"].contains(&result["level"].as_str().unwrap()));
            assert_eq!(rules[result["ruleIndex"].as_u64().unwrap() as usize]["id"], result["ruleId"]);
            assert!(result["occurrenceCount"].as_u64().unwrap() >= 1);
            assert!(result["partialFingerprints"].as_object().unwrap().values().all(Value::is_string));
            for stack in result["stacks"].as_array().into_iter().flatten() {
                assert!(stack["frames"].is_array());
            }
            let places = ["locations", "relatedLocations"].map(|list| result[list].as_array());
            for place in places.into_iter().flatten().flatten() {
                let region = &place["physicalLocation"]["region"];
                assert!(region.is_null() || region["startLine"].as_u64().unwrap() >= 1);
                let uri = &place["physicalLocation"]["artifactLocation"]["uri"];
                assert!(uri.is_null() || !uri.as_str().unwrap().contains([' ', '\\', '"', '%']));
            }
        }
    }
}

#[test]
fn nothing_found_is_said() {
    let empty = || Observed { passes: 4, scanned: (52_428_800, 41_000_000), ..Observed::default() };
    assert_eq!(text(empty()), "nothing found: 0 goroutines, 50.0 MiB of heap, 4 passes\n");
    let doubt = || Some("its heap cannot be read".to_owned());
    let unread = || Observed { passes: 0, frozen_ns: Some(12_000_000), doubt: doubt(), ..empty() };
    assert_eq!(
        text(unread()),
        "nothing found: 0 goroutines, the heap was not read; the program stood still for 12.0ms; nothing counts as \
         proven: its heap cannot be read\n"
    );
    let document: Value = serde_json::from_str(&json(unread(), false)).unwrap();
    assert_eq!(document["leaks"], Value::Array(Vec::new()));
    assert_eq!(
        (&document["frozen_ms"], &document["doubt"]),
        (&12.0.into(), &"its heap cannot be read".into())
    );
    let document: Value = serde_json::from_str(&sarif(unread())).unwrap();
    assert_valid_sarif(&document);
    let notes = &document["runs"][0]["invocations"][0]["toolExecutionNotifications"];
    assert_eq!(notes[0]["message"]["text"], "nothing counts as proven: its heap cannot be read");
}

/// What the target says can break no line of a terminal and no document.
#[test]
fn hostile_labels_and_indices() {
    let hostile = || {
        let mut observed = observed();
        observed.snapshot.labels = vec![vec![("\x1b[31m".into(), "\u{0}\n\"".into())]];
        observed.sets[0].members.push(u32::MAX);
        observed.sets[0].edges.push(Edge {
            waiter: u32::MAX,
            object: u32::MAX,
            holder: 0,
            sign: Sign::Stack,
            place: None,
        });
        observed.facts[0].set = Some(99);
        for goroutine in &mut observed.snapshot.goroutines {
            goroutine.stack = StackId(77);
            goroutine.gopc = u64::MAX;
            goroutine.waits.push(Wait { object: 99, wants: Wants::Send });
        }
        observed
    };
    assert!(!text(hostile()).contains('\x1b'));
    serde_json::from_str::<Value>(&json(hostile(), true)).unwrap();
    assert_valid_sarif(&serde_json::from_str(&sarif(hostile())).unwrap());
}

#[test]
fn changes_since_the_last_report() {
    let fewer = || {
        let mut fewer = observed();
        [0, 2, 3].into_iter().for_each(|index| fewer.facts[index].unreachable = false);
        fewer.waits = Waits::default();
        fewer
    };
    let mut changes = Changes::default();
    let mut differences = Vec::new();
    for observed in [fewer(), observed(), observed(), fewer()] {
        written(observed, |_, found, _| differences.push(changes.since(&found.leaks.groups)));
    }
    let new = |index: usize| differences[index].new.iter().filter(|new| **new).count();
    assert_eq!([new(0), new(1), new(2), new(3)], [differences[0].new.len(), 1, 0, 0]);
    let lines = |index: usize| -> Vec<&str> {
        differences[index].lines.iter().filter_map(|line| line.split(" (id ").next()).collect()
    };
    assert_eq!(lines(1), ["2 × proven receive-without-sender, were 1"]);
    assert!(lines(2).is_empty());
    assert_eq!(lines(3), ["1 × proven receive-without-sender, were 2", "gone: 2 × proven lock-order-cycle"]);
}

//! Documents of a small snapshot made by hand, over the small binary of the target's tests.

use super::*;
use crate::output::pprof::{ProfileKind, proto, write_profile};
use flate2::read::GzDecoder;
use prost::Message;
use regex::Regex;
use sfgi_core::{
    goruntime::State,
    names::Names,
    snapshot::{Goroutine, Object, ObjectKind, Pc, Snapshot, StackId, Trust, Wait, Wants},
    testing::binary::{WRAPPER, entry_of, small_binary},
};
use std::{collections::HashSet, io::Read, path::Path, sync::Arc};

const SECOND: u64 = 1_000_000_000;
/// Numbers of the small binary's wait reasons.
const IO_WAIT: u8 = 1;
const CHAN_RECEIVE: u8 = 2;

fn goroutine(goid: u64) -> Goroutine {
    Goroutine {
        goid,
        g: 0xc000_0000 + goid,
        state: State::Waiting,
        scan: false,
        trust: Trust::Still,
        reason: CHAN_RECEIVE,
        waiting_since_ns: 0,
        parent_goid: 1,
        gopc: entry_of("main.main") + 5,
        startpc: entry_of("main.main"),
        tid: 0,
        locked: false,
        system: false,
        labels: 0,
        stack: StackId::default(),
        args: (0, 0),
        waits: Vec::new(),
        waits_known: false,
        stamp: 0,
        resume_pc: 0,
        stack_bounds: (0, 0),
    }
}

/// Goroutine 1 reads from the network; 7, 8 and 9 receive from a channel, 9 with labels and since
/// nobody knows when; 10 runs; 11 moves; 2 is the runtime's own.
fn snapshot() -> Snapshot {
    let mut snapshot =
        Snapshot { taken_ns: (99 * SECOND, 100 * SECOND), unreadable: 3, ..Snapshot::default() };
    let (inner, outer) = (entry_of("main.main") + 13, entry_of("runtime.main") + 9);
    let stack = [inner, entry_of(WRAPPER) + 9, outer].map(Pc::of_return);
    let receive = snapshot.stacks.intern(&stack).unwrap();
    let main = snapshot.stacks.intern(&[Pc::of_return(outer)]).unwrap();
    snapshot.labels = vec![vec![("job".into(), "a \"b\"".into()), ("user".into(), "7".into())]];
    snapshot.objects = vec![Object {
        addr: 0x00c0_0001_2120,
        kind: ObjectKind::Channel {
            len: 0,
            cap: 8,
            closed: false,
            timer: false,
            element_size: 16,
            receivers: 3,
            senders: 0,
        },
        waiters: vec![1, 2, 3],
    }];
    let waits = vec![Wait { object: 0, wants: Wants::Receive }];
    let waiting = |goid, since| Goroutine {
        stack: receive,
        waiting_since_ns: since,
        waits: waits.clone(),
        ..goroutine(goid)
    };
    snapshot.goroutines = vec![
        Goroutine { reason: IO_WAIT, stack: main, ..goroutine(1) },
        waiting(7, 10 * SECOND),
        waiting(8, 70 * SECOND),
        Goroutine { labels: 1, ..waiting(9, 0) },
        Goroutine { state: State::Running, trust: Trust::Running, tid: 4712, locked: true, ..goroutine(10) },
        Goroutine { state: State::Runnable, trust: Trust::InMotion, ..goroutine(11) },
        Goroutine { stack: main, system: true, gopc: 0, ..goroutine(2) },
    ];
    snapshot
}

fn names(snapshot: &Snapshot) -> Names {
    Names::new(Arc::new(small_binary()), 0, snapshot)
}

fn chosen(choice: &Choice) -> Vec<u64> {
    let snapshot = snapshot();
    let chosen = choice.of(&snapshot, &mut names(&snapshot));
    chosen.iter().map(|index| snapshot.goroutines[*index as usize].goid).collect()
}

fn regex(text: &str) -> Option<Regex> {
    Some(Regex::new(text).unwrap())
}

#[test]
fn goroutines_are_chosen_by_all_that_is_asked() {
    assert_eq!(chosen(&Choice::default()), [1, 7, 8, 9, 10, 11]);
    assert_eq!(chosen(&Choice { system: true, ..Choice::default() }).len(), 7);
    assert_eq!(
        chosen(&Choice { states: vec![State::Running, State::Runnable], ..Choice::default() }),
        [10, 11]
    );
    assert_eq!(chosen(&Choice { goids: HashSet::from([9, 1, 99]), ..Choice::default() }), [1, 9]);
    assert_eq!(chosen(&Choice { object: Some(0), ..Choice::default() }), [7, 8, 9]);
    assert_eq!(chosen(&Choice { reason: regex("^chan"), ..Choice::default() }), [7, 8, 9]);
    // What is not known to be old is not old.
    assert_eq!(chosen(&Choice { older_ns: 30 * SECOND, ..Choice::default() }), [7, 8]);
    assert_eq!(chosen(&Choice { older_ns: 31 * SECOND, ..Choice::default() }), [7]);
}

#[test]
fn functions_are_looked_for_in_stacks_and_creators() {
    // Inlined into main.main.
    assert_eq!(chosen(&Choice { func: regex("^main.outer$"), ..Choice::default() }), [7, 8, 9]);
    // main.main made all but the first, which the runtime made.
    assert_eq!(chosen(&Choice { func: regex("^main.main$"), ..Choice::default() }), [7, 8, 9, 10, 11]);
    assert!(chosen(&Choice { func: regex("main.other"), ..Choice::default() }).is_empty());
}

#[test]
fn orders() {
    let snapshot = snapshot();
    let mut names = names(&snapshot);
    let mut sorted = |order: Order| {
        let mut all: Vec<u32> = (0..7).collect();
        order.sort(&mut all, &snapshot, &mut names);
        all.iter().map(|index| snapshot.goroutines[*index as usize].goid).collect::<Vec<_>>()
    };
    assert_eq!(sorted(Order::Goid), [1, 2, 7, 8, 9, 10, 11]);
    assert_eq!(sorted(Order::Age), [7, 8, 1, 9, 10, 11, 2]);
    assert_eq!(sorted(Order::State), [11, 10, 1, 7, 8, 9, 2]);
    assert_eq!(sorted(Order::Func), [10, 11, 7, 8, 9, 1, 2]); // none, main.outer, runtime.main
    assert_eq!(sorted(Order::Creator), [1, 2, 7, 8, 9, 10, 11]);
}

fn about() -> About<'static> {
    About { pid: Some(4711), exe: Path::new("/srv/shop"), incomplete: None, object: None }
}

#[test]
fn json_holds_what_is_known_and_nothing_else() {
    let snapshot = snapshot();
    let mut out = Vec::new();
    let mut names = names(&snapshot);
    let document = JsonDump::new(&mut out, &snapshot, &mut names);
    document.goroutines(&about(), &[0, 3, 4, 6]).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text, include_str!("golden/goroutines.json"));
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["goroutines"][1]["labels"]["job"], "a \"b\"");
}

#[test]
fn a_json_document_may_be_empty_or_incomplete() {
    let snapshot = Snapshot::default();
    let mut out = Vec::new();
    let mut names = names(&snapshot);
    let about = About { pid: None, incomplete: Some("the process ended"), ..about() };
    JsonDump::new(&mut out, &snapshot, &mut names).goroutines(&about, &[]).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(document["goroutines"].as_array().unwrap().len(), 0);
    assert_eq!(document["incomplete"], "the process ended");
    assert!(document.get("pid").is_none());
}

#[test]
fn groups_are_counted() {
    let snapshot = snapshot();
    let names = names(&snapshot);
    let groups = Group::all(&snapshot, &names, &[0, 1, 2, 3, 4, 5]);
    let counts: Vec<_> = groups.iter().map(|group| (group.first, group.count)).collect();
    assert_eq!(counts, [(1, 3), (0, 1), (4, 1), (5, 1)]);
    let receivers = Group {
        first: 1,
        count: 3,
        age_ns: Some((30 * SECOND, 90 * SECOND)),
        age_unknown: 1,
        goids: vec![7, 8, 9],
        creators: vec![(1, 3)],
        labels: vec![(1, 1)],
        waits: vec![(Wait { object: 0, wants: Wants::Receive }, 3)],
        objects: 1,
    };
    assert_eq!(groups[0], receivers);
}

#[test]
fn groups_as_json_and_text() {
    let snapshot = snapshot();
    let mut names = names(&snapshot);
    let groups = Group::all(&snapshot, &names, &[0, 1, 2, 3, 4, 5]);
    let mut out = Vec::new();
    let about = About { object: Some(0), ..about() };
    JsonDump::new(&mut out, &snapshot, &mut names).groups(&about, &groups).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text, include_str!("golden/groups.json"));
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let mut out = Vec::new();
    GroupText::new(&mut out, &snapshot, &mut names, false).write(&groups).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), include_str!("golden/groups.txt"));
}

#[test]
fn an_object_is_shown_with_those_who_wait_each_way() {
    let mut snapshot = snapshot();
    snapshot.goroutines[1].waits[0].wants = Wants::Send;
    assert_eq!(
        object_in_full(&snapshot, 0).unwrap(),
        "chan 0xc000012120 (0/8, open), elements of 16 bytes\n2 goroutines wait to receive\n1 goroutine waits to send"
    );
    assert_eq!(object_in_full(&snapshot, 1), None);
}

fn profile(snapshot: &Snapshot) -> proto::Profile {
    let chosen: Vec<u32> = (0..snapshot.goroutines.len() as u32).collect();
    let exe = Path::new("/srv/shop (deleted)");
    let mut out = Vec::new();
    write_profile(&mut out, ProfileKind::Goroutines, snapshot, &mut names(snapshot), &chosen, exe, 5)
        .unwrap();
    let mut bytes = Vec::new();
    GzDecoder::new(&out[..]).read_to_end(&mut bytes).unwrap();
    proto::Profile::decode(&bytes[..]).unwrap()
}

#[test]
fn a_profile_counts_stacks_and_labels() {
    let profile = profile(&snapshot());
    let string = |index: i64| profile.string_table[index as usize].as_str();
    assert_eq!(string(0), "");
    assert_eq!(string(profile.sample_type[0].r#type), "goroutine");
    assert_eq!((profile.period, profile.time_nanos), (1, 5));
    let samples = profile.sample.iter().map(|sample| {
        let mut functions = Vec::new();
        for id in &sample.location_id {
            let location = &profile.location[*id as usize - 1];
            assert_eq!(location.id, *id);
            for line in &location.line {
                let function = &profile.function[line.function_id as usize - 1];
                assert_eq!(function.id, line.function_id);
                functions.push(format!("{}:{}", string(function.name), line.line));
            }
        }
        let labels = sample.label.iter().map(|label| format!("{}={}", string(label.key), string(label.str)));
        (sample.value[0], functions.join(" "), labels.collect::<Vec<_>>().join(" "))
    });
    let samples: Vec<_> = samples.collect();
    let receive = "runtime.gopark:30 main.outer:20 main.main:10 runtime.main:20";
    let samples: Vec<_> =
        samples.iter().map(|(count, stack, labels)| (*count, stack.as_str(), labels.as_str())).collect();
    assert_eq!(
        samples,
        [
            (2, "runtime.main:20", ""),
            (2, receive, ""),
            (1, receive, "job=a \"b\" user=7"),
            (1, "[running]:0", ""),
            (1, "[in motion]:0", ""),
        ]
    );
    let mapping = &profile.mapping[0];
    assert_eq!((mapping.memory_start, mapping.memory_limit), (0x50_0000, 0x50_1000));
    assert_eq!((string(mapping.filename), string(mapping.build_id)), ("/srv/shop", ""));
    // One location for main.main with what is inlined into it.
    assert_eq!(profile.location.iter().map(|location| location.line.len()).collect::<Vec<_>>(), [1, 3, 1, 1]);
    assert_eq!(profile.location[1].address, entry_of("main.main") + 12);
}

/// The parts in which a large profile is written come to one.
#[test]
fn a_large_profile_is_whole() {
    let mut snapshot = snapshot();
    let first = snapshot.goroutines[0].clone();
    snapshot.labels = (0..10_000).map(|n| vec![("n".to_owned(), n.to_string())]).collect();
    snapshot.goroutines = (1..=10_000).map(|n| Goroutine { labels: n, ..first.clone() }).collect();
    let profile = profile(&snapshot);
    assert_eq!(profile.sample.len(), 10_000);
    for (n, sample) in profile.sample.iter().enumerate() {
        assert_eq!(profile.string_table[sample.label[0].str as usize], n.to_string());
    }
    assert_eq!((profile.location.len(), profile.sample_type.len(), profile.mapping.len()), (1, 1, 1));
}

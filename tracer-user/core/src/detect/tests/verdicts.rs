//! Proof, doubt, age and number, groups, scope and history.

use super::world::{NOW, SECOND, World, channel, waits};
use crate::{
    detect::{Baseline, History, Measure, Scope},
    heap::Holders,
    snapshot::Wants,
};

const RECEIVE: [&str; 3] = ["runtime.gopark", "runtime.chanrecv1", "main.f"];

#[test]
fn a_doubt_makes_what_seems_proven_likely() {
    let mut world = World::new();
    world.add(1, "chan receive", &RECEIVE, |_, _, facts| facts.unreachable = true);
    world.observed.doubt = Some("the program moved all the time".to_owned());
    let report = world.detect();
    assert_eq!(report.groups[0].verdict.word(), "likely");
    assert!(report.groups[0].evidence[0].ends_with("; not proven: the program moved all the time"));
}

#[test]
fn what_is_reachable_is_a_suspect_by_age_and_number() {
    let mut world = World::new();
    let object = world.object(channel());
    world.add(4, "chan receive", &RECEIVE, |number, goroutine, _| {
        goroutine.waits = waits(object, Wants::Receive);
        // One is too young.
        goroutine.waiting_since_ns = NOW - (299 + number) * SECOND;
    });
    world.observed.holders = vec![Holders { goroutines: vec![0], global: Some(0x61_0000), heap: 2 }];
    let report = world.detect();
    let group = &report.groups[0];
    assert_eq!(
        (group.verdict.word(), group.rule.id.as_str(), group.count),
        ("suspect", "receive-without-sender", 3)
    );
    assert_eq!(group.members, [1, 2, 3]);
    assert_eq!(
        group.evidence,
        [
            "not proven: the stack of goroutine 2, a variable at 0x610000, 2 objects of the heap leads to what it \
             waits for",
            "waiting about 5m00s to about 5m02s, all for 5m00s or more",
            "none of them had run in 5 looks",
            "no sender and 1 receiver wait at the channel",
        ]
    );
    world.observed.snapshot.goroutines.pop();
    assert_eq!(world.found(), []);
}

#[test]
fn the_longer_age_counts() {
    let mut world = World::new();
    world.add(1, "chan receive", &RECEIVE, |_, goroutine, facts| {
        (goroutine.waiting_since_ns, facts.since_ns, facts.unreachable) =
            (NOW - SECOND, NOW - 9 * SECOND, true);
    });
    let (min, max) = world.detect().groups[0].age.unwrap();
    assert_eq!((min, max.ns, max.measure), (max, 9 * SECOND, Measure::AtLeast));
    world.observed.facts[0].since_ns = 0;
    world.observed.snapshot.goroutines[0].waiting_since_ns = 0;
    assert_eq!(world.detect().groups[0].age, None);
}

#[test]
fn creators_stacks_and_verdicts_make_groups() {
    let mut world = World::new();
    let other = world.creator("main.other");
    world.add(2, "chan receive", &RECEIVE, |_, _, facts| facts.unreachable = true);
    world.add(3, "chan receive", &["runtime.chanrecv1", "main.f"], |_, _, facts| facts.unreachable = true);
    world.add(1, "chan receive", &RECEIVE, |_, goroutine, facts| {
        (goroutine.gopc, facts.unreachable) = (other, true);
    });
    let report = world.detect();
    // Frames of the runtime do not change the id.
    let groups: Vec<_> = report.groups.iter().map(|group| (group.count, group.members.clone())).collect();
    assert_eq!(groups, [(5, vec![0, 1, 2, 3, 4]), (1, vec![5])]);
    assert_ne!(report.groups[0].id, report.groups[1].id);
}

#[test]
fn the_scope_leaves_out() {
    let mut world = World::new();
    world.add(2, "chan receive", &RECEIVE, |_, _, facts| facts.unreachable = true);
    let count = |world: &mut World, scope: Scope| {
        world.detect_with(&scope, SECOND).groups.first().map_or(0, |group| group.count)
    };
    let regex = |text: &str| vec![regex::Regex::new(text).unwrap()];
    assert_eq!(count(&mut world, Scope { goids: [3].into(), ..Scope::default() }), 1);
    assert_eq!(count(&mut world, Scope { ignore_func: regex("^main.f$"), ..Scope::default() }), 0);
    assert_eq!(count(&mut world, Scope { ignore_func: regex("^f$"), ..Scope::default() }), 2);
    assert_eq!(count(&mut world, Scope { ignore_created_by: regex("main.main"), ..Scope::default() }), 0);
}

#[test]
fn a_baseline_accepts_what_it_was_made_of() {
    let mut world = World::new();
    world.add(2, "chan receive", &RECEIVE, |_, _, facts| facts.unreachable = true);
    let report = world.detect();
    let baseline =
        Baseline::parse(&Baseline::text(report.groups.iter().map(|group| (group.id, &*group.rule)))).unwrap();
    assert!(report.groups.iter().all(|group| baseline.accepts(group.id)));
    world.add(1, "chan send", &["runtime.chansend1", "main.f"], |_, _, facts| facts.unreachable = true);
    let accepted = |group: &crate::detect::Group| baseline.accepts(group.id);
    assert_eq!(world.detect().groups.iter().map(accepted).collect::<Vec<_>>(), [true, false]);
    for bad in [
        "",
        "[]",
        r#"{"schema":"sfgi.leaks/1","accepted":[]}"#,
        r#"{"schema":"sfgi.leaks-baseline/1","accepted":[{"id":"+00000000000000a","class":"c"}]}"#,
    ] {
        let err = Baseline::parse(bad).unwrap_err().to_string();
        assert!(!err.contains('\n'), "{err}");
    }
}

/// Each observation alone is too short to tell.
#[test]
fn a_history_makes_growth_visible() {
    let mut history = History::default();
    let mut found = Vec::new();
    for count in 5..15 {
        let mut world = World::new();
        world.add(count, "chan receive", &RECEIVE, |_, _, facts| facts.looks = 1);
        world.looks(&[count]);
        world.observed.looks[0].at_ns = NOW + count * 30 * SECOND;
        history.extend(&mut world.observed);
        found.push(world.detect().groups.first().and_then(|group| group.growth));
    }
    assert_eq!(found[..3], [None; 3]);
    let growth = found[9].unwrap();
    assert!((growth.per_s - 1.0 / 30.0).abs() < 1e-9 && growth.looks == 10);
}

#[test]
fn a_long_history_is_thinned() {
    let mut history = History::default();
    for number in 0..1000u64 {
        let mut world = World::new();
        world.add(10 + number / 10, "chan receive", &RECEIVE, |_, _, facts| facts.looks = 1);
        world.looks(&[10 + number / 10]);
        world.observed.looks[0].at_ns = NOW + number * SECOND;
        history.extend(&mut world.observed);
        assert!(world.observed.looks.len() <= 241);
        if number == 999 {
            let growth = world.detect().groups[0].growth.unwrap();
            assert!((growth.per_s - 0.1).abs() < 0.02, "{growth:?}");
        }
    }
}

/// Indices beyond every list, and lists of different lengths, must not make detection panic.
#[test]
fn hostile_observations() {
    let mut world = World::new();
    world.add(3, "chan receive", &RECEIVE, |number, goroutine, facts| {
        facts.unreachable = number > 0;
        facts.set = Some(number as u32);
        facts.holds = vec![u32::MAX];
        goroutine.waiting_since_ns = u64::MAX;
    });
    for goroutine in &mut world.observed.snapshot.goroutines {
        goroutine.waits = waits(77, Wants::Receive);
    }
    let edge =
        crate::heap::Edge { waiter: 9, object: 9, holder: 9, sign: crate::heap::Sign::Queue, place: None };
    let set = crate::heap::DeadSet { members: vec![1, u32::MAX], edges: vec![edge] };
    world.observed.waits = crate::heap::Waits::testing(10, set.edges.clone());
    world.observed.sets = vec![set.clone(), set];
    world.observed.facts.truncate(2);
    assert_eq!(world.found().len(), 1);
}

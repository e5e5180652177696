//! Memory is bounded, and nothing panics, whatever comes.

use super::*;
use proptest::prelude::*;

fn apply(model: &mut Goroutines, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    model.apply(&event(text), &mut out);
    out.iter().map(line).collect()
}

#[test]
fn the_oldest_dead_go_first_and_then_the_new_are_not_remembered() {
    let mut model = Goroutines::new(Setup { capacity: 2, ..set_b(24) });
    apply(&mut model, "10 m1 g1 casgstatus 2>6");
    apply(&mut model, "11 m1 g2 casgstatus 2>6");
    apply(&mut model, "12 m1 g3 casgstatus 2>4 select");
    assert!(model.get(1).is_none() && model.get(2).is_some(), "the oldest dead made room");
    apply(&mut model, "13 m1 g4 casgstatus 2>4 select");
    assert_eq!((model.len(), model.refused()), (2, 0));

    let said = apply(&mut model, "20 m1 g5 casgstatus 4>1 select");
    assert_eq!(said, ["20 g5 unblock waiting→runnable select"], "said all the same");
    assert!(model.get(5).is_none());
    assert_eq!((model.len(), model.refused()), (2, 1));

    apply(&mut model, "30 m1 g3 casgstatus 4>1");
    apply(&mut model, "31 m1 g3 casgstatus 1>2");
    apply(&mut model, "32 m1 g3 casgstatus 2>6");
    apply(&mut model, "40 m1 g5 casgstatus 1>2");
    assert!(model.get(5).is_some(), "there is room again");
}

#[test]
fn what_is_not_remembered_is_not_accused() {
    let (model, steps) = run(
        Setup { capacity: 0, ..set_b(24) },
        "10 m1 g1 casgstatus 2>4 select
         20 m1 g1 casgstatus 2>4 select
         30 m1 g0@1 casgstatus 6>1 pc=1,2
         40 m1 g1 casgstatus 1>6",
    );
    let said: Vec<String> = steps.iter().map(line).collect();
    assert_eq!(
        said,
        [
            "10 g1 block running→waiting select",
            "20 g1 block running→waiting select",
            "30 g0 create dead→runnable born=1,2",
            "40 g1 illegal runnable→dead (the runtime of Go 1.24 never makes this change)",
        ]
    );
    assert_eq!((model.len(), model.refused()), (0, 4));
}

#[test]
fn many_short_goroutines_leave_nothing_behind() {
    let mut model = Goroutines::new(Setup { capacity: 100, ..set_b(24) });
    let mut out = Vec::new();
    let mut slot = event("0 m1 g1 casgstatus 6>1 pc=1,2");
    for goid in 1..=100_000u64 {
        (slot.goid, slot.g) = (goid, (goid % 50 + 1) * 0x1000);
        for (kind, from, to) in [(Kind::StatusCreate, 6, 1), (Kind::Status, 1, 2), (Kind::Status, 2, 6)] {
            slot.ts += 1;
            (slot.kind, slot.from, slot.to) = (kind, from, to);
            model.apply(&slot, &mut out);
        }
        assert!(out.iter().all(|step| step.what != What::Illegal));
        out.clear();
    }
    assert!(model.len() <= 100);
    assert_eq!(model.refused(), 0);
    model.settle(u64::MAX, &mut out);
    assert_eq!((model.len(), out.len()), (0, 0));
}

#[test]
fn threads_are_bounded() {
    let mut model = Goroutines::new(Setup { capacity: 10, ..set_b(24) });
    let mut out = Vec::new();
    for tid in 0..1000u32 {
        model.apply(&Event { tid, ..event("10 m1 g7 casgstatus 1>2") }, &mut out);
        model.apply(&Event { tid, ..event("10 m1 g0@0 on") }, &mut out);
    }
    assert!(model.threads_and_births().0 <= 10);
}

fn any_event() -> impl Strategy<Value = Event> {
    let small = || prop_oneof![4 => 0u64..6, 1 => any::<u64>()];
    let state = || prop_oneof![8 => 0u8..12, 1 => any::<u8>()];
    let header = (small(), small(), small(), 0u32..4, 0..tracer_common::KINDS, state(), state(), 0u8..14);
    (header, [small(), small(), small(), small()]).prop_map(|(header, [a, b, c, d])| {
        let (ts, g, goid, tid, kind, from, to, reason) = header;
        let kind = Kind::ALL[kind];
        let payload = match kind {
            Kind::StatusWake | Kind::Ready | Kind::Inject => Payload::By(By { by_goid: a, object: b }),
            Kind::StatusPark | Kind::StatusSyscall | Kind::Park | Kind::SyscallEnter | Kind::SyscallBlock => {
                Payload::Stack { stack: Stack::of(&vec![b; a.min(20) as usize]), object: c }
            }
            Kind::StatusCreate | Kind::FirstRun | Kind::Destroy => {
                Payload::Birth(Birth { parent_goid: a, gopc: b, startpc: c, funcval: d })
            }
            Kind::NewProc => Payload::NewProc(NewProc { callerpc: a, funcval: b, startpc: c }),
            Kind::CoroSwitch => Payload::Switch(Switch { next_g: a, next_goid: b, exit: c & 1 }),
            _ => Payload::None,
        };
        Event { ts, g, goid, tid, kind, from, to, reason, payload }
    })
}

fn any_setup() -> impl Strategy<Value = Setup> {
    let set = prop_oneof![Just(Set::A), Just(Set::B)];
    let mode = prop_oneof![4 => Just(Mode::Full), 1 => Just(Mode::Wait), 1 => Just(Mode::Life)];
    let blind = prop_oneof![Just(vec![]), Just(Kind::ALL.to_vec())];
    (18u32..30, set, mode, blind, 0usize..8).prop_map(|(minor, set, mode, blind, capacity)| Setup {
        mode,
        blind,
        capacity,
        ..setup(minor, set)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any events at all: no panic, no growth, and everything said can be summed up.
    #[test]
    fn anything_goes(
        setup in any_setup(),
        events in prop::collection::vec((any_event(), 0u8..20), 0..200),
    ) {
        let capacity = setup.capacity;
        let (mut model, mut out) = (Goroutines::new(setup), Vec::new());
        let mut summary = Summary::with_rows(3);
        for (event, then) in events {
            model.apply(&event, &mut out);
            match then {
                0 => model.lost(1, event.ts),
                1 => _ = model.settle(event.ts, &mut out),
                2 => _ = model.settle(u64::MAX, &mut out),
                _ => {}
            }
            prop_assert!(model.len() <= capacity);
            prop_assert_eq!(model.iter().count(), model.len());
            prop_assert!(model.threads_and_births().1 <= capacity.max(1));
            prop_assert!(model.threads_and_births().0 <= capacity.max(1));
            out.drain(..).for_each(|step| summary.add(&step));
        }
        summary.close(&model, u64::MAX);
        prop_assert!(summary.wait_sites.iter().count() <= 3);
    }
}

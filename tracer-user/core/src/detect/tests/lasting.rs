//! What is meant to last: what was made when the program started, what waits for its end, calls, pools of HTTP/2.

use super::world::{NOW, SECOND, World, channel, timer, waits};
use crate::{
    detect::Rules,
    heap::{Edge, Facts, Look, Sign, Waits},
    snapshot::{Goroutine, ObjectKind, Wants},
};
use std::sync::Arc;

const CLIENT: [&str; 2] = ["runtime.selectgo", "main.(*client).watch"];

/// Each made by a goroutine of its own that has ended, and waiting since this many seconds after the start.
fn since(seconds: u64) -> impl Fn(u64, &mut Goroutine, &mut Facts) {
    move |number, goroutine, facts| {
        goroutine.parent_goid = 1000 + number;
        goroutine.waiting_since_ns = NOW - 1000 * SECOND + seconds * SECOND;
        facts.since_ns = NOW - SECOND;
    }
}

/// A program that was started a thousand seconds ago.
fn world() -> World {
    let mut world = World::new();
    world.observed.started_ns = Some(NOW - 1000 * SECOND);
    world
}

#[test]
fn what_was_made_at_the_start_is_a_suspect_at_most() {
    let mut early = world();
    early.add(3, "select", &CLIENT, since(100));
    assert_eq!(early.found(), [("suspect", "select-dead".to_owned(), 3)]);
    let mut late = world();
    late.add(3, "select", &CLIENT, since(101));
    assert_eq!(late.found(), [("likely", "sdk-resident-named".to_owned(), 3)]);
    // One of them came later.
    early.add(1, "select", &CLIENT, since(600));
    assert_eq!(early.found(), [("likely", "sdk-resident-named".to_owned(), 4)]);
    // Growth says that there is more to come.
    let mut unknown = World::new();
    unknown.add(3, "select", &CLIENT, since(0));
    assert_eq!(unknown.found()[0].0, "likely", "when it was started is not known");
}

#[test]
fn who_wakes_with_a_timer_was_made_before_those_that_came_later_waited() {
    let beats = |later: u64, made: u64| {
        let mut world = world();
        let object = world.object(timer());
        world.add(3, "select", &CLIENT, |number, goroutine, facts| {
            since(0)(number, goroutine, facts);
            goroutine.waits = waits(object, Wants::Receive);
            (goroutine.waiting_since_ns, facts.moved) = (0, 4);
        });
        world.add(1, "select", &["runtime.selectgo", "main.idle"], |number, goroutine, facts| {
            since(later)(number, goroutine, facts);
            // Of another `go` statement.
            (goroutine.goid, goroutine.startpc) = (made, 7);
        });
        world.found().first().map(|(verdict, ..)| *verdict)
    };
    assert_eq!(beats(50, 60), None);
    assert_eq!(beats(500, 60), Some("likely"));
    assert_eq!(beats(50, 30), Some("likely"), "ids are given out in batches");
    // By order alone: most of what the program made came later.
    assert_eq!(beats(900, 20_000), None);
}

#[test]
fn what_came_between_two_looks_was_not_made_at_the_start() {
    let mut world = world();
    world.add(3, "select", &CLIENT, |number, goroutine, facts| {
        since(0)(number, goroutine, facts);
        facts.looks = 5 - number as u32;
    });
    world.observed.looks = (0..5).map(|at_ns| Look { at_ns, ..Look::default() }).collect();
    assert_eq!(world.found(), [("likely", "sdk-resident-named".to_owned(), 3)]);
}

#[test]
fn who_waits_for_a_signal_is_a_suspect_at_most() {
    let mut world = World::new();
    world.add(3, "select", &CLIENT, |number, goroutine, facts| {
        goroutine.parent_goid = 1000 + number;
        facts.until_signal = true;
    });
    assert_eq!(world.found_younger(5), [("suspect", "select-dead".to_owned(), 3)]);
    world.observed.facts.iter_mut().for_each(|facts| facts.until_signal = false);
    assert_eq!(world.found_younger(5), [("likely", "sdk-resident-named".to_owned(), 3)]);
}

#[test]
fn http2_is_the_same_in_each_of_its_packages() {
    for (package, type_of) in [
        ("net/http", "(*http2ClientConn).readLoop"),
        ("net/http/internal/http2", "(*ClientConn).readLoop"),
        ("golang.org/x/net/http2", "(*ClientConn).readLoop"),
        ("example.org/shop/vendor/golang.org/x/net/http2", "(*ClientConn).readLoop"),
    ] {
        let name = format!("{package}.{type_of}");
        let run = name.replace("lientConn).readLoop", "lientConnReadLoop).run").replace("2C", "2c");
        let io = ["internal/poll.(*FD).Read", "net.(*conn).Read", "crypto/tls.(*Conn).Read", &run, &name];
        let mut world = World::new();
        world.add(3, "IO wait", &io, |number, goroutine, _| goroutine.parent_goid = 1000 + number);
        assert_eq!(world.found(), [], "{name}: young ones");
        assert_eq!(world.found_younger(5), [("likely", "http-client-idle".to_owned(), 3)], "{name}");
        // Two are too few for that, and still no readers like any other.
        let mut world = World::new();
        world.add(2, "IO wait", &io, |_, _, _| {});
        assert_eq!(world.found_younger(5), [], "{name}");
        let server = name.replace("ClientConn", "serverConn").replace("readLoop", "readFrames");
        let mut world = World::new();
        world.add(3, "IO wait", &["net.(*conn).Read", &server], |_, _, _| {});
        assert_eq!(world.found_younger(5), [], "{server}");
    }
}

#[test]
fn a_timer_s_channel_is_guessed_only_where_channels_know_nothing() {
    let stopped = || ObjectKind::Channel {
        len: 0,
        cap: 1,
        closed: false,
        timer: false,
        element_size: 24,
        receivers: 1,
        senders: 0,
    };
    for (hides, rule) in [(true, "timer-stopped"), (false, "range-never-closed")] {
        let mut world = World::new();
        let object = world.object(stopped());
        let addr = world.observed.snapshot.objects[object as usize].addr;
        world.observed.timer_like = hides.then_some(addr).into_iter().collect();
        world.add(1, "chan receive", &["runtime.chanrecv2", "main.f"], |_, goroutine, facts| {
            (goroutine.waits, facts.unreachable) = (waits(object, Wants::Receive), true);
        });
        assert_eq!(world.found(), [("proven", rule.to_owned(), 1)]);
    }
}

#[test]
fn calls_that_are_meant_to_last_are_spared() {
    let rules = Rules::built_in().unwrap();
    let lasts = |names: &[&str], main| {
        let functions: Vec<Arc<str>> = names.iter().map(|name| (*name).into()).collect();
        rules.means_call_to_last(&functions, main)
    };
    assert!(lasts(&["runtime.notetsleepg", "os/signal.signal_recv", "os/signal.loop"], false));
    assert!(lasts(&["syscall.Syscall6", "syscall.wait4", "os.(*Process).blockUntilWaitable"], false));
    assert!(lasts(&["syscall.read", "os.(*File).Read", "main.f"], false), "stuck-file wants several");
    assert!(!lasts(&["syscall.Syscall", "syscall.read", "main.f"], false));
    assert!(lasts(&["syscall.Syscall", "syscall.read", "main.main"], true), "the main goroutine may");
    assert!(!lasts(&["runtime.cgocall", "main._Cfunc_wait"], false));
}

#[test]
fn sleepers_say_when_they_wake() {
    let said = |wakes: &[u64]| {
        let mut world = World::new();
        let count = wakes.len() as u64;
        world.add(count, "sleep", &["time.Sleep", "main.poll"], |number, goroutine, facts| {
            goroutine.parent_goid = 1000 + number;
            facts.wakes_ns = wakes[number as usize];
        });
        let report = world.detect_with(&Default::default(), 5 * SECOND);
        let evidence = report.groups.into_iter().flat_map(|group| group.evidence);
        evidence.filter(|sentence| sentence.contains("wake")).collect::<Vec<_>>()
    };
    let at = |seconds| NOW + seconds * SECOND;
    assert_eq!(said(&[at(3), at(90), at(5)]), ["they sleep, and wake in 3.00s to 1m30s"]);
    assert_eq!(said(&[at(3), at(3), at(3)]), ["they sleep, and wake in 3.00s"]);
    assert_eq!(said(&[NOW - 7, 0, 0]), ["they sleep, and wake in 0ns"]);
    assert_eq!(said(&[0, 0, 0]), [""; 0]);
}

#[test]
fn a_ring_is_one_finding_wherever_its_members_wait() {
    let ring = |second: &str, rings: u32| {
        let mut world = World::new();
        let objects: Vec<u32> = (0..2 * rings).map(|_| world.object(channel())).collect();
        for (name, shift) in [("main.f", 0), (second, 1)] {
            world.add(rings.into(), "chan send", &["runtime.chansend1", name], |number, goroutine, _| {
                goroutine.waits = waits(objects[2 * number as usize + shift], Wants::Send);
            });
        }
        let edge = |waiter: u32, object: u32, holder: u32| Edge {
            waiter,
            object: objects[object as usize],
            holder,
            sign: Sign::Stack,
            place: None,
        };
        let edges = (0..rings).flat_map(|ring| {
            let (one, other) = (ring, rings + ring);
            [edge(one, 2 * ring, other), edge(other, 2 * ring + 1, one)]
        });
        world.observed.waits = Waits::testing(2 * rings as usize, edges.collect());
        world.detect_with(&Default::default(), 5 * SECOND).groups
    };
    let one = ring("main.g", 1);
    assert_eq!(one.len(), 1, "{one:?}");
    assert_eq!((one[0].count, one[0].members.clone()), (2, vec![0, 1]));
    assert_eq!(one[0].ring.iter().map(|edge| edge.waiter).collect::<Vec<_>>(), [0, 1]);
    let many = ring("main.g", 3);
    assert_eq!((many.len(), many[0].count), (1, 6), "rings over the same places are one finding");
    assert_eq!(many[0].id, one[0].id);
    assert_ne!(ring("main.h", 1)[0].id, one[0].id, "another ring");
    assert_eq!(ring("main.f", 1)[0].count, 2);
}

#[test]
fn a_pool_in_use_is_silent() {
    let mut world = World::new();
    let object = world.object(channel());
    world.add(9, "chan receive", &["runtime.chanrecv2", "main.work"], |_, goroutine, _| {
        goroutine.waits = waits(object, Wants::Receive);
    });
    let suspects = [("suspect", "range-never-closed".to_owned(), 9)];
    assert_eq!(world.found_younger(5), suspects);
    world.observed.facts[4].moved = 3;
    assert_eq!(world.found_younger(5), []);
    world.observed.facts[4].moved = 2;
    assert_eq!(world.found_younger(5), suspects, "it came, and then waited");
}

//! What is never reported.

use super::world::{LOOKS, NOW, SECOND, World};
use crate::snapshot::Trust;

#[test]
fn goroutines_that_cannot_leak() {
    let mut world = World::new();
    world.add(5, "GC worker (idle)", &["runtime.gcBgMarkWorker"], |_, goroutine, facts| {
        (goroutine.system, facts.unreachable) = (true, true);
    });
    world.add(1, "select (no cases)", &["main.main", "runtime.main"], |_, goroutine, facts| {
        (goroutine.goid, facts.unreachable) = (1, true);
    });
    world.add(1, "GC assist marking", &["main.f"], |_, _, facts| facts.unreachable = true);
    world.add(3, "chan receive", &["main.f"], |_, goroutine, facts| {
        (goroutine.trust, facts.unreachable) = (Trust::InMotion, true);
    });
    let report = world.detect_with(&Default::default(), 0);
    assert!(report.groups.is_empty());
    assert_eq!(report.scanned, 0);
}

/// The only goroutines that look leaked in it are old, and few or of a service.
#[test]
fn a_healthy_server() {
    let mut world = World::new();
    let old = |_: u64, goroutine: &mut crate::snapshot::Goroutine, _: &mut crate::heap::Facts| {
        goroutine.waiting_since_ns = NOW - 3600 * SECOND;
    };
    // As long as the pool of an http.Transport keeps them by default.
    let idle = |_: u64, goroutine: &mut crate::snapshot::Goroutine, _: &mut crate::heap::Facts| {
        goroutine.waiting_since_ns = NOW - 90 * SECOND;
    };
    let io = "runtime.netpollblock";
    world
        .add(2, "chan receive", &["runtime.chanrecv1", "main.worker"], old)
        .add(5, "IO wait", &[io, "internal/poll.(*FD).Accept", "net/http.(*Server).Serve"], old)
        .add(50, "IO wait", &[io, "bufio.(*Reader).Peek", "net/http.(*conn).serve"], old)
        .add(50, "IO wait", &[io, "bufio.(*Reader).Peek", "net/http.(*persistConn).readLoop"], idle)
        .add(50, "select", &["runtime.selectgo", "net/http.(*persistConn).writeLoop"], idle)
        .add(4, "select", &["runtime.selectgo", "database/sql.(*DB).connectionOpener"], old)
        .add(3, "select", &["runtime.selectgo", "os/signal.NotifyContext.func1"], old)
        .add(1, "select", &["runtime.selectgo", "main.main"], |_, goroutine, _| goroutine.goid = 1);
    assert_eq!(world.found(), []);
    // A pool of workers that had nothing to do for an hour is worth a look, no more.
    world.add(1, "chan receive", &["runtime.chanrecv1", "main.worker"], old);
    assert_eq!(world.found(), [("suspect", "receive-without-sender".to_owned(), 3)]);
}

/// Under a rising load the site has ever more goroutines, but not the same ones.
#[test]
fn a_load_that_rises_is_no_leak() {
    let mut world = World::new();
    world.add(20, "chan receive", &["main.f"], |_, _, facts| facts.looks = 1);
    world.looks(&[12, 14, 16, 18, 20]);
    assert_eq!(world.found(), []);
    for (number, facts) in (0..).zip(&mut world.observed.facts) {
        facts.looks = (20u32.saturating_sub(number) / 2).clamp(1, LOOKS);
    }
    assert_eq!(world.found(), [("suspect", "receive-without-sender".to_owned(), 20)]);
}

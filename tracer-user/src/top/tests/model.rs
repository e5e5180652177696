//! The numbers of tables, heads and findings.

use super::*;
use crate::probe::Cost;
use sfgi_core::{
    event::{Birth, Event},
    goruntime::State,
    model::Seen,
    session::SnapshotInput,
};

const WAIT: &str = "store.(*Store).wait store.go:44";

#[test]
fn blocked_time_is_that_of_the_interval_and_of_all_goroutines() {
    let mut world = shop();
    let cell = |world: &mut World, title| world.cell(By::Wait, WAIT, title);
    assert_eq!(cell(&mut world, "NOW"), "2");
    assert_eq!(cell(&mut world, "RATE/s"), "3.0");
    // 500 ms of goroutine 7, then both up to the end: 301 and 501.
    assert_eq!(cell(&mut world, "WAITED"), "1.30s");
    assert_eq!(cell(&mut world, "MAX"), "501ms");
    assert_eq!(cell(&mut world, "RUNQ"), "50.0ms");
    assert_eq!(world.cell(By::Wait, "main.load main.go:60", "REASON"), "syscall");

    // Another second in which nothing happens: both wait through all of it.
    world.round(0, "", 2001);
    world.tick(2001);
    assert_eq!(cell(&mut world, "WAITED"), "2.00s");
    assert_eq!(cell(&mut world, "RATE/s"), "0");
    assert_eq!(cell(&mut world, "TOTAL"), "3.30s");
    assert_eq!(cell(&mut world, "MAX"), "1.50s");
    assert_eq!(cell(&mut world, "RUNQ"), "-", "nobody has run");
}

#[test]
fn a_wait_from_before_counts_only_where_it_falls_into_the_interval() {
    let mut world = shop();
    world.round(0, "1501 m2 g7 casgstatus 4>1 by g9", 2001);
    world.tick(2001);
    // 500 ms of goroutine 7, all of goroutine 8's second.
    assert_eq!(world.cell(By::Wait, WAIT, "WAITED"), "1.50s");
    assert_eq!(world.cell(By::Wait, WAIT, "MAX"), "1.50s");
}

#[test]
fn creation_sites_that_grow_come_first() {
    let mut world = shop();
    for second in 2..6u64 {
        let at = second * 1000 - 500;
        let events: Vec<String> = (0..5)
            .map(|more| format!("{at} m1 g{} casgstatus 6>1 {SERVE} parent=g1", second * 100 + more))
            .collect();
        let end = format!(
            "{} m1 g{} casgstatus 1>2\n{} m1 g{} casgstatus 2>6 {SERVE}",
            at + 1,
            second * 100,
            at + 2,
            second * 100
        );
        world.round(0, &format!("{}\n{end}", events.join("\n")), second * 1000 + 1);
        world.tick(second * 1000 + 1);
    }
    let serve = "store.(*Store).serve";
    let cell = |world: &mut World, title| world.cell(By::Creation, serve, title);
    assert_eq!(cell(&mut world, "ALIVE"), "19");
    assert_eq!(cell(&mut world, "MADE/s"), "5.0");
    assert_eq!(cell(&mut world, "END/s"), "1.0");
    assert_eq!(cell(&mut world, "GROWTH"), "+16");
    let picture = world.picture(&Query { system: true, ..Query::usual() });
    let first = &picture.table(By::Creation).rows[0];
    assert!(first.alarm && first.words[0].ends_with("serve"), "{first:?}");
}

#[test]
fn the_runtimes_own_are_told_apart() {
    let mut world = shop();
    let own = |query: Query, world: &mut World| {
        let picture = world.picture(&query);
        By::ALL.map(|by| picture.table(by).rows.iter().filter(|row| row.system).count())
    };
    assert_eq!(own(Query::usual(), &mut world), [0; 4]);
    assert_eq!(own(Query { system: true, ..Query::usual() }, &mut world), [1; 4]);
    let head = &world.picture(&Query::usual()).heads[0];
    assert_eq!((head.total, head.system), (3, 1));
    assert_eq!(head.counts, [(State::Syscall, 1), (State::Waiting, 2)]);
}

#[test]
fn time_on_a_cpu_is_not_time_without_one() {
    let mut world = World::one();
    world.round(
        0,
        &format!(
            "100 m1 g7 casgstatus 6>1 {SERVE}
             200 m2 g7 casgstatus 1>2
             300 m2 g7 off
             500 m2 g7 on
             700 m2 g7 casgstatus 2>4 chan receive pc=101,103"
        ),
        1001,
    );
    world.tick(1001);
    assert_eq!(world.cell(By::Goroutine, "7", "ON-CPU"), "300ms");
    assert_eq!(world.cell(By::Goroutine, "7", "RUNQ"), "100ms");
    assert_eq!(world.cell(By::Goroutine, "7", "AGE"), "301ms");
    assert_eq!(world.cell(By::Creation, "store.(*Store).serve", "ON-CPU"), "300ms");

    let mut blind = World::new(&[1], Source::Probes { threads: false });
    blind.round(0, &format!("100 m1 g7 casgstatus 6>1 {SERVE}\n200 m2 g7 casgstatus 1>2"), 1001);
    blind.tick(1001);
    assert_eq!(blind.cell(By::Goroutine, "7", "ON-CPU"), "-");
}

#[test]
fn snapshots_alone_do_not_tell_what_happens_between_them() {
    let mut world = World::new(&[1], Source::Snapshots);
    let site = sfgi_core::event::Stack::of(&[101, 103]);
    let seen = |goid: u64| Seen {
        g: goid << 12,
        goid,
        state: State::Waiting,
        reason: 1,
        since_ts: 0,
        tid: 0,
        birth: Birth { parent_goid: 1, gopc: 1001, startpc: 2000, funcval: 0 },
        site,
    };
    for (second, goids) in [(1, 5..8), (2, 5..10), (3, 6..10)] {
        let (began_ts, ended_ts) = (second * 1000 * MS, (second * 1000 + 1) * MS);
        let seen = goids.map(seen).collect();
        world.input(0, &Input::Snapshot(SnapshotInput { seen, began_ts, ended_ts, complete: true }));
        world.round(0, "", second * 1000 + 1);
        world.tick(second * 1000 + 1);
    }
    assert_eq!(world.cell(By::Wait, WAIT, "NOW"), "4");
    for title in ["RATE/s", "WAITED", "TOTAL", "RUNQ"] {
        assert_eq!(world.cell(By::Wait, WAIT, title), "-", "{title}");
    }
    let serve = "store.(*Store).serve";
    assert_eq!(world.cell(By::Creation, serve, "ALIVE"), "4");
    assert_eq!(world.cell(By::Creation, serve, "GROWTH"), "+1");
    assert_eq!(world.cell(By::Creation, serve, "MADE/s"), "-");
    assert_eq!(world.picture(&Query::usual()).heads[0].events, None);
}

#[test]
fn what_is_wrong_is_found() {
    let mut world = World::one();
    world.round(
        0,
        &format!(
            "100 m1 g7 casgstatus 6>1 {SERVE}
             100 m1 g8 casgstatus 6>1 {SERVE}
             100 m1 g9 casgstatus 6>1 {SERVE}
             300 m2 g7 casgstatus 1>2
             301 m3 g8 casgstatus 1>2
             302 m3 g8 entersyscall pc=105
             303 m1 g9 casgstatus 1>4
             2000 m2 g7 casgstatus 2>4 chan receive pc=101,103"
        ),
        2001,
    );
    world.tick(2001);
    world.round(0, "", 11_000);
    world.tick(11_000);
    let sentences: Vec<String> =
        world.picture(&Query::usual()).findings.iter().map(Finding::sentence).collect();
    let expected = [
        "store.(*Store).serve store.go:30 illegal transition (runnable → waiting: the runtime of Go 1.26 never \
         makes this change), once, last goroutine 9",
        "store.(*Store).serve store.go:30 waited for a processor (starved) for 201ms, 2 times, last goroutine 8",
        "store.(*Store).serve store.go:30 ran without yielding (never-yields) for 1.70s, once, last goroutine 7",
        "main.load main.go:60 stuck in a system call or in C (stuck-syscall) for 10.7s, 1 now, last goroutine 8",
    ];
    assert_eq!(sentences, expected);
}

/// As `sfgi leaks` does it: some calls last as long as the program.
#[test]
fn calls_that_are_meant_to_last_are_no_findings() {
    let mut world = World::with(&[1234], Source::Probes { threads: true }, || {
        let mut symbols = symbols();
        symbols.tell_frames(200, site("os/signal.signal_recv", "/go/src/runtime/sigqueue.go", 152));
        symbols.tell_frames(202, site("syscall.Syscall", "/go/src/syscall/syscall_linux.go", 73));
        symbols.tell_frames(204, site("main.tail", "/src/shop/main.go", 70));
        symbols
    });
    let calls = |goid: u32, pcs: &str| {
        format!(
            "100 m1 g{goid} casgstatus 6>1 {SERVE}\n101 m1 g{goid} casgstatus 1>2\n102 m1 g{goid} entersyscall pc={pcs}\n"
        )
    };
    world.round(0, &(calls(7, "201") + &calls(8, "203,205")), 103);
    world.round(0, "", 11_000);
    world.tick(11_000);
    let found: Vec<String> = world.picture(&Query::usual()).findings.iter().map(Finding::sentence).collect();
    let tail = "main.tail main.go:70 stuck in a system call or in C (stuck-syscall) for 10.9s, 1 now, last goroutine 8";
    assert_eq!(found, [tail]);
}

#[test]
fn a_filter_and_the_order_decide_what_is_left_out() {
    let mut world = World::one();
    let events: Vec<String> =
        (1..=3000).map(|goid| format!("{goid} m1 g{goid} casgstatus 6>1 {SERVE}")).collect();
    world.round(0, &events.join("\n"), 4000);
    world.tick(4000);
    let picture = world.picture(&Query::usual());
    let table = picture.table(By::Goroutine);
    assert_eq!((table.rows.len(), table.more), (1000, 2000));
    let oldest: Vec<u64> = table.rows.iter().map(|row| row.key.goid).collect();
    assert_eq!(oldest, (1..=1000).collect::<Vec<_>>(), "the longest in their state come first");

    let none = Query { filter: regex::Regex::new("nobody").ok(), ..Query::usual() };
    let table = world.picture(&none).table(By::Goroutine).clone();
    assert_eq!((table.rows.len(), table.more), (0, 0));
}

#[test]
fn a_hostile_target_fills_no_more_than_there_is_room_for() {
    let mut world = World::one();
    let events: Vec<String> = (1..=9000)
        .map(|at| format!("{at} m1 g{at} casgstatus 6>1 pc={},{}", at * 7 + 50_000, at * 7 + 90_000))
        .collect();
    world.round(0, &events.join("\n"), 10_000);
    world.tick(10_000);
    let picture = world.picture(&Query::usual());
    let table = picture.table(By::Creation);
    assert!(table.rows.len() <= 1000, "{}", table.rows.len());
    assert!(table.more > 3000, "{}", table.more);
    assert_eq!(picture.heads[0].total, 9000);
}

#[test]
fn what_a_goroutine_did_last_is_told() {
    let mut world = shop();
    let query = Query { detail: Some((0, 7)), ..Query::usual() };
    let detail = world.picture(&query).detail.expect("it was asked for");
    let past: Vec<String> =
        detail.past.iter().map(|(past, reason)| format!("{} {reason}", past.what)).collect();
    let block = "block chan receive";
    assert_eq!(past, [block, "start ", "unblock chan receive", block, "start ", "create "]);
    assert_eq!((&*detail.state, detail.creator.1, detail.waits), ("chan receive", 1, true));
    assert_eq!(&*detail.creator.0, "main.main main.go:20");
    let functions: Vec<&str> = detail.stack.iter().map(|site| &*site.func).collect();
    assert_eq!(functions, ["runtime.chanrecv1", "example.org/shop/store.(*Store).wait"]);
    let gone = world.picture(&Query { detail: Some((0, 4711)), ..Query::usual() }).detail;
    assert_eq!(&*gone.expect("it was asked for").state, "gone");
}

#[test]
fn costs_are_those_of_the_last_interval() {
    let mut world = shop();
    let cost = |ts: u64, hits: u64| Cost {
        ts: ts * MS,
        hits,
        ns: hits as f64 * 200.0,
        cpu_ns: ts * MS / 2,
        ..Cost::default()
    };
    assert_eq!(world.picture(&Query::usual()).heads[0].hits, None);
    world.top.cost(0, cost(1000, 10_000));
    assert_eq!(world.picture(&Query::usual()).heads[0].hits, None, "one is not enough");
    world.top.cost(0, cost(3000, 30_000));
    let head = &world.picture(&Query::usual()).heads[0];
    assert_eq!((head.hits, head.hit_ns, head.share), (Some(10_000.0), Some(200.0), Some(0.004)));
}

#[test]
fn a_recording_shows_how_things_stood_at_a_time_and_at_its_end() {
    let rates = |at_ms: u64| {
        let mut world = World::one();
        let mut frozen = Frozen::new(Source::Probes { threads: true }, Query::usual(), 1000 * MS, at_ms * MS);
        frozen.begin(&mut world.targets).expect("nothing is written");
        let mut round = Round::default();
        for until_ms in 0..=30u64 {
            let at = until_ms * 100;
            let events = match until_ms {
                0 => String::new(),
                1 => format!("10 m1 g7 casgstatus 6>1 {SERVE}\n20 m1 g7 casgstatus 1>2"),
                _ => format!(
                    "{} m1 g7 casgstatus 2>4 chan receive pc=101,103\n{} m1 g7 casgstatus 4>1\n{} m1 g7 casgstatus 1>2",
                    at - 30,
                    at - 20,
                    at - 10
                ),
            };
            let events =
                events.lines().map(timeline::event).map(|event| Event { ts: event.ts * MS, ..event });
            let ts = (at + 1) * MS;
            let batch =
                Batch { events: events.collect(), lost: 0, blurred: 0, doubt_until: ts, complete_until: ts };
            round.clear(1);
            let input = Input::Events(batch);
            world.targets[0].take(&input, &mut round.news[0]);
            frozen.input(0, &input, &mut world.targets[0]).expect("nothing is written");
            frozen.round(&mut world.targets, &round).expect("nothing is written");
        }
        let end = sfgi_core::session::End { until_ts: 3001 * MS, ..Default::default() };
        frozen.end(&mut world.targets, &[end]).expect("nothing is written");
        let picture = frozen.picture().expect("the time has come").clone();
        let row = &picture.table(By::Wait).rows[0];
        (picture.ts / MS, row.cells[1].text(9))
    };
    assert_eq!(rates(1501), (1501, "10".to_owned()));
    assert_eq!(rates(u64::MAX / MS), (3001, "10".to_owned()), "the last interval is not an empty one");
}

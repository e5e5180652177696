//! Each class: what belongs to it, and its neighbour that does not.

use super::{
    assert_proven,
    world::{NOW, SECOND, World, channel, timer, waits},
};
use crate::{
    detect::Scope,
    goruntime::State,
    heap::{DeadSet, Due, Edge, Facts, Sign, TimerKind, TimerSite, Waits},
    snapshot::{Goroutine, ObjectKind, Wants},
};

const LOCKED: ObjectKind = ObjectKind::Mutex { locked: true };

fn found(verdict: &'static str, rule: &str, count: u64) -> Vec<(&'static str, String, u64)> {
    vec![(verdict, rule.to_owned(), count)]
}

/// Each made by a goroutine of its own that has ended.
fn orphans(number: u64, goroutine: &mut Goroutine, _: &mut Facts) {
    goroutine.parent_goid = 1000 + number;
}

#[test]
fn channels_by_wait_reason_and_by_the_runtime_s_function() {
    assert_proven("chan send", &["runtime.gopark", "runtime.chansend1", "main.f"], "send-without-receiver");
    assert_proven(
        "chan receive",
        &["runtime.gopark", "runtime.chanrecv1", "main.f"],
        "receive-without-sender",
    );
    assert_proven("chan receive", &["runtime.gopark", "runtime.chanrecv2", "main.f"], "range-never-closed");
    assert_proven("select", &["runtime.gopark", "runtime.selectgo", "main.f"], "select-dead");
    assert_proven("chan receive (nil chan)", &["runtime.gopark", "main.f"], "nil-channel");
    assert_proven("chan send (nil chan)", &["runtime.gopark", "main.f"], "nil-channel");
    assert_proven("select (no cases)", &["runtime.gopark", "runtime.block", "main.f"], "select-no-cases");
    // In a synctest bubble.
    assert_proven("chan receive (durable)", &["runtime.chanrecv1", "main.f"], "receive-without-sender");
    assert_proven("coroutine", &["runtime.coroswitch_m", "main.f"], "coroutine-never-stopped");
}

#[test]
fn sync_by_wait_reason_and_in_old_versions_by_function() {
    for reason in ["sync.Mutex.Lock", "semacquire"] {
        assert_proven(
            reason,
            &["sync.runtime_SemacquireMutex", "sync.(*Mutex).lockSlow", "sync.(*Mutex).Lock", "main.f"],
            "mutex-never-unlocked",
        );
    }
    assert_proven("sync.RWMutex.RLock", &["sync.(*RWMutex).RLock", "main.f"], "mutex-never-unlocked");
    for reason in ["sync.WaitGroup.Wait", "semacquire"] {
        assert_proven(
            reason,
            &["sync.runtime_Semacquire", "sync.(*WaitGroup).Wait", "main.f"],
            "waitgroup-never-done",
        );
    }
    assert_proven(
        "sync.Cond.Wait",
        &["sync.runtime_notifyListWait", "sync.(*Cond).Wait", "main.f"],
        "cond-never-signalled",
    );
    assert_proven("semacquire", &["internal/poll.(*fdMutex).rwlock", "main.f"], "unreachable");
}

/// Two goroutines that wait for each other over these objects.
fn cycle(first: ObjectKind, second: ObjectKind) -> Vec<(&'static str, String, u64)> {
    let mut world = World::new();
    let objects = [world.object(first), world.object(second)];
    world.add(2, "sync.Mutex.Lock", &["sync.(*Mutex).Lock", "main.f"], |number, goroutine, facts| {
        goroutine.waits = waits(objects[number as usize], Wants::Lock);
        facts.unreachable = true;
        facts.set = Some(0);
    });
    let edge = |waiter: u32, holder| Edge {
        waiter,
        object: objects[waiter as usize],
        holder,
        sign: Sign::Stack,
        place: None,
    };
    let edges = vec![edge(0, 1), edge(1, 0)];
    world.observed.waits = Waits::testing(2, edges.clone());
    world.observed.sets = vec![DeadSet { members: vec![0, 1], edges }];
    world.found()
}

#[test]
fn cycles_by_what_they_go_over() {
    assert_eq!(cycle(LOCKED, LOCKED), found("proven", "lock-order-cycle", 2));
    assert_eq!(cycle(LOCKED, channel()), found("proven", "lock-channel-mixed", 2));
    assert_eq!(cycle(channel(), channel()), found("proven", "mutex-never-unlocked", 2));
}

/// Cycles over what variables hold: nothing is proven, and age tells.
#[test]
fn cycles_that_no_proof_covers() {
    let found = |edges: &[(u32, u32, u32, Sign)], wants: &[(u32, Wants)], kinds: &[ObjectKind]| {
        let certain = edges.iter().all(|(.., sign)| !sign.is_hint());
        let mut world = World::new();
        let objects: Vec<u32> = kinds.iter().map(|kind| world.object(kind.clone())).collect();
        let (count, locks) = (wants.len() as u64, kinds.contains(&LOCKED));
        let (reason, function) = if locks {
            ("sync.Mutex.Lock", "sync.(*Mutex).Lock")
        } else {
            ("chan send", "runtime.chansend1")
        };
        world.add(count, reason, &[function, "main.f"], |number, goroutine, _| {
            let (object, wants) = wants[number as usize];
            goroutine.waits = waits(objects[object as usize], wants);
        });
        let edges = edges.iter().map(|(waiter, object, holder, sign)| Edge {
            waiter: *waiter,
            object: *object,
            holder: *holder,
            sign: *sign,
            place: None,
        });
        world.observed.waits = Waits::testing(wants.len(), edges.collect());
        assert_eq!(world.found().is_empty(), !certain, "they are young");
        let found = world.found_younger(5);
        found
            .into_iter()
            .map(|(verdict, rule, count)| format!("{count} {verdict} {rule}"))
            .collect::<Vec<_>>()
    };
    let unlock = Sign::Unlock;
    let lock = |object| (object, Wants::Lock);
    let by_stack = [(0, 0, 1, Sign::Stack), (1, 1, 0, unlock)];
    assert_eq!(found(&by_stack, &[lock(0), lock(1)], &[LOCKED, LOCKED]), ["2 likely lock-order-cycle"]);
    let both = [(0, 0, 1, unlock), (1, 1, 0, unlock)];
    assert_eq!(found(&both, &[lock(0), lock(1)], &[LOCKED, LOCKED]), ["2 likely lock-order-cycle"]);
    assert_eq!(
        found(&both, &[lock(0), (1, Wants::Send)], &[LOCKED, channel()]),
        ["2 likely lock-channel-mixed"]
    );
    assert_eq!(
        found(&both, &[(0, Wants::Send), (1, Wants::Send)], &[channel(), channel()])[0],
        "2 likely channel-cycle"
    );
    assert_eq!(found(&[(0, 0, 0, unlock)], &[lock(0)], &[LOCKED]), ["1 likely recursive-lock"]);
    let rw = ObjectKind::RwMutex { writer: true, readers: 1, reading: 1 };
    let again = [(0, 0, 1, Sign::Queue), (1, 0, 0, unlock)];
    assert_eq!(found(&again, &[(0, Wants::RLock), lock(0)], &[rw]), ["2 likely recursive-read-lock"]);
}

#[test]
fn one_that_waits_for_a_cycle_is_not_in_it() {
    let mut world = World::new();
    let objects = [world.object(LOCKED), world.object(LOCKED)];
    world.add(3, "sync.Mutex.Lock", &["sync.(*Mutex).Lock", "main.f"], |number, goroutine, facts| {
        goroutine.waits = waits(objects[number as usize % 2], Wants::Lock);
        facts.unreachable = true;
        facts.set = Some(0);
    });
    let edge = |waiter: u32, holder| Edge {
        waiter,
        object: objects[waiter as usize % 2],
        holder,
        sign: Sign::Stack,
        place: None,
    };
    let edges = vec![edge(0, 1), edge(1, 0), edge(2, 0)];
    world.observed.waits = Waits::testing(3, edges.clone());
    world.observed.sets = vec![DeadSet { members: vec![2, 0, 1], edges }];
    let expected =
        [("proven", "lock-order-cycle".to_owned(), 2), ("proven", "behind-deadlock".to_owned(), 1)];
    assert_eq!(world.found(), expected);
    let report = world.detect();
    let ring: Vec<u32> = report.groups[0].ring.iter().map(|edge| edge.waiter).collect();
    assert_eq!(ring, [0, 1]);
    assert_eq!(report.groups[1].evidence[1], "it is one of 3 goroutines that only wait for each other");
}

#[test]
fn contexts() {
    let mut world = World::new();
    world.add(1, "select", &["runtime.selectgo", "main.f"], |_, _, facts| {
        (facts.unreachable, facts.context) = (true, true);
    });
    assert_eq!(world.found(), found("proven", "context-never-cancelled", 1));
    let watcher = ["runtime.selectgo", "context.(*cancelCtx).propagateCancel.func2"];
    assert_proven("select", &watcher, "context-watcher");
    // Reachable: only where those who started them have ended.
    let mut world = World::new();
    world.add(3, "chan receive", &["runtime.chanrecv1", "main.f"], |number, goroutine, facts| {
        orphans(number, goroutine, facts);
        facts.context = true;
    });
    assert_eq!(world.found(), []);
    assert_eq!(world.found_younger(5), found("likely", "context-outlives-caller", 3));
}

/// Each with a child of a server's context; and workers that wait for the end of the same one.
#[test]
fn contexts_of_their_own() {
    let waiting = |own: bool| {
        let mut world = World::new();
        let objects = [(); 3].map(|()| world.object(channel()));
        world.add(3, "chan receive", &["runtime.chanrecv1", "main.f"], |number, goroutine, facts| {
            goroutine.waits = waits(objects[if own { number as usize } else { 0 }], Wants::Receive);
            facts.context = true;
        });
        assert_eq!(world.found(), [], "young ones");
        world.found_younger(5)
    };
    assert_eq!(waiting(true), found("likely", "context-children", 3));
    assert_eq!(waiting(false), found("suspect", "context-never-cancelled", 3));
}

#[test]
fn ticker_loops() {
    let mut world = World::new();
    let object = world.object(timer());
    world.add(3, "chan receive", &["runtime.chanrecv1", "main.f"], |number, goroutine, facts| {
        orphans(number, goroutine, facts);
        (goroutine.waits, facts.moved) = (waits(object, Wants::Receive), 4);
    });
    assert_eq!(world.found(), found("likely", "ticker-loops", 3));
    // Shards that one goroutine started, which lives.
    for goroutine in &mut world.observed.snapshot.goroutines {
        goroutine.parent_goid = 2;
    }
    assert_eq!(world.found(), []);
    // Growth does.
    world.looks(&[1, 1, 2, 2, 3]);
    assert_eq!(world.found(), []);
    let mut world = World::new();
    let object = world.object(timer());
    world.add(10, "chan receive", &["runtime.chanrecv1", "main.f"], |number, goroutine, facts| {
        (goroutine.waits, facts.looks) = (waits(object, Wants::Receive), (10 - number as u32).min(5));
    });
    world.looks(&[6, 7, 8, 9, 10]);
    assert_eq!(world.found(), found("likely", "ticker-loops-growing", 10));
}

#[test]
fn timers_without_goroutines() {
    let mut world = World::new();
    let site = |func: u64, kind, count, last: u64, unreachable| TimerSite {
        func,
        kind,
        count,
        fires_in_ns: (SECOND, last * SECOND),
        unreachable,
    };
    let (own, deadline) = (world.creator("main.expire"), world.creator("context.WithDeadlineCause.func2"));
    world.observed.timers = vec![
        site(own, TimerKind::AfterFunc, 60, 3600, false),
        site(own, TimerKind::AfterFunc, 49, 3600, false),
        site(own, TimerKind::AfterFunc, 60, 30, false),
        site(deadline, TimerKind::AfterFunc, 99, 3600, false),
        site(deadline, TimerKind::AfterFunc, 100, 3600, false),
        site(own, TimerKind::Ticker, 4, 1, true),
        site(own, TimerKind::Ticker, 4, 1, false),
        site(own, TimerKind::Timer, 4, 1, true),
    ];
    let expected = [("context-deadlines", 100), ("afterfunc-residue", 60), ("ticker-forgotten", 4)];
    let mut report = world.detect();
    report.groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    let rules: Vec<_> = report.groups.iter().map(|group| (group.rule.id.as_str(), group.count)).collect();
    assert_eq!(rules, expected);
    assert!(report.groups.iter().all(|group| group.members.is_empty() && group.verdict.word() == "likely"));
    let words =
        "60 functions of time.AfterFunc are set, main.expire; the next fires in 1.00s, the last in 60m00s";
    assert_eq!(report.groups[1].evidence, [words]);
}

#[test]
fn connections() {
    let read = |names: &[&str]| {
        let mut world = World::new();
        world.add(3, "IO wait", names, |_, goroutine, _| goroutine.waiting_since_ns = NOW - 9 * SECOND);
        assert_eq!(world.found(), [], "young ones");
        world.found_younger(5)
    };
    let io = ["runtime.netpollblock", "internal/poll.(*FD).Read", "net.(*conn).Read"];
    assert_eq!(read(&[&io[..], &["main.session"]].concat()), found("likely", "connection-reader", 3));
    let tls = ["crypto/tls.(*Conn).readRecordOrCCS", "crypto/tls.(*Conn).clientHandshake", "main.dial"];
    assert_eq!(read(&[&io[..], &tls].concat()), found("likely", "tls-handshake", 3));
    // Idle pools.
    let pool = read(&[&io[..], &["net/http.(*persistConn).readLoop"]].concat());
    assert_eq!(pool, found("likely", "http-client-idle", 3));
    assert_eq!(read(&[&io[..], &["bufio.(*Reader).Peek", "net/http.(*conn).serve"]].concat()), []);
    assert_eq!(read(&["runtime.netpollblock", "internal/poll.(*FD).Accept", "main.serve"]), []);
    let mut world = World::new();
    let body = ["runtime.selectgo", "net/http.(*persistConn).readLoop"];
    world.add(3, "select", &body, |_, _, _| {});
    world.add(3, "select", &["runtime.selectgo", "net/http.(*persistConn).writeLoop"], |_, _, _| {});
    let mut all = world.found_younger(5);
    all.sort();
    let both = [found("likely", "http-body-not-closed", 3), found("likely", "http-client-idle", 3)];
    assert_eq!(all, both.concat());
}

#[test]
fn databases() {
    let opener = ["runtime.selectgo", "database/sql.(*DB).connectionOpener"];
    let mut world = World::new();
    world.add(3, "select", &opener, |_, _, _| {});
    assert_eq!(world.found_younger(5), [], "one for each shard");
    let mut world = World::new();
    world.add(3, "select", &opener, orphans);
    world.add(3, "select", &["runtime.selectgo", "database/sql.(*Rows).awaitDone"], |_, _, _| {});
    let mut all = world.found_younger(5);
    all.sort();
    assert_eq!(
        all,
        [found("likely", "sql-never-closed", 3), found("likely", "sql-rows-not-closed", 3)].concat()
    );
}

#[test]
fn clients_made_again_and_again() {
    let stack = ["runtime.selectgo", "main.(*client).watch"];
    let mut world = World::new();
    world.add(100, "select", &stack, |_, _, _| {});
    assert_eq!(world.found_younger(20), [], "a pool made at once");
    let mut world = World::new();
    world.add(3, "select", &stack, orphans);
    assert_eq!(world.found(), [], "young ones");
    assert_eq!(world.found_younger(5), found("likely", "sdk-resident-named", 3));
    // Up to Go 1.20 no parent is recorded: goids far apart stand for different parents.
    let mut world = World::new();
    world.add(3, "select", &stack, |_, goroutine, _| goroutine.parent_goid = 0);
    assert_eq!(world.detect_with(&Default::default(), 5 * SECOND).groups[0].verdict.word(), "suspect");
    for goroutine in &mut world.observed.snapshot.goroutines {
        goroutine.goid *= 100;
    }
    assert_eq!(world.found_younger(5), found("likely", "sdk-resident-named", 3));
    let mut world = World::new();
    world.add(3, "sleep", &["time.Sleep", "main.poll"], orphans);
    assert_eq!(world.found_younger(5), found("likely", "sdk-resident", 3));
    // A pool that grew as it was needed, and of which one works.
    world.observed.facts[2].moved = 5;
    assert!(world.found_younger(5).iter().all(|(verdict, ..)| *verdict == "suspect"));
    let mut world = World::new();
    let object = world.object(timer());
    world.add(3, "select", &stack, |number, goroutine, facts| {
        orphans(number, goroutine, facts);
        goroutine.waits = waits(object, Wants::Receive);
        (goroutine.waiting_since_ns, facts.since_ns, facts.moved) = (0, NOW, 4);
    });
    assert_eq!(world.found(), found("likely", "sdk-resident-beats", 3));
}

#[test]
fn spinning() {
    let mut world = World::new();
    world.add(1, "", &["runtime.Gosched", "main.f"], |_, goroutine, facts| {
        goroutine.state = State::Runnable;
        (facts.looks, facts.busy, facts.yielding, facts.moved) = (20, 19, 8, 16);
    });
    assert_eq!(world.found(), found("likely", "pseudo-idle-spin", 1));
    // One that works.
    world.observed.facts[0].yielding = 0;
    assert_eq!(world.found(), []);
    // One that polls with a pause.
    (world.observed.facts[0].yielding, world.observed.facts[0].busy) = (20, 10);
    assert_eq!(world.found(), []);
}

#[test]
fn system_calls_and_c() {
    let call = |stack: &[&str]| {
        let mut world = World::new();
        world.add(1, "", stack, |_, _, _| {});
        assert_eq!(world.found(), [], "young ones");
        world.found_younger(5)
    };
    assert_eq!(call(&["syscall.Syscall", "syscall.read", "main.f"]), found("likely", "stuck-syscall", 1));
    assert_eq!(call(&["runtime.cgocall", "main._Cfunc_wait", "main.f"]), found("likely", "stuck-cgo", 1));
    for idle in [
        &["runtime.notetsleepg", "os/signal.signal_recv", "os/signal.loop"][..],
        &["syscall.Syscall6", "golang.org/x/sys/unix.EpollWait", "main.f"],
        &["syscall.Syscall6", "os.(*Process).blockUntilWaitable", "main.f"],
        &["syscall.Syscall", "syscall.read", "internal/poll.(*FD).Read", "os.(*File).Read", "main.f"],
    ] {
        assert_eq!(call(idle), [], "{idle:?}");
    }
}

#[test]
fn live_signs() {
    let mut world = World::new();
    world.add(1, "", &["main.f"], |_, goroutine, facts| {
        goroutine.state = State::Runnable;
        facts.busy = 5;
    });
    assert_eq!(world.found(), found("suspect", "starved", 1));
    world.observed.facts[0].moved = 1;
    assert_eq!(world.found(), []);
    world.observed.snapshot.goroutines[0].state = State::Running;
    (world.observed.facts[0].looks, world.observed.facts[0].busy) = (40, 40);
    assert_eq!(world.found(), found("suspect", "never-yields", 1));
    let mut world = World::new();
    world.add(3, "sync.Cond.Wait", &["sync.(*Cond).Wait", "main.f"], |_, _, facts| facts.moved = 5);
    assert_eq!(world.found(), []);
    assert_eq!(world.found_younger(5), found("suspect", "spurious-wakeups", 3));
}

#[test]
fn finalizers_that_do_not_end() {
    for (start, due, said) in [
        ("runtime.runfinq", 21, "it runs main.finish, and 20 finalizers are due that have not begun"),
        ("runtime.runFinalizers", 1, "it runs main.finish, and 0 finalizers are due that have not begun"),
        ("runtime.runCleanups", 0, "it runs main.finish, and 7 cleanups are due that have not begun"),
    ] {
        let mut world = World::new();
        world.add(
            1,
            "chan send",
            &["runtime.chansend1", "main.finish", "runtime.call16", start],
            |_, _, _| {},
        );
        world.observed.due = Some(Due { finalizers: due, cleanups: 7 });
        assert_eq!(world.found(), [], "{start}: a young one");
        assert_eq!(world.found_younger(5), found("likely", "finalizer-stuck", 1));
        let report = world.detect_with(&Scope::default(), 5 * SECOND);
        let evidence = &report.groups[0].evidence;
        assert!(evidence.contains(&said.to_owned()), "{evidence:?}");
    }
}

//! Snapshot and events as one picture: goroutines that were parked before the trace began are
//! introduced by their first event, long blocks show their stack, and after a loss a snapshot says
//! how things stand.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant, line_of},
    machine,
    sfgi::{self, Event},
    toolchain::Go,
};

const FIXTURE: &str = "joined";
/// Goroutines that listen, and for how long they are parked before the fixture is ready.
const LISTENERS: usize = 5;
const PARKED_NS: u64 = 200_000_000;

#[test]
fn what_was_parked_before_is_introduced() -> Result<()> {
    if !machine::can_trace() {
        return Ok(());
    }
    for go in Go::all() {
        for (set, variant) in [("b", Variant::Plain), ("a", Variant::PieStripped)] {
            let events = events(&go, variant, set)?;
            introduced(&go, &events)
                .and_then(|()| long_blocks_have_stacks(&events))
                .with_context(|| format!("go{} {variant} set {set}", go.version))?;
        }
    }
    Ok(())
}

fn events(go: &Go, variant: Variant, set: &str) -> Result<Vec<Event>> {
    let mut target = fixture::start(FIXTURE, go, variant, &[])?;
    let mut sfgi = sfgi::attach(target.pid(), &["--set", set, "--stacks=20ms"])?;
    // The snapshot comes after the probes.
    std::thread::sleep(Duration::from_millis(300));
    target.say()?;
    target.wait_code(Duration::from_secs(30), 0)?;
    sfgi.wait_code(sfgi::END, 0)?;
    let events = sfgi::events(&sfgi.stdout.text())?;
    sfgi::none_illegal(&events)?;
    Ok(events)
}

fn introduced(go: &Go, events: &[Event]) -> Result<()> {
    let of = |func: &'static str| {
        events.iter().filter(move |event| event.event == "found" && event.start_func.as_deref() == Some(func))
    };
    ensure!(of("main.listener").count() == LISTENERS, "{} listeners found", of("main.listener").count());
    let locked = if go.minor >= 20 { "sync.Mutex.Lock" } else { "semacquire" };
    let cases = [
        ("main.listener", "chan receive", "main.hear", "go listener("),
        ("main.locker", locked, "main.locker", "go locker("),
    ];
    for (func, reason, site, creation) in cases {
        for found in of(func) {
            ensure!(found.to.as_deref() == Some("waiting"), "{found:?}");
            ensure!(found.from.is_none(), "nothing is known of before: {found:?}");
            ensure!(found.reason.as_deref() == Some(reason), "{found:?}");
            ensure!((found.at_least || found.about) && found.duration_ns >= Some(PARKED_NS), "{found:?}");
            ensure!(found.func.as_deref() == Some(site), "{found:?}");
            let creator = found.created_by.as_ref().context("no creator")?;
            ensure!(
                (&*creator.func, creator.line) == ("main.main", line_of(FIXTURE, creation)?),
                "{found:?}"
            );
            let stack: Vec<&str> = found.stack.iter().map(|place| &*place.func).collect();
            ensure!(stack.contains(&site) && stack.contains(&func), "{found:?}");
            ensure!(stack.iter().all(|func| !func.starts_with("runtime.")), "{found:?}");
            let next = events
                .iter()
                .skip_while(|event| !std::ptr::eq(*event, found))
                .find(|event| event.goid == found.goid && event.event != "found")
                .context("nothing happened to it")?;
            ensure!(next.event == "unblock" && (next.at_least || next.about), "{next:?}");
            ensure!(next.duration_ns >= found.duration_ns, "{next:?} is shorter than {found:?}");
        }
    }
    // Whoever was created within the trace needs no introduction.
    ensure!(of("main.answerer").next().is_none(), "an answerer was found");
    Ok(())
}

/// Each answerer made its reader wait for 60 ms and then for 2 ms.
fn long_blocks_have_stacks(events: &[Event]) -> Result<()> {
    let waits: Vec<&Event> = events
        .iter()
        .filter(|event| event.event == "unblock" && event.goid == Some(1) && !event.at_least && !event.about)
        .filter(|event| event.reason.as_deref() == Some("chan receive"))
        .collect();
    let (long, short): (Vec<&Event>, Vec<&Event>) =
        waits.into_iter().partition(|event| event.duration_ns > Some(40_000_000));
    ensure!(long.len() >= LISTENERS, "{} long waits", long.len());
    for wait in &long {
        let stack: Vec<(&str, u32)> = wait.stack.iter().map(|place| (&*place.func, place.line)).collect();
        let range = line_of(FIXTURE, "for range answers")?;
        ensure!(stack.first() == Some(&("main.main.func1", range)), "{wait:?}");
        ensure!(stack.iter().any(|(func, _)| *func == "fixtures/internal/harness.Run"), "{wait:?}");
        ensure!(stack.last().is_some_and(|(func, _)| *func == "main.main"), "{wait:?}");
    }
    ensure!(short.iter().any(|wait| wait.duration_ns < Some(20_000_000)), "no short waits");
    let with_stack = |wait: &&&Event| wait.duration_ns < Some(20_000_000) && !wait.stack.is_empty();
    ensure!(short.iter().find(with_stack).is_none(), "a short wait has a stack");
    Ok(())
}

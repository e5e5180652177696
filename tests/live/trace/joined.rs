//! Snapshot and events as one picture: goroutines that were parked before the trace began are
//! introduced by their first event, long blocks show their stack, and after a loss a snapshot says
//! how things stand.

use std::{thread, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant, line_of},
    sfgi::{self, Event},
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(what_was_parked_before_is_introduced)]
}

const FIXTURE: &str = "joined";
/// Goroutines that listen, and for how long sfgi has known that they are parked when they are woken.
const LISTENERS: usize = 3;
const PARKED_NS: u64 = 200_000_000;

fn what_was_parked_before_is_introduced() -> Result<()> {
    for go in Go::all() {
        let runs = [("b", Variant::Plain), ("a", Variant::PieStripped)];
        for (_, variant) in runs {
            fixture::build(FIXTURE, &go, variant)?;
        }
        // Both at the same time: they mostly wait.
        thread::scope(|scope| {
            let go = &go;
            let run = |(set, variant)| {
                let events = events(go, variant, set)?;
                introduced(go, &events)
                    .and_then(|()| long_blocks_have_stacks(&events))
                    .with_context(|| format!("go{} {variant} set {set}", go.version))
            };
            let runs = runs.map(|of| scope.spawn(move || run(of)));
            runs.map(|run| run.join().expect("a run does not panic")).into_iter().collect::<Result<()>>()
        })?;
    }
    Ok(())
}

fn events(go: &Go, variant: Variant, set: &str) -> Result<Vec<Event>> {
    let mut target = fixture::start(FIXTURE, go, variant, &[])?;
    let mut sfgi = sfgi::attach(target.pid(), &["--set", set, "--stacks=20ms"])?;
    // The snapshot comes after the probes; whom only it saw is introduced once it counts.
    sfgi.stdout.wait_for(sfgi::ATTACH, |line| line.contains("\"found\""))?;
    thread::sleep(Duration::from_nanos(PARKED_NS));
    target.say()?;
    target.wait_code(Duration::from_secs(120), 0)?;
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

/// Longer than sfgi has to wait for a processor, and shorter than the fixture's long wait by as much as the reader may
/// come late to it.
const LONG_NS: u64 = 300_000_000;
/// What `--stacks` was told: nothing shorter has a stack.
const THRESHOLD_NS: u64 = 20_000_000;

/// Each answerer made its reader wait for a second and then, several times, for 2 ms. Of what lies between the
/// two bounds, because somebody got no processor, nothing can be said.
fn long_blocks_have_stacks(events: &[Event]) -> Result<()> {
    let waits: Vec<&Event> = events
        .iter()
        .filter(|event| event.event == "unblock" && event.goid == Some(1) && !event.at_least && !event.about)
        .filter(|event| event.reason.as_deref() == Some("chan receive"))
        .collect();
    let long: Vec<_> = waits.iter().filter(|wait| wait.duration_ns >= Some(LONG_NS)).collect();
    let short: Vec<_> = waits.iter().filter(|wait| wait.duration_ns < Some(THRESHOLD_NS)).collect();
    ensure!(long.len() >= LISTENERS, "{} long waits: {waits:#?}", long.len());
    for wait in &long {
        let stack: Vec<(&str, u32)> = wait.stack.iter().map(|place| (&*place.func, place.line)).collect();
        let range = line_of(FIXTURE, "for range answers")?;
        ensure!(stack.first() == Some(&("main.main.func1", range)), "{wait:?}");
        ensure!(stack.iter().any(|(func, _)| *func == "fixtures/internal/harness.Run"), "{wait:?}");
        ensure!(stack.last().is_some_and(|(func, _)| *func == "main.main"), "{wait:?}");
    }
    ensure!(!short.is_empty(), "no short waits: {waits:#?}");
    let with_stack = short.iter().find(|wait| !wait.stack.is_empty());
    ensure!(with_stack.is_none(), "a short wait has a stack: {with_stack:?}");
    Ok(())
}

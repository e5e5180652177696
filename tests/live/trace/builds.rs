//! Every Go release in every kind of build: the events of known goroutines, with their names,
//! places, wait reasons and durations.

use std::{thread, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result};
use live_tests::{
    fixture::{self, Variant, line_of},
    machine,
    sfgi::{self, Event},
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(ping_pong_from_birth_to_death), live(locks_by_their_wait_reasons)]
}

/// Runs `check` on the events of so many units of a fixture, for every release and variant; reports all
/// failures. The variants of a release run at the same time: they mostly wait.
fn everywhere(name: &str, units: &str, check: impl Fn(&Go, &[Event]) -> Result<()>) -> Result<()> {
    let mut failures = 0;
    for go in Go::all() {
        let (go, variants) = (&go, Variant::all(&go));
        for &variant in &variants {
            fixture::build(name, go, variant)?;
        }
        let results: Vec<_> = thread::scope(|scope| {
            let run = |&variant| scope.spawn(move || events(name, units, go, variant));
            let runs: Vec<_> = variants.iter().map(run).collect();
            runs.into_iter().map(|run| run.join().expect("a run does not panic")).collect()
        });
        for (variant, events) in variants.iter().zip(results) {
            if let Err(error) = events.and_then(|events| check(go, &events)) {
                failures += 1;
                machine::report(&format!("{name} go{} {variant}: {error:#}", go.version));
            }
        }
    }
    anyhow::ensure!(failures == 0, "{failures} builds of {name} failed, see above");
    Ok(())
}

fn events(name: &str, units: &str, go: &Go, variant: Variant) -> Result<Vec<Event>> {
    let mut target = fixture::start(name, go, variant, &["-n", units])?;
    let mut sfgi = sfgi::attach(target.pid(), &[])?;
    target.say()?;
    target.wait_code(Duration::from_secs(120), 0)?;
    sfgi.wait_code(sfgi::END, 0)?;
    let events = sfgi::events(&sfgi.stdout.text())?;
    sfgi::none_illegal(&events)?;
    Ok(events)
}

fn ping_pong_from_birth_to_death() -> Result<()> {
    let creation = line_of("pingpong", "go pong(")?;
    let waits = [line_of("pingpong", "for n := range there")?, line_of("pingpong", "back <- n + 1")?];
    everywhere("pingpong", "1", |_, events| {
        let born = events
            .iter()
            .find(|event| event.event == "create" && is_at(event, "main.main.func1", creation).is_ok())
            .context("the creation of pong was not seen")?;
        let pong: Vec<&Event> = events.iter().filter(|event| event.goid == born.goid).collect();
        let of_kind = |kind: &'static str| pong.iter().copied().filter(move |event| event.event == kind);

        for block in of_kind("block") {
            let reason = block.reason.as_deref().unwrap_or_default();
            let line = match reason {
                "chan receive" => waits[0],
                "chan send" => waits[1],
                _ => anyhow::bail!("pong never waits for {reason:?}"),
            };
            is_at(block, "main.pong", line)?;
        }
        let blocks = of_kind("block").count();
        anyhow::ensure!((900..=2100).contains(&blocks), "pong blocked {blocks} times in 1000 round trips");
        let woken: Vec<&Event> = of_kind("unblock").collect();
        anyhow::ensure!(woken.len() == blocks, "blocked {blocks} times, woken {}", woken.len());
        let by_main = woken.iter().filter(|event| event.by_goid == Some(1)).count();
        anyhow::ensure!(by_main == woken.len(), "goroutine 1 did only {by_main} of {blocks} wake-ups");
        anyhow::ensure!(woken.iter().all(|event| event.duration_ns.is_some_and(|ns| ns > 0)), "no duration");
        anyhow::ensure!(of_kind("exit").count() == 1, "the exit of pong was not seen");
        anyhow::ensure!(pong.last().is_some_and(|event| event.event == "exit"), "its exit is not its end");
        // `go` with arguments starts a wrapper that the compiler made; the goroutine's function is
        // the one in the source, as `runtime/trace` has it (FUNCDATA_WrapInfo, since 1.19).
        let runs = born.start_func.as_deref();
        anyhow::ensure!(runs == Some("main.pong"), "pong runs {runs:?}");
        Ok(())
    })
}

/// The wait reasons of each release (`src/runtime/runtime2.go`, `waitReasonStrings`): mutexes have
/// had their own since 1.20, wait groups since 1.24.
fn locks_by_their_wait_reasons() -> Result<()> {
    // Whether two goroutines meet at a lock is chance: in one unit the readers of a loaded machine may
    // never find it taken.
    everywhere("mutex", "20", |go, events| {
        let mut expected = vec![("main.(*turn).contend", "sync.Cond.Wait")];
        let anonymous = "semacquire";
        let since = |minor, name| if go.minor >= minor { name } else { anonymous };
        expected.push(("main.(*plain).contend", since(20, "sync.Mutex.Lock")));
        expected.push(("main.(*shared).contend", since(20, "sync.RWMutex.RLock")));
        expected.push(("main.(*shared).contend", since(20, "sync.RWMutex.Lock")));
        expected.push(("main.together", since(24, "sync.WaitGroup.Wait")));
        for (func, reason) in expected {
            let seen = |event: &Event| {
                event.event == "block"
                    && event.func.as_deref() == Some(func)
                    && event.reason.as_deref() == Some(reason)
            };
            anyhow::ensure!(events.iter().any(seen), "nobody blocked in {func} for {reason:?}");
        }
        Ok(())
    })
}

fn is_at(event: &Event, func: &str, line: u32) -> Result<()> {
    let place = (event.func.as_deref(), event.line);
    anyhow::ensure!(place == (Some(func), Some(line)), "expected {func} line {line}: {event:?}");
    let file = event.file.as_deref().unwrap_or_default();
    anyhow::ensure!(file.ends_with("pingpong/main.go"), "{event:?}");
    Ok(())
}

//! Differential oracle: the fixture runs Go's own `runtime/trace` while sfgi traces it, and both
//! must tell the same transitions of every goroutine. With ordinary builds that checks probe set B,
//! with PGO builds set A.

use std::{collections::BTreeMap, path::Path, process::Command, thread, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result};
use live_tests::{
    fixture::{self, Variant},
    gotrace, machine, oracle,
    sfgi::{self, Event},
    state::Transition,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(unbuffered_ping_pong),
        live(worker_pool),
        live(mutex_contention),
        live(select_with_timers),
        live(loopback_tcp_echo),
        live(file_and_blocking_syscalls),
        live(cgo_calls_and_callbacks),
        live(coroutines),
        live(allocation_and_collection),
        live(panics_and_goexit),
        live(ten_thousand_short_goroutines),
        live(busy_goroutines_preempted),
    ]
}

const WORK: Duration = Duration::from_secs(300);

/// How each release is built, and the probe set it is traced with.
const RUNS: [(Variant, &str); 3] = [(Variant::Plain, "b"), (Variant::Plain, "a"), (Variant::Pgo, "a")];

/// Fixtures that are held against every release, the oldest and the newest as all others: they take the
/// paths of the runtime that changed from release to release (system calls, cgo, coroutines, the network
/// poller, the collector, preemption).
const TELLING: [&str; 6] = ["syscalls", "cgo", "coro", "tcpecho", "gcheavy", "preempt"];

/// Holds sfgi against Go's tracer for a fixture on the releases that have one. The runs of a release
/// go on at the same time: they mostly wait.
fn agrees(name: &str, units: u32) -> Result<()> {
    let mut failures = 0;
    let mut releases = Go::with_trace();
    let ends = [releases.first().cloned(), releases.last().cloned()];
    releases.retain(|go| TELLING.contains(&name) || ends.iter().flatten().any(|end| end == go));
    for go in &releases {
        let results = thread::scope(|scope| {
            let runs = RUNS.map(|(variant, set)| {
                let binary = fixture::build(name, go, variant);
                scope.spawn(move || agreement(&binary?, units, go, set))
            });
            runs.map(|run| run.join().expect("a run does not panic"))
        });
        for ((variant, set), result) in RUNS.iter().zip(results) {
            let run = format!("{name} go{} {variant} set {set}", go.version);
            match result {
                Ok(agreement) => machine::report(&format!("{run}: {agreement}")),
                Err(error) => {
                    failures += 1;
                    machine::report(&format!("{run}: FAILED: {error:#}"));
                }
            }
        }
    }
    anyhow::ensure!(failures == 0, "{name}: sfgi and Go's tracer disagree, see above");
    Ok(())
}

fn agreement(binary: &Path, units: u32, go: &Go, set: &str) -> Result<oracle::Agreement> {
    let dir = tempfile::tempdir()?;
    let recording = dir.path().join("go.trace");
    let lines = dir.path().join("sfgi.json");
    let mut command = Command::new(binary);
    command.args(["-n", &units.to_string()]).env("FIXTURE_TRACE", &recording);
    let mut target = fixture::start_command(&mut command)?;
    let output = lines.to_str().context("the temporary directory has a UTF-8 name")?;
    let mut sfgi = sfgi::attach(target.pid(), &["--set", set, "-o", output])?;
    target.say()?;
    target.wait_code(WORK, 0)?;
    sfgi.wait_code(sfgi::END, 0)?;

    let events = sfgi::events(&std::fs::read_to_string(&lines)?)?;
    sfgi::none_illegal(&events)?;
    let recording = gotrace::read(&recording)?;
    let (agreement, disagreements) = oracle::compare(go.minor, &recording, &transitions(&events)?);
    anyhow::ensure!(
        disagreements.is_empty(),
        "{} goroutines disagree ({agreement}); the first ones:\n{}\nsfgi says:\n{}",
        disagreements.len(),
        disagreements.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        sfgi.stderr.text()
    );
    anyhow::ensure!(agreement.same > 0, "nothing was compared");
    Ok(agreement)
}

/// What sfgi told of each goroutine, in its order.
fn transitions(events: &[Event]) -> Result<BTreeMap<u64, Vec<Transition>>> {
    let mut goroutines: BTreeMap<u64, Vec<Transition>> = BTreeMap::new();
    for event in events {
        if let Some(transition) = event.transition()? {
            let goid = event.goid.with_context(|| format!("a transition of nobody: {event:?}"))?;
            goroutines.entry(goid).or_default().push(transition);
        }
    }
    Ok(goroutines)
}

fn unbuffered_ping_pong() -> Result<()> {
    agrees("pingpong", 3)
}

fn worker_pool() -> Result<()> {
    agrees("workers", 5)
}

fn mutex_contention() -> Result<()> {
    agrees("mutex", 5)
}

fn select_with_timers() -> Result<()> {
    agrees("selects", 10)
}

fn loopback_tcp_echo() -> Result<()> {
    agrees("tcpecho", 3)
}

fn file_and_blocking_syscalls() -> Result<()> {
    agrees("syscalls", 5)
}

fn cgo_calls_and_callbacks() -> Result<()> {
    agrees("cgo", 10)
}

fn coroutines() -> Result<()> {
    agrees("coro", 10)
}

fn allocation_and_collection() -> Result<()> {
    agrees("gcheavy", 2)
}

fn panics_and_goexit() -> Result<()> {
    agrees("panics", 20)
}

fn ten_thousand_short_goroutines() -> Result<()> {
    agrees("short", 10_000)
}

fn busy_goroutines_preempted() -> Result<()> {
    agrees("preempt", 1)
}

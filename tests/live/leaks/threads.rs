//! Goroutines that each keep a thread: what `sfgi leaks` and the agent's metrics say of them.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context as _, Result, ensure};
use live_tests::{
    agent_http::{Agent, LONGEST},
    fixture::{self, Variant},
    leaks::{self, Verdict},
    process::Process,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(threads_that_grow_are_told_of), live(the_agent_counts_threads_finalizers_and_pools)]
}

const SOON: Duration = Duration::from_secs(120);

/// Reports in which growth must be told of.
const REPORTS: usize = 10;

fn threads_that_grow_are_told_of() -> Result<()> {
    for go in Go::all().iter().filter(|go| [19, 24, 27].contains(&go.minor)) {
        for (mode, grows) in [("kept", true), ("given-back", false), ("steady", false)] {
            let target = fixture::start("threads", go, Variant::Plain, &["-mode", mode])?;
            let args = ["--watch=200ms", "--observe", "150ms", "--format", "json"];
            let mut sfgi = Process::spawn(&mut leaks::command(target.pid(), &args)?)?;
            let reports = leaks::watched(&mut sfgi, REPORTS, SOON)?;
            let groups = reports.iter().flat_map(|report| &report.groups);
            let found: Vec<_> = groups.filter(|group| group.class == "thread-growth").collect();
            ensure!(found.is_empty() != grows, "go{} {mode}: {found:?}", go.version);
            ensure!(found.iter().all(|group| group.verdict == Verdict::Likely), "{found:?}");
        }
    }
    Ok(())
}

/// The sum of a metric's series that have this in their labels; `None`: there is none.
fn metric(text: &str, name: &str, label: &str) -> Option<f64> {
    let of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.starts_with(&format!("{name}{{")) && series.contains(label))
            .then(|| value.parse::<f64>().ok())?
    };
    let values: Vec<f64> = text.lines().filter_map(of).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

/// The value of a metric, once it is this one.
fn becomes(agent: &Agent, name: &str, label: &str, wanted: f64) -> Result<()> {
    let deadline = Instant::now() + LONGEST;
    loop {
        let text = agent.get("/metrics")?.text();
        let found = metric(&text, name, label);
        if found == Some(wanted) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{name} {label} is {found:?}, not {wanted}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn the_agent_counts_threads_finalizers_and_pools() -> Result<()> {
    let go = Go::newest();
    let mut target = fixture::start_own("threads", &go, Variant::Plain, &["-mode", "steady"])?;
    let agent = Agent::watching(&target, &[])?;
    let said = target.command("count", SOON)?;
    let locked = said.iter().find_map(|line| line.strip_prefix("locked ")).context("no count")?;
    // And that of the runtime which waits for signals to be enabled (`ensureSigM`, `src/runtime/signal_unix.go`).
    becomes(&agent, "sfgi_threads", "state=\"locked\"", locked.parse::<f64>()? + 1.0)?;
    let all = metric(&agent.get("/metrics")?.text(), "sfgi_threads", "").context("no threads")?;
    let of_kernel = std::fs::read_dir(format!("/proc/{}/task", target.pid()))?.count();
    ensure!((all - of_kernel as f64).abs() <= 2.0, "{all}, not {of_kernel}");
    let target = fixture::start_own("finalizers", &go, Variant::Plain, &["-mode", "blocked", "-n", "20"])?;
    let agent = Agent::watching(&target, &[])?;
    // The one that does not end is one of them.
    becomes(&agent, "sfgi_finalizer_queue", "", 21.0)?;
    // A buffer and a session of each request, and what fmt has.
    let target = fixture::start_own("pools", &go, Variant::Plain, &["-mode", "clean", "-n", "40"])?;
    let agent = Agent::watching(&target, &[])?;
    let deadline = Instant::now() + LONGEST;
    while metric(&agent.get("/metrics")?.text(), "sfgi_pool_objects", "").is_none_or(|count| count < 80.0) {
        ensure!(Instant::now() < deadline, "no objects in pools");
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

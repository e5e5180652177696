//! An illegal transition really made is flagged while the trace goes on, and nothing else is. How soon that is
//! stands in `cargo xtask bench illegal`.

use std::time::Duration;

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    process::Line,
    sfgi::{self, Event},
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(each_is_flagged_and_nothing_else)]
}

const TIMES: usize = 100;

/// No measure of speed: half of the fixture's time, so that lines which wait for the end of the trace are later.
const WHILE_IT_RUNS_NS: u64 = 1_000_000_000;

fn each_is_flagged_and_nothing_else() -> Result<()> {
    for go in Go::all() {
        let mut latencies = flagged(&go).with_context(|| format!("go{}", go.version))?;
        latencies.sort_unstable();
        let median = latencies[latencies.len() / 2];
        ensure!(median < WHILE_IT_RUNS_NS, "go{}: half are not shown within {median} ns", go.version);
    }
    Ok(())
}

/// A pair of illegal transitions that the fixture made: waiting to syscall and back.
struct Made {
    from_ns: u64,
    until_ns: u64,
    goid: u64,
}

/// From the moment before each pair of illegal transitions to the arrival of the line about the first, ns.
fn flagged(go: &Go) -> Result<Vec<u64>> {
    let mut target = fixture::start("illegal", go, Variant::Plain, &["-n", &TIMES.to_string()])?;
    let mut sfgi = sfgi::attach(target.pid(), &["-e", "illegal"])?;
    target.say()?;
    target.wait_code(Duration::from_secs(120), 0)?;
    sfgi.wait_code(sfgi::END, 0)?;

    let reports: Vec<(Line, Event)> = sfgi
        .stdout
        .lines()
        .into_iter()
        .map(|line| Ok((line.clone(), sfgi::event(&line.text)?)))
        .collect::<Result<_>>()?;
    let made: Vec<Made> = target.stdout.lines().iter().filter_map(|line| made(&line.text)).collect();
    ensure!(made.len() == TIMES, "the fixture made {} illegal pairs", made.len());
    ensure!(reports.len() == 2 * TIMES, "{} lines about {TIMES} pairs: {reports:#?}", reports.len());
    made.iter().zip(reports.chunks(2)).map(|(made, of_pair)| latency(made, of_pair)).collect()
}

/// `illegal FROM UNTIL GOID`
fn made(line: &str) -> Option<Made> {
    let mut words = line.strip_prefix("illegal ")?.split(' ').map(|word| word.parse().ok());
    Some(Made { from_ns: words.next()??, until_ns: words.next()??, goid: words.next()?? })
}

/// The lines are about just this pair, each step of it.
fn latency(made: &Made, of_pair: &[(Line, Event)]) -> Result<u64> {
    let steps = [("waiting", "syscall"), ("syscall", "waiting")];
    for ((_, event), (from, to)) in of_pair.iter().zip(steps) {
        let states = (event.from.as_deref(), event.to.as_deref());
        ensure!(event.event == "illegal" && states == (Some(from), Some(to)), "not {from}→{to}: {event:?}");
        ensure!(event.goid == Some(made.goid), "it was goroutine {}: {event:?}", made.goid);
        let (from_ns, until_ns) = (made.from_ns, made.until_ns);
        ensure!((from_ns..=until_ns).contains(&event.ts_ns), "made in {from_ns}–{until_ns} ns: {event:?}");
    }
    let (line, _) = of_pair.first().context("no line about it")?;
    Ok(line.at_ns.saturating_sub(made.from_ns))
}

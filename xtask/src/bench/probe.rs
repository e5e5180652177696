//! What a probe costs the program that it stands in. Two goroutines pass a number to and fro on one processor; the
//! program prints how long a round trip takes, the tracer how often its probes were hit.

use super::{
    Row, Setting,
    fixture::Fixture,
    tracer::{Tracer, Watcher},
};
use crate::{setup::go, sh};
use anyhow::{Context as _, Result, ensure};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::Stdio,
};

/// How often everything is measured; the cases take turns, so that a busy moment does not hurt a single one.
const ROUNDS: usize = 5;

/// How long the program works in one measurement, as the program's flag takes it.
const WORK: &str = "2s";

const AT_SYMBOL: usize = 0;
const FLOOR: usize = 1;
const WAIT: usize = 2;

/// The tracers in the order of the table.
const TRACERS: [(&str, Tracer); 5] = [
    ("bpftrace at gopark's symbol", Tracer::Bpftrace("runtime.gopark")),
    ("bpftrace at casgstatus (floor)", Tracer::Bpftrace("runtime.casgstatus")),
    ("sfgi wait", Tracer::Sfgi(&["--mode", "wait"])),
    ("sfgi full, set A", Tracer::Sfgi(&["--mode", "full", "--set", "a"])),
    ("sfgi full, set B", Tracer::Sfgi(&["--mode", "full", "--set", "b"])),
];

/// The largest good ratio of a full event to the floor, per hit.
const FULL_GOAL: f64 = 1.25;

/// The largest good ratio of `--mode wait` to the probe at gopark's symbol, per round trip.
const WAIT_GOAL: f64 = 0.2;

/// The figures of one tracer, one of each a round.
#[derive(Default)]
struct Samples {
    round_trip: Vec<f64>,
    added: Vec<f64>,
    hits: Vec<f64>,
    per_hit: Vec<f64>,
}

/// Measures all tracers in turn, and the program alone.
pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    let program = Fixture::build("pingpong", go::BENCH, &[])?;
    let mut alone = Vec::new();
    let mut samples = TRACERS.map(|_| Samples::default());
    for round in 1..=ROUNDS {
        let (baseline, _) = measure(&program, None)?;
        eprintln!("bench probe: round {round} of {ROUNDS}: {baseline:.0} ns a round trip without a probe");
        alone.push(baseline);
        for ((name, tracer), samples) in TRACERS.iter().zip(&mut samples) {
            let (round_trip, hits) =
                measure(&program, Some((tracer, setting))).with_context(|| format!("with {name}"))?;
            ensure!(hits > 0.0, "{name} counted no hit: the probe is not where the program passes");
            samples.round_trip.push(round_trip);
            samples.added.push(round_trip - baseline);
            samples.hits.push(hits);
            samples.per_hit.push((round_trip - baseline) / hits);
        }
    }
    Ok(rows(alone, samples))
}

/// The rows: first the program's speed, then what a tracer adds, then its parts: how many hits, and what one costs.
fn rows(alone: Vec<f64>, samples: [Samples; TRACERS.len()]) -> Vec<Row> {
    let mut speed = vec![Row::new("no probe: round trip", "ns", alone)];
    let (mut added, mut hits, mut per_hit) = (Vec::<Row>::new(), Vec::new(), Vec::<Row>::new());
    for (index, ((name, _), samples)) in TRACERS.iter().zip(samples).enumerate() {
        speed
            .push(Row::new(format!("{name}: round trip"), "ns", samples.round_trip).against(&speed[0], None));
        let row = Row::new(format!("{name}: added to a round trip"), "ns", samples.added);
        added.push(if index == WAIT { row.against(&added[AT_SYMBOL], WAIT_GOAL) } else { row });
        hits.push(Row::new(format!("{name}: hits a round trip"), "hits", samples.hits));
        let row = Row::new(format!("{name}: a hit"), "ns", samples.per_hit);
        per_hit.push(if index > WAIT { row.against(&per_hit[FLOOR], FULL_GOAL) } else { row });
    }
    [speed, added, hits, per_hit].into_iter().flatten().collect()
}

/// Runs the program once: nanoseconds of a round trip, and the tracer's hits in one.
fn measure(program: &Path, tracer: Option<(&Tracer, &Setting)>) -> Result<(f64, f64)> {
    let mut command = sh::command(program)?;
    command.args(["-d", WORK]).env("GOMAXPROCS", "1").env("FIXTURE_WAIT", "1");
    let mut child = sh::Child::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut lines = BufReader::new(child.0.stdout.take().context("no stdout")?).lines();
    let mut next_line =
        || lines.next().context("the program ended early")?.context("cannot read the program");
    let ready = next_line()?;
    let pid = ready.split(' ').nth(1).with_context(|| format!("not a ready line: {ready}"))?;
    let watcher = tracer.map(|(tracer, setting)| tracer.attach(program, pid, setting)).transpose()?;
    // The program waits for a line, so that the probes stand before it works.
    child.0.stdin.take().context("no stdin")?.write_all(b"\n")?;
    let result = next_line()?;
    let (round_trips, ns) = parse_result(&result).with_context(|| format!("not a result line: {result}"))?;
    child.0.wait()?;
    Ok((ns, watcher.map_or(Ok(0), Watcher::hits)? as f64 / round_trips))
}

/// Reads "N round trips, F ns each".
fn parse_result(line: &str) -> Option<(f64, f64)> {
    let (round_trips, ns) = line.split_once(" round trips, ")?;
    Some((round_trips.parse().ok()?, ns.strip_suffix(" ns each")?.parse().ok()?))
}

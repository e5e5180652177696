//! What `sfgi agent` costs: with two hundred programs of a thousand goroutines each, at its usual budget; and for one
//! program that switches as fast as it can, which it is told to watch in full.

use super::{Row, Setting, fixture::Fixture};
use crate::{setup::go, sh};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Programs, and goroutines in each.
const PROGRAMS: usize = 200;
const GOROUTINES: usize = 1000;
/// How long the agent is measured; the first scans of all programs are part of it.
const WATCHED: Duration = Duration::from_secs(600);
/// The goals: the usual budget in percent of a core, and memory in MiB.
const CPU: f64 = 2.0;
const MEMORY: f64 = 150.0;

/// How long the switching program runs, and how often with and without an agent.
const RUN: &str = "60s";
const ROUNDS: usize = 3;
/// The largest good ratio of a round trip with an agent to one without.
const LOSS: f64 = 1.03;

pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    let mut rows = many(setting)?;
    rows.extend(busy(setting)?);
    Ok(rows)
}

/// A running agent, whose pictures come on stdout: a full pipe would stop it, so the caller reads them.
fn agent(setting: &Setting, args: &[&str]) -> Result<sh::Child> {
    let mut command = sh::root_command(&setting.sfgi)?;
    command
        .args(["agent", "--pictures", "--listen", "127.0.0.1:0"])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    sh::Child::spawn(&mut command)
}

fn many(setting: &Setting) -> Result<Vec<Row>> {
    let program = Fixture::build("idle", go::BENCH, &[])?;
    let args = ["-n".to_owned(), GOROUTINES.to_string()];
    let all = (0..PROGRAMS).map(|_| Fixture::start(&program, &args)).collect::<Result<Vec<_>>>()?;
    let include = format!("^{}$", program.display());
    let mut agent = agent(setting, &["--include", &include])?;
    let lines = BufReader::new(agent.0.stdout.take().context("no stdout")?).lines();
    let began = Instant::now();
    let (mut memory, mut last) = (0.0f64, Value::Null);
    for line in lines {
        last = serde_json::from_str(&line?)?;
        memory = memory.max(last["node"]["rss_bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 20));
        if began.elapsed() >= WATCHED {
            break;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    drop((agent, all));
    let node = &last["node"];
    let tracked = node["seen"]["tracked"].as_u64();
    ensure!(tracked == Some(PROGRAMS as u64), "it watches {tracked:?} programs of {PROGRAMS}");
    let cpu = node["cpu_seconds"].as_f64().context("cpu_seconds")? / seconds * 100.0;
    let interval = node["interval_seconds"][1].as_f64().context("interval_seconds")?;
    let what = format!("sfgi agent, {PROGRAMS} programs of {GOROUTINES} goroutines");
    Ok(vec![
        Row::new(format!("{what}: CPU"), "% of a core", vec![cpu]).within(CPU),
        Row::new(format!("{what}: memory at most"), "MiB", vec![memory]).within(MEMORY),
        Row::new(format!("{what}: between two scans of one"), "s", vec![interval]),
    ])
}

fn busy(setting: &Setting) -> Result<Vec<Row>> {
    let program = Fixture::build("pingpong", go::BENCH, &[])?;
    let include = format!("^{}$", program.display());
    let (mut alone, mut watched) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        eprintln!("bench agent: round {round} of {ROUNDS}");
        alone.push(round_trip(&program)?);
        let mut agent = agent(setting, &["--include", &include, "--mode", "full", "--budget", "2%"])?;
        let drain = agent.0.stdout.take().context("no stdout")?;
        // A full pipe would stop the agent.
        let reader = std::thread::spawn(move || BufReader::new(drain).lines().count());
        watched.push(round_trip(&program)?);
        drop(agent);
        ensure!(reader.join().is_ok_and(|lines| lines > 0), "the agent has said nothing");
    }
    let alone = Row::new("pingpong alone", "ns a round trip", alone);
    let watched = Row::new("pingpong under sfgi agent --mode full --budget 2%", "ns a round trip", watched)
        .against(&alone, LOSS);
    Ok(vec![alone, watched])
}

/// Nanoseconds of a round trip, as the program prints them.
fn round_trip(program: &std::path::Path) -> Result<f64> {
    let text = sh::output(Command::new(program).args(["-d", RUN]))?;
    let told = text.split_once("round trips, ").and_then(|(_, rest)| rest.split_once(" ns"));
    told.and_then(|(ns, _)| ns.parse().ok()).with_context(|| format!("it says no time: {text}"))
}

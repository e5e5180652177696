//! How soon a deadlock is on the screen: a program closes one ring of goroutines after the other, while others share a
//! lock as they should.

use super::{
    Row, Setting,
    fixture::Fixture,
    illegal::{lateness, now_ns, part},
};
use crate::{setup::go, sh};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

const ROUNDS: usize = 3;
/// Rings in a round: the 99th percentile leaves out the slowest two.
const RINGS: usize = 200;
/// The goal for the 99th percentile, milliseconds.
const GOAL: f64 = 5.0;

/// The figures of one round, milliseconds.
struct Round {
    median: f64,
    p99: f64,
    /// The 99th percentile of a thread that only sleeps.
    asleep: f64,
}

pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    let program = Fixture::build("closing", go::BENCH, &[])?;
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let target = Fixture::start(&program, &["-n".to_owned(), RINGS.to_string()])?;
        rounds.push(measure(target, setting)?);
        eprintln!("bench deadlock: round {round} of {ROUNDS} done");
    }
    let row = |name: &str, pick: fn(&Round) -> f64| Row::new(name, "ms", rounds.iter().map(pick).collect());
    let asleep = row("a thread that sleeps 1 ms: late by, p99", |round| round.asleep);
    let p99 = |round: &Round| round.p99;
    Ok(vec![
        row("deadlock: on the screen after its last step, median", |round| round.median),
        row("deadlock: on the screen after its last step, p99", p99).within(GOAL),
        row("deadlock: on the screen after its last step, p99", p99).against(&asleep, None),
        asleep,
    ])
}

fn measure(target: Fixture, setting: &Setting) -> Result<Round> {
    let mut command = sh::root_command(&setting.sfgi)?;
    command.args(["trace", "-p", target.pid(), "-e", "deadlock", "--mode", "wait", "--format", "json"]);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sfgi = sh::Child::spawn(command)?;
    let said = BufReader::new(sfgi.0.stderr.take().context("no stderr")?).lines();
    let lines = BufReader::new(sfgi.0.stdout.take().context("no stdout")?).lines();
    let mut said = said.map_while(Result::ok);
    said.find(|line| line.contains("attached to PID")).context("sfgi did not attach")?;
    let done = AtomicBool::new(false);
    let (made, shown, mut late) = thread::scope(|scope| {
        let asleep = scope.spawn(|| lateness(&done));
        let shown = scope.spawn(|| lines.map(|line| Ok((now_ns()?, line?))).collect::<Result<Vec<_>>>());
        let made = target.work();
        let shown = shown.join();
        // Relaxed: the flag carries no data.
        done.store(true, Ordering::Relaxed);
        (made, shown, asleep.join())
    });
    made?;
    let shown = shown.map_err(|_| anyhow::anyhow!("the thread that reads from sfgi panicked"))??;
    let late = late.as_mut().map_err(|_| anyhow::anyhow!("the thread that sleeps panicked"))?;
    let mut times = Vec::new();
    for (arrived, line) in shown {
        let told: Value = serde_json::from_str(&line)?;
        if told["event"] == "deadlock" {
            let since = told["since_ts_ns"].as_u64().context("no since_ts_ns")?;
            times.push(arrived.saturating_sub(since) as f64 / 1e6);
        }
    }
    ensure!(times.len() == RINGS, "{} of {RINGS} rings were told", times.len());
    Ok(Round { median: part(&mut times, 50), p99: part(&mut times, 99), asleep: part(late, 99) })
}

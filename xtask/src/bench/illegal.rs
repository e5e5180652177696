//! How soon an illegal transition is on the screen. A program makes some and prints when; a thread that only sleeps
//! and wakes tells how late this machine lets any program be.

use super::{Row, Setting, fixture::Fixture};
use crate::{setup::go, sh};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const ROUNDS: usize = 5;

/// Pairs of illegal transitions in a round, twenty milliseconds apart: the 99th percentile leaves out the slowest
/// two.
const PAIRS: usize = 200;

/// The goal for the 99th percentile, milliseconds.
const GOAL: f64 = 5.0;

/// How long the thread sleeps that tells how late a thread is woken here.
const NAP: Duration = Duration::from_millis(1);

/// The figures of one round, milliseconds.
struct Round {
    median: f64,
    p99: f64,
    /// The 99th percentile of the thread that only sleeps.
    asleep: f64,
}

/// Measures several rounds.
pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    // From Go 1.23 on the program may not call the runtime's own functions without this.
    let program = Fixture::build("illegal", go::BENCH, &["-ldflags=-checklinkname=0"])?;
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let target = Fixture::start(&program, &["-n".to_owned(), PAIRS.to_string()])?;
        rounds.push(measure(target, setting)?);
        eprintln!("bench illegal: round {round} of {ROUNDS} done");
    }
    let row = |name: &str, pick: fn(&Round) -> f64| Row::new(name, "ms", rounds.iter().map(pick).collect());
    let asleep = row("a thread that sleeps 1 ms: late by, p99", |round| round.asleep);
    let p99 = |round: &Round| round.p99;
    Ok(vec![
        row("illegal: on the screen after, median", |round| round.median),
        row("illegal: on the screen after, p99", p99).within(GOAL),
        row("illegal: on the screen after, p99", p99).against(&asleep, None),
        asleep,
    ])
}

fn measure(target: Fixture, setting: &Setting) -> Result<Round> {
    let mut command = sh::root_command(&setting.sfgi)?;
    command.args(["trace", "-p", target.pid(), "-e", "illegal", "--format", "json"]);
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
    let shown = shown.map_err(|_| anyhow::anyhow!("the thread that reads from sfgi panicked"))??;
    let late = late.as_mut().map_err(|_| anyhow::anyhow!("the thread that sleeps panicked"))?;
    let made: Vec<u64> = made?.iter().filter_map(|line| made_at(line)).collect();
    ensure!(made.len() == PAIRS, "the program made {} illegal transitions", made.len());
    // The first step of each pair counts.
    let first: Vec<u64> =
        shown.iter().filter(|(_, line)| is_first(line)).map(|(arrived, _)| *arrived).collect();
    ensure!(first.len() == PAIRS, "{} of {PAIRS} were flagged", first.len());
    let mut times: Vec<f64> =
        first.iter().zip(&made).map(|(arrived, made)| arrived.saturating_sub(*made) as f64 / 1e6).collect();
    Ok(Round { median: part(&mut times, 50), p99: part(&mut times, 99), asleep: part(late, 99) })
}

/// The FROM of "illegal FROM UNTIL GOID".
fn made_at(line: &str) -> Option<u64> {
    line.strip_prefix("illegal ")?.split(' ').next()?.parse().ok()
}

fn is_first(line: &str) -> bool {
    serde_json::from_str::<Value>(line)
        .is_ok_and(|event| event["event"] == "illegal" && event["from"] == "waiting")
}

/// By how many milliseconds each sleep was too long, until `done` is set.
pub(super) fn lateness(done: &AtomicBool) -> Vec<f64> {
    let mut late = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let begun = Instant::now();
        thread::sleep(NAP);
        late.push(begun.elapsed().saturating_sub(NAP).as_secs_f64() * 1e3);
    }
    late
}

/// The percentile `percent` of the samples, of which there must be one at least.
pub(super) fn part(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() * percent).div_ceil(100).saturating_sub(1)]
}

/// `CLOCK_MONOTONIC`, as the program tells its times.
pub(super) fn now_ns() -> Result<u64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a variable that lives until the call returns.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    ensure!(result == 0, "clock_gettime: {}", std::io::Error::last_os_error());
    Ok(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_hundred() {
        let mut samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!((part(&mut samples, 50), part(&mut samples, 99)), (100.0, 198.0));
        assert_eq!(part(&mut [7.0], 99), 7.0);
    }
}

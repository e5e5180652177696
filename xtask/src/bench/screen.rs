//! How soon what a trace tells is on the screen; and, beside it, a thread that only sleeps and wakes, which tells how late this
//! machine lets any program be.

use super::{Row, Setting, fixture::Fixture};
use crate::sh;
use anyhow::{Context as _, Result, ensure};
use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The goal for the 99th percentile, milliseconds.
const GOAL: f64 = 5.0;

/// How long the thread sleeps that tells how late a thread is woken here.
const NAP: Duration = Duration::from_millis(1);

/// What came of a traced program.
pub(super) struct Watched {
    /// The lines of the program while it worked.
    pub(super) said: Vec<String>,
    /// The lines of sfgi, each with when it arrived, `CLOCK_MONOTONIC` nanoseconds.
    pub(super) shown: Vec<(u64, String)>,
    /// By how many milliseconds each sleep of the other thread was too long.
    late: Vec<f64>,
}

/// Traces a program while it works, with these arguments beside those that say which and in which form.
pub(super) fn watch(target: Fixture, setting: &Setting, args: &[&str]) -> Result<Watched> {
    let mut command = sh::root_command(&setting.sfgi)?;
    command.args(["trace", "-p", target.pid(), "--format", "json"]).args(args);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sfgi = sh::Child::spawn(command)?;
    let said = BufReader::new(sfgi.0.stderr.take().context("no stderr")?).lines();
    let lines = BufReader::new(sfgi.0.stdout.take().context("no stdout")?).lines();
    let mut said = said.map_while(Result::ok);
    said.find(|line| line.contains("attached to PID")).context("sfgi did not attach")?;

    let done = AtomicBool::new(false);
    let (said, shown, late) = thread::scope(|scope| {
        let asleep = scope.spawn(|| lateness(&done));
        let shown = scope.spawn(|| lines.map(|line| Ok((now_ns()?, line?))).collect::<Result<Vec<_>>>());
        let said = target.work();
        let shown = shown.join();
        // Relaxed: the flag carries no data.
        done.store(true, Ordering::Relaxed);
        (said, shown, asleep.join())
    });
    Ok(Watched {
        said: said?,
        shown: shown.map_err(|_| anyhow::anyhow!("the thread that reads from sfgi panicked"))??,
        late: late.map_err(|_| anyhow::anyhow!("the thread that sleeps panicked"))?,
    })
}

/// The figures of one round, milliseconds.
pub(super) struct Round {
    median: f64,
    p99: f64,
    /// The 99th percentile of the thread that only sleeps.
    asleep: f64,
}

impl Round {
    /// Of how long each took to be shown, milliseconds.
    pub(super) fn of(mut times: Vec<f64>, mut watched: Watched) -> Round {
        Round { median: part(&mut times, 50), p99: part(&mut times, 99), asleep: part(&mut watched.late, 99) }
    }
}

/// The rows of several rounds; `what` is on the screen after so long.
pub(super) fn rows(what: &str, rounds: &[Round]) -> Vec<Row> {
    let row = |name: &str, pick: fn(&Round) -> f64| Row::new(name, "ms", rounds.iter().map(pick).collect());
    let asleep = row("a thread that sleeps 1 ms: late by, p99", |round| round.asleep);
    let (median, p99) = (format!("{what}, median"), format!("{what}, p99"));
    vec![
        row(&median, |round| round.median),
        row(&p99, |round| round.p99).within(GOAL),
        row(&p99, |round| round.p99).against(&asleep, None),
        asleep,
    ]
}

/// By how many milliseconds each sleep was too long, until `done` is set.
fn lateness(done: &AtomicBool) -> Vec<f64> {
    let mut late = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let begun = Instant::now();
        thread::sleep(NAP);
        late.push(begun.elapsed().saturating_sub(NAP).as_secs_f64() * 1e3);
    }
    late
}

/// The percentile `percent` of the samples, of which there must be one at least.
fn part(samples: &mut [f64], percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[(samples.len() * percent).div_ceil(100).saturating_sub(1)]
}

/// `CLOCK_MONOTONIC`, as the program tells its times.
fn now_ns() -> Result<u64> {
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

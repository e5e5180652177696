//! What `sfgi dump` costs, and what it costs the program: a million goroutines that wait, and one that reads the
//! clock a thousand times a second. Held against the program's own ways to print its goroutines.

use super::{Row, Setting, fixture::Fixture, process};
use crate::{setup::go, sh};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

const GOROUTINES: usize = 1_000_000;

/// How often everything is measured, in turn. The program's own ways are measured once: they take minutes.
const ROUNDS: usize = 5;

/// How long the program is left alone to measure its usual gap.
const ALONE: Duration = Duration::from_secs(3);

/// The largest good ratio of a gap to the one while another process is busy.
const GAP_GOAL: f64 = 1.5;

/// What sfgi is asked for, with the goals in seconds and MiB.
const DUMPS: [Dump; 3] = [
    Dump { name: "sfgi dump", args: &[], header: "goroutine ", secs: Some(5.0), mib: Some(1024.0) },
    Dump { name: "sfgi dump --group", args: &["--group"], header: "", secs: None, mib: Some(300.0) },
    Dump { name: "sfgi dump --format json", args: &["--format", "json"], header: "", secs: None, mib: None },
];

/// The program's own ways: the fixture's command, and what that is.
const OWN: [(&str, &str); 2] = [
    ("profile", "the program's own debug=2, which ends after 64 MB"),
    ("stack", "the program's own runtime.Stack"),
];

struct Dump {
    name: &'static str,
    args: &'static [&'static str],
    /// The beginning of a line that every goroutine must have; empty for forms without one.
    header: &'static str,
    secs: Option<f64>,
    mib: Option<f64>,
}

/// The figures of one way, one of each a round.
#[derive(Default)]
struct Samples {
    secs: Vec<f64>,
    gap: Vec<f64>,
    mib: Vec<f64>,
}

/// Measures all in turn.
pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    let file = sh::target_dir().join("bench/goroutines");
    let args = ["-n".into(), GOROUTINES.to_string(), "-o".into(), file.display().to_string()];
    let mut target = Fixture::start(&Fixture::build("parked", go::BENCH, &[])?, &args)?;
    let (mut alone, mut busy) = (Vec::new(), Vec::new());
    let mut dumps = DUMPS.map(|_| Samples::default());
    let mut own = OWN.map(|_| Samples::default());
    for round in 1..=ROUNDS {
        eprintln!("bench snapshot: round {round} of {ROUNDS}");
        alone.push(gap(&mut target, |_| left_alone())?.0);
        busy.push(gap(&mut target, |_| process::another_is_busy())?.0);
        for (dump, samples) in DUMPS.iter().zip(&mut dumps) {
            let (gap, (secs, mib)) = gap(&mut target, |target| dump.measure(target.pid(), &file, setting))?;
            samples.add(secs, gap, mib);
        }
    }
    for ((command, _), samples) in OWN.iter().zip(&mut own) {
        let (gap, took) = gap(&mut target, |target| target.command(command))?;
        let ns: f64 = took.strip_prefix("took ").context("no time")?.parse()?;
        samples.add(ns / 1e9, gap, 0.0);
    }
    sh::remove(&file)?;
    Ok(rows(alone, busy, dumps, own))
}

fn rows(
    alone: Vec<f64>,
    busy: Vec<f64>,
    dumps: [Samples; DUMPS.len()],
    own: [Samples; OWN.len()],
) -> Vec<Row> {
    let own_times: Vec<Row> = OWN
        .iter()
        .zip(&own)
        .map(|((_, name), samples)| Row::new(format!("{name}: time"), "s", samples.secs.clone()))
        .collect();
    let busy = Row::new("another process busy: gap", "ms", busy);
    let (mut time, mut memory, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    for (dump, samples) in DUMPS.iter().zip(dumps) {
        let limited = |row: Row, limit: Option<f64>| match limit {
            Some(limit) => row.within(limit),
            None => row,
        };
        time.push(limited(Row::new(format!("{}: time", dump.name), "s", samples.secs.clone()), dump.secs));
        memory.push(limited(Row::new(format!("{}: memory", dump.name), "MiB", samples.mib), dump.mib));
        gaps.push(Row::new(format!("{}: gap", dump.name), "ms", samples.gap).against(&busy, GAP_GOAL));
        if dump.secs.is_some() {
            let faster =
                |own| Row::new(format!("{}: time", dump.name), "s", samples.secs.clone()).against(own, 0.1);
            time.extend(own_times.iter().map(faster));
        }
    }
    for ((_, name), samples) in OWN.iter().zip(own) {
        gaps.push(Row::new(format!("{name}: gap"), "ms", samples.gap).against(&busy, None));
    }
    gaps.insert(0, Row::new("nothing else: gap", "ms", alone));
    gaps.insert(1, busy);
    time.into_iter().chain(own_times).chain(memory).chain(gaps).collect()
}

impl Samples {
    fn add(&mut self, secs: f64, gap: f64, mib: f64) {
        self.secs.push(secs);
        self.gap.push(gap);
        self.mib.push(mib);
    }
}

impl Dump {
    /// Runs the dump into `file`; returns seconds and MiB.
    fn measure(&self, pid: &str, file: &Path, setting: &Setting) -> Result<(f64, f64)> {
        let mut command = sh::root_command(&setting.sfgi)?;
        command.args(["dump", "-p", pid]).args(self.args);
        command.stdin(Stdio::null()).stdout(File::create(file)?).stderr(Stdio::null());
        let started = Instant::now();
        let mib = process::peak_mib(&mut command).with_context(|| self.name)?;
        let secs = started.elapsed().as_secs_f64();
        if !self.header.is_empty() {
            let lines = BufReader::new(File::open(file)?).lines();
            let shown =
                lines.filter(|line| line.as_ref().is_ok_and(|line| line.starts_with(self.header))).count();
            ensure!(shown >= GOROUTINES, "{} shows {shown} goroutines only", self.name);
        }
        Ok((secs, mib))
    }
}

fn left_alone() -> Result<()> {
    thread::sleep(ALONE);
    Ok(())
}

/// Runs `work` and returns the longest gap that the program's clock watcher noticed meanwhile, milliseconds.
fn gap<T>(target: &mut Fixture, work: impl FnOnce(&mut Fixture) -> Result<T>) -> Result<(f64, T)> {
    target.command("gap")?;
    let result = work(target)?;
    // The watcher sees a gap that has not ended at its next look only.
    thread::sleep(Duration::from_millis(50));
    let line = target.command("gap")?;
    let ns = line.split(' ').nth(1).with_context(|| format!("not a gap: {line}"))?;
    Ok((ns.parse::<f64>()? / 1e6, result))
}

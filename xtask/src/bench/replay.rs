//! What a recording takes on disk, and how fast it is read: two goroutines that pass a number to and fro, recorded by
//! sfgi and, in another run, by Go's own tracer. A made-up recording of an hour shows the memory that reading takes.

use super::{Row, Setting, fixture::Fixture, process};
use crate::{setup::go, sh};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

/// How long the program works while it is recorded, as the program's flag takes it.
const WORK: &str = "5s";

/// The same for Go's own tracer; shorter, because its reader is slow.
const OWN_WORK: &str = "200ms";

/// How often each recording is read.
const ROUNDS: usize = 5;

/// The goal: bytes on disk an event.
const BYTES_GOAL: f64 = 8.0;

/// The goal: nanoseconds of one processor an event, ten million events a second.
const NS_GOAL: f64 = 100.0;

/// The goal: MiB of memory, however long the recording is.
const MIB_GOAL: f64 = 100.0;

/// Events in the recording of an hour.
const HOUR_EVENTS: &str = "100000000";

/// Records with both tracers, then reads both recordings in turn.
pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    let directory = sh::target_dir().join("bench");
    let program = Fixture::build("pingpong", go::BENCH, &[])?;
    let (ours, theirs) = (directory.join("pingpong.sfgi"), directory.join("pingpong.trace"));
    let events = record(&program, &ours, setting)?;
    eprintln!("bench replay: {events} events recorded");
    trace(&program, &theirs)?;
    let (mut read, mut worked, mut memory, mut read_theirs) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut their_events = 0.0;
    for round in 1..=ROUNDS {
        eprintln!("bench replay: round {round} of {ROUNDS}");
        let (ns, used) = report(&ours, setting)?;
        read.push(ns / events);
        worked.push(used.cpu_ns / events);
        memory.push(used.mib);
        let (ns, count) = parse(&theirs)?;
        their_events = count;
        read_theirs.push(ns / count);
    }
    eprintln!("bench replay: an hour of {HOUR_EVENTS} events");
    let hour = directory.join("hour.sfgi");
    let hour_events = make_up(&hour, setting)?;
    let (_, hour_used) = report(&hour, setting)?;
    let size =
        |path: &Path, events: f64| Ok::<_, anyhow::Error>(vec![fs::metadata(path)?.len() as f64 / events]);
    let their_size = Row::new("Go's own trace: an event on disk", "bytes", size(&theirs, their_events)?);
    let their_time = Row::new("go tool trace -d=parsed: an event", "ns", read_theirs);
    let our_size = size(&ours, events)?;
    let rows = vec![
        Row::new("recording: an event on disk", "bytes", our_size.clone()).within(BYTES_GOAL),
        Row::new("recording: an event on disk", "bytes", our_size).against(&their_size, None),
        Row::new("sfgi report -c: an event, on one processor", "ns", worked).within(NS_GOAL),
        Row::new("sfgi report -c: an event", "ns", read).against(&their_time, None),
        Row::new("sfgi report -c: memory", "MiB", memory).within(MIB_GOAL),
        Row::new("an hour of 100 million events: an event on disk", "bytes", size(&hour, hour_events)?),
        Row::new(
            "an hour of 100 million events: an event, on one processor",
            "ns",
            vec![hour_used.cpu_ns / hour_events],
        )
        .within(NS_GOAL),
        Row::new("an hour of 100 million events: memory", "MiB", vec![hour_used.mib]).within(MIB_GOAL),
        their_size,
        their_time,
    ];
    sh::remove(&ours)?;
    sh::remove(&theirs)?;
    sh::remove(&hour)?;
    Ok(rows)
}

/// Records the program with sfgi; returns the number of events.
fn record(program: &Path, file: &Path, setting: &Setting) -> Result<f64> {
    let target = Fixture::start(program, &["-d".to_owned(), WORK.to_owned()])?;
    let mut command = sh::root_command(&setting.sfgi)?;
    // A ring that no machine fills: what is lost would not be read.
    command.args(["record", "-p", target.pid(), "--ring-size", "268435456", "-o"]).arg(file);
    let mut sfgi = sh::Child::spawn(command.stdin(Stdio::null()).stderr(Stdio::piped()))?;
    let mut lines = BufReader::new(sfgi.0.stderr.take().context("no stderr")?).lines();
    let attached = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("attached to PID ")));
    attached.context("sfgi record did not attach")??;
    target.work()?;
    let last = lines.last().context("sfgi record said nothing at its end")??;
    ensure!(sfgi.0.wait()?.success(), "sfgi record: {last}");
    let count = last.rsplit(": ").next().and_then(|said| said.split_once(" events"));
    let count = count.and_then(|(count, _)| count.replace(',', "").parse().ok());
    count.filter(|count| *count > 0.0).with_context(|| format!("no count of events: {last}"))
}

/// Lets the program trace itself.
fn trace(program: &Path, file: &Path) -> Result<()> {
    sh::output(sh::command(program)?.args(["-d", OWN_WORK]).env("FIXTURE_TRACE", file).stdin(Stdio::null()))?;
    Ok(())
}

/// Makes up the recording of an hour; returns the number of its events.
fn make_up(file: &Path, setting: &Setting) -> Result<f64> {
    let mut cargo = sh::cargo()?;
    setting.compiler.tell(&mut cargo);
    cargo.args(["run", "--quiet", "--release", "--package=sfgi-core", "--example=long_recording", "--"]);
    let count = sh::output(cargo.arg(file).arg(HOUR_EVENTS))?;
    count.trim().parse().context("it did not say how many")
}

/// Reads our recording into a summary; returns the nanoseconds that passed, and what it used.
fn report(file: &Path, setting: &Setting) -> Result<(f64, process::Used)> {
    let mut command = sh::command(&setting.sfgi)?;
    command.args(["report", "-c"]).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = Instant::now();
    let used = process::used(&mut command).context("sfgi report")?;
    Ok((started.elapsed().as_nanos() as f64, used))
}

/// Reads Go's recording; returns the nanoseconds that passed, and the number of events.
fn parse(file: &Path) -> Result<(f64, f64)> {
    let tool: PathBuf = go::home(go::BENCH)?.join("bin/go");
    let started = Instant::now();
    let mut command = sh::command(tool)?;
    command.args(["tool", "trace", "-d=parsed"]).arg(file).stdin(Stdio::null());
    let mut child = sh::Child::spawn(command.stdout(Stdio::piped()).stderr(Stdio::null()))?;
    let lines = BufReader::new(child.0.stdout.take().context("no stdout")?).lines();
    let events = lines.filter(|line| line.as_ref().is_ok_and(|line| line.starts_with("M="))).count();
    ensure!(child.0.wait()?.success() && events > 0, "go tool trace cannot read it");
    Ok((started.elapsed().as_nanos() as f64, events as f64))
}

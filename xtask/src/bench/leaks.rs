//! What `sfgi leaks` costs, and what it costs the program: heaps and goroutines of many sizes, and a goroutine that
//! answers a request a thousand times a second. Held against the runtime's own goroutineleak profile in the same
//! process.

use super::{Row, Setting, fixture::Fixture, process};
use crate::{setup::go, sh};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

/// MiB of heap, and goroutines.
const SIZES: [(u64, u64); 7] =
    [(10, 1000), (100, 1000), (1024, 1000), (4096, 1000), (100, 10_000), (100, 100_000), (100, 1_000_000)];

/// How often everything is measured for each size; the cases take turns.
const ROUNDS: usize = 3;

/// How long requests are measured at least: a percentile needs many.
const LOOK: Duration = Duration::from_secs(3);

/// The goal: seconds for each GiB of heap on one thread, 1 GiB/s.
const SCAN_GOAL: f64 = 1.0;

/// The goal for the memory of sfgi: a share of the heap, and MiB on top.
const MEMORY_GOAL: (f64, f64) = (0.05, 100.0);

/// The figures of one size, one of each a round.
#[derive(Default)]
struct Samples {
    /// The scan of the heap on one thread and on all, seconds.
    one: Vec<f64>,
    all: Vec<f64>,
    /// The whole command, on one thread, seconds; and its memory, MiB.
    command: Vec<f64>,
    mib: Vec<f64>,
    /// The runtime's own profile, and its pauses, seconds.
    own: Vec<f64>,
    paused: Vec<f64>,
    /// The 99th percentile of a request, milliseconds: with nothing else, with another process busy, while sfgi
    /// scans, while the runtime makes its profile.
    alone: Vec<f64>,
    busy: Vec<f64>,
    scanning: Vec<f64>,
    profiling: Vec<f64>,
}

/// The figures of one run of sfgi.
pub(super) struct Scan {
    /// Seconds of the pass over the heap.
    pub(super) secs: f64,
    command: f64,
    mib: f64,
    bytes: f64,
    /// What one leaked goroutine waits for.
    pub(super) object: String,
}

/// Measures one size after the other.
pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    let program = Fixture::build("heap", go::NEWEST, &[])?;
    let file = sh::target_dir().join("bench/leaks");
    let mut rows = Vec::new();
    for (mib, goroutines) in SIZES {
        let name = format!("{}, {} goroutines", size_name(mib), count_name(goroutines));
        // The program has twice its heap while it builds it up and while it collects garbage.
        let needed = 2 * mib + goroutines * 5 / 1024;
        let room = available_mib()? * 2 / 3;
        if needed > room {
            eprintln!("bench leaks: {name}: left out, it needs {needed} MiB and there are {room}");
            continue;
        }
        rows.extend(measure(setting, &program, &file, (mib, goroutines), &name)?);
    }
    sh::remove(&file)?;
    Ok(rows)
}

fn measure(setting: &Setting, program: &Path, file: &Path, size: (u64, u64), name: &str) -> Result<Vec<Row>> {
    eprintln!("bench leaks: {name}: starting it");
    let args = [("-size", size.0 << 20), ("-n", size.1)];
    let args: Vec<String> =
        args.into_iter().flat_map(|(name, value)| [name.into(), value.to_string()]).collect();
    let mut target = Fixture::start(program, &args)?;
    let leaked: u64 = target.said("leaked ")?;
    let (mut samples, mut bytes) = (Samples::default(), 0.0);
    let all = std::thread::available_parallelism()?.get();
    for round in 1..=ROUNDS {
        eprintln!("bench leaks: {name}: round {round} of {ROUNDS}");
        let scan = |threads| scan(setting, target.pid(), file, threads, leaked);
        let one = scan(1)?;
        samples.one.push(one.secs);
        samples.command.push(one.command);
        samples.mib.push(one.mib);
        bytes = one.bytes;
        samples.all.push(scan(all)?.secs);
        samples.alone.push(p99(&mut target, |_| left_alone())?);
        samples.busy.push(p99(&mut target, |_| process::another_is_busy())?);
        let again =
            |target: &mut Fixture| repeat(|| self::scan(setting, target.pid(), file, 1, leaked).map(drop));
        samples.scanning.push(p99(&mut target, again)?);
        let (mut own, mut paused) = (Vec::new(), Vec::new());
        let profile = |target: &mut Fixture| {
            repeat(|| {
                let told = target.command("leaks")?;
                let told: Vec<f64> = told.split(' ').skip(1).map(str::parse).collect::<Result<_, _>>()?;
                let [took, pause, count] = told[..] else { anyhow::bail!("not three figures: {told:?}") };
                ensure!(
                    count == leaked as f64,
                    "the runtime's own profile has {count} goroutines, not {leaked}"
                );
                own.push(took / 1e9);
                paused.push(pause / 1e9);
                Ok(())
            })
        };
        samples.profiling.push(p99(&mut target, profile)?);
        samples.own.push(middle(own));
        samples.paused.push(middle(paused));
    }
    Ok(rows(name, &samples, bytes, all))
}

fn rows(name: &str, samples: &Samples, bytes: f64, all: usize) -> Vec<Row> {
    let row = |what: &str, unit, samples: &[f64]| Row::new(format!("{name}: {what}"), unit, samples.to_vec());
    let gib = bytes / f64::from(1 << 30);
    let per_gib = |secs: &[f64]| secs.iter().map(|secs| secs / gib).collect::<Vec<_>>();
    let own = row("the runtime's own profile", "s", &samples.own);
    let busy = row("99 % of requests, another process busy", "ms", &samples.busy);
    let (share, besides) = MEMORY_GOAL;
    vec![
        Row::new(format!("{name}: read of it"), "MiB", vec![bytes / f64::from(1 << 20)]),
        row("scan, one thread, for each GiB", "s", &per_gib(&samples.one)).within(SCAN_GOAL),
        row(&format!("scan, {all} threads, for each GiB"), "s", &per_gib(&samples.all)),
        row("scan, one thread", "s", &samples.one).against(&own, None),
        row("the whole command", "s", &samples.command).against(&own, None),
        row("memory of sfgi", "MiB", &samples.mib).within(share * bytes / f64::from(1 << 20) + besides),
        row("the program stopped by its own profile", "s", &samples.paused),
        own,
        row("99 % of requests, alone", "ms", &samples.alone),
        row("99 % of requests, sfgi scans", "ms", &samples.scanning).against(&busy, 1.5),
        row("99 % of requests, its own profile", "ms", &samples.profiling).against(&busy, None),
        busy,
    ]
}

/// Runs `sfgi leaks` once, with a single pass.
pub(super) fn scan(setting: &Setting, pid: &str, file: &Path, threads: usize, leaked: u64) -> Result<Scan> {
    let mut command = sh::root_command(&setting.sfgi)?;
    command.args(["leaks", "-p", pid, "--format", "json", "--passes", "1", "--observe", "0s"]);
    command.args(["--threads", &threads.to_string()]);
    command.stdin(Stdio::null()).stdout(File::create(file)?).stderr(Stdio::null());
    let started = Instant::now();
    let mib = process::peak_mib(&mut command).context("sfgi leaks")?;
    let elapsed = started.elapsed().as_secs_f64();
    let report: Value = serde_json::from_slice(&fs::read(file)?)?;
    let figure =
        |name: &str| report[name].as_f64().with_context(|| format!("sfgi leaks does not tell {name}"));
    let proven = report["summary"]["proven"].as_u64().context("no summary")?;
    ensure!(proven == leaked, "sfgi has proven {proven} goroutines, not {leaked}: {}", report["doubt"]);
    let object = report["leaks"][0]["object"].as_str().context("no object")?.to_owned();
    let (secs, bytes) = (figure("heap_ms")? / 1e3, figure("heap_bytes")?);
    Ok(Scan { secs, command: elapsed, mib, bytes, object })
}

fn left_alone() -> Result<()> {
    std::thread::sleep(LOOK);
    Ok(())
}

/// Repeats `work` for as long as requests are measured.
fn repeat(mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < LOOK {
        work()?;
    }
    Ok(())
}

/// The 99th percentile of the requests while `work` runs, milliseconds.
fn p99(target: &mut Fixture, work: impl FnOnce(&mut Fixture) -> Result<()>) -> Result<f64> {
    target.command("latency")?;
    work(target)?;
    let line = target.command("latency")?;
    let ns = line.split(' ').nth(3).with_context(|| format!("not a latency: {line}"))?;
    Ok(ns.parse::<f64>()? / 1e6)
}

fn middle(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}

pub(super) fn available_mib() -> Result<u64> {
    let info = fs::read_to_string("/proc/meminfo")?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.split_ascii_whitespace().next().context("no MemAvailable")?.parse::<u64>()? / 1024)
}

pub(super) fn size_name(mib: u64) -> String {
    if mib >= 1024 { format!("{} GiB", mib / 1024) } else { format!("{mib} MiB") }
}

fn count_name(count: u64) -> String {
    if count >= 1_000_000 { format!("{}M", count / 1_000_000) } else { format!("{}k", count / 1000) }
}

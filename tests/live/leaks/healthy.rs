//! `sfgi leaks` on programs that work at full speed and leak nothing: not one false proof.

use std::{
    env, fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks::{self, Group, Verdict},
    machine,
    process::Process,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(nothing_is_proven_of_a_healthy_program)]
}

const KINDS: [&str; 16] = [
    "http",
    "pool",
    "pubsub",
    "timers",
    "group",
    "pipeline",
    "reply",
    "list",
    "limiter",
    "syncpool",
    "registers",
    "tree",
    "stacks",
    "relay",
    "locks",
    "all",
];

/// Kinds with hot loops that give way again and again: that those are told of as spinning is right.
const SPINNING: [&str; 2] = ["registers", "all"];
const SPIN_SIGN: &str = "pseudo-idle-spin";

/// Suspicions about the processors, which a program at full speed on a machine that others use too deserves: there a
/// goroutine with work before it (the `turn` of `reply` never waits as long as its channel is not empty) is at it, or
/// ready for it, in every look.
const SHORT_OF_PROCESSORS: [&str; 2] = ["never-yields", "starved"];

const RELEASES: [u32; 4] = [21, 24, 26, 27];

/// Scans of each kind on each release, unless `SFGI_SCANS` says how many: 16 are a thousand in all, and take two minutes.
const SCANS: usize = 4;

/// How many programs run at a time.
const WIDTH: usize = 3;

/// Longer than all scans of a program take.
const LONGEST: Duration = Duration::from_secs(600);

struct Case<'a> {
    kind: &'static str,
    go: &'a Go,
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} go{}", self.kind, self.go.version)
    }
}

/// How much the program has done.
fn rounds(target: &mut Process) -> Result<u64> {
    let lines = target.command("rounds", LONGEST)?;
    let line = lines.iter().find_map(|line| line.strip_prefix("rounds ")).context("no rounds")?;
    Ok(line.parse()?)
}

fn nothing_is_proven_of_a_healthy_program() -> Result<()> {
    let releases: Vec<Go> = Go::all().into_iter().filter(|go| RELEASES.contains(&go.minor)).collect();
    let mut cases = Vec::new();
    for go in &releases {
        fixture::build("healthy", go, Variant::Plain)?;
        cases.extend(KINDS.iter().map(|kind| Case { kind, go }));
    }
    let wanted = env::var("SFGI_SCANS").ok().and_then(|number| number.parse().ok()).unwrap_or(SCANS);
    let (scans, passes, goroutines, started) =
        (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), Instant::now());
    let failures = leaks::side_by_side(WIDTH, &cases, |case| {
        let mut target = fixture::start("healthy", case.go, Variant::Plain, &["-kind", case.kind])?;
        let before = rounds(&mut target)?;
        // One as everybody runs it, the others for as short as still makes sense, by one sfgi.
        let usual = leaks::json(target.pid(), &[])?;
        let args = ["--watch=10ms", "--observe", "150ms", "--format", "json"];
        let mut sfgi = Process::spawn(&mut leaks::command(target.pid(), &args)?)?;
        let mut reports = leaks::watched(&mut sfgi, wanted, LONGEST)?;
        reports.push(usual);
        let mut alarms = Vec::new();
        for report in &reports {
            let proven = report.lines(Verdict::Proven);
            ensure!(proven.is_empty(), "false:\n{}", proven.join("\n"));
            ensure!(report.doubt.is_none(), "in doubt: {:?}", report.doubt);
            ensure!(report.passes > 0 && report.scanned > 0, "it proves nothing: {report:?}");
            let spins = SPINNING.contains(&case.kind);
            let expected = |group: &Group| {
                let class = group.class.as_str();
                group.verdict == Verdict::Suspect && SHORT_OF_PROCESSORS.contains(&class)
                    || spins && class == SPIN_SIGN
            };
            alarms.extend(report.lines_of(|group| !expected(group)));
            scans.fetch_add(1, Ordering::Relaxed);
            passes.fetch_add(report.passes.into(), Ordering::Relaxed);
            goroutines.fetch_add(report.scanned, Ordering::Relaxed);
        }
        let after = rounds(&mut target)?;
        ensure!(after > before, "it did nothing meanwhile");
        alarms.sort();
        alarms.dedup();
        ensure!(
            alarms.is_empty(),
            "not silent:\n{}",
            alarms.iter().take(5).cloned().collect::<Vec<_>>().join("\n")
        );
        Ok(())
    });
    for failure in &failures {
        machine::report(failure);
    }
    machine::report(&format!(
        "{} scans, {} passes, {} goroutines looked at, in {:.0?}",
        scans.load(Ordering::Relaxed),
        passes.load(Ordering::Relaxed),
        goroutines.load(Ordering::Relaxed),
        started.elapsed()
    ));
    ensure!(failures.is_empty(), "{} of {} programs failed, see above", failures.len(), cases.len());
    ensure!(scans.load(Ordering::Relaxed) >= (wanted * cases.len()) as u64, "fewer scans than were wanted");
    Ok(())
}

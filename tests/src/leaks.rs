//! `sfgi leaks`: how it is run, what its JSON holds, and what the fixtures `leaks` and `random` say of
//! themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;

use crate::{dump::Frame, process::Process, sfgi};

/// Enough for a command to a fixture: a random program may take ten seconds to wake, and the machine may be slow.
const SOON: Duration = Duration::from_secs(120);

/// The document of `sfgi leaks --format json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// `sfgi.leaks/1`.
    pub schema: String,
    /// Process.
    pub pid: Option<u32>,
    /// `go1.26.6`.
    pub go_version: String,
    /// Goroutines looked at.
    pub scanned: u64,
    /// Milliseconds of the whole observation.
    pub scan_ms: f64,
    /// Passes of the proof.
    pub passes: u32,
    /// Bytes of the heap that the last pass read.
    pub heap_bytes: u64,
    /// How long the target stood still, with `--freeze`.
    pub frozen_ms: Option<f64>,
    /// Why nothing counts as proven.
    pub doubt: Option<String>,
    /// How many goroutines by verdict.
    pub summary: BTreeMap<Verdict, u64>,
    /// Every leaked goroutine.
    pub leaks: Vec<Leak>,
    /// The same by where they were made and where they wait.
    pub groups: Vec<Group>,
    /// Those that wait for each other.
    pub sets: Vec<Set>,
}

/// How sure a leak is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Old and repeated, or growing.
    Suspect,
    /// A rule says so.
    Likely,
    /// Nothing reaches what would wake it.
    Proven,
}

/// A leaked goroutine.
#[derive(Clone, Debug, Deserialize)]
pub struct Leak {
    /// Its id.
    pub goid: u64,
    /// How sure.
    pub verdict: Verdict,
    /// Class of the catalogue.
    pub class: String,
    /// Go's name of its state.
    pub status: String,
    /// Why it waits.
    #[serde(default)]
    pub wait_reason: String,
    /// What it waits for, as `0x…`.
    pub object: Option<String>,
    /// Index into the groups.
    pub group: usize,
    /// Index into the sets.
    pub set: Option<usize>,
    /// Innermost first.
    pub stack: Vec<Frame>,
    /// Its `go` statement.
    pub created_by: Option<Frame>,
    /// Why, in words.
    pub evidence: Vec<String>,
}

/// Leaks that are the same.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// The same in every run of the program.
    pub id: String,
    /// How sure.
    pub verdict: Verdict,
    /// Class of the catalogue.
    pub class: String,
    /// How many goroutines; of timers, how many of these.
    pub count: u64,
    /// Goroutines more a second, where that is significant.
    pub growth_per_s: Option<f64>,
    /// Bytes of the heap that only they refer to.
    pub pinned_bytes: Option<u64>,
    /// Their ids.
    pub goids: Vec<u64>,
    /// Why, in words.
    pub evidence: Vec<String>,
    /// What it is.
    pub explanation: String,
    /// What to do.
    pub fix: String,
}

/// Goroutines that wait for each other.
#[derive(Clone, Debug, Deserialize)]
pub struct Set {
    /// Their ids.
    pub members: Vec<u64>,
    /// Those whose waits go round.
    #[serde(default)]
    pub cycle: Vec<u64>,
}

impl Leak {
    /// Whether it has this function on its stack. One that moves on and on has none that could be read: it
    /// counts if a function of the same name with more behind it made it, as those of the fixtures do.
    pub fn has(&self, func: &str) -> bool {
        let maker = || self.created_by.as_ref().is_some_and(|maker| maker.func.starts_with(func));
        self.stack.iter().any(|frame| frame.func == func) || self.stack.is_empty() && maker()
    }
}

impl Report {
    /// The ids of the goroutines that are proven to be leaked.
    pub fn proven(&self) -> BTreeSet<u64> {
        self.leaks.iter().filter(|leak| leak.verdict == Verdict::Proven).map(|leak| leak.goid).collect()
    }

    /// All that is reported with this verdict at least, a line each.
    pub fn lines(&self, least: Verdict) -> Vec<String> {
        self.lines_of(|group| group.verdict >= least)
    }

    /// The groups that are chosen, a line each.
    pub fn lines_of(&self, chosen: impl Fn(&Group) -> bool) -> Vec<String> {
        let groups = self.groups.iter().filter(|group| chosen(group));
        let line = |group: &Group| {
            let leak = self.leaks.iter().find(|leak| group.goids.contains(&leak.goid));
            let stack =
                leak.map(|leak| leak.stack.iter().map(|frame| frame.func.as_str()).collect::<Vec<_>>());
            let (verdict, class, evidence) = (group.verdict, &group.class, &group.evidence);
            format!("{} × {verdict:?} {class}: {:?}; {evidence:?}", group.count, stack.unwrap_or_default())
        };
        groups.map(line).collect()
    }
}

/// The command `sfgi leaks -p PID ARGS…`.
///
/// # Errors
/// sfgi was not built.
pub fn command(pid: u32, args: &[&str]) -> Result<Command> {
    let mut command = sfgi::command(&["leaks", "-p", &pid.to_string()])?;
    command.args(args);
    Ok(command)
}

/// Runs it to its end.
///
/// # Errors
/// It cannot be started.
pub fn run(pid: u32, args: &[&str]) -> Result<Output> {
    command(pid, args)?.output().context("cannot run sfgi")
}

/// What it prints; it must succeed.
///
/// # Errors
/// It fails; the error holds what it said.
pub fn text(pid: u32, args: &[&str]) -> Result<String> {
    let output = run(pid, args)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "sfgi leaks {}: {}\n{stderr}", args.join(" "), output.status);
    String::from_utf8(output.stdout).context("sfgi prints no UTF-8")
}

/// Its report as JSON, with these further arguments.
///
/// # Errors
/// It fails, or the document is not what the schema says.
pub fn json(pid: u32, args: &[&str]) -> Result<Report> {
    document(&text(pid, &[&["--format", "json"], args].concat())?)
}

/// Reads the document. What it says of its leaks must fit together.
///
/// # Errors
/// It is not what the schema says.
pub fn document(text: &str) -> Result<Report> {
    let report: Report = serde_json::from_str(text).context("not the document that sfgi promises")?;
    anyhow::ensure!(report.schema == "sfgi.leaks/1", "unknown schema {}", report.schema);
    for leak in &report.leaks {
        let group = report.groups.get(leak.group).with_context(|| format!("no group: {leak:?}"))?;
        let fits =
            group.goids.contains(&leak.goid) && (group.verdict, &group.class) == (leak.verdict, &leak.class);
        anyhow::ensure!(fits, "{leak:?} is in {group:?}");
        anyhow::ensure!(!leak.evidence.is_empty(), "no evidence: {leak:?}");
    }
    let grouped: usize = report.groups.iter().map(|group| group.goids.len()).sum();
    anyhow::ensure!(grouped == report.leaks.len(), "{grouped} in groups, {} leaks", report.leaks.len());
    Ok(report)
}

/// The reports of a running `sfgi leaks --watch --format json`, at least so many; ends it by Ctrl-C.
///
/// # Errors
/// They do not come in time, or it does not end as it should.
pub fn watched(sfgi: &mut Process, count: usize, timeout: Duration) -> Result<Vec<Report>> {
    let begun = |sfgi: &Process| sfgi.stdout.text().matches("\"sfgi.leaks/1\"").count();
    let deadline = Instant::now() + timeout;
    // The last one that has begun may not be complete.
    while begun(sfgi) <= count {
        anyhow::ensure!(Instant::now() < deadline, "only {} reports; {}", begun(sfgi), sfgi.stderr.text());
        thread::sleep(Duration::from_millis(50));
    }
    sfgi.signal(Signal::INT)?;
    sfgi.wait_code(timeout, 0)?;
    let text = sfgi.stdout.text();
    let documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    documents.map(|report| document(&report?.to_string())).collect()
}

/// The ids that a fixture prints in a line "NAME 7 9" when it is told this command; `None` where it
/// cannot know them.
///
/// # Errors
/// It has ended, or prints something else.
pub fn goids(process: &mut Process, command: &str, name: &str) -> Result<Option<BTreeSet<u64>>> {
    let lines = process.command(command, SOON).with_context(|| process.stderr.text())?;
    listed(&lines, name)
}

/// The ids in the line "NAME 7 9".
///
/// # Errors
/// There is no such line.
pub fn listed(lines: &[String], name: &str) -> Result<Option<BTreeSet<u64>>> {
    let line = lines
        .iter()
        .find_map(|line| line.strip_prefix(name))
        .with_context(|| format!("no {name}: {lines:?}"))?;
    if line.trim() == "unknown" {
        return Ok(None);
    }
    line.split_whitespace().map(|goid| goid.parse().context("not a goid")).collect::<Result<_>>().map(Some)
}

/// Runs the checks, a few at a time, and returns what failed, each with its name.
pub fn side_by_side<T: Sync + std::fmt::Display>(
    width: usize,
    cases: &[T],
    check: impl Fn(&T) -> Result<()> + Sync,
) -> Vec<String> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failures = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..width {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    if let Err(error) = check(case) {
                        let mut failures = failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        failures.push(format!("{case}: {error:#}"));
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

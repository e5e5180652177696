//! Running `sfgi leaks`, the form of its JSON, and what the fixtures `leaks` and `random` print about themselves.

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

/// How long a command to a fixture may take: a random program may take ten seconds to wake, and the machine may be
/// slow.
const SOON: Duration = Duration::from_secs(120);

/// The document of `sfgi leaks --format json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// `sfgi.leaks/1`.
    pub schema: String,
    pub pid: Option<u32>,
    /// `go1.26.6`.
    pub go_version: String,
    /// Goroutines that were judged.
    pub scanned: u64,
    /// How long the whole observation took, milliseconds.
    pub scan_ms: f64,
    /// Passes over the heap.
    pub passes: u32,
    /// Bytes of the heap that the last pass read.
    pub heap_bytes: u64,
    /// How long the target stood still, with `--freeze`.
    pub frozen_ms: Option<f64>,
    /// Why nothing counts as proven; `None`: nothing stands against it.
    pub doubt: Option<String>,
    /// Why objects, and pools among them, were not looked at.
    pub objects_doubt: Option<String>,
    pub pools_doubt: Option<String>,
    /// Goroutines by verdict.
    pub summary: BTreeMap<Verdict, u64>,
    /// Every leaked goroutine.
    pub leaks: Vec<Leak>,
    /// The leaks by where they were made and where they wait.
    pub groups: Vec<Group>,
    /// The goroutines that wait for each other.
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
    pub goid: u64,
    pub verdict: Verdict,
    /// The class of the catalogue.
    pub class: String,
    /// The state in Go's words.
    pub status: String,
    #[serde(default)]
    pub wait_reason: String,
    /// The address of what it waits for, `0x…`.
    pub object: Option<String>,
    /// Index into [`Report::groups`].
    pub group: usize,
    /// Index into [`Report::sets`].
    pub set: Option<usize>,
    /// Innermost first.
    pub stack: Vec<Frame>,
    pub created_by: Option<Frame>,
    /// Why, in sentences.
    pub evidence: Vec<String>,
}

/// Leaks with the same class, creation site and stack.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    /// The same in every run of the program.
    pub id: String,
    pub verdict: Verdict,
    /// The class of the catalogue.
    pub class: String,
    /// Goroutines, or timers.
    pub count: u64,
    /// How many more goroutines are made than end, a second; absent where that is not significant.
    pub growth_per_s: Option<f64>,
    /// Bytes of the heap that only these goroutines reach.
    pub pinned_bytes: Option<u64>,
    pub goids: Vec<u64>,
    /// The cycle that the first one waits in, from its own wait on.
    #[serde(default)]
    pub ring: Vec<Turn>,
    /// Why, in sentences.
    pub evidence: Vec<String>,
    pub explanation: String,
    pub fix: String,
}

/// A wait in a cycle, and who could end it.
#[derive(Clone, Debug, Deserialize)]
pub struct Turn {
    pub waiter: u64,
    pub holder: u64,
    /// The address of the object, `0x…`.
    pub object: String,
    pub inferred: bool,
}

/// Goroutines that wait for each other.
#[derive(Clone, Debug, Deserialize)]
pub struct Set {
    pub members: Vec<u64>,
    /// The members of a cycle, in order; empty where the set has none.
    #[serde(default)]
    pub cycle: Vec<u64>,
}

impl Leak {
    /// Whether it has this function on its stack. The stack of a goroutine that keeps moving cannot be read: it
    /// counts if a function whose name begins with `func` made it, as in the fixtures.
    pub fn has(&self, func: &str) -> bool {
        let maker = || self.created_by.as_ref().is_some_and(|maker| maker.func.starts_with(func));
        self.stack.iter().any(|frame| frame.func == func) || self.stack.is_empty() && maker()
    }
}

impl Report {
    /// The ids of the goroutines that are proven.
    pub fn proven(&self) -> BTreeSet<u64> {
        self.leaks.iter().filter(|leak| leak.verdict == Verdict::Proven).map(|leak| leak.goid).collect()
    }

    /// The groups with this verdict or a surer one, a line each.
    pub fn lines(&self, least: Verdict) -> Vec<String> {
        self.lines_of(|group| group.verdict >= least)
    }

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

/// Runs `sfgi leaks -p PID ARGS…` to its end.
///
/// # Errors
/// It cannot be started.
pub fn run(pid: u32, args: &[&str]) -> Result<Output> {
    command(pid, args)?.output().context("cannot run sfgi")
}

/// What `sfgi leaks -p PID ARGS…` prints; it must succeed.
///
/// # Errors
/// It fails; the error holds what it said.
pub fn text(pid: u32, args: &[&str]) -> Result<String> {
    let output = run(pid, args)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "sfgi leaks {}: {}\n{stderr}", args.join(" "), output.status);
    String::from_utf8(output.stdout).context("sfgi prints no UTF-8")
}

/// The report of `sfgi leaks -p PID --format json ARGS…`.
///
/// # Errors
/// It fails, or the document is not what the schema says.
pub fn json(pid: u32, args: &[&str]) -> Result<Report> {
    document(&text(pid, &[&["--format", "json"], args].concat())?)
}

/// Reads a report; its leaks and its groups must fit together.
///
/// # Errors
/// It is not what the schema says, or does not fit together.
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

/// At least `count` reports of a running `sfgi leaks --watch --format json`, which is then ended by Ctrl-C.
///
/// # Errors
/// They do not come in time, or it does not end as it should.
pub fn watched(sfgi: &mut Process, count: usize, timeout: Duration) -> Result<Vec<Report>> {
    let begun = |sfgi: &Process| sfgi.stdout.text().matches("\"sfgi.leaks/1\"").count();
    let deadline = Instant::now() + timeout;
    // The last report that has begun may not be complete.
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

/// The ids that a fixture prints in a line "NAME 7 9" on this command; `None` where it cannot know them.
///
/// # Errors
/// It has ended, or prints something else.
pub fn goids(process: &mut Process, command: &str, name: &str) -> Result<Option<BTreeSet<u64>>> {
    let lines = process.command(command, SOON).with_context(|| process.stderr.text())?;
    listed(&lines, name)
}

/// The ids in the line "NAME 7 9"; `None` for "NAME unknown".
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

/// Runs the checks, `width` at a time, and returns the failures, each with the name of its case.
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
                // Relaxed: the counter only hands out numbers.
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

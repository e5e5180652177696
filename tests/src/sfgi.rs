//! The sfgi binary under test.

use std::{env, ffi::OsStr, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::{
    machine,
    process::Process,
    state::{State, Transition},
};

/// How long sfgi may take to read a binary, load its programs and attach all probes, on the slowest machine.
pub const ATTACH: Duration = Duration::from_secs(120);

/// How long sfgi may take to end, once it is told to or its target has gone, on the slowest machine.
pub const END: Duration = Duration::from_secs(120);

/// Path of the sfgi binary: `$SFGI_BIN`, else the newer of `target/{release,debug}/sfgi`.
///
/// # Errors
/// It was not built.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SFGI_BIN") {
        return Ok(path.into());
    }
    let target = machine::target_dir();
    let built = |profile: &str| {
        let path = target.join(profile).join("sfgi");
        let time = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
        Some((time, path))
    };
    let newest = [built("debug"), built("release")].into_iter().flatten().max();
    newest.map(|(_, path)| path).context("sfgi is not built: run `cargo xtask build`")
}

/// The command `sfgi ARGS…`.
///
/// # Errors
/// As [`binary`].
pub fn command<S: AsRef<OsStr>>(args: &[S]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(args);
    Ok(command)
}

/// Starts `sfgi trace -p PID --format json ARGS…` and returns when all probes are attached.
///
/// # Errors
/// sfgi cannot be started or does not attach; the error holds its stderr.
pub fn attach(pid: u32, args: &[&str]) -> Result<Process> {
    let pid = pid.to_string();
    let mut command = command(&["trace", "-p", &pid, "--format", "json"])?;
    attached(command.args(args))
}

/// Starts an sfgi command that attaches to one process, and returns when all probes are attached.
///
/// # Errors
/// As [`attach`].
pub fn attached(command: &mut Command) -> Result<Process> {
    let sfgi = Process::spawn(command)?;
    sfgi.stderr.wait_for(ATTACH, |line| line.contains("attached to PID"))?;
    Ok(sfgi)
}

/// Runs sfgi, which must fail with `code` and one line on stderr that contains `words`; with a usage message that
/// does if `code` is 2.
///
/// # Errors
/// It does not fail so.
pub fn fails(command: &mut Command, code: i32, words: &[&str]) -> Result<()> {
    let mut sfgi = Process::spawn(command)?;
    sfgi.wait_code(ATTACH, code).with_context(|| format!("{command:?}"))?;
    let text = sfgi.stderr.text();
    for word in words {
        anyhow::ensure!(text.contains(word), "{command:?} does not say {word:?}:\n{text}");
    }
    anyhow::ensure!(!text.contains("panicked"), "{command:?}:\n{text}");
    anyhow::ensure!(code == 2 || text.lines().count() == 1, "{command:?} says more than a sentence:\n{text}");
    // A chain of causes must not say the same twice.
    let mut parts: Vec<&str> = text.split(": ").map(str::trim).collect();
    parts.sort_unstable();
    let repeated = parts.windows(2).find(|pair| pair[0] == pair[1]);
    anyhow::ensure!(repeated.is_none(), "{command:?} says {repeated:?} twice:\n{text}");
    Ok(())
}

/// A line of `sfgi trace --format json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// `sfgi.trace/1`.
    pub schema: String,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub ts_ns: u64,
    pub pid: u32,
    /// The goroutine, where it is known.
    pub goid: Option<u64>,
    /// `create`, `block` and so on.
    pub event: String,
    /// The function that the goroutine runs.
    pub start_func: Option<String>,
    /// Only for `lost`: how many events.
    pub count: Option<u64>,
    pub tid: Option<u32>,
    /// Go's wait reason.
    pub reason: Option<String>,
    /// The state before, by Go's name.
    pub from: Option<String>,
    /// The state after, by Go's name.
    pub to: Option<String>,
    /// The goroutine that caused it.
    pub by_goid: Option<u64>,
    /// The address of what it waits or waited for.
    pub object: Option<String>,
    /// How long what ended has lasted, nanoseconds.
    pub duration_ns: Option<u64>,
    /// Whether `duration_ns` is a lower bound.
    #[serde(default)]
    pub at_least: bool,
    /// Whether `duration_ns` is the runtime's own estimate.
    #[serde(default)]
    pub about: bool,
    /// Only for `found`: the `go` statement.
    pub created_by: Option<Place>,
    /// Only with `--stacks`: the whole stack.
    #[serde(default)]
    pub stack: Vec<Place>,
    /// Only for `resync`: goroutines in the snapshot. `new`, `corrected` and `ended` say what it changed.
    pub seen: Option<u64>,
    pub new: Option<u64>,
    pub corrected: Option<u64>,
    pub ended: Option<u64>,
    /// The function that the event is about, such as the wait site.
    pub func: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    /// Only for `illegal`: what is wrong.
    pub note: Option<String>,
}

/// A place in the source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub func: String,
    pub file: String,
    pub line: u32,
}

impl Event {
    /// The state transition that the line tells, if it tells one.
    ///
    /// # Errors
    /// It names a state that Go does not have.
    pub fn transition(&self) -> Result<Option<Transition>> {
        let (Some(from), Some(to)) = (&self.from, &self.to) else { return Ok(None) };
        let state = |name: &str| State::of_sfgi(name).with_context(|| format!("no state of Go: {name}"));
        let (from, to) = (state(from)?, state(to)?);
        let reason = self.reason.clone().unwrap_or_default();
        Ok(Some(Transition { ts: self.ts_ns, from, to, reason }))
    }
}

/// Parses the output of `sfgi trace --format json`.
///
/// # Errors
/// A line is not what the schema says.
pub fn events(text: &str) -> Result<Vec<Event>> {
    text.lines().map(event).collect()
}

/// Parses one line of it.
///
/// # Errors
/// As [`events`].
pub fn event(line: &str) -> Result<Event> {
    let event: Event = serde_json::from_str(line).with_context(|| line.to_owned())?;
    anyhow::ensure!(event.schema == "sfgi.trace/1", "unknown schema: {line}");
    Ok(event)
}

/// Fails if a line reports an illegal transition.
///
/// # Errors
/// A line does; the error shows the first ten of them.
pub fn none_illegal(events: &[Event]) -> Result<()> {
    let illegal: Vec<String> = events
        .iter()
        .filter(|event| event.event == "illegal")
        .take(10)
        .map(|event| format!("{event:?}"))
        .collect();
    anyhow::ensure!(illegal.is_empty(), "illegal transitions reported:\n{}", illegal.join("\n"));
    Ok(())
}

//! Running `sfgi dump`, and the form of its JSON.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{sfgi, traceback};

/// The document of `sfgi dump --format json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Dump {
    /// `sfgi.dump/1`.
    pub schema: String,
    /// Absent for a core file that does not tell.
    pub pid: Option<u32>,
    /// `go1.26.6`.
    pub go_version: String,
    /// How long reading took, milliseconds.
    pub scan_ms: f64,
    /// Entries of the runtime's table that could not be read.
    pub unreadable: u64,
    /// All of them.
    pub goroutines: Vec<Goroutine>,
}

/// A goroutine in it.
#[derive(Clone, Debug, Deserialize)]
pub struct Goroutine {
    pub goid: u64,
    /// The state in Go's words.
    pub status: String,
    /// Empty or absent for a goroutine that does not wait.
    #[serde(default)]
    pub wait_reason: String,
    /// A lower bound; absent where it is not known.
    pub waiting_ms: Option<f64>,
    /// `still`, `in motion`, `running`, `broken`.
    pub trust: String,
    pub tid: Option<u32>,
    /// By `runtime.LockOSThread`.
    #[serde(default)]
    pub locked_to_thread: bool,
    /// Whether the goroutine is the runtime's own.
    #[serde(default)]
    pub system: bool,
    /// Its pprof labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Innermost first.
    #[serde(default)]
    pub stack: Vec<Frame>,
    pub created_by: Option<Frame>,
    /// The function that it started with.
    pub start_func: Option<String>,
}

/// A place in the program.
#[derive(Clone, Debug, Deserialize)]
pub struct Frame {
    pub func: String,
    #[serde(default)]
    pub file: String,
    #[serde(default)]
    pub line: u32,
    /// Of `created_by`: the goroutine that executed the `go` statement.
    pub goid: Option<u64>,
}

impl Goroutine {
    /// Whether it has this function on its stack.
    pub fn has(&self, func: &str) -> bool {
        self.stack.iter().any(|frame| frame.func == func)
    }
}

/// Runs `sfgi dump ARGS…` to its end.
///
/// # Errors
/// It cannot be started.
pub fn run(args: &[&str]) -> Result<Output> {
    sfgi_command(args)?.output().context("cannot run sfgi")
}

/// The command `sfgi dump ARGS…`.
///
/// # Errors
/// sfgi was not built.
pub fn sfgi_command(args: &[&str]) -> Result<Command> {
    let mut command = sfgi::command(&["dump"])?;
    command.args(args);
    Ok(command)
}

/// The text that `sfgi dump ARGS…` prints; it must succeed.
///
/// # Errors
/// It fails; the error holds what it said.
pub fn text(args: &[&str]) -> Result<String> {
    let output = run(args)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "sfgi dump {}: {}\n{stderr}", args.join(" "), output.status);
    String::from_utf8(output.stdout).context("sfgi prints no UTF-8")
}

/// The goroutines of a live process by `sfgi dump`'s text, with these further arguments.
///
/// # Errors
/// It fails, or the text is not a traceback.
pub fn traceback(pid: u32, args: &[&str]) -> Result<BTreeMap<u64, traceback::Goroutine>> {
    traceback::parse(&text(&[&["-p", &pid.to_string()], args].concat())?)
}

/// The goroutines of a live process by `sfgi dump --format json`, with these further arguments.
///
/// # Errors
/// It fails, or the document is not what the schema says.
pub fn json(pid: u32, args: &[&str]) -> Result<Dump> {
    document(&text(&[&["-p", &pid.to_string(), "--format", "json"], args].concat())?)
}

/// Reads the document.
///
/// # Errors
/// It is not what the schema says.
pub fn document(text: &str) -> Result<Dump> {
    let dump: Dump = serde_json::from_str(text).context("not the document that sfgi promises")?;
    anyhow::ensure!(dump.schema == "sfgi.dump/1", "unknown schema {}", dump.schema);
    Ok(dump)
}

/// Whether a goroutine of a dump's text is said to be in motion or running, so that its stack may be
/// missing.
pub fn is_marked(goroutine: &traceback::Goroutine) -> bool {
    goroutine.status.starts_with("running") || goroutine.status.contains("(in motion)")
}

/// Has gdb's `gcore` write a core file of a process into a directory.
///
/// # Errors
/// It cannot be run, or writes none.
pub fn gcore(pid: &str, dir: &Path) -> Result<PathBuf> {
    let prefix = dir.join("core");
    let output = Command::new("gcore").arg("-o").arg(&prefix).arg(pid).output().context("gcore")?;
    let core = dir.join(format!("core.{pid}"));
    ensure!(core.exists(), "gcore: {}", String::from_utf8_lossy(&output.stderr));
    Ok(core)
}

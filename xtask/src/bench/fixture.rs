//! A Go program of the tests that stands, and does what it is told.

use crate::{setup::go, sh};
use anyhow::{Context as _, Result};
use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Stdio},
    str::FromStr,
};

/// The running program.
pub(super) struct Fixture {
    // Dropped first, which ends it.
    _child: sh::Child,
    pid: String,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it printed before it was ready.
    first: Vec<String>,
}

impl Fixture {
    /// Builds the fixture of this name with a version of Go and these further flags.
    pub(super) fn build(name: &str, version: &str, flags: &[&str]) -> Result<PathBuf> {
        let binary = sh::target_dir().join("bench").join(name);
        let mut go = go::command(version)?;
        go.current_dir(sh::root().join("tests/fixtures"));
        sh::output(go.args(["build", "-o"]).arg(&binary).args(flags).arg(format!("./{name}")))?;
        Ok(binary)
    }

    /// Starts it; returns when it is ready.
    pub(super) fn start(program: &Path, args: &[String]) -> Result<Self> {
        let mut command = sh::command(program)?;
        // Those that do not wait for commands are to wait for a line at least.
        command.args(args).env("FIXTURE_WAIT", "1");
        let mut child = sh::Child::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let stdin = child.0.stdin.take().context("no stdin")?;
        let mut lines = BufReader::new(child.0.stdout.take().context("no stdout")?).lines();
        let mut first = Vec::new();
        loop {
            let line = lines.next().context("it ended early")??;
            if let Some(pid) = line.strip_prefix("pid ").and_then(|rest| rest.strip_suffix(" ready")) {
                return Ok(Self { _child: child, pid: pid.to_owned(), stdin, lines, first });
            }
            first.push(line);
        }
    }

    /// Its process id.
    pub(super) fn pid(&self) -> &str {
        &self.pid
    }

    /// What it said of this before it was ready.
    pub(super) fn said<T: FromStr>(&self, name: &str) -> Result<T> {
        let said = self.first.iter().find_map(|line| line.strip_prefix(name)?.parse().ok());
        said.with_context(|| format!("it has not said {name}"))
    }

    /// Has it work, and gives all that it prints until it ends.
    pub(super) fn work(mut self) -> Result<Vec<String>> {
        writeln!(self.stdin)?;
        Ok(self.lines.collect::<Result<_, _>>()?)
    }

    /// Has it do this, and gives the last line that it printed meanwhile.
    pub(super) fn command(&mut self, command: &str) -> Result<String> {
        writeln!(self.stdin, "{command}")?;
        let mut last = String::new();
        for line in &mut self.lines {
            let line = line?;
            if line.strip_prefix("done ") == Some(command) {
                return Ok(last);
            }
            last = line;
        }
        anyhow::bail!("it ended")
    }
}

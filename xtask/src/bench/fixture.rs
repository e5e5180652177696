//! A running Go program of `tests/fixtures` that a bench gives commands to.

use crate::{setup::go, sh};
use anyhow::{Context as _, Result};
use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::{Path, PathBuf},
    process::{ChildStdin, ChildStdout, Stdio},
    str::FromStr,
};

pub(super) struct Fixture {
    // First, so that it is dropped first: that ends the program.
    _child: sh::Child,
    pid: String,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// The lines that it printed before it was ready.
    first: Vec<String>,
}

impl Fixture {
    /// Builds the fixture of this name by a version of Go, with these further flags.
    pub(super) fn build(name: &str, version: &str, flags: &[&str]) -> Result<PathBuf> {
        let binary = sh::target_dir().join("bench").join(name);
        let mut go = go::command(version)?;
        go.current_dir(sh::root().join("tests/fixtures"));
        sh::output(go.args(["build", "-o"]).arg(&binary).args(flags).arg(format!("./{name}")))?;
        Ok(binary)
    }

    /// Starts the program and returns when it is ready.
    pub(super) fn start(program: &Path, args: &[String]) -> Result<Self> {
        let mut command = sh::command(program)?;
        // A fixture that takes no commands is to wait for a line at least.
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

    pub(super) fn pid(&self) -> &str {
        &self.pid
    }

    /// The value that the program printed behind `name` before it was ready.
    pub(super) fn said<T: FromStr>(&self, name: &str) -> Result<T> {
        let said = self.first.iter().find_map(|line| line.strip_prefix(name)?.parse().ok());
        said.with_context(|| format!("it has not said {name}"))
    }

    /// Lets the program work and returns everything that it prints until it ends.
    pub(super) fn work(mut self) -> Result<Vec<String>> {
        writeln!(self.stdin)?;
        Ok(self.lines.collect::<Result<_, _>>()?)
    }

    /// Gives the program a command and returns the last line that it printed before it was done.
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

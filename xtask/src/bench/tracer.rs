//! The tracers that a bench attaches to a program, and how each says that it is attached and what it counted.

use super::Setting;
use crate::sh;
use anyhow::{Context as _, Result, ensure};
use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Lines, Read},
    path::Path,
    process::Stdio,
};

/// Seconds after which a tracer is told to end if it does not see that its target has gone.
const LIMIT: &str = "60";

/// What is attached to a program.
pub(super) enum Tracer {
    /// Counts the hits at a symbol and does nothing else: the floor of what a uprobe costs there.
    Bpftrace(&'static str),
    /// `sfgi trace` with these arguments.
    Sfgi(&'static [&'static str]),
}

/// An attached tracer.
pub(super) struct Watcher<'a> {
    tracer: &'a Tracer,
    child: sh::Child,
    lines: Lines<BufReader<Box<dyn Read>>>,
}

impl Tracer {
    /// Attaches to the process `pid`, which runs `program`, and returns once the probes stand.
    pub(super) fn attach(&self, program: &Path, pid: &str, setting: &Setting) -> Result<Watcher<'_>> {
        let mut command = sh::root_command("timeout")?;
        // --foreground: Ctrl-C must reach the tracer, too.
        command.args(["--foreground", "-s", "INT", LIMIT]).args(self.words(program, pid, setting));
        let (stdout, stderr) = match self {
            Self::Bpftrace(_) => (Stdio::piped(), Stdio::null()),
            Self::Sfgi(_) => (Stdio::null(), Stdio::piped()),
        };
        let mut child = sh::Child::spawn(command.stdin(Stdio::null()).stdout(stdout).stderr(stderr))?;
        let pipe: Box<dyn Read> = match (child.0.stdout.take(), child.0.stderr.take()) {
            (Some(stdout), _) => Box::new(stdout),
            (None, stderr) => Box::new(stderr.context("no stderr")?),
        };
        let mut watcher = Watcher { tracer: self, child, lines: BufReader::new(pipe).lines() };
        watcher.find(|line| self.is_attached(line).then_some(())).context("it did not attach")?;
        Ok(watcher)
    }

    fn words(&self, program: &Path, pid: &str, setting: &Setting) -> Vec<OsString> {
        match self {
            Self::Bpftrace(symbol) => {
                let count = format!("uprobe:{}:\"{symbol}\" {{ @hits = count(); }}", program.display());
                let script = format!("BEGIN {{ printf(\"attached\\n\"); }} {count}");
                ["bpftrace", "-f", "json", "-p", pid, "-e", &script].map(OsString::from).into()
            }
            Self::Sfgi(args) => {
                let mut words = vec![setting.sfgi.clone().into_os_string()];
                words.extend(["trace", "-p", pid, "-c"].iter().chain(*args).map(OsString::from));
                words
            }
        }
    }

    fn is_attached(&self, line: &str) -> bool {
        match self {
            // bpftrace's own message comes before it attaches; the output of BEGIN is printed once all probes stand.
            Self::Bpftrace(_) => line.contains("\"printf\""),
            Self::Sfgi(_) => line.starts_with("sfgi: attached to PID "),
        }
    }

    /// The count of hits in a line of the tracer's last output: `{"type": "map", "data": {"@hits": N}}` from
    /// bpftrace, "N probe hits in …" from sfgi.
    fn hits(&self, line: &str) -> Option<u64> {
        match self {
            Self::Bpftrace(_) => {
                let value: serde_json::Value = serde_json::from_str(line).ok()?;
                value.get("data")?.get("@hits")?.as_u64()
            }
            Self::Sfgi(_) => line.split_once(" probe hits in ")?.0.rsplit(' ').next()?.parse().ok(),
        }
    }

    /// Whether that line tells of lost events, which make a hit look cheaper than it is.
    fn has_lost(&self, line: &str) -> bool {
        matches!(self, Self::Sfgi(_)) && !line.contains("; 0 events lost")
    }
}

impl Watcher<'_> {
    /// How often the probes were hit in all; call it when the target has ended.
    pub(super) fn hits(mut self) -> Result<u64> {
        let tracer = self.tracer;
        let counted = self.find(|line| Some((tracer.hits(line)?, tracer.has_lost(line))));
        let (hits, has_lost) = counted.context("it did not say how many hits it counted")?;
        ensure!(
            !has_lost,
            "it lost events, so the figures would flatter it: leave the machine alone meanwhile"
        );
        let status = self.child.0.wait()?;
        ensure!(status.success(), "it failed: {status}");
        Ok(hits)
    }

    /// Reads up to the first line of which `pick` makes something.
    fn find<T>(&mut self, pick: impl Fn(&str) -> Option<T>) -> Result<T> {
        let mut seen = String::new();
        for line in &mut self.lines {
            let line = line?;
            if let Some(found) = pick(&line) {
                return Ok(found);
            }
            seen += &format!("\n  {line}");
        }
        Err(anyhow::anyhow!("its output ended:{seen}"))
    }
}

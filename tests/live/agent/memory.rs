//! `sfgi agent`: what it says of a program's heap is what the program's own runtime says.

use std::{fs, process::Command};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent::{Agent, SOON},
    fixture::{self, Variant},
    process::Process,
    toolchain::Go,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![live(heap_and_collections_are_those_of_the_runtime)]
}

/// What may be allocated or given back between the program's look and ours: a few spans.
const NOISE: u64 = 256 << 10;
/// What the command `grow` keeps.
const GROWN: u64 = 16 << 20;

/// A program, and what it said last: heap in use, collections.
struct Target {
    name: String,
    process: Process,
}

impl Target {
    fn stats(&mut self) -> Result<(u64, u64)> {
        let lines = self.process.command("stats", SOON)?;
        let line = lines.first().context("it says nothing")?;
        let words: Vec<&str> = line.split(' ').collect();
        let ["heap", heap, "cycles", cycles] = words[..] else { anyhow::bail!("{line}") };
        Ok((heap.parse()?, cycles.parse()?))
    }

    /// Waits until the agent says the same.
    fn compare(&mut self, agent: &Agent) -> Result<u64> {
        let (heap, cycles) = self.stats()?;
        let told = |process: &Value| {
            let memory = &process["memory"];
            memory["gc_cycles"] == cycles
                && memory["heap_bytes"].as_u64().is_some_and(|told| told.abs_diff(heap) <= NOISE)
        };
        agent
            .wait_for(self.process.pid(), told)
            .with_context(|| format!("{}: heap {heap}, cycles {cycles}", self.name))?;
        Ok(heap)
    }
}

fn heap_and_collections_are_those_of_the_runtime() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut targets = Vec::new();
    for go in Go::all() {
        for variant in Variant::unprofiled(&go) {
            let name = format!("memory-{}-{variant}", go.version);
            let exe = dir.path().join(&name);
            fs::copy(fixture::build("memory", &go, variant)?, &exe)?;
            targets.push(Target { name, process: fixture::start_command(&mut Command::new(exe))? });
        }
    }
    let include = format!("^{}/", dir.path().display());
    let agent = Agent::start(&["--interval", "1s", "--budget", "50%", "--include", &include])?;
    for target in &mut targets {
        let small = target.compare(&agent)?;
        target.process.command("grow", SOON)?;
        let large = target.compare(&agent)?;
        ensure!(large >= small + GROWN, "{}: {small} bytes became {large}", target.name);
        target.process.command("drop", SOON)?;
        let again = target.compare(&agent)?;
        ensure!(again < small + GROWN / 2, "{}: {small} bytes became {again}", target.name);
    }

    let target = targets.last_mut().context("no toolchain")?;
    let (heap, cycles) = target.stats()?;
    let pid = target.process.pid();
    agent.wait_for(pid, |process| process["memory"]["gc_cycles"] == cycles)?;
    let metrics = agent.ask("GET", "/metrics")?.text();
    let value = |name: &str| -> Result<f64> {
        let start = format!("{name}{{pid=\"{pid}\",");
        let line = metrics.lines().find(|line| line.starts_with(&start)).context(start)?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    };
    ensure!((value("sfgi_heap_bytes")? - heap as f64).abs() <= NOISE as f64);
    ensure!(value("sfgi_gc_cycles_total")? == cycles as f64);
    Ok(())
}

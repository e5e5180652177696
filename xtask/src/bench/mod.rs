//! `cargo xtask bench`: measured figures beside what they are held against. Each bench is a file that returns rows;
//! this file makes a table and JSON of them.

mod agent;
mod churn;
mod deadlock;
mod fixture;
mod illegal;
mod leaks;
mod probe;
mod process;
mod replay;
mod screen;
mod snapshot;
mod table;
mod tracer;
mod why;

use crate::{build, setup};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};
pub(crate) use table::Row;

/// What a bench is given.
pub(crate) struct Setting {
    /// The release build of sfgi.
    pub(crate) sfgi: PathBuf,
    /// The compiler of the eBPF side, for benches that build more.
    pub(crate) compiler: setup::Compiler,
}

/// A bench: its name on the command line, and what runs it.
type Bench = (&'static str, fn(&Setting) -> Result<Vec<Row>>);

const BENCHES: &[Bench] = &[
    ("probe", probe::run),
    ("illegal", illegal::run),
    ("deadlock", deadlock::run),
    ("replay", replay::run),
    ("snapshot", snapshot::run),
    ("leaks", leaks::run),
    ("why", why::run),
    ("agent", agent::run),
    ("churn", churn::run),
];

/// The names that the command line accepts.
pub(crate) fn names() -> Vec<&'static str> {
    BENCHES.iter().map(|(name, _)| *name).collect()
}

/// Runs the benches called `names` (all if none is named), prints their rows and writes them to `json`. A goal that
/// is not met is shown and is no error: speed depends on the machine.
pub(crate) fn run(names: &[String], json: Option<&Path>) -> Result<()> {
    let compiler = setup::run(&setup::BENCH)?;
    let setting = Setting { sfgi: build::sfgi(compiler, true)?, compiler };
    let mut rows = Vec::new();
    for (name, bench) in
        BENCHES.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|n| n == name))
    {
        rows.extend(bench(&setting).with_context(|| format!("bench {name}"))?);
    }
    print!("{}", table::text(&rows));
    if let Some(file) = json {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let cpus = std::thread::available_parallelism()?.get();
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let document = json!({ "schema": "sfgi.bench/1", "kernel": kernel.trim(), "cpus": cpus, "cpu": cpu(), "rows": rows });
        fs::write(file, format!("{document:#}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The processor's name; empty where `/proc/cpuinfo` has none.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(String::new, |(_, name)| name.to_owned())
}

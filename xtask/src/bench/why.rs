//! What `sfgi why` costs on heaps of many sizes: held against one marking pass over the same heap.

use super::{
    Row, Setting,
    fixture::Fixture,
    leaks::{available_mib, scan, size_name},
    process,
};
use crate::{setup::go, sh};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    fs::{self, File},
    path::Path,
    process::Stdio,
    time::Instant,
};

/// MiB of heap.
const SIZES: [u64; 3] = [100, 1024, 4096];

/// Goroutines beside it.
const GOROUTINES: u64 = 1000;

/// How often both are measured for each size; they take turns.
const ROUNDS: usize = 3;

/// The goal: so many marking passes.
const PASSES: f64 = 2.0;

/// Measures one size after the other.
pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    let program = Fixture::build("heap", go::NEWEST, &[])?;
    let file = sh::target_dir().join("bench/why");
    let mut rows = Vec::new();
    for mib in SIZES {
        let name = size_name(mib);
        // The program has twice its heap while it builds it up and while it collects garbage.
        let room = available_mib()? * 2 / 3;
        if 2 * mib > room {
            eprintln!("bench why: {name}: left out, it needs {} MiB and there are {room}", 2 * mib);
            continue;
        }
        eprintln!("bench why: {name}");
        let args = [("-size", mib << 20), ("-n", GOROUTINES)];
        let args: Vec<String> =
            args.into_iter().flat_map(|(name, value)| [name.into(), value.to_string()]).collect();
        let target = Fixture::start(&program, &args)?;
        let leaked: u64 = target.said("leaked ")?;
        let (mut pass, mut why, mut memory, mut objects) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
        for _ in 0..ROUNDS {
            let scan = scan(setting, target.pid(), &file, 1, leaked)?;
            pass.push(scan.secs);
            let asked = ask(setting, target.pid(), &scan.object, &file)?;
            why.push(asked.secs);
            memory.push(asked.mib);
            objects = asked.objects;
        }
        let row = |what: &str, unit, samples: Vec<f64>| Row::new(format!("{name}: {what}"), unit, samples);
        let pass = row("one marking pass", "s", pass);
        rows.push(row("objects that are kept alive", "M", vec![objects / 1e6]));
        rows.push(row("sfgi why, the whole command", "s", why).against(&pass, PASSES));
        rows.push(row("memory of sfgi why", "MiB", memory));
        rows.push(pass);
    }
    sh::remove(&file)?;
    Ok(rows)
}

/// What one question cost.
struct Asked {
    secs: f64,
    mib: f64,
    /// Objects that are kept alive.
    objects: f64,
}

/// Asks for an object that nothing keeps alive, so that the ways, which cost little, are none.
fn ask(setting: &Setting, pid: &str, addr: &str, file: &Path) -> Result<Asked> {
    let mut command = sh::root_command(&setting.sfgi)?;
    command.args(["why", "-p", pid, addr, "--format", "json", "--no-retained"]);
    command.stdin(Stdio::null()).stdout(File::create(file)?).stderr(Stdio::null());
    let started = Instant::now();
    let mib = process::peak_mib(&mut command).context("sfgi why")?;
    let secs = started.elapsed().as_secs_f64();
    let told: Value = serde_json::from_slice(&fs::read(file)?)?;
    let objects = told["typed"]["objects"].as_f64().context("sfgi why tells no objects")?;
    ensure!(objects > 0.0, "nothing is kept alive");
    Ok(Asked { secs, mib, objects })
}

//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, built with coverage counters by the stable compiler.
//!
//! cargo-fuzz would add the address sanitizer, which needs a nightly; the code under test has no unsafe block in
//! which that could find anything.

use crate::{
    build::{self, MESSAGES, PROFILE},
    setup, sh,
};
use anyhow::{Context as _, Result, ensure};
use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    fs::{self, DirEntry, File, Permissions},
    hash::{Hash as _, Hasher as _},
    io,
    num::NonZero,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    thread,
};

const PACKAGE: &str = "sfgi-fuzz";

/// The limits of one input: seconds, and megabytes of memory. The targets themselves allow less memory (`bounded` in
/// `fuzz/src/lib.rs`); this is for what is not allocated by them.
const LIMITS: [&str; 2] = ["-timeout=10", "-rss_limit_mb=1024"];

/// Makes the compiler put a counter at every edge and comparison, in the form that libFuzzer reads, and optimise, so
/// that more inputs are tried. The profile has the checks of a debug build.
///
/// It is a wrapper and not RUSTFLAGS, because cargo applies a workspace wrapper to the crates of this workspace only:
/// all others are those that the tests have compiled, and the defects that fuzzing looks for are in ours. Its file
/// name has a hash of its text, so that cargo sees a change.
const WRAPPER: &str = "#!/bin/sh
exec \"$@\" -Cpasses=sancov-module -Copt-level=3 -Ccodegen-units=1 \\
    -Cllvm-args=-sanitizer-coverage-level=4 \\
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \\
    -Cllvm-args=-sanitizer-coverage-pc-table \\
    -Cllvm-args=-sanitizer-coverage-trace-compares
";

/// Sets up, then runs [`run_targets`].
pub(crate) fn run(secs: u32, targets: &[String]) -> Result<()> {
    setup::run(&setup::TEST)?;
    run_targets(secs, targets)
}

/// Fuzzes `targets` (all if none is named), each for an equal share of `secs`, one on each processor at a time.
pub(crate) fn run_targets(secs: u32, targets: &[String]) -> Result<()> {
    let all = names()?;
    for name in targets {
        ensure!(all.contains(name), "there is no fuzz target {name}; there are {}", all.join(", "));
    }
    let chosen = if targets.is_empty() { &all } else { targets };
    let directory = sh::target_dir().join("fuzz");
    let programs = build(&directory)?;
    // `secs` is time of one processor, however many there are.
    let share = (secs as usize / chosen.len().max(1)).max(1);
    let next = Mutex::new(chosen.iter());
    let stream = || -> Result<()> {
        loop {
            let Some(name) = next.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                return Ok(());
            };
            let file = programs.get(name).with_context(|| format!("cargo built no fuzz target {name}"))?;
            let inputs = fuzz(file, name, &directory, share)?;
            println!("{name}: {inputs} inputs in {share} s, none broke it");
        }
    };
    thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, NonZero::get);
        let streams: Vec<_> = (0..count).map(|_| scope.spawn(stream)).collect();
        streams.into_iter().try_for_each(sh::join)
    })
}

/// The names of all targets.
fn names() -> Result<Vec<String>> {
    let directory = sh::root().join("fuzz/fuzz_targets");
    let files = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let name = |file: io::Result<DirEntry>| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned());
    let mut names: Vec<_> = files.filter_map(name).collect();
    names.sort();
    Ok(names)
}

/// Builds all targets and gives their programs by name.
fn build(directory: &Path) -> Result<HashMap<String, PathBuf>> {
    let mut hasher = DefaultHasher::new();
    WRAPPER.hash(&mut hasher);
    let wrapper = directory.join(format!("rustc-{:016x}", hasher.finish()));
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    fs::write(&wrapper, WRAPPER).with_context(|| format!("cannot write {}", wrapper.display()))?;
    fs::set_permissions(&wrapper, Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make a program of {}", wrapper.display()))?;
    let mut cargo = sh::cargo()?;
    cargo.env("RUSTC_WORKSPACE_WRAPPER", wrapper);
    build::programs(cargo.args(["build", "--profile", PROFILE, "--bins", MESSAGES, "--package", PACKAGE]))
        .map(|programs| programs.into_iter().map(|program| (program.name, program.file)).collect())
}

/// Runs one target and returns the number of inputs that it tried; fails if an input breaks it. Corpus and findings
/// stay in the target directory.
fn fuzz(program: &Path, name: &str, directory: &Path, secs: usize) -> Result<u64> {
    let [corpus, findings] = ["corpus", "findings"].map(|kind| directory.join(kind).join(name));
    for dir in [&corpus, &findings] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let log_file = directory.join(format!("{name}.log"));
    let log = File::create(&log_file).with_context(|| format!("cannot write {}", log_file.display()))?;
    let mut fuzzer = sh::command(program)?;
    // An input that takes longer than ten seconds is a finding, too.
    fuzzer.args(["-print_final_stats=1"]).args(LIMITS).arg(format!("-max_total_time={secs}"));
    fuzzer.arg(format!("-artifact_prefix={}/", findings.display())).arg(&corpus);
    let status = fuzzer.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).status()?;
    let log = String::from_utf8_lossy(&fs::read(&log_file)?).into_owned();
    ensure!(
        status.success(),
        "fuzz target {name} broke; the input is in {}\n{}",
        findings.display(),
        sh::tail(&log)
    );
    let inputs = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    inputs
        .and_then(|inputs| inputs.trim().parse().ok())
        .context("libFuzzer did not say how many inputs it tried")
}

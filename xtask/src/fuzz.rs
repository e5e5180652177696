//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, built with coverage counters by the ordinary compiler. What
//! cargo-fuzz adds to that, the address sanitizer, needs a nightly; the code under test has no unsafe block that
//! it could find anything in.

use crate::{setup, sh};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

/// The manifest of the fuzz targets, which are a workspace of their own.
pub(crate) const MANIFEST: &str = "fuzz/Cargo.toml";

/// Counters at every edge and comparison, in the form in which libFuzzer reads them; and the checks that a debug
/// build has.
const FLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
    "-Ccodegen-units=1",
];

/// Sets up, then fuzzes `targets` (all if none is named) for `secs` seconds in all.
pub(crate) fn run(secs: u32, targets: &[String]) -> Result<()> {
    setup::run(&setup::TEST)?;
    run_targets(secs, targets)
}

/// Fuzzes `targets` (all if none is named) for `secs` seconds in all.
pub(crate) fn run_targets(secs: u32, targets: &[String]) -> Result<()> {
    let all = names()?;
    for name in targets {
        ensure!(all.contains(name), "there is no fuzz target {name}; there are {}", all.join(", "));
    }
    let chosen = if targets.is_empty() { &all } else { targets };
    let directory = sh::target_dir().join("fuzz");
    let binaries = build(&directory)?;
    let share = (secs as usize / chosen.len().max(1)).max(1);
    for name in chosen {
        let inputs = fuzz(&binaries.join(name), name, &directory, share)?;
        println!("{name}: {inputs} inputs in {share} s, none broke it");
    }
    Ok(())
}

/// The names of all targets.
fn names() -> Result<Vec<String>> {
    let metadata = sh::output(sh::cargo()?.args([
        "metadata",
        "--no-deps",
        "--format-version=1",
        "--manifest-path",
        MANIFEST,
    ]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let targets = metadata["packages"][0]["targets"].as_array().context("cargo metadata lists no targets")?;
    let is_binary = |target: &&serde_json::Value| target["kind"][0] == "bin";
    Ok(targets
        .iter()
        .filter(is_binary)
        .filter_map(|target| Some(target["name"].as_str()?.to_owned()))
        .collect())
}

/// Builds all targets and gives the directory with their programs. `--target` keeps the counters out of build
/// scripts, which are not linked with libFuzzer.
fn build(directory: &Path) -> Result<PathBuf> {
    let host = sh::host()?;
    let mut cargo = sh::cargo()?;
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    cargo.args([
        "build",
        "--release",
        "--bins",
        "--target",
        &host,
        "--manifest-path",
        MANIFEST,
        "--target-dir",
    ]);
    sh::show(cargo.arg(directory))?;
    Ok(directory.join(host).join("release"))
}

/// Runs one target and gives the number of inputs tried; what it learns stays in the target directory, what
/// breaks it too. Fails if something does.
fn fuzz(program: &Path, name: &str, directory: &Path, secs: usize) -> Result<u64> {
    let [corpus, findings] = ["corpus", "findings"].map(|kind| directory.join(kind).join(name));
    for dir in [&corpus, &findings] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let log_file = directory.join(format!("{name}.log"));
    let log = File::create(&log_file).with_context(|| format!("cannot write {}", log_file.display()))?;
    let mut fuzzer = sh::command(program)?;
    fuzzer.args(["-print_final_stats=1", "-timeout=10"]).arg(format!("-max_total_time={secs}"));
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

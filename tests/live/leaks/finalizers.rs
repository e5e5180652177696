//! Leaks beside finalizers and cleanups: one that never ends, and others that run all the time.

use std::collections::BTreeSet;

use crate::harness::{Test, live};
use anyhow::{Context as _, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks,
    process::Process,
    toolchain::Go,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![live(a_finalizer_that_never_ends_hides_no_leak), live(finalizers_that_run_hide_no_leak)]
}

/// 1.24 has cleanups in the queue of finalizers, 1.25 in one of their own, 1.26 with their arguments.
const RELEASES: [u32; 6] = [19, 21, 24, 25, 26, 27];

/// The goroutines that a line of the fixture names.
fn goids(target: &Process, word: &str) -> Result<BTreeSet<u64>> {
    let lines = target.stdout.lines();
    let line = lines.iter().find_map(|line| line.text.strip_prefix(word)).context("the line is missing")?;
    let fact: Value = serde_json::from_str(line)?;
    let goids = fact.get("goids").and_then(Value::as_array).context("the line has no goids")?;
    Ok(goids.iter().filter_map(Value::as_u64).collect())
}

fn for_each_release(mode: &str, check: impl Fn(&Process, &leaks::Report) -> Result<()>) -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        let variant = if go.is_end() { Variant::PieStripped } else { Variant::Plain };
        let target = fixture::start("finalizers", go, variant, &["-mode", mode])?;
        let report = leaks::json(target.pid(), &["--observe", "1s"])?;
        let whole = || -> Result<()> {
            ensure!(report.doubt.is_none(), "{:?}", report.doubt);
            let leaking = goids(&target, "leaking ")?;
            ensure!(leaking.len() == 5, "{leaking:?}");
            ensure!(report.proven() == leaking, "{:?}, not {leaking:?}", report.proven());
            check(&target, &report)
        };
        whole().with_context(|| format!("go{} {variant}", go.version))?;
    }
    Ok(())
}

fn a_finalizer_that_never_ends_hides_no_leak() -> Result<()> {
    for_each_release("blocked", |target, report| {
        // What a queued object holds can still be closed by its finalizer.
        let waiting = goids(target, "waiting ")?;
        ensure!(waiting.len() == 3, "{waiting:?}");
        ensure!(report.proven().is_disjoint(&waiting), "{waiting:?} wait for a finalizer");
        Ok(())
    })
}

fn finalizers_that_run_hide_no_leak() -> Result<()> {
    for_each_release("busy", |_, _| Ok(()))
}

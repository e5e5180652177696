//! Leaks beside finalizers and cleanups, and those that never end themselves.

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
    vec![
        live(a_finalizer_that_never_ends_hides_no_leak),
        live(finalizers_that_run_hide_no_leak),
        live(what_is_stuck_is_told_with_what_waits_behind_it),
    ]
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

/// What the report says of finalizers that are stuck: the goroutines, and the evidence.
fn stuck(target: &Process) -> Result<(BTreeSet<u64>, Vec<String>)> {
    let report = leaks::json(target.pid(), &["--observe", "2s", "--min-age", "1s"])?;
    let groups = || report.groups.iter().filter(|group| group.class == "finalizer-stuck");
    ensure!(groups().all(|group| group.verdict == leaks::Verdict::Likely), "{:?}", report.groups);
    let goids = groups().flat_map(|group| group.goids.iter().copied()).collect();
    Ok((goids, groups().flat_map(|group| group.evidence.clone()).collect()))
}

fn what_is_stuck_is_told_with_what_waits_behind_it() -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        for (mode, since, what) in [("blocked", 19, "finalizers"), ("blocked-cleanup", 24, "cleanups")] {
            for variant in [Variant::Plain, Variant::PieStripped] {
                if go.minor < since {
                    continue;
                }
                let target = fixture::start("finalizers", go, variant, &["-mode", mode])?;
                let whole = || -> Result<()> {
                    let lines = target.stdout.lines();
                    let fact = lines.iter().find_map(|line| line.text.strip_prefix("finalizer "));
                    let fact: Value = serde_json::from_str(fact.context("the line is missing")?)?;
                    let number = |key: &str| fact.get(key).and_then(Value::as_u64).unwrap_or_default();
                    let func = fact.get("func").and_then(Value::as_str).unwrap_or_default();
                    // 1.24 has cleanups in the queue of finalizers.
                    let what = if go.minor < 25 { "finalizers" } else { what };
                    let (goids, evidence) = stuck(&target)?;
                    ensure!(goids == BTreeSet::from([number("goid")]), "{goids:?}, not {fact}");
                    let wanted = format!(
                        "it runs {func}, and {} {what} are due that have not begun",
                        number("queued")
                    );
                    ensure!(evidence.contains(&wanted), "no {wanted}: {evidence:?}");
                    Ok(())
                };
                whole().with_context(|| format!("go{} {variant} {mode}", go.version))?;
            }
        }
        for mode in ["busy", "slow"] {
            let target = fixture::start("finalizers", go, Variant::Plain, &["-mode", mode])?;
            let (goids, evidence) = stuck(&target)?;
            ensure!(goids.is_empty(), "go{} {mode}: {evidence:?}", go.version);
        }
    }
    Ok(())
}

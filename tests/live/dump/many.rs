//! A hundred thousand goroutines: a dump has all of them, alone and in groups, and in bounded memory.

use std::{collections::BTreeMap, time::Instant};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    dump,
    fixture::{self, Variant},
    machine,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(all_are_shown_and_counted)]
}

const GOROUTINES: usize = 100_000;

/// The ways in which the fixture's goroutines wait; equally many in each.
const WAYS: [&str; 5] =
    ["main.parkReceive", "main.parkSelect", "main.parkLock", "main.parkGroup", "main.parkSleep"];

fn all_are_shown_and_counted() -> Result<()> {
    for go in [Go::all().remove(0), Go::newest()] {
        complete(&go).with_context(|| format!("go{}", go.version))?;
    }
    Ok(())
}

fn complete(go: &Go) -> Result<()> {
    let target = fixture::start("parked", go, Variant::Stripped, &["-n", &GOROUTINES.to_string()])?;
    let pid = target.pid();
    let started = Instant::now();
    let all = dump::traceback(pid, &[])?;
    let elapsed = started.elapsed();
    let mut ways: BTreeMap<&str, usize> = BTreeMap::new();
    for goroutine in all.values() {
        let mut frames = goroutine.frames.iter().map(|frame| frame.func.as_str());
        if let Some(way) = frames.find(|func| WAYS.contains(func)) {
            ensure!(frames.any(|func| func == "main.serve"), "not called by serve: {goroutine}");
            *ways.entry(way).or_default() += 1;
        }
    }
    ensure!(ways == WAYS.map(|way| (way, GOROUTINES / WAYS.len())).into(), "of each way: {ways:?}");
    machine::report(&format!("go{}: {} goroutines dumped in {elapsed:.1?}", go.version, all.len()));

    let groups = dump::text(&["-p", &pid.to_string(), "--group"])?;
    let of_park = groups.split("\n\n").filter(|group| WAYS.iter().any(|way| group.contains(way)));
    let counts: Vec<&str> = of_park.filter_map(|group| group.trim_start().split(' ').next()).collect();
    ensure!(counts.len() == WAYS.len(), "groups of {counts:?}:\n{groups}");
    let each = (GOROUTINES / WAYS.len()).to_string();
    ensure!(counts.iter().all(|count| count.replace(',', "") == each), "groups of {counts:?}");

    let few = dump::text(&["-p", &pid.to_string(), "--limit", "10"])?;
    ensure!(few.matches("goroutine ").count() < 40 && few.contains("goroutine 1 "), "not ten:\n{few}");
    Ok(())
}

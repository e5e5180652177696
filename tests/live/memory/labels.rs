//! The labels of goroutines, in every Go release, against what the program itself says.

use std::{collections::BTreeSet, process::Command, time::Duration};

use crate::harness::{Test, plain};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    machine,
    toolchain::Go,
};
use sfgi_core::{
    binary::GoBinary,
    memory::Live,
    process::Process,
    snapshot::{self, Clock, Options, View},
};

pub(crate) fn tests() -> Vec<Test> {
    vec![plain(of_every_release)]
}

/// Keys with their values, in order.
type Labels = Vec<(String, String)>;

fn check(go: &Go, variant: Variant) -> Result<()> {
    let mut command = Command::new(fixture::build("labels", go, variant)?);
    let mut target = fixture::start_command(command.env("FIXTURE_HOLD", "1"))?;
    target.say()?;
    target.stdout.wait_for(Duration::from_secs(120), |line| line.ends_with(" done"))?;
    let expected: BTreeSet<Labels> = (target.stdout.lines().iter())
        .filter_map(|line| line.text.strip_prefix("labels ").map(str::to_owned))
        .map(|json| {
            let map: std::collections::BTreeMap<_, _> = serde_json::from_str(&json).context(json)?;
            Ok(map.into_iter().collect())
        })
        .collect::<Result<_>>()?;
    ensure!(expected.len() == 14, "{} lines", expected.len());

    let process = Process::open(i32::try_from(target.pid())?)?;
    let binary = GoBinary::read(process.exe()?)?;
    let (memory, bias) = (Live::of(&process), process.load_bias(binary.image().entry())?);
    let view = View { memory: &memory, binary: &binary, bias, clock: Clock::Live };
    let options = Options { labels: true, ..Options::default() };
    let snapshot = snapshot::take(&view, options, &mut |_, _| {})?;
    let labels = |index: u32| snapshot.labels.get((index as usize).checked_sub(1)?).cloned();
    let found: BTreeSet<_> =
        (snapshot.goroutines.iter()).filter_map(|goroutine| labels(goroutine.labels)).collect();
    for set in expected.symmetric_difference(&found) {
        let whose = if found.contains(set) { "found, but not set" } else { "not found" };
        machine::report(&format!("labels go{} {variant}: {whose}: {set:?}", go.version));
    }
    ensure!(found == expected, "the labels are others, see above");
    ensure!(snapshot.goroutines.iter().any(|goroutine| goroutine.labels == 0), "all have labels");
    Ok(())
}

fn of_every_release() -> Result<()> {
    for go in Go::all() {
        for variant in [Variant::Plain, Variant::PieStripped] {
            check(&go, variant).with_context(|| format!("go{} {variant}", go.version))?;
        }
    }
    Ok(())
}

//! `sfgi dump` against what the program prints of itself (`runtime.Stack`), line by line: functions
//! with their arguments, files, lines, offsets, states and creators of goroutines that stand still.

use std::{collections::BTreeMap, process::Command, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result};
use live_tests::{
    fixture::{self, Variant},
    machine,
    process::Process,
    sfgi,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(go_code_is_shown_as_it_shows_itself), live(go_code_that_calls_c_is_shown_as_it_shows_itself)]
}

/// How long a fixture or sfgi may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The goroutine that prints: what it does later is not what it printed.
const PRINTER: u64 = 1;

/// The text of each goroutine, by its id.
type Goroutines = BTreeMap<u64, String>;

fn go_code_is_shown_as_it_shows_itself() -> Result<()> {
    everywhere("stacks", 60)
}

fn go_code_that_calls_c_is_shown_as_it_shows_itself() -> Result<()> {
    everywhere("cgostacks", 7)
}

fn everywhere(name: &str, at_least: usize) -> Result<()> {
    let mut failures = 0;
    for go in Go::all() {
        for variant in Variant::unprofiled(&go) {
            if let Err(error) = compare(name, &go, variant, at_least) {
                failures += 1;
                machine::report(&format!("{name} go{} {variant}: {error:#}", go.version));
            }
        }
    }
    anyhow::ensure!(failures == 0, "{failures} builds of {name} failed, see above");
    Ok(())
}

fn compare(name: &str, go: &Go, variant: Variant, at_least: usize) -> Result<()> {
    let target = Process::spawn(&mut Command::new(fixture::build(name, go, variant)?))?;
    target.stdout.wait_for(PATIENCE, |line| line == "END")?;
    let printed = target.stdout.text();
    let printed = printed.split_once("BEGIN\n").context("the fixture printed no beginning")?.1;
    let printed = goroutines(printed.trim_end_matches("END"))?;
    anyhow::ensure!(printed.len() >= at_least, "the fixture printed only {} goroutines", printed.len());

    let mut dump = Process::spawn(&mut sfgi::command(&["dump", "-p", &target.pid().to_string()])?)?;
    dump.wait_code(PATIENCE, 0)?;
    let dumped = goroutines(&dump.stdout.text())?;
    let goids = |goroutines: &Goroutines| goroutines.keys().copied().collect::<Vec<_>>();
    anyhow::ensure!(goids(&printed) == goids(&dumped), "other goroutines: {:?}", goids(&dumped));
    for (goid, printed) in printed.iter().filter(|(goid, _)| **goid != PRINTER) {
        // All of them stand still, and none may be shown as if it did not.
        anyhow::ensure!(dumped[goid] == *printed, "printed:\n{printed}\ndumped:\n{}", dumped[goid]);
    }
    let printer = &dumped[&PRINTER];
    let waits =
        printer.starts_with("goroutine 1 [IO wait]:\n") || printer.starts_with("goroutine 1 [syscall]:\n");
    let call = "\nfixtures/internal/harness.Park({";
    anyhow::ensure!(waits && printer.contains(call), "the printer reads its stdin:\n{printer}");
    Ok(())
}

fn goroutines(text: &str) -> Result<Goroutines> {
    let blocks = text.trim_end_matches('\n').split("\n\n");
    blocks
        .map(|block| {
            let header = block.strip_prefix("goroutine ").and_then(|rest| rest.split_once(" ["));
            let goid = header.and_then(|(goid, _)| goid.parse().ok());
            Ok((goid.with_context(|| format!("no goroutine: {block:?}"))?, block.trim_end().to_owned()))
        })
        .collect()
}

//! Rings that are too small and read too seldom: what is lost is counted and said, and the gaps are
//! not taken for illegal transitions.

use std::{thread, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    sfgi,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(losses_are_counted_and_shown_and_are_no_illegal_transitions)]
}

fn losses_are_counted_and_shown_and_are_no_illegal_transitions() -> Result<()> {
    for go in Go::all() {
        fixture::build("workers", &go, Variant::Plain)?;
        // Both at the same time: more is lost then, if anything.
        thread::scope(|scope| {
            let go = &go;
            let runs = ["a", "b"].map(|set| scope.spawn(move || overflow(go, set)));
            runs.map(|run| run.join().expect("a run does not panic")).into_iter().collect::<Result<()>>()
        })?;
    }
    Ok(())
}

fn overflow(go: &Go, set: &str) -> Result<()> {
    let mut target = fixture::start("workers", go, Variant::Plain, &["-d", "2s"])?;
    let tiny = ["--ring-size", "4096", "--drain-every", "100ms", "--set", set];
    let mut sfgi = sfgi::attach(target.pid(), &tiny)?;
    target.say()?;
    target.wait_code(Duration::from_secs(120), 0)?;
    sfgi.wait_code(sfgi::END, 0)?;

    let events = sfgi::events(&sfgi.stdout.text())?;
    let run = format!("go{} set {set}", go.version);
    sfgi::none_illegal(&events).context(run.clone())?;
    let shown: u64 = events.iter().filter_map(|event| event.count).sum();
    let counted = lost(&sfgi.stderr.text())?;
    ensure!(counted > 0, "{run}: nothing was lost: the test is too gentle");
    ensure!(shown == counted, "{run}: losses in the lines {shown} and in the summary {counted}");
    let resync = events.iter().find(|event| event.event == "resync");
    let resync = resync.with_context(|| format!("{run}: no resync"))?;
    ensure!(resync.seen > Some(0), "{run}: {resync:?}");
    ensure!(events.len() > 100, "{run}: only {} lines", events.len());
    Ok(())
}

/// The N of `N events lost` in the summary.
fn lost(summary: &str) -> Result<u64> {
    let (before, _) = summary.split_once(" events lost").with_context(|| summary.to_owned())?;
    let number = before.rsplit(' ').next().unwrap_or_default();
    number.parse().with_context(|| summary.to_owned())
}

//! Rings that are too small and read too seldom: what is lost is counted and said, and the gaps are
//! not taken for illegal transitions.

use std::time::Duration;

use anyhow::{Context, Result};
use live_tests::{
    fixture::{self, Variant},
    machine, sfgi,
    toolchain::Go,
};

#[test]
fn losses_are_counted_and_shown_and_are_no_illegal_transitions() -> Result<()> {
    if !machine::can_trace() {
        return Ok(());
    }
    for go in Go::all() {
        for set in ["a", "b"] {
            let mut target = fixture::start("workers", &go, Variant::Plain, &["-d", "2s"])?;
            let tiny = ["--ring-size", "4096", "--drain-every", "100ms", "--set", set];
            let mut sfgi = sfgi::attach(target.pid(), &tiny)?;
            target.say()?;
            target.wait_code(Duration::from_secs(60), 0)?;
            sfgi.wait_code(sfgi::END, 0)?;

            let events = sfgi::events(&sfgi.stdout.text())?;
            sfgi::none_illegal(&events).with_context(|| format!("go{} set {set}", go.version))?;
            let shown: u64 = events.iter().filter_map(|event| event.count).sum();
            let counted = lost(&sfgi.stderr.text())?;
            assert!(counted > 0, "go{} set {set}: nothing was lost: the test is too gentle", go.version);
            assert_eq!(shown, counted, "go{} set {set}: losses in the lines and in the summary", go.version);
            let resync = events.iter().find(|event| event.event == "resync");
            let resync = resync.with_context(|| format!("go{} set {set}: no resync", go.version))?;
            assert!(resync.seen > Some(0), "go{} set {set}: {resync:?}", go.version);
            assert!(events.len() > 100, "go{} set {set}: only {} lines", go.version, events.len());
        }
    }
    Ok(())
}

/// The N of `N events lost` in the summary.
fn lost(summary: &str) -> Result<u64> {
    let (before, _) = summary.split_once(" events lost").with_context(|| summary.to_owned())?;
    let number = before.rsplit(' ').next().unwrap_or_default();
    number.parse().with_context(|| summary.to_owned())
}

//! The reader of Go's recordings, on real ones of every release. Needs no root and no sfgi.

use std::process::Command;

use crate::harness::{Test, plain};
use anyhow::{Context, Result};
use live_tests::{
    fixture::{self, Variant},
    gotrace,
    state::State,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![plain(a_recording_of_every_release_is_read)]
}

/// One round of ping-pong is known to the last step: `pong` is born, and each round trip parks and
/// wakes goroutines a thousand times.
fn a_recording_of_every_release_is_read() -> Result<()> {
    for go in Go::with_trace() {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("go.trace");
        let binary = fixture::build("pingpong", &go, Variant::Plain)?;
        let output = Command::new(binary).args(["-n", "1"]).env("FIXTURE_TRACE", &file).output()?;
        assert!(output.status.success(), "{output:?}");

        let recording = gotrace::read(&file)?;
        let pong = recording
            .goroutines
            .values()
            .find(|steps| steps.len() > 1000 && steps[0].from == State::Dead)
            .with_context(|| format!("go{}: no goroutine was born and worked", go.version))?;
        assert!(
            pong.windows(2).all(|pair| pair[0].to == pair[1].from),
            "go{}: a step is missing",
            go.version
        );
        assert!(pong.iter().any(|step| step.reason.starts_with("chan ")));
        assert_eq!(pong.last().map(|step| step.to), Some(State::Dead), "go{}", go.version);
    }
    Ok(())
}

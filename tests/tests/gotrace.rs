//! The reader of Go's recordings, on real ones of every release. Needs no root and no sfgi.

use std::process::Command;

use live_tests::{
    fixture::{self, Variant},
    gotrace,
    state::State,
    toolchain::Go,
};

/// One round of ping-pong is known to the last step: `pong` is born, and each round trip parks and
/// wakes goroutines a thousand times.
#[test]
fn a_recording_of_every_release_is_read() {
    for go in Go::with_trace() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("go.trace");
        let binary = fixture::build("pingpong", &go, Variant::Plain).unwrap();
        let output = Command::new(binary).args(["-n", "1"]).env("FIXTURE_TRACE", &file).output().unwrap();
        assert!(output.status.success(), "{output:?}");

        let recording = gotrace::read(&file).unwrap();
        let pong = recording
            .goroutines
            .values()
            .find(|steps| steps.len() > 1000 && steps[0].from == State::Dead)
            .unwrap_or_else(|| panic!("go{}: no goroutine was born and worked", go.version));
        assert!(
            pong.windows(2).all(|pair| pair[0].to == pair[1].from),
            "go{}: a step is missing",
            go.version
        );
        assert!(pong.iter().any(|step| step.reason.starts_with("chan ")));
        assert_eq!(pong.last().unwrap().to, State::Dead, "go{}", go.version);
    }
}

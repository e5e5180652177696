//! Sweeps of the real `/proc`; that Go programs are found is shown by the live tests.

use super::Sweep;
use crate::{agent::Settings, detect::Rules};
use std::{process::Command, sync::Arc};

#[test]
fn what_is_no_go_program_is_seen_and_not_found() {
    let settings = Settings::new(Arc::new(Rules::built_in().unwrap()));
    let mut sweep = Sweep::default();
    let before = sweep.run(&settings, &[], &mut |_| {}).unwrap();
    assert!(before.ended.is_empty());
    let ours = before.started.iter().find(|found| found.id.pid == std::process::id());
    assert!(ours.is_none());
    let running = sweep.seen().running;
    assert!(running >= 1);
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    // It may be in its first sweep before its exec: then it runs what we run, which is not Go's either.
    let changes = sweep.run(&settings, &[], &mut |_| {}).unwrap();
    assert!(changes.started.iter().all(|found| found.id.pid != child.id()));
    assert!(sweep.known.contains_key(&i32::try_from(child.id()).unwrap()));
    child.kill().unwrap();
    child.wait().unwrap();
    sweep.run(&settings, &[], &mut |_| {}).unwrap();
    assert!(!sweep.known.contains_key(&i32::try_from(child.id()).unwrap()));
}

//! Sweeps of the real `/proc`; that Go programs are found is shown by the live tests.

use super::Sweep;
use crate::agent::Settings;
use sfgi_core::detect::Rules;
use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
};

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

#[test]
fn an_old_process_that_runs_another_program_is_noticed_at_once() {
    let settings = Settings::new(Arc::new(Rules::built_in().unwrap()));
    let mut shell = Command::new("sh");
    let mut shell = shell.args(["-c", "read go; exec sleep 60"]).stdin(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(shell.id()).unwrap();
    let exe = || fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    while exe() == std::env::current_exe().unwrap() {
        std::thread::yield_now();
    }
    let mut sweep = Sweep::default();
    for _ in 0..50 {
        sweep.run(&settings, &[], &mut |_| {}).unwrap();
    }
    let before = (exe(), sweep.known[&pid].exe);
    shell.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    while exe() == before.0 {
        std::thread::yield_now();
    }
    for _ in 0..sweep.seen().running.div_ceil(super::sweep::ASKED as u64) {
        sweep.run(&settings, &[], &mut |_| {}).unwrap();
    }
    assert_ne!(sweep.known[&pid].exe, before.1);
    shell.kill().unwrap();
    shell.wait().unwrap();
}

//! Targets whose files sfgi cannot find by their name: in a container, deleted, replaced.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::harness::{Test, live};
use anyhow::{Context, Result};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    sfgi,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(in_its_own_mount_and_pid_namespace),
        live(on_a_file_system_that_only_it_sees),
        live(with_its_binary_deleted).quick(),
        live(with_its_binary_replaced),
    ]
}

/// sfgi sees the goroutines of `pingpong` in the process `pid`, by their names.
fn sees_ping_pong(mut target: Process, pid: u32) -> Result<()> {
    let mut sfgi = sfgi::attach(pid, &[])?;
    target.say()?;
    target.wait_code(Duration::from_secs(120), 0)?;
    sfgi.wait_code(sfgi::END, 0)?;
    let events = sfgi::events(&sfgi.stdout.text())?;
    sfgi::none_illegal(&events)?;
    let pong =
        events.iter().filter(|event| event.event == "block" && event.func.as_deref() == Some("main.pong"));
    assert!(pong.count() >= 900, "main.pong was not seen to block a thousand times");
    Ok(())
}

fn pingpong() -> Result<PathBuf> {
    fixture::build("pingpong", &Go::newest(), Variant::Stripped)
}

/// The only child of a process.
fn child_of(pid: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    children.trim().parse().with_context(|| format!("children of {pid}: {children}"))
}

/// A copy that can be deleted or replaced.
fn copy(dir: &Path) -> Result<PathBuf> {
    let path = dir.join("target");
    fs::copy(pingpong()?, &path)?;
    Ok(path)
}

fn in_its_own_mount_and_pid_namespace() -> Result<()> {
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "-p", "--fork", "--kill-child", "--mount-proc"]).arg(pingpong()?).args(["-n", "1"]);
    let target = fixture::start_command(&mut unshare)?;
    assert_eq!(
        target.stdout.lines()[0].text,
        "pid 1 ready",
        "the fixture is not in a PID namespace of its own"
    );
    let pid = child_of(target.pid())?;
    sees_ping_pong(target, pid)
}

fn on_a_file_system_that_only_it_sees() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let script = "mount -t tmpfs none \"$1\" && cp \"$2\" \"$1/target\" && exec chroot \"$1\" /target -n 1";
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "sh", "-c", script, "sh"]).arg(dir.path()).arg(pingpong()?);
    let target = fixture::start_command(&mut unshare)?;
    assert!(!dir.path().join("target").exists(), "the file is seen from outside");
    let pid = target.pid();
    sees_ping_pong(target, pid)
}

fn with_its_binary_deleted() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = copy(dir.path())?;
    let target = fixture::start_command(Command::new(&path).args(["-n", "1"]))?;
    fs::remove_file(&path)?;
    let pid = target.pid();
    sees_ping_pong(target, pid)
}

fn with_its_binary_replaced() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = copy(dir.path())?;
    let target = fixture::start_command(Command::new(&path).args(["-n", "1"]))?;
    let other = dir.path().join("other");
    fs::copy(fixture::build("workers", &Go::newest(), Variant::Plain)?, &other)?;
    fs::rename(&other, &path)?;
    let pid = target.pid();
    sees_ping_pong(target, pid)
}

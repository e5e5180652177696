//! Names of a hostile program: what would move the cursor, set the title or begin a new line reaches neither terminal nor log.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    sfgi,
    toolchain::Go,
};

use crate::harness::{Test, live};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(names_with_escapes_are_cleaned_everywhere)]
}

const SOON: Duration = Duration::from_secs(120);

/// Clears the screen, sets the title, begins a line that looks like ours, writes from right to left.
const EVIL: &str = "\x1b[2J\x1b]0;owned\x07\nsfgi: forged\r\u{9b}31m\u{202e}evil";

fn is_clean(what: &str, process: &Process) -> Result<()> {
    for (stream, output) in [("stdout", process.stdout.text()), ("stderr", process.stderr.text())] {
        let bad = |c: char| (c.is_control() && c != '\n' && c != '\t') || c == '\u{202e}';
        ensure!(!output.contains(bad), "{what}, {stream}: {output:?}");
        ensure!(!output.lines().any(|line| line.starts_with("sfgi: forged")), "{what}, {stream}: {output:?}");
    }
    Ok(())
}

fn copy(dir: &tempfile::TempDir, from: &str) -> Result<PathBuf> {
    let path = dir.path().join(EVIL);
    fs::copy(from, &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn names_with_escapes_are_cleaned_everywhere() -> Result<()> {
    let fixture = fixture::build("workers", &Go::newest(), Variant::Plain)?;
    let dir = tempfile::tempdir()?;
    let exe = copy(&dir, fixture.to_str().context("its name is text")?)?;
    let mut target = fixture::start_command(Command::new(&exe).args(["-d", "1h"]))?;
    target.say()?;
    let pid = target.pid().to_string();
    let recording = dir.path().join("r").display().to_string();
    let of_process: [&[&str]; 9] = [
        &["ps"],
        &["doctor", "-p", &pid],
        &["dump", "-p", &pid],
        &["dump", "-p", &pid, "--group"],
        &["leaks", "-p", &pid, "--no-heap"],
        &["trace", "-p", &pid, "-d", "1", "--record", &recording],
        &["trace", "-p", &pid, "-d", "1", "-c"],
        &["top", "-p", &pid, "-b", "1"],
        &["report", "--info", &recording],
    ];
    for command in of_process {
        let mut sfgi = Process::spawn(&mut sfgi::command(command)?)?;
        sfgi.wait_code(SOON, 0).with_context(|| format!("{command:?}"))?;
        is_clean(&format!("{command:?}"), &sfgi)?;
    }
    // Errors that quote the name: it is no Go program, or is not there.
    let other = tempfile::tempdir()?;
    let shell = copy(&other, "/bin/sleep")?;
    let sleep = Process::spawn(Command::new(&shell).arg("600"))?;
    let (sleep_pid, shell) = (sleep.pid().to_string(), shell.display().to_string());
    let missing = other.path().join(format!("{EVIL}-missing")).display().to_string();
    let errors: [&[&str]; 8] = [
        &["dump", "-p", &sleep_pid],
        &["trace", "-p", &sleep_pid],
        &["leaks", "-p", &sleep_pid],
        &["doctor", &shell],
        &["trace", "--", &shell],
        &["report", &missing],
        &["record", "-o", &missing, "--", &missing],
        &["dump", "--core", &missing, "--exe", &shell],
    ];
    for command in errors {
        let mut sfgi = Process::spawn(&mut sfgi::command(command)?)?;
        sfgi.wait_code(SOON, 1).with_context(|| format!("{command:?}"))?;
        is_clean(&format!("{command:?}"), &sfgi)?;
        ensure!(sfgi.stderr.text().lines().count() == 1, "{command:?}: {}", sfgi.stderr.text());
    }
    Ok(())
}

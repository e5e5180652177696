//! Files that sfgi writes: for their owner only, never through somebody's link, and the calling user's under sudo.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    sfgi::{self, fails},
    toolchain::Go,
};

use crate::harness::{Test, live};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(files_are_private_and_belong_to_who_called), live(links_of_others_are_not_followed).quick()]
}

const SOON: Duration = Duration::from_secs(120);
const NOBODY: u32 = 65_534;

fn name(path: &Path) -> Result<&str> {
    path.to_str().context("its name is text")
}

fn files_are_private_and_belong_to_who_called() -> Result<()> {
    let mut target = fixture::start("workers", &Go::newest(), Variant::Plain, &["-d", "1h"])?;
    target.say()?;
    let pid = target.pid().to_string();
    let dir = tempfile::tempdir()?;
    let recording = dir.path().join("recording");
    let recording = name(&recording)?;
    let commands: [&[&str]; 8] = [
        &["record", "-d", "1", "-p", &pid, "-o"],
        &["dump", "-p", &pid, "-o"],
        &["leaks", "--no-heap", "-p", &pid, "-o"],
        &["leaks", "--no-heap", "-p", &pid, "--write-baseline"],
        &["trace", "-d", "1", "-p", &pid, "-o"],
        &["report", recording, "-o"],
        &["export", "--to", "csv", recording, "-o"],
        &["ps", "-o"],
    ];
    for command in commands {
        let output = if command[0] == "record" {
            recording.to_owned()
        } else {
            dir.path().join("out").display().to_string()
        };
        for owner in [0, NOBODY] {
            if owner == 0 {
                // One that everybody could read before.
                let _ = fs::remove_file(&output);
                fs::write(&output, "old")?;
                fs::set_permissions(&output, fs::Permissions::from_mode(0o644))?;
            } else {
                fs::remove_file(&output)?;
            }
            let mut run = sfgi::command(command)?;
            run.arg(&output).env_remove("SUDO_UID").env_remove("SUDO_GID");
            if owner != 0 {
                run.env("SUDO_UID", owner.to_string()).env("SUDO_GID", owner.to_string());
            }
            let mut sfgi = Process::spawn(&mut run)?;
            sfgi.wait_code(SOON, 0).with_context(|| format!("{command:?}"))?;
            let file = fs::symlink_metadata(&output)?;
            ensure!(file.mode() & 0o7777 == 0o600, "{command:?}: mode {:o}", file.mode());
            ensure!(
                (file.uid(), file.gid()) == (owner, owner),
                "{command:?}: of {}:{}",
                file.uid(),
                file.gid()
            );
            ensure!(file.len() > 0 && fs::read(&output)? != b"old", "{command:?} wrote nothing");
        }
    }
    // What was no file before is none now.
    for output in ["/dev/stdout", "-", "/dev/fd/1"] {
        let mut sfgi = Process::spawn(&mut sfgi::command(&["dump", "-p", &pid, "-o", output])?)?;
        sfgi.wait_code(SOON, 0).with_context(|| output.to_owned())?;
        ensure!(sfgi.stdout.text().contains("goroutine 1 "), "{output}: {}", sfgi.stdout.text());
    }
    Ok(())
}

fn links_of_others_are_not_followed() -> Result<()> {
    let target = fixture::start("idle", &Go::newest(), Variant::Plain, &["-n", "4"])?;
    let pid = target.pid().to_string();
    let dir = tempfile::tempdir()?;
    let (victim, link, theirs) =
        (dir.path().join("victim"), dir.path().join("link"), dir.path().join("theirs"));
    fs::write(&victim, "precious")?;
    symlink(&victim, &link)?;
    fs::write(&theirs, "theirs")?;
    chown(&theirs, Some(NOBODY), Some(NOBODY))?;
    for (output, words) in [(&link, "is a link"), (&theirs, "belongs to another user")] {
        let output = name(output)?;
        for command in [
            vec!["dump", "-p", &pid, "-o", output],
            vec!["leaks", "--no-heap", "-p", &pid, "-o", output],
            vec!["trace", "-p", &pid, "-d", "1", "-o", output],
            vec!["trace", "-p", &pid, "-d", "1", "--record", output],
            vec!["record", "-p", &pid, "-d", "1", "-o", output],
            vec!["ps", "-o", output],
        ] {
            fails(&mut sfgi::command(&command)?, 1, &["cannot write", words])?;
        }
        let mut baseline = Process::spawn(&mut sfgi::command(&[
            "leaks",
            "--no-heap",
            "-p",
            &pid,
            "--write-baseline",
            output,
        ])?)?;
        baseline.wait_code(SOON, 1)?;
        ensure!(baseline.stderr.text().contains(words), "{}", baseline.stderr.text());
    }
    ensure!(
        fs::read_to_string(&victim)? == "precious" && fs::read_to_string(&theirs)? == "theirs",
        "written over"
    );
    Ok(())
}

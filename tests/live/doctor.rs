//! `sfgi doctor`: what it says of this host, of a file and of a process.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Command,
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
    vec![
        live(a_file_and_a_process_of_it_are_told_alike).quick(),
        live(what_is_no_go_program_is_refused).quick(),
        live(what_dump_will_refuse_is_told),
    ]
}

/// What it prints; it must succeed.
fn text(args: &[&str]) -> Result<String> {
    let mut doctor = Process::spawn(sfgi::command(&["doctor"])?.args(args))?;
    doctor.wait_code(sfgi::ATTACH, 0)?;
    Ok(doctor.stdout.text())
}

/// Where the probes stand, without what each costs, which is measured anew.
fn places(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.contains(" 0x"));
    lines.map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ")).collect()
}

fn a_file_and_a_process_of_it_are_told_alike() -> Result<()> {
    let go = Go::newest();
    let exe = fixture::build("idle", &go, Variant::Stripped)?;
    let target = fixture::start("idle", &go, Variant::Stripped, &["-n", "4"])?;
    let file = text(&[&exe.to_string_lossy()])?;
    for word in ["kernel", "BTF          yes", &go.version, "mode full", "mode wait", "mode life", "runtime."]
    {
        ensure!(file.contains(word), "no {word:?} in\n{file}");
    }
    let process = text(&["-p", &target.pid().to_string()])?;
    ensure!(places(&file).len() >= 10 && places(&file) == places(&process), "{file}\n{process}");
    ensure!(!text(&[])?.contains("mode full"), "a binary, though none is named");
    Ok(())
}

fn what_is_no_go_program_is_refused() -> Result<()> {
    fails(&mut sfgi::command(&["doctor", "/bin/true"])?, 1, &["not a Go program"])?;
    fails(&mut sfgi::command(&["doctor", "/no/such/file"])?, 1, &["/no/such/file"])
}

/// A binary in which the list of goroutines cannot be found: the function that shows where it is has another name.
fn what_dump_will_refuse_is_told() -> Result<()> {
    let go = Go::newest();
    let exe = fixture::build("idle", &go, Variant::Stripped)?;
    let mut data = fs::read(&exe)?;
    let name = b"runtime.forEachGRace\0";
    let at = data.windows(name.len()).position(|bytes| bytes == name).context("no such function")?;
    data[at + name.len() - 2] = b'X';
    let directory = tempfile::tempdir()?;
    let patched = directory.path().join("idle");
    fs::write(&patched, data)?;
    fs::set_permissions(&patched, Permissions::from_mode(0o755))?;
    let target = fixture::start_command(Command::new(&patched).args(["-n", "4"]))?;
    let pid = target.pid().to_string();
    let mut doctor = Process::spawn(&mut sfgi::command(&["doctor", "-p", &pid])?)?;
    doctor.wait_code(sfgi::ATTACH, 1)?;
    let (stdout, stderr) = (doctor.stdout.text(), doctor.stderr.text());
    let no = |command: &str| {
        stdout.lines().any(|line| {
            line.split_whitespace().take(2).eq([command, "no:"]) && line.contains("list of all goroutines")
        })
    };
    ensure!(no("dump") && no("leaks") && stdout.contains("mode life"), "{stdout}");
    ensure!(stderr.trim() == "sfgi: would be refused here: dump, leaks", "{stderr}");
    fails(&mut sfgi::command(&["dump", "-p", &pid])?, 1, &["list of its goroutines"])
}

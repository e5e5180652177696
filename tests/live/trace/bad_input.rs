//! What sfgi cannot do is said in one clear sentence with the right exit code: 1 when it failed,
//! 2 when it was called wrongly.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::harness::{Test, live};
use anyhow::{Context, Result};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    sfgi::{self, fails},
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(wrong_usage).quick(),
        live(no_such_process_and_no_go_program).quick(),
        live(broken_binaries),
        live(releases_that_are_not_known),
        live(a_32_bit_program),
        live(a_c_program_with_go_inside),
        live(no_permission),
        live(an_output_that_cannot_be_written),
    ]
}

fn attach_fails(pid: u32, words: &[&str]) -> Result<()> {
    fails(&mut sfgi::command(&["trace", "-p", &pid.to_string()])?, 1, words)
}

fn launch_fails(program: &Path, words: &[&str]) -> Result<()> {
    fails(sfgi::command(&["trace", "--"])?.arg(program), 1, words)
}

fn wrong_usage() -> Result<()> {
    let wrong: [(&[&str], &str); 8] = [
        (&["trace"], "sfgi trace -p PID"),
        (&["trace", "-p", "seven"], "seven"),
        (&["trace", "-p", "1", "--func", "("], "("),
        (&["trace", "-p", "1", "-e", "sleep"], "sleep"),
        (&["trace", "-p", "1", "--min", "10x"], "10x: a time is"),
        (&["trace", "-p", "1", "--format", "xml"], "xml"),
        (&["trace", "-p", "1", "--ring-size", "5000"], "5000"),
        (&["tarce"], "tarce"),
    ];
    wrong.iter().try_for_each(|(args, word)| fails(&mut sfgi::command(args)?, 2, &[word]))
}

fn no_such_process_and_no_go_program() -> Result<()> {
    attach_fails(4_194_303, &["4194303", "no process"])?;
    let sleep = Process::spawn(Command::new("sleep").arg("60"))?;
    attach_fails(sleep.pid(), &["not a Go program"])?;
    launch_fails(Path::new("/bin/true"), &["not a Go program"])?;
    launch_fails(Path::new("/no/such/file"), &["/no/such/file"])?;
    let dir = tempfile::tempdir()?;
    launch_fails(&program(dir.path(), b"#!/bin/sh\n")?, &["not an ELF"])
}

fn broken_binaries() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let whole = fs::read(pingpong(Variant::Plain)?)?;
    launch_fails(&program(dir.path(), &whole[..40])?, &["truncated"])?;
    launch_fails(&program(dir.path(), &whole[..whole.len() / 3])?, &["truncated"])?;

    // The magic of pclntab since Go 1.20, and the two zero bytes and the pointer size behind it
    // (src/internal/abi/symtab.go, src/debug/gosym/pclntab.go).
    let mut corrupt = whole.clone();
    let magic = find(&corrupt, &[0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]).context("no pclntab")?;
    corrupt[magic + 8..magic + 64].fill(0xff);
    launch_fails(&program(dir.path(), &corrupt)?, &["pclntab"])
}

fn releases_that_are_not_known() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let go = Go::newest();
    let old = replaced(fs::read(pingpong(Variant::Plain)?)?, &go.version, "1.18.9")?;
    launch_fails(&program(dir.path(), &old)?, &["1.18", "1.19"])?;
    // A newer one is read as the newest that is known where its code agrees with that; `binaries.rs` has those
    // whose code does not.
    let new = replaced(fs::read(pingpong(Variant::Stripped)?)?, &go.version, "1.99.1")?;
    let mut sfgi = sfgi::attached(sfgi::command(&["trace", "--"])?.arg(program(dir.path(), &new)?))?;
    sfgi.wait_code(sfgi::END, 0)?;
    let text = sfgi.stderr.text();
    anyhow::ensure!(text.contains("go1.99.1") && text.contains("checked against the code"), "{text}");
    Ok(())
}

fn a_32_bit_program() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let program = dir.path().join("program");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut build = Go::newest().command();
    build.current_dir(sources).env("GOARCH", "386").env("CGO_ENABLED", "0");
    succeeds(build.args(["build", "-buildvcs=false", "-o"]).arg(&program).arg("./pingpong"))?;
    launch_fails(&program, &["32-bit"])
}

fn a_c_program_with_go_inside() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (archive, program) = (dir.path().join("go.a"), dir.path().join("program"));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let mut build = Go::newest().command();
    build.current_dir(&sources).env("CGO_ENABLED", "1").args([
        "build",
        "-buildvcs=false",
        "-buildmode=c-archive",
    ]);
    succeeds(build.arg("-o").arg(&archive).arg("./carchive"))?;
    let host = sources.join("carchive/host/host.c");
    succeeds(Command::new("cc").arg(host).arg(&archive).args(["-lpthread", "-o"]).arg(&program))?;
    launch_fails(&program, &["c-archive"])
}

fn no_permission() -> Result<()> {
    let target = fixture::start("pingpong", &Go::newest(), Variant::Plain, &["-d", "60s"])?;
    // A copy that the unprivileged user can execute, wherever the build lies.
    let dir = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir()?;
    let copy = program(dir.path(), &fs::read(sfgi::binary()?)?)?;
    let mut unprivileged = Command::new("setpriv");
    unprivileged.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all"]);
    fails(unprivileged.arg(copy).args(["trace", "-p", &target.pid().to_string()]), 1, &["CAP_BPF"])
}

fn an_output_that_cannot_be_written() -> Result<()> {
    let mut command = sfgi::command(&["trace", "-o", "/no/such/dir/file", "--"])?;
    fails(command.arg(pingpong(Variant::Plain)?), 1, &["/no/such/dir/file"])
}

fn pingpong(variant: Variant) -> Result<PathBuf> {
    fixture::build("pingpong", &Go::newest(), variant)
}

/// An executable file with this content.
fn program(dir: &Path, content: &[u8]) -> Result<PathBuf> {
    let path = dir.join("program");
    fs::write(&path, content)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn succeeds(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    anyhow::ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

/// All `goOLD` replaced by `goNEW`, which must be as long.
fn replaced(mut bytes: Vec<u8>, old: &str, new: &str) -> Result<Vec<u8>> {
    let (old, new) = (format!("go{old}"), format!("go{new}"));
    anyhow::ensure!(old.len() == new.len(), "{old} and {new} differ in length");
    let mut count = 0;
    while let Some(at) = find(&bytes, old.as_bytes()) {
        bytes[at..at + new.len()].copy_from_slice(new.as_bytes());
        count += 1;
    }
    anyhow::ensure!(count > 0, "the binary does not say {old}");
    Ok(bytes)
}

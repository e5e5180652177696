//! Files that have no end, or become more than they are.

use std::{fs, path::Path, process::Command, time::Duration};

use super::{MIB, run};
use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    toolchain::Go,
};
use sfgi_core::testing::recording;

pub(crate) fn tests() -> Vec<Test> {
    vec![live(what_is_no_file), live(recordings_that_become_gigabytes), live(a_core_file_of_notes)]
}

/// What refusing a file may take on the slowest machine.
const AT_ONCE: Duration = Duration::from_secs(5);

fn utf8(path: &Path) -> Result<&str> {
    path.to_str().context("a name in UTF-8")
}

fn what_is_no_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let fifo = dir.path().join("fifo.toml");
    let status = Command::new("mkfifo").arg(&fifo).status()?;
    ensure!(status.success(), "mkfifo: {status}");
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("zero.toml"))?;
    let target = fixture::start("pingpong", &Go::newest(), Variant::Plain, &["-d", "60s"])?;
    let (pid, exe) = (target.pid().to_string(), fixture::build("pingpong", &Go::newest(), Variant::Plain)?);
    let (exe, rules, fifo) = (utf8(&exe)?, utf8(dir.path())?, utf8(&fifo)?);
    let zero = "/dev/zero";
    for (args, what) in [
        (&["report", zero][..], "a device"),
        (&["report", fifo], "a pipe"),
        (&["export", "--to", "perfetto", "-o", "/dev/null", zero], "a device"),
        (&["dump", "--core", zero, "--exe", exe], "a device"),
        (&["dump", "--core", fifo, "--exe", exe], "a pipe"),
        (&["dump", "--core", zero, "--exe", zero], "not an ELF file"),
        (&["leaks", "-p", &pid, "--baseline", zero], "a device"),
        (&["leaks", "-p", &pid, "--baseline", fifo], "a pipe"),
        (&["leaks", "-p", &pid, "--rules", rules], "not a regular file"),
        (&["dump", "-p", &pid, "--layout", zero], "a device"),
    ] {
        let ended = run(args).and_then(|ended| ended.within(64 * MIB, AT_ONCE));
        ended.and_then(|ended| ended.says(1, &[what])).with_context(|| format!("{args:?}"))?;
    }
    Ok(())
}

/// A number as recordings have it.
fn number(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Some kilobytes of frames whose names, and whose whole stacks, would take gigabytes.
fn recordings_that_become_gigabytes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/shop.sfgi");
    let head = recording::frames(&fs::read(shop)?).into_iter().next().context("it has a head")?;
    let most = 16 << 20;
    let mut text = Vec::new();
    number(&mut text, 0);
    number(&mut text, most as u64 - 8);
    text.resize(most - 2, b'a');
    let mut stacks = Vec::new();
    for goid in 0..900 {
        for value in [3, 1, goid, 0, 0, (1 << 14) + 1] {
            number(&mut stacks, value);
        }
        stacks.resize(stacks.len() + (1 << 14), 0);
    }
    stacks.push(0);
    for (name, kind, frame, times) in [("names", 1, &text, 60), ("stacks", 2, &stacks, 20)] {
        let mut frames = vec![head.clone()];
        frames.extend((0..times).map(|_| (kind, frame.clone())));
        let path = dir.path().join(name);
        let file = recording::file(&frames);
        ensure!(file.len() < 400 << 10, "{} KiB", file.len() >> 10);
        fs::write(&path, file)?;
        let ended = run(&["report", utf8(&path)?])?;
        ended.within(640 * MIB, Duration::from_secs(60)).context(name)?;
    }
    Ok(())
}

/// A core file of sixteen megabytes: any number of program headers, each of which has all notes.
fn a_core_file_of_notes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("core");
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let (count, notes) = (60_000u64, 600_000);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    file.extend(words(&[0, 64, 0, 64 << 32 | 56 << 48, count]));
    let at = 64 + count * 56;
    for _ in 0..count {
        file.extend(words(&[4, at, 0, 0, notes * 20, 0, 4]));
    }
    // An owner of five bytes, no contents.
    let note = [5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'N', b'O', b'N', b'E', 0, 0, 0, 0];
    file.extend(note.repeat(usize::try_from(notes)?));
    fs::write(&path, file)?;
    let exe = fixture::build("pingpong", &Go::newest(), Variant::Plain)?;
    let ended = run(&["dump", "--core", utf8(&path)?, "--exe", utf8(&exe)?])?;
    ended.within(160 * MIB, Duration::from_secs(20))?.says(1, &[])?;
    Ok(())
}

//! Memory in which the runtime's own tables are made up, and an honest program with a great many goroutines.

use std::{fs::File, fs::OpenOptions, os::unix::fs::FileExt as _, time::Duration};

use super::{MIB, run};
use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    toolchain::Go,
};
use rustix::process::Signal;
use sfgi_core::binary::GoBinary;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(sixteen_million_entries_that_are_one_goroutine).alone(),
        live(spans_that_are_invented).alone(),
        live(a_million_goroutines_are_read_by_a_sample).alone(),
    ]
}

/// A program that stands still, and what is needed to make up its memory.
struct Made {
    target: Process,
    memory: File,
    binary: GoBinary,
    /// Where its region lies, and how long it is.
    region: (u64, u64),
}

impl Made {
    fn start() -> Result<Made> {
        let go = Go::newest();
        let target = fixture::start("hostile", &go, Variant::Plain, &[])?;
        let lines = target.stdout.lines();
        let line = lines.iter().find_map(|line| line.text.strip_prefix("region 0x")).context("no region")?;
        let (addr, len) = line.split_once(' ').context("no length")?;
        let region = (u64::from_str_radix(addr, 16)?, len.parse()?);
        let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{}/mem", target.pid()))?;
        let binary = GoBinary::open(&fixture::build("hostile", &go, Variant::Plain)?)?;
        // From now on it reads nothing of what is made up.
        target.signal(Signal::STOP)?;
        Ok(Made { target, memory, binary, region })
    }

    fn word(&self, addr: u64) -> Result<u64> {
        let mut word = [0; 8];
        self.memory.read_exact_at(&mut word, addr)?;
        Ok(u64::from_le_bytes(word))
    }

    fn put(&self, addr: u64, words: &[u64]) -> Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        Ok(self.memory.write_all_at(&bytes, addr)?)
    }

    fn pid(&self) -> String {
        self.target.pid().to_string()
    }
}

fn sixteen_million_entries_that_are_one_goroutine() -> Result<()> {
    let made = Made::start()?;
    let globals = made.binary.globals()?;
    let first = made.word(made.word(globals.allgptr)?)?;
    let entries = 1 << 24;
    ensure!(made.region.1 >= entries * 8, "the region is too short");
    let piece = vec![first; 1 << 16];
    for at in (0..entries).step_by(piece.len()) {
        made.put(made.region.0 + at * 8, &piece)?;
    }
    made.put(globals.allgptr, &[made.region.0])?;
    made.put(globals.allglen, &[entries])?;
    for args in [&["dump", "-p"][..], &["dump", "--group", "-p"], &["dump", "--format", "json", "-p"]] {
        let ended = run(&[args, &[&made.pid()]].concat())?.within(256 * MIB, Duration::from_secs(60))?;
        let ended = ended.says(0, &["1 goroutines read"]).with_context(|| format!("{args:?}"))?;
        ensure!(ended.stderr.contains("could not be read"), "{}", ended.stderr);
    }
    run(&["leaks", "-p", &made.pid()])?.within(384 * MIB, Duration::from_secs(120))?;
    Ok(())
}

/// 32,000 spans, each of a megabyte of the smallest objects.
fn spans_that_are_invented() -> Result<()> {
    let made = Made::start()?;
    let (globals, layout) = (made.binary.globals()?, made.binary.layout());
    let field = |of, name| layout.field(of, name).map(u64::from).with_context(|| format!("no {of}.{name}"));
    let slice = globals.mheap.context("no mheap_")? + field("mheap", "allspans")?;
    let size = field("mspan", "_size")?.next_multiple_of(16);
    let count = 32_000;
    let list = made.region.0;
    let records = list + count * 8;
    // As a real one, but for where it is and how many objects it has.
    let real = made.word(made.word(slice)?)?;
    let mut record = vec![0; usize::try_from(size)?];
    made.memory.read_exact_at(&mut record, real)?;
    for number in 0..count {
        let mut put = |name: &'static str, bytes: &[u8]| -> Result<()> {
            let at = usize::try_from(field("mspan", name)?)?;
            record.get_mut(at..at + bytes.len()).context("behind its end")?.copy_from_slice(bytes);
            Ok(())
        };
        put("startAddr", &(0xd0_0000_0000 + number * MIB).to_le_bytes())?;
        put("npages", &128u64.to_le_bytes())?;
        put("nelems", &u16::MAX.to_le_bytes())?;
        put("elemsize", &16u64.to_le_bytes())?;
        put("state", &[1])?;
        put("spanclass", &[4])?;
        made.memory.write_all_at(&record, records + number * size)?;
        made.put(list + number * 8, &[records + number * size])?;
    }
    made.put(slice, &[list, count, count])?;
    let ended = run(&["leaks", "-p", &made.pid()])?.within(512 * MIB, Duration::from_secs(120))?;
    ended.says(0, &["nothing counts as proven", "its heap claims"])?;
    Ok(())
}

fn a_million_goroutines_are_read_by_a_sample() -> Result<()> {
    let target = fixture::start("parked", &Go::newest(), Variant::Plain, &["-n", "1000000"])?;
    let pid = target.pid().to_string();
    let most = 128;
    let args = ["dump", "--group", "-p", &pid, "--memory", "128MiB"];
    let ended = run(&args)?.within((most + most / 8 + 32) * MIB, Duration::from_secs(120))?;
    ended.says(0, &["an even sample", "of its 1000"])?;
    let args = ["leaks", "-p", &pid, "--memory", "256MiB", "--observe", "1s"];
    let ended = run(&args)?.within((256 + 32 + 32) * MIB, Duration::from_secs(180))?;
    ended.says(0, &["nothing counts as proven", "an even sample"])?;
    // Without a limit that is in the way all of them are read.
    run(&["dump", "--group", "-p", &pid])?
        .within(2 << 30, Duration::from_secs(120))?
        .says(0, &["goroutines read"])
        .and_then(|ended| {
            ensure!(!ended.stderr.contains("sample"), "{}", ended.stderr);
            Ok(())
        })
}

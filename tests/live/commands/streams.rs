//! Few descriptors, closed or full output, and files that are none: one sentence, never a panic.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    sfgi::{self, fails},
    toolchain::Go,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::harness::{Test, live, plain};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(with_few_descriptors), live(with_output_that_takes_nothing), plain(files_that_are_none).quick()]
}

const SOON: Duration = Duration::from_secs(120);

/// Runs `sfgi ARGS` by a shell that does `before` first.
fn by_shell(before: &str, args: &str, after: &str) -> Result<Process> {
    let line = format!("{before} exec {} {args} {after}", sfgi::binary()?.display());
    Process::spawn(Command::new("sh").args(["-c", &line]))
}

fn with_few_descriptors() -> Result<()> {
    let mut target = fixture::start("workers", &Go::newest(), Variant::Plain, &["-d", "1h"])?;
    target.say()?;
    let pid = target.pid();
    for number in [8, 16, 24, 32] {
        for args in ["trace -c -d 1", "top -b 1", "leaks --watch=1h --no-heap", "dump"] {
            if args.starts_with("leaks") && number > 8 {
                // It has enough then, and would go on.
                continue;
            }
            let mut sfgi = by_shell(&format!("ulimit -n {number};"), &format!("{args} -p {pid}"), "")?;
            let status =
                match sfgi.wait(if args.starts_with("leaks") { Duration::from_secs(5) } else { SOON }) {
                    Err(_) if args.starts_with("leaks") => continue,
                    status => status.with_context(|| format!("{args} with {number} descriptors"))?,
                };
            let said = sfgi.stderr.text();
            ensure!(!said.contains("panicked"), "{args} with {number} descriptors: {said}");
            ensure!(
                matches!(status.code(), Some(0 | 1)),
                "{args} with {number} descriptors: {status}: {said}"
            );
            ensure!(status.success() || !said.trim().is_empty(), "{args} with {number}: it does not say why");
        }
    }
    Ok(())
}

fn with_output_that_takes_nothing() -> Result<()> {
    let mut target = fixture::start("workers", &Go::newest(), Variant::Plain, &["-d", "1h"])?;
    target.say()?;
    let pid = target.pid();
    for args in ["trace -d 1", "dump", "leaks --no-heap", "top -b 1", "doctor", "ps"] {
        let of = if args == "ps" { String::new() } else { format!("-p {pid}") };
        // What attaches takes seconds, and says all that it says by one function.
        let attaches = matches!(args, "trace -d 1" | "top -b 1" | "doctor");
        for (after, codes) in [
            ("2>/dev/full", &[0][..]),
            ("2>&-", &[0]),
            // Nothing more is to be said to a reader who has gone.
            (">&-", &[0, 1]),
            (">/dev/full", &[1]),
            (">/dev/full 2>&1", &[1]),
            (">&- 2>&-", &[0, 1]),
        ] {
            if attaches && after.contains('-') {
                continue;
            }
            let mut sfgi = by_shell("", &format!("{args} {of}"), after)?;
            let status = sfgi.wait(SOON).with_context(|| format!("{args} {after}"))?;
            let code = status.code().with_context(|| format!("{args} {after}: {status}"))?;
            ensure!(codes.contains(&code), "{args} {after}: {status}: {}", sfgi.stderr.text());
            ensure!(!sfgi.stderr.text().contains("panicked"), "{args} {after}: {}", sfgi.stderr.text());
        }
    }
    Ok(())
}

fn files_that_are_none() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let fifo = dir.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let fifo = fifo.to_str().context("its name is text")?;
    let output = dir.path().join("output");
    fs::write(&output, "kept")?;
    let output_name = output.to_str().context("its name is text")?;
    let began = Instant::now();
    for (args, words) in [
        (vec!["report", fifo], [fifo, "pipe"]),
        (vec!["report", "--info", fifo], [fifo, "pipe"]),
        (vec!["export", "--to", "csv", fifo, "-o", output_name], [fifo, "pipe"]),
        (vec!["report", "/dev/zero"], ["/dev/zero", "device"]),
        (vec!["report", "/tmp"], ["/tmp", "directory"]),
        (vec!["leaks", "-p", "1", "--baseline", "/dev/zero"], ["/dev/zero", "device"]),
        (vec!["leaks", "-p", "1", "--baseline", fifo], [fifo, "pipe"]),
    ] {
        fails(&mut sfgi::command(&args)?, 1, &words)?;
    }
    ensure!(began.elapsed() < SOON, "{:?}", began.elapsed());
    ensure!(fs::read_to_string(&output)? == "kept", "it was emptied for a recording that is none");
    Ok(())
}

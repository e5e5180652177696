//! A program whose pages nobody fills: whoever reads them waits in the kernel, where only SIGKILL reaches him. Every command ends all
//! the same, in time and with a sentence.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    sfgi,
    toolchain::Go,
};
use rustix::process::Signal;

use crate::harness::{Test, live};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(what_only_reads_ends_after_its_time).alone(),
        live(what_has_probes_goes_on_without_the_memory).alone(),
        live(the_others_are_listed_beside_one_that_hangs).alone(),
        live(one_interrupt_ends_each).alone(),
        live(what_needs_more_memory_than_it_may_have_says_so),
    ]
}

/// Of `--timeout`.
const ALLOWED: Duration = Duration::from_secs(2);
/// What may be added to it: the start of a command, its own reading, the kill.
const MORE: Duration = Duration::from_secs(1);
/// What doctor takes to measure the price of a probe on the slowest machine.
const MEASURING: Duration = Duration::from_secs(4);
/// From Ctrl-C to the end.
const INTERRUPTED: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(60);

fn withheld() -> Result<Process> {
    fixture::start("withheld", &Go::newest(), Variant::Plain, &[])
}

fn what_only_reads_ends_after_its_time() -> Result<()> {
    let target = withheld()?;
    let pid = target.pid().to_string();
    let commands: [(&[&str], Duration); 5] = [
        (&["dump"], MORE),
        (&["dump", "--group"], MORE),
        (&["leaks"], MORE),
        (&["doctor"], MORE + MEASURING),
        (&["top", "-b", "2", "--mode", "poll"], MORE),
    ];
    for (command, more) in commands {
        let began = Instant::now();
        let mut run = sfgi::command(command)?;
        run.args(["-p", &pid, "--timeout", "2"]);
        let mut sfgi = Process::spawn(&mut run)?;
        sfgi.wait_code(SOON, 1).with_context(|| format!("{command:?}"))?;
        let (took, said) = (began.elapsed(), sfgi.stderr.text());
        ensure!(took < ALLOWED + more, "{command:?} took {took:?}: {said}");
        let sentence = format!("sfgi: PID {pid} does not answer: a read of its memory has lasted");
        ensure!(said.contains(&sentence) && said.contains("--timeout"), "{command:?}: {said}");
    }
    Ok(())
}

fn what_has_probes_goes_on_without_the_memory() -> Result<()> {
    let target = withheld()?;
    let pid = target.pid().to_string();
    let dir = tempfile::tempdir()?;
    let recording = dir.path().join("recording.sfgi");
    let recording = recording.to_str().context("its name is text")?;
    let commands: [&[&str]; 3] =
        [&["trace", "-d", "2"], &["record", "-d", "2", "-o", recording], &["top", "-b", "2"]];
    for command in commands {
        let mut sfgi = sfgi::attached(sfgi::command(command)?.args(["-p", &pid, "--timeout", "30"]))?;
        let began = Instant::now();
        sfgi.wait_code(SOON, 0).with_context(|| format!("{command:?}"))?;
        ensure!(began.elapsed() < Duration::from_secs(6), "{command:?}: {:?}", began.elapsed());
        let said = sfgi.stderr.text();
        ensure!(said.contains("its memory does not answer"), "{command:?}: {said}");
        let shown = sfgi.stdout.text();
        ensure!(command[0] == "record" || shown.contains("chan "), "{command:?} shows nothing:\n{shown}");
    }
    let mut report = Process::spawn(&mut sfgi::command(&["report", recording])?)?;
    report.wait_code(SOON, 0)?;
    ensure!(report.stdout.text().contains("unblock"), "{}", report.stdout.text());
    Ok(())
}

fn the_others_are_listed_beside_one_that_hangs() -> Result<()> {
    let (target, innocent) =
        (withheld()?, fixture::start("idle", &Go::newest(), Variant::Plain, &["-n", "40"])?);
    let began = Instant::now();
    let mut ps = Process::spawn(&mut sfgi::command(&["ps"])?)?;
    ps.wait_code(SOON, 0)?;
    ensure!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let text = ps.stdout.text();
    let line = |pid: u32| {
        let pid = pid.to_string();
        text.lines().find(|line| line.split_whitespace().next() == Some(&pid)).with_context(|| text.clone())
    };
    ensure!(line(target.pid())?.ends_with("its memory does not answer"), "{text}");
    ensure!(line(innocent.pid())?.ends_with("dump leaks trace"), "{text}");
    Ok(())
}

fn one_interrupt_ends_each() -> Result<()> {
    let target = withheld()?;
    let pid = target.pid().to_string();
    let commands: [&[&str]; 6] = [
        &["dump"],
        &["leaks"],
        &["leaks", "--watch=1s"],
        &["top", "-b", "9", "--mode", "poll"],
        &["trace"],
        &["top", "-b", "99"],
    ];
    for command in commands {
        let mut run = sfgi::command(command)?;
        run.args(["-p", &pid, "--timeout", "60"]);
        let probes = matches!(command, ["trace"] | ["top", "-b", "99"]);
        let mut sfgi = if probes { sfgi::attached(&mut run)? } else { Process::spawn(&mut run)? };
        std::thread::sleep(Duration::from_millis(800));
        let began = Instant::now();
        sfgi.signal(Signal::INT)?;
        sfgi.wait(SOON).with_context(|| format!("{command:?}"))?;
        let took = began.elapsed();
        ensure!(took < INTERRUPTED, "{command:?} took {took:?}: {}", sfgi.stderr.text());
        ensure!(!sfgi.stderr.text().contains("panicked"), "{command:?}: {}", sfgi.stderr.text());
    }
    Ok(())
}

fn what_needs_more_memory_than_it_may_have_says_so() -> Result<()> {
    let target = fixture::start("idle", &Go::newest(), Variant::Plain, &["-n", "20000"])?;
    let pid = target.pid().to_string();
    for command in ["dump", "leaks"] {
        let mut run = sfgi::command(&[command, "-p", &pid, "--memory", "3MiB"])?;
        let mut sfgi = Process::spawn(&mut run)?;
        let status = sfgi.wait(SOON)?;
        let said = sfgi.stderr.text();
        // What fits is shown, and it is said that it is not all; else the command fails.
        ensure!(said.contains("--memory"), "{command}: {status}: {said}");
        ensure!(!said.contains("panicked"), "{command}: {said}");
    }
    Ok(())
}

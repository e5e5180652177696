//! A Go program that is stopped for a consistent view of its memory, and goes on as if nothing had been.

use std::{
    collections::BTreeSet,
    env, fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    toolchain::Go,
};
use rustix::process::Signal;
use sfgi_core::{
    memory::{Frozen, Live, Memory},
    process::Process as Target,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(every_thread_stands_still),
        live(threads_that_are_being_made_are_stopped_too),
        live(signals_are_not_lost),
        live(a_stopper_that_is_killed_lets_it_go_on),
    ]
}

const SOON: Duration = Duration::from_secs(120);
/// Moments in one of which registers must hold what the program works with.
const MOMENTS: usize = 10;

/// The oldest release whose threads this machine's tests have to stop, and the newest.
fn releases() -> Vec<Go> {
    Go::all().into_iter().filter(|go| [19, 21, 27].contains(&go.minor)).collect()
}

fn open(target: &Process) -> Result<Target> {
    Ok(Target::open(i32::try_from(target.pid())?)?)
}

/// The states of a process's threads, by their ids.
fn states(pid: u32) -> Result<Vec<(u32, char)>> {
    let mut states = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        // A thread may end meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim().chars().next());
        states.push((entry.file_name().to_string_lossy().parse()?, state.context("no state")?));
    }
    Ok(states)
}

fn is_stopped(state: char) -> bool {
    matches!(state, 't' | 'T')
}

/// The addresses that the fixture says of these.
fn addresses(target: &Process, what: &str) -> Result<Vec<u64>> {
    let lines = target.stdout.lines();
    let addresses = lines.iter().filter_map(|line| line.text.strip_prefix(what)?.trim().strip_prefix("0x"));
    addresses.map(|hex| Ok(u64::from_str_radix(hex, 16)?)).collect()
}

fn counter(target: &Process, process: &Target) -> Result<u64> {
    let addr = *addresses(target, "counter")?.first().context("no counter")?;
    Ok(Live::of(process).word(addr)?)
}

/// Waits until the program computes again.
fn goes_on(target: &Process, process: &Target) -> Result<()> {
    let (begin, before) = (Instant::now(), counter(target, process)?);
    while counter(target, process)? == before {
        ensure!(begin.elapsed() < SOON, "the program does not go on");
    }
    Ok(())
}

/// How many of the words that the computing goroutines work with are in a register. They are nowhere else, unless the
/// goroutine was just preempted: then the register is on its stack.
fn held_by_threads(target: &Process, frozen: &Frozen) -> Result<usize> {
    let mut held = 0;
    for channel in addresses(target, "channel")? {
        let holds = frozen.registers().iter().filter(|registers| registers.words.contains(&channel));
        let holds = holds.count();
        ensure!(holds <= 1, "{holds} threads hold 0x{channel:x}");
        held += holds;
    }
    Ok(held)
}

fn every_thread_stands_still() -> Result<()> {
    for go in releases() {
        let mut target = fixture::start("spin", &go, Variant::Plain, &["-n", "3"])?;
        let process = open(&target)?;
        goes_on(&target, &process)?;
        let frozen = Frozen::stop(&process)?;
        let before = counter(&target, &process)?;
        sleep(Duration::from_millis(50));
        assert_eq!(counter(&target, &process)?, before, "go{}: it counts while it is stopped", go.version);
        let states = states(target.pid())?;
        assert!(states.iter().all(|(_, state)| *state == 't'), "go{}: {states:?}", go.version);
        let stopped: BTreeSet<u32> = states.into_iter().map(|(tid, _)| tid).collect();
        let told: BTreeSet<u32> = frozen.registers().iter().map(|registers| registers.tid).collect();
        assert_eq!(stopped, told, "go{}", go.version);
        let mut held = held_by_threads(&target, &frozen)?;
        assert!(frozen.stopped_for() > Duration::from_millis(50));
        drop(frozen);
        goes_on(&target, &process)?;
        // Luck: all may have just been preempted. That is so in few moments, and seldom in several.
        for _ in 1..MOMENTS {
            if held > 0 {
                break;
            }
            held = held_by_threads(&target, &Frozen::stop(&process)?)?;
            goes_on(&target, &process)?;
        }
        assert!(held > 0, "go{}: no register of any thread is told", go.version);
        // It answers, and has lost none of its threads.
        target.command("gc", SOON)?;
    }
    Ok(())
}

fn threads_that_are_being_made_are_stopped_too() -> Result<()> {
    let mut target = fixture::start("spin", &Go::newest(), Variant::Plain, &["-n", "1", "-churn"])?;
    let process = open(&target)?;
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        let frozen = Frozen::stop(&process)?;
        let before = states(target.pid())?;
        assert!(before.iter().all(|(_, state)| matches!(state, 't' | 'Z' | 'X')), "{before:?}");
        sleep(Duration::from_millis(1));
        assert_eq!(states(target.pid())?, before, "threads came or went while it was stopped");
        seen.extend(before.into_iter().map(|(tid, _)| tid));
        drop(frozen);
        goes_on(&target, &process)?;
    }
    assert!(seen.len() > 100, "only {} threads in all: nothing came or went", seen.len());
    target.command("gc", SOON).map(drop)
}

fn signals_are_not_lost() -> Result<()> {
    let target = fixture::start("spin", &Go::newest(), Variant::Plain, &["-n", "2"])?;
    let process = open(&target)?;
    for round in 1..=300 {
        // The one may arrive before a thread is stopped, while, or after; the other arrives while all are.
        target.signal(Signal::USR1)?;
        let frozen = Frozen::stop(&process)?;
        target.signal(Signal::USR2)?;
        drop(frozen);
        for name in ["signal user defined signal 1", "signal user defined signal 2"] {
            let begin = Instant::now();
            while target.stdout.lines().iter().filter(|line| line.text == name).count() < round {
                ensure!(begin.elapsed() < SOON, "round {round}: {name} did not come");
                sleep(Duration::from_micros(100));
            }
        }
    }
    Ok(())
}

fn a_stopper_that_is_killed_lets_it_go_on() -> Result<()> {
    let target = fixture::start("spin", &Go::newest(), Variant::Plain, &["-n", "2"])?;
    let process = open(&target)?;
    let mut stopper = Command::new(env::current_exe()?);
    let mut stopper = Process::spawn(stopper.arg(format!("--freeze={}", target.pid())))?;
    stopper.stdout.wait_for(SOON, |line| line.ends_with("holds it"))?;
    let states = states(target.pid())?;
    assert!(states.iter().all(|(_, state)| is_stopped(*state)), "{states:?}");
    stopper.signal(Signal::KILL)?;
    stopper.wait(SOON)?;
    goes_on(&target, &process)?;
    let states = self::states(target.pid())?;
    assert!(!states.iter().any(|(_, state)| is_stopped(*state)), "{states:?}");
    Ok(())
}

/// What the process does that [`a_stopper_that_is_killed_lets_it_go_on`] kills.
pub(crate) fn freeze_until_killed(pid: i32) -> Result<()> {
    let frozen = Frozen::stop(&Target::open(pid)?)?;
    println!("holds it");
    sleep(6 * SOON);
    drop(frozen);
    Ok(())
}

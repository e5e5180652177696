//! The registers of a Go program that runs, seen without stopping it.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    process::Process,
    toolchain::Go,
};
use sfgi_core::{binary::GoBinary, memory::Sampler, process::Process as Target};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(what_is_only_in_a_register_is_seen),
        live(threads_that_come_later_are_seen_and_ended_ones_are_let_go).alone(),
        live(a_ring_that_is_full_says_what_was_lost),
        live(a_program_that_ends_leaves_nothing_to_be_seen),
    ]
}

const SOON: Duration = Duration::from_secs(120);

fn open(target: &Process) -> Result<Target> {
    Ok(Target::open(i32::try_from(target.pid())?)?)
}

/// The channels that the fixture says to have in a register each.
fn channels(target: &Process) -> BTreeSet<u64> {
    let lines = target.stdout.lines();
    let hex = lines.iter().filter_map(|line| line.text.strip_prefix("channel 0x"));
    hex.filter_map(|hex| u64::from_str_radix(hex, 16).ok()).collect()
}

/// Waits until it has used that much CPU time.
fn compute_for(process: &Target, time: Duration) -> Result<()> {
    let (begin, until) = (Instant::now(), process.cpu_time()? + time);
    while process.cpu_time()? < until {
        ensure!(begin.elapsed() < SOON, "the program does not compute");
        sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn what_is_only_in_a_register_is_seen() -> Result<()> {
    for go in Go::all().into_iter().filter(|go| [19, 21, 27].contains(&go.minor)) {
        let target = fixture::start("spin", &go, Variant::Plain, &["-n", "3"])?;
        let (process, channels) = (open(&target)?, channels(&target));
        ensure!(channels.len() == 3);
        let mut sampler = Sampler::start(&process)?;
        let binary = GoBinary::read(process.exe()?)?;
        let bias = process.load_bias(binary.image().entry())?;
        let mut holders: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
        let begin = Instant::now();
        while holders.len() < channels.len() && begin.elapsed() < SOON {
            sleep(Duration::from_millis(20));
            for sample in sampler.take() {
                let function = binary
                    .symbolize(sample.pc.wrapping_sub(bias))
                    .first()
                    .map(|frame| frame.func.to_string());
                // It may be found in the very beginning, or where it was interrupted to be moved to another
                // thread.
                let known = ["main.countUp", "main.compute"];
                if function.is_some_and(|function| known.contains(&function.as_str())) {
                    for channel in channels.iter().filter(|channel| sample.words.contains(channel)) {
                        holders.entry(*channel).or_default().insert(sample.tid);
                    }
                }
            }
        }
        assert_eq!(
            holders.keys().copied().collect::<BTreeSet<_>>(),
            channels,
            "go{}: not all were seen",
            go.version
        );
        assert_eq!(sampler.unwatched(), 0);
    }
    Ok(())
}

fn threads_that_come_later_are_seen_and_ended_ones_are_let_go() -> Result<()> {
    let target = fixture::start("spin", &Go::newest(), Variant::Plain, &["-n", "1", "-churn"])?;
    let process = open(&target)?;
    let mut sampler = Sampler::start(&process)?;
    let (mut seen, begin) = (BTreeSet::new(), Instant::now());
    let descriptors = || Ok::<_, std::io::Error>(std::fs::read_dir("/proc/self/fd")?.count());
    let first = descriptors()?;
    let mut most = first;
    // Two seconds of it, and as many threads as it takes; how many that are a second is the machine's affair.
    while begin.elapsed() < Duration::from_secs(2) || seen.len() <= 5 && begin.elapsed() < SOON {
        seen.extend(sampler.take().into_iter().map(|sample| sample.tid));
        most = most.max(descriptors()?);
    }
    assert!(seen.len() > 5, "only {} threads were seen", seen.len());
    assert!(most < first + 100, "{most} descriptors, {first} at first");
    Ok(())
}

fn a_ring_that_is_full_says_what_was_lost() -> Result<()> {
    let target = fixture::start("spin", &Go::newest(), Variant::Plain, &["-n", "1"])?;
    let process = open(&target)?;
    let mut sampler = Sampler::start(&process)?;
    compute_for(&process, Duration::from_secs(3))?;
    let mut of_thread: BTreeMap<u32, usize> = BTreeMap::new();
    for sample in sampler.take() {
        *of_thread.entry(sample.tid).or_default() += 1;
    }
    let most = of_thread.values().max();
    assert!(most.is_some_and(|most| (300..500).contains(most)), "samples of each thread: {of_thread:?}");
    // It is said with the next sample of that thread.
    let begin = Instant::now();
    while sampler.lost() == 0 {
        ensure!(begin.elapsed() < SOON, "nothing is said to be lost");
        sleep(Duration::from_millis(20));
        sampler.take();
    }
    Ok(())
}

fn a_program_that_ends_leaves_nothing_to_be_seen() -> Result<()> {
    let target = fixture::start("spin", &Go::newest(), Variant::Plain, &[])?;
    let process = open(&target)?;
    let mut sampler = Sampler::start(&process)?;
    // Its threads may begin only now; one that began after the last time would never be watched.
    let begin = Instant::now();
    while sampler.take().is_empty() {
        ensure!(begin.elapsed() < SOON, "nothing is sampled");
        sleep(Duration::from_millis(1));
    }
    compute_for(&process, Duration::from_millis(50))?;
    drop(target);
    assert!(!sampler.take().is_empty(), "what was sampled before it ended");
    assert_eq!(sampler.take(), []);
    assert!(matches!(Sampler::start(&process), Err(sfgi_core::memory::SampleError::Gone(_))));
    Ok(())
}

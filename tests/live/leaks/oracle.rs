//! What `sfgi leaks` proves, held against what is so: against the runtime's own leak profile (Go 1.27), taken
//! right afterwards in the same process, and on every release against random programs that know which of
//! their goroutines can be woken, and wake them.

use std::{collections::BTreeSet, fmt, sync::Mutex, time::Instant};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    leaks, machine,
    process::Process,
    toolchain::Go,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(random_programs), live(the_classes_by_the_runtimes_own_profile)]
}

/// How many random programs stand in one process.
const TOGETHER: u32 = 10;

/// Processes of random programs on the release that has a leak profile, and on each of the others.
const PROCESSES: (u32, u32) = (30, 5);

const RELEASES: [u32; 6] = [19, 21, 24, 25, 26, 27];

/// How many run at a time.
const WIDTH: usize = 4;

/// How often a process is looked at in which some were not found. Luck: of a goroutine that moves all words of its
/// stack count, and what is left there by chance may lead to a leaked one. The next time others lie there.
const LOOKS: usize = 8;

/// What of the leaked ones must be found, in hundredths: of all together, and of each release. One word that was left on a stack
/// by chance can hide all goroutines of a program, fifteen of the few hundred that a release has.
const RECALL: usize = 99;
const RECALL_OF_RELEASE: usize = 94;

/// A process of random programs.
struct Case<'a> {
    go: &'a Go,
    variant: Variant,
    seed: u32,
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "random -seed {} -count {TOGETHER} go{} {}", self.seed, self.go.version, self.variant)
    }
}

/// How many are leaked, and how many of them were found, by release.
#[derive(Default)]
struct Tally(Mutex<std::collections::BTreeMap<String, (usize, usize)>>);

impl Tally {
    fn add(&self, what: String, leaked: &BTreeSet<u64>, proven: &BTreeSet<u64>) {
        let mut tally = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let counts = tally.entry(what).or_default();
        counts.0 += leaked.len();
        counts.1 += leaked.intersection(proven).count();
    }

    /// Says what was found, and fails where it is too little.
    fn judge(&self) -> Result<()> {
        let tally = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (what, (leaked, found)) in tally.iter() {
            machine::report(&format!("{what}: {found} of {leaked} leaked goroutines proven"));
        }
        for (what, (leaked, found)) in tally.iter() {
            ensure!(*leaked > 0, "{what}: nothing leaked");
            ensure!(found * 100 >= leaked * RECALL_OF_RELEASE, "{what}: only {found} of {leaked}");
        }
        let (leaked, found) = tally.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        ensure!(found * 100 >= leaked * RECALL, "all together: only {found} of {leaked}");
        Ok(())
    }
}

/// Some of these goroutines: a line each, with the functions of the program on its stack.
fn described(target: &mut Process, goids: &BTreeSet<u64>) -> Result<String> {
    let all = live_tests::crowd::own_stacks(target)?;
    let line = |goid: &u64| {
        let goroutine = all.get(goid)?;
        let mut funcs: Vec<_> = goroutine.frames.iter().map(|frame| frame.func.as_str()).collect();
        funcs.retain(|func| func.starts_with("main."));
        funcs.dedup();
        Some(format!("  goroutine {goid} [{}] {}\n", goroutine.status, funcs.join(" < ")))
    };
    Ok(goids.iter().filter_map(line).take(5).collect())
}

/// None may be proven that is not leaked.
fn none_false(
    target: &mut Process,
    leaked: &BTreeSet<u64>,
    proven: &BTreeSet<u64>,
    whose: &str,
) -> Result<()> {
    let wrong: BTreeSet<u64> = proven.difference(leaked).copied().collect();
    if wrong.is_empty() {
        return Ok(());
    }
    anyhow::bail!("false by {whose}: {wrong:?}\n{}", described(target, &wrong)?)
}

/// Scans a process of random programs, asks it what is true, and sees what happens when it wakes them.
fn check_random(case: &Case, tally: &Tally) -> Result<()> {
    let (seed, count) = (case.seed.to_string(), TOGETHER.to_string());
    let args = ["-seed", &seed, "-count", &count];
    let mut target = fixture::start("random", case.go, case.variant, &args)?;
    let dead = leaks::goids(&mut target, "truth", "dead")?.context("it knows")?;
    let mut proven = BTreeSet::new();
    for look in 0..LOOKS {
        if look > 0 {
            // It must run for others to lie there: on a busy machine it may not have run since the last look.
            leaks::goids(&mut target, "truth", "dead")?;
        }
        let report = leaks::json(target.pid(), &[])?;
        ensure!(report.doubt.is_none(), "in doubt: {:?}", report.doubt);
        proven.extend(report.proven());
        if dead.is_subset(&proven) {
            break;
        }
    }
    none_false(&mut target, &dead, &proven, "construction")?;
    let mut own = leaks::goids(&mut target, "leaked", "leaked")?;
    ensure!(own.is_some() == (case.go.minor >= 27), "the runtime says {own:?}");
    for _ in 1..LOOKS {
        let Some(own) = own.as_mut().filter(|own| **own != dead) else { break };
        // The same luck: the runtime's collector takes words of a stack for pointers, too.
        ensure!(own.is_subset(&dead), "the runtime says {own:?}, the generator {dead:?}");
        *own = leaks::goids(&mut target, "leaked", "leaked")?.context("no leak profile")?;
    }
    if let Some(own) = own {
        // Otherwise the generator does not know its own programs.
        ensure!(own == dead, "the runtime says {own:?}, the generator {dead:?}");
        none_false(&mut target, &own, &proven, "the runtime's own profile")?;
    }
    let missed: BTreeSet<u64> = dead.difference(&proven).copied().collect();
    if !missed.is_empty() {
        machine::report(&format!(
            "{case}: {} not proven, such as\n{}",
            missed.len(),
            described(&mut target, &missed)?
        ));
    }
    let ended = leaks::goids(&mut target, "wake", "ended")?.context("it knows")?;
    let woken: Vec<_> = ended.intersection(&proven).collect();
    ensure!(woken.is_empty(), "proven, and yet woken: {woken:?}");
    tally.add(format!("go{}", case.go.version), &dead, &proven);
    Ok(())
}

fn random_programs() -> Result<()> {
    let releases: Vec<Go> = Go::all().into_iter().filter(|go| RELEASES.contains(&go.minor)).collect();
    let mut cases = Vec::new();
    for go in &releases {
        let processes = if go.minor >= 27 { PROCESSES.0 } else { PROCESSES.1 };
        for process in 0..processes {
            // Every other build is as such programs are shipped.
            let variant = match process % 6 {
                1 => Variant::Stripped,
                3 => Variant::Pie,
                5 => Variant::PieStripped,
                _ => Variant::Plain,
            };
            fixture::build("random", go, variant)?;
            cases.push(Case { go, variant, seed: 1 + process * TOGETHER + go.minor * 1000 });
        }
    }
    let (tally, started) = (Tally::default(), Instant::now());
    let failures = leaks::side_by_side(WIDTH, &cases, |case| check_random(case, &tally));
    for failure in &failures {
        machine::report(failure);
    }
    machine::report(&format!(
        "{} random programs in {:.0?}",
        cases.len() as u32 * TOGETHER,
        started.elapsed()
    ));
    ensure!(failures.is_empty(), "{} of {} processes failed, see above", failures.len(), cases.len());
    tally.judge()
}

/// Ways of the fixture `leaks` whose goroutines nothing refers to.
const UNREACHABLE: [&str; 19] = [
    "nil-channel",
    "select-no-cases",
    "send-without-receiver",
    "send-without-receiver-return",
    "send-without-receiver-timeout",
    "receive-without-sender",
    "range-never-closed",
    "range-of-three-words",
    "timer-stopped",
    "select-dead",
    "waitgroup-never-done",
    "mutex-never-unlocked",
    "mutex-never-unlocked-rw",
    "lock-order-cycle",
    "lock-channel-mixed",
    "cond-never-signalled",
    "context-never-cancelled",
    "context-never-cancelled-chain",
    "connection-never-closed-db",
];

/// Ways that the runtime's own profile does not see.
const REACHABLE: [&str; 7] = [
    "context-never-cancelled-server",
    "timer-never-stopped",
    "connection-never-closed",
    "connection-never-closed-body",
    "connection-never-closed-rows",
    "sdk-resident",
    "stuck-syscall",
];

fn the_classes_by_the_runtimes_own_profile() -> Result<()> {
    let go = Go::newest();
    let tally = Tally::default();
    fixture::build("leaks", &go, Variant::Plain)?;
    let ways: Vec<_> = UNREACHABLE.iter().chain(&REACHABLE).collect();
    let failures = leaks::side_by_side(WIDTH, &ways, |way| {
        let mut target = fixture::start("leaks", &go, Variant::Plain, &["-class", way, "-rounds", "40"])?;
        let proven = leaks::json(target.pid(), &[])?.proven();
        let own = leaks::goids(&mut target, "leaked", "leaked")?.context("no leak profile")?;
        none_false(&mut target, &own, &proven, "the runtime's own profile")?;
        ensure!(own.is_empty() == REACHABLE.contains(way), "the runtime calls {} leaked", own.len());
        tally.add("classes".into(), &own, &proven);
        Ok(())
    });
    for failure in &failures {
        machine::report(failure);
    }
    ensure!(failures.is_empty(), "{} of {} classes failed, see above", failures.len(), ways.len());
    tally.judge()
}

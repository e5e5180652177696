//! `sfgi export --to go-trace`: Go's own readers take the trace of an unmodified program, old and new ones, and it says of
//! each goroutine what `sfgi report` says of the same recording.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::{self, Variant},
    gotrace, machine,
    process::Process,
    sfgi,
    state::{
        State::{self, Dead, Preempted, Runnable, Running, Syscall, Unknown, Waiting},
        Transition,
    },
    toolchain::Go,
};
use tempfile::TempDir;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(unbuffered_ping_pong),
        live(worker_pool),
        live(mutex_contention),
        live(select_with_timers),
        live(loopback_tcp_echo),
        live(file_and_blocking_syscalls),
        live(cgo_calls_and_callbacks),
        live(coroutines),
        live(allocation_and_collection),
        live(panics_and_goexit),
        live(three_thousand_short_goroutines),
        live(busy_goroutines_preempted),
        live(every_other_fixture),
        live(all_readers_and_their_profiles),
    ]
}

const WORK: Duration = Duration::from_secs(120);

/// How far apart the two times of a transition may be: no two of a Go trace have the same time, so those that have
/// are pushed apart.
const APART_NS: u64 = 1000;

/// How often a run is repeated in which events were lost, as can happen on a crowded machine.
const RUNS: usize = 3;

/// Fixtures whose paths through the runtime changed from release to release.
const TELLING: [&str; 3] = ["syscalls", "cgo", "preempt"];

/// A recording of a fixture, and what was exported from it.
struct Run {
    dir: TempDir,
}

impl Run {
    fn new(name: &str, units: u32, go: &Go) -> Result<Run> {
        let run = Run { dir: tempfile::tempdir()? };
        let binary = fixture::build(name, go, Variant::Plain)?;
        let mut command = std::process::Command::new(binary);
        let mut target = fixture::start_command(command.args(["-n", &units.to_string()]))?;
        let (pid, recording) = (target.pid().to_string(), run.file("run.sfgi")?);
        let mut sfgi = sfgi::attached(&mut sfgi::command(&["record", "-p", &pid, "-o", &recording])?)?;
        target.say()?;
        target.wait_code(WORK, 0)?;
        sfgi.wait_code(sfgi::END, 0)?;
        run.export()
    }

    /// A fixture from its first goroutine on, for a second.
    fn launched(name: &str, args: &[&str], go: &Go) -> Result<Run> {
        let run = Run { dir: tempfile::tempdir()? };
        let binary = fixture::build(name, go, Variant::Plain)?;
        let mut record = sfgi::command(&["record", "-d", "1", "-o", &run.file("run.sfgi")?, "--"])?;
        let mut record = Process::spawn(record.arg(binary).args(args))?;
        record.wait_code(sfgi::ATTACH, 0)?;
        run.export()
    }

    fn export(self) -> Result<Run> {
        let (recording, exported) = (self.file("run.sfgi")?, self.file("go.trace")?);
        let mut export = sfgi::command(&["export", &recording, "--to", "go-trace", "-o", &exported])?;
        Process::spawn(&mut export)?.wait_code(WORK, 0)?;
        Ok(self)
    }

    fn file(&self, name: &str) -> Result<String> {
        let path: PathBuf = self.dir.path().join(name);
        Ok(path.to_str().context("the temporary directory has a UTF-8 name")?.to_owned())
    }

    /// What `sfgi report` says; how many events were lost.
    fn reported(&self) -> Result<(BTreeMap<u64, Vec<Transition>>, u64)> {
        let output = sfgi::command(&["report", &self.file("run.sfgi")?, "--format", "json"])?.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let events = sfgi::events(std::str::from_utf8(&output.stdout)?)?;
        sfgi::none_illegal(&events)?;
        let mut goroutines: BTreeMap<u64, Vec<Transition>> = BTreeMap::new();
        for event in &events {
            if let (Some(goid), Some(transition)) = (event.goid, event.transition()?) {
                goroutines.entry(goid).or_default().push(transition);
            }
        }
        Ok((goroutines, events.iter().filter_map(|event| event.count).sum()))
    }
}

/// The states a Go trace has.
fn in_trace(state: State) -> State {
    if state == Preempted { Waiting } else { state }
}

/// What Go's tracer calls a wait for this reason: the second argument of `gopark`'s callers.
fn in_trace_words(reason: &str) -> &str {
    match reason {
        "IO wait" => "network",
        "sync.Cond.Wait" => "sync.(*Cond).Wait",
        _ if reason.starts_with("sync.") || reason == "semacquire" => "sync",
        "GC assist wait" => "GC mark assist wait for work",
        "GC sweep wait" => "GC background sweeper wait",
        "wait for GC cycle" => "wait until GC ends",
        "select (no cases)" | "chan receive (nil chan)" | "chan send (nil chan)" | "panicwait" => "forever",
        "finalizer wait"
        | "cleanup wait"
        | "force gc (idle)"
        | "GC scavenge wait"
        | "GC worker (idle)"
        | "GOMAXPROCS updater (idle)" => "system goroutine wait",
        other => other,
    }
}

/// Compares what was reported of a goroutine with what its exported trace says; says how many transitions.
fn compare(reported: &[Transition], traced: &[Transition]) -> Result<usize, String> {
    let mut traced = traced.iter();
    let mut next = || traced.next().ok_or_else(|| "the trace ends".to_owned());
    let mut compared = 0;
    for told in reported {
        let (from, to) = (in_trace(told.from), in_trace(told.to));
        // The trace begins with the goroutine in the state after; one that is made parked is said to be there.
        if from == to || from == Unknown || (from, to) == (Dead, Waiting) {
            continue;
        }
        let mut got = next()?;
        // A coroutine that gets the thread, and a goroutine that comes back from C without a P, go through the run
        // queue for Go's tracer, too.
        let through = matches!((from, to), (Waiting | Syscall, Running));
        if through && (got.from, got.to) == (from, Runnable) {
            got = next()?;
        } else if got.from != from {
            return Err(format!("{told} is {got} in the trace"));
        }
        let apart = got.ts.abs_diff(told.ts);
        // The end of a coroutine is moved to the switch.
        if got.to != to || (apart > APART_NS && to != Dead) {
            return Err(format!("{told} is {got} in the trace"));
        }
        let reason = if told.to == Preempted { "preempted" } else { in_trace_words(&told.reason) };
        if to == Waiting && got.reason != reason {
            return Err(format!("{told} has the reason {:?} in the trace", got.reason));
        }
        compared += 1;
    }
    match traced.next() {
        Some(more) => Err(format!("only the trace has {more}")),
        None => Ok(compared),
    }
}

/// The same of all goroutines, read by each of the readers.
fn compare_all(run: &Run, readers: &[Go], reported: &BTreeMap<u64, Vec<Transition>>) -> Result<usize> {
    let mut all = 0;
    for reader in readers {
        let traced = gotrace::read_with(reader, run.file("go.trace")?.as_ref())
            .with_context(|| format!("the reader of go{}", reader.version))?;
        all = 0;
        for (goid, transitions) in reported {
            let there = traced.goroutines.get(goid).map(Vec::as_slice).unwrap_or_default();
            all += compare(transitions, there)
                .map_err(|what| anyhow::anyhow!("goroutine {goid}, read by go{}: {what}", reader.version))?;
        }
        let unknown =
            traced.goroutines.iter().find(|(goid, list)| !reported.contains_key(goid) && !list.is_empty());
        ensure!(unknown.is_none(), "only the trace knows {unknown:?}");
    }
    ensure!(all > 0, "nothing was compared");
    Ok(all)
}

/// Reads what was exported from a run with every reader and compares it; `None`: events were lost.
fn attempt(run: &Run, name: &str, go: &Go, readers: &[Go]) -> Result<Option<usize>> {
    let (reported, lost) = run.reported()?;
    if lost == 0 {
        return compare_all(run, readers, &reported).map(Some);
    }
    // What was lost is made up for; readers must take that, too.
    for reader in readers {
        gotrace::read_with(reader, run.file("go.trace")?.as_ref())?;
    }
    machine::report(&format!("{name} go{}: {lost} events lost", go.version));
    Ok(None)
}

/// Go's readers of the trace of another program: that of the format's first years, and a newer one.
fn readers() -> Result<Vec<Go>> {
    let readers: Vec<Go> = Go::all().into_iter().filter(|go| go.minor == 23 || go.minor == 25).collect();
    ensure!(!readers.is_empty(), "neither Go 1.23 nor 1.25 is there: run `cargo xtask setup`");
    Ok(readers)
}

fn agrees(name: &str, units: u32) -> Result<()> {
    let (all, readers) = (Go::all(), readers()?);
    let mut builders: Vec<&Go> = all.iter().filter(|go| go.minor == 25).collect();
    if TELLING.contains(&name) {
        builders.extend(all.first().into_iter().chain(all.last()));
    }
    for go in builders {
        let attempt = || attempt(&Run::new(name, units, go)?, name, go, &readers);
        let tried = (0..RUNS).find_map(|_| attempt().transpose());
        let of = || format!("{name} go{}", go.version);
        let compared =
            tried.with_context(|| format!("{}: events were lost every time", of()))?.with_context(of)?;
        machine::report(&format!("{}: {compared} transitions agree", of()));
    }
    Ok(())
}

fn unbuffered_ping_pong() -> Result<()> {
    agrees("pingpong", 3)
}

fn worker_pool() -> Result<()> {
    agrees("workers", 5)
}

fn mutex_contention() -> Result<()> {
    agrees("mutex", 5)
}

fn select_with_timers() -> Result<()> {
    agrees("selects", 10)
}

fn loopback_tcp_echo() -> Result<()> {
    agrees("tcpecho", 3)
}

fn file_and_blocking_syscalls() -> Result<()> {
    agrees("syscalls", 5)
}

fn cgo_calls_and_callbacks() -> Result<()> {
    agrees("cgo", 10)
}

fn coroutines() -> Result<()> {
    agrees("coro", 10)
}

fn allocation_and_collection() -> Result<()> {
    agrees("gcheavy", 2)
}

fn panics_and_goexit() -> Result<()> {
    agrees("panics", 20)
}

fn three_thousand_short_goroutines() -> Result<()> {
    agrees("short", 3000)
}

fn busy_goroutines_preempted() -> Result<()> {
    agrees("preempt", 1)
}

/// The fixtures that no test above runs, and how; `illegal` does what no reader would believe, and `carchive` is no
/// program.
const OTHERS: [(&str, &[&str]); 19] = [
    ("blocking", &["-n", "5"]),
    ("cgoleaks", &["-class", "stuck-syscall-cgo"]),
    ("cgostacks", &[]),
    ("children", &["-n", "3"]),
    ("crowd", &[]),
    ("faults", &["-n", "3"]),
    ("healthy", &[]),
    ("heap", &[]),
    ("idle", &[]),
    ("joined", &[]),
    ("labels", &[]),
    ("leaks", &["-class", "send-without-receiver", "-rounds", "10"]),
    ("parked", &["-n", "5000"]),
    ("profile", &[]),
    ("random", &["-seed", "7", "-count", "3"]),
    ("spin", &[]),
    ("stacks", &[]),
    ("timers", &[]),
    ("waits", &[]),
];

fn every_other_fixture() -> Result<()> {
    let go =
        Go::all().into_iter().find(|go| go.minor == 25).context("no Go 1.25: run `cargo xtask setup`")?;
    let readers = readers()?;
    for (name, args) in OTHERS {
        let run = Run::launched(name, args, &go).with_context(|| name.to_owned())?;
        if let Some(compared) = attempt(&run, name, &go, &readers).with_context(|| name.to_owned())? {
            machine::report(&format!("{name}: {compared} transitions agree"));
        }
    }
    Ok(())
}

/// Every release's reader takes it, and the profile of what waits names the place.
fn all_readers_and_their_profiles() -> Result<()> {
    let run = Run::new("pingpong", 1, &Go::newest())?;
    let file = run.file("go.trace")?;
    for reader in Go::all().iter().filter(|go| go.minor >= 22) {
        let traced = gotrace::read_with(reader, file.as_ref())?;
        ensure!(!traced.goroutines.is_empty(), "go{} reads nothing", reader.version);
    }
    let go = Go::newest();
    let profile = go.command().args(["tool", "trace", "-pprof=sync", &file]).output()?;
    ensure!(profile.status.success(), "{}", String::from_utf8_lossy(&profile.stderr));
    let profile_file = run.file("sync.pb.gz")?;
    std::fs::write(&profile_file, profile.stdout)?;
    let top = go.command().args(["tool", "pprof", "-top", &profile_file]).output()?;
    let top = String::from_utf8_lossy(&top.stdout).into_owned();
    ensure!(top.contains("main.pong"), "no main.pong among those that wait:\n{top}");
    Ok(())
}

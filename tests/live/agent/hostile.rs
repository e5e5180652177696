//! Hostile and very large programs beside an innocent one: the agent keeps its memory, and the innocent program is read at its
//! interval. And what each process of the agent may do, and what is left when one of them is killed.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent::{Agent, SOON, of},
    fixture::{Own, Variant},
    machine,
    process::Process,
    toolchain::Go,
    tree,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(programs_that_do_not_answer_hold_up_no_other).alone(),
        live(a_million_goroutines_fit).alone(),
        live(each_process_has_its_own_rights_only),
        live(whatever_is_killed_nothing_is_left_and_the_rest_goes_on),
    ]
}

/// All processes of the agent together: the default of `--memory`.
const MOST_BYTES: u64 = 256 << 20;

/// Programs whose memory nobody can read.
const HANGING: usize = 20;

/// How often the innocent program is scanned in [`WATCHED`] at least: its interval is a second.
const SCANS: u64 = 12;
const WATCHED: Duration = Duration::from_secs(15);

fn exactly(owns: &[&Own]) -> Vec<String> {
    owns.iter().flat_map(|own| ["--include".to_owned(), own.include()]).collect()
}

fn watching(owns: &[&Own], timeout: &str, args: &[&str]) -> Result<(tempfile::TempDir, Agent)> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("sfgi.toml");
    fs::write(
        &config,
        format!("scan = {{ interval = \"1s\", timeout = \"{timeout}\" }}\nbudget.node = \"50%\"\n"),
    )?;
    let include = exactly(owns);
    let mut all = vec!["--config", config.to_str().context("path")?];
    all.extend(include.iter().map(String::as_str));
    all.extend(args);
    let agent = Agent::start(&all)?;
    Ok((directory, agent))
}

/// Scans of a process so far.
fn scans(agent: &Agent, pid: u32) -> Result<u64> {
    let process = agent.wait_for(pid, |process| process["scans"].is_u64())?;
    process["scans"].as_u64().context("scans")
}

fn programs_that_do_not_answer_hold_up_no_other() -> Result<()> {
    let (hostile, innocent) = (
        Own::new("withheld", &Go::newest(), Variant::Plain)?,
        Own::new("idle", &Go::newest(), Variant::Plain)?,
    );
    let victim = innocent.start(&["-n", "100"])?;
    let (_config, agent) = watching(&[&hostile, &innocent], "2s", &[])?;
    agent.wait_for(victim.pid(), |process| process["scan"].is_object())?;
    let all = (0..HANGING).map(|_| hostile.start(&[])).collect::<Result<Vec<Process>>>()?;
    let first = scans(&agent, victim.pid())?;
    thread::sleep(WATCHED);
    let made = scans(&agent, victim.pid())? - first;
    machine::report(&format!("beside {HANGING} programs that do not answer: {made} scans in {WATCHED:?}"));
    ensure!(made >= SCANS, "{made} scans beside programs that do not answer");
    // It says of those what is wrong, and of itself how it is.
    let told = |picture: &Value| {
        all.iter().any(|process| {
            of(picture, process.pid()).is_some_and(|told| {
                told["error"].as_str().is_some_and(|error| error.contains("does not answer"))
            })
        })
    };
    let picture = agent.wait(told)?;
    ensure!(picture["node"]["workers_hung"].as_u64() > Some(0), "{}", picture["node"]);
    ensure!(agent.ask("GET", "/readyz")?.status == 200);
    let peak = tree::peak_bytes(agent.process.pid())?;
    machine::report(&format!(
        "{HANGING} programs that do not answer: {} MiB at most, all processes",
        peak >> 20
    ));
    ensure!(peak < MOST_BYTES, "{} MiB", peak >> 20);
    // A request for one of them is answered, too.
    let began = Instant::now();
    let asked = agent.ask("GET", &format!("/sfgi/goroutines?pid={}", all[0].pid()))?;
    ensure!(
        asked.status == 502 && asked.text().contains("does not answer"),
        "{} {}",
        asked.status,
        asked.text()
    );
    ensure!(began.elapsed() < Duration::from_secs(20));
    Ok(())
}

/// Goroutines of a program that does not fit.
const MILLION: &str = "1000000";

fn a_million_goroutines_fit() -> Result<()> {
    let (large, innocent) =
        (Own::new("idle", &Go::newest(), Variant::Plain)?, Own::new("idle", &Go::newest(), Variant::Plain)?);
    let giant = large.start(&["-n", MILLION])?;
    let victim = innocent.start(&["-n", "100"])?;
    let (_config, agent) = watching(&[&large, &innocent], "20s", &[])?;
    let process = agent.wait_for(giant.pid(), |process| process["scan"].is_object())?;
    let scan = &process["scan"];
    let incomplete = scan["incomplete"].as_str().context("it does not say that it read a part")?;
    ensure!(incomplete.contains("1000") || incomplete.contains("1,000"), "{incomplete}");
    let first = scans(&agent, victim.pid())?;
    thread::sleep(WATCHED);
    let made = scans(&agent, victim.pid())? - first;
    ensure!(made >= SCANS, "{made} scans beside a million goroutines");
    ensure!(agent.ask("POST", &format!("/sfgi/trigger-scan?pid={}", giant.pid()))?.status < 600);
    let peak = tree::peak_bytes(agent.process.pid())?;
    machine::report(&format!(
        "a million goroutines: {incomplete}; {} MiB at most, all processes",
        peak >> 20
    ));
    ensure!(peak < MOST_BYTES, "{} MiB", peak >> 20);
    Ok(())
}

/// The processes of the agent by name; the launcher keeps that of the command.
fn parts(agent: &Agent) -> Result<BTreeMap<String, u32>> {
    let name =
        |pid: u32| Some((fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned(), pid));
    Ok(tree::of(agent.process.pid())?.into_iter().filter_map(name).collect())
}

fn status(pid: u32, field: &str) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).context("field")?;
    Ok(line.trim().to_owned())
}

// Bits of `include/uapi/linux/capability.h`.
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

fn each_process_has_its_own_rights_only() -> Result<()> {
    let own = Own::new("idle", &Go::newest(), Variant::Plain)?;
    let target = own.start(&["-n", "100"])?;
    let (_config, agent) = watching(&[&own], "20s", &["--mode", "full"])?;
    agent.wait_for(target.pid(), |process| process["mode"] == "full" && process["scan"].is_object())?;
    let parts = parts(&agent)?;
    let reads = DAC_READ_SEARCH | SYS_PTRACE;
    for (name, most) in [
        ("sfgi-server", 0),
        ("sfgi-sweeper", reads),
        ("sfgi-reader", reads | PERFMON),
        ("sfgi-prober", reads | PERFMON | BPF | SYS_ADMIN),
    ] {
        let pid = *parts.get(name).with_context(|| format!("no {name} in {parts:?}"))?;
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let has = u64::from_str_radix(&status(pid, set)?, 16)?;
            ensure!(has & !most == 0, "{name} has {has:#x} in {set}");
        }
        ensure!(status(pid, "CapAmb")? == "0000000000000000", "{name}");
        ensure!(status(pid, "NoNewPrivs")? == "1", "{name}");
        ensure!(status(pid, "Seccomp")? == "2", "{name} has no filter");
    }
    // The server's threads, too: each thread has capabilities of its own.
    let server = parts["sfgi-server"];
    for task in fs::read_dir(format!("/proc/{server}/task"))? {
        let text = fs::read_to_string(task?.path().join("status"))?;
        ensure!(text.contains("CapEff:\t0000000000000000") && text.contains("Seccomp:\t2"), "{text}");
    }
    Ok(())
}

fn kill(pid: u32) -> Result<()> {
    Ok(kill_process(Pid::from_raw(pid.cast_signed()).context("no PID")?, Signal::KILL)?)
}

fn gone(pids: &[u32]) -> Result<()> {
    let began = Instant::now();
    let runs = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while pids.iter().any(runs) {
        ensure!(began.elapsed() < SOON, "{pids:?} run on");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn whatever_is_killed_nothing_is_left_and_the_rest_goes_on() -> Result<()> {
    let own = Own::new("idle", &Go::newest(), Variant::Plain)?;
    let target = own.start(&["-n", "100"])?;
    for killed in ["sfgi-reader", "sfgi-sweeper", "sfgi-prober", "sfgi-server", "sfgi"] {
        let (_config, mut agent) = watching(&[&own], "20s", &["--mode", "full"])?;
        agent.wait_for(target.pid(), |process| process["mode"] == "full" && process["scan"].is_object())?;
        let objects = machine::bpf_objects_of(agent.process.pid())?;
        ensure!(!objects.is_empty(), "no probes");
        let (all, parts) = (tree::of(agent.process.pid())?, parts(&agent)?);
        let pid = *parts.get(killed).with_context(|| format!("no {killed} in {parts:?}"))?;
        kill(pid)?;
        if matches!(killed, "sfgi" | "sfgi-server") {
            gone(&all)?;
            agent.process.wait(SOON)?;
        } else {
            // It is there again, and does its work.
            gone(&[pid])?;
            let before = scans(&agent, target.pid())?;
            agent.wait_for(target.pid(), |process| {
                process["scans"].as_u64() > Some(before) && process["mode"] == "full"
            })?;
            let parts = self::parts(&agent)?;
            ensure!(parts.get(killed).is_none_or(|new| *new != pid), "{killed} in {parts:?}");
            let mut others = all;
            others.retain(|other| *other != pid);
            agent.process.signal(Signal::TERM)?;
            agent.process.wait_code(SOON, 0)?;
            gone(&others)?;
        }
        machine::nothing_left(&objects)?;
        ensure!(target.stdout.text().len() < 1 << 20);
    }
    Ok(())
}

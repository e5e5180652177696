//! What clients of `sfgi agent` can take of its memory, its time and its places; and what it says of its own health.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::net::UnixDatagram,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context as _, Result, ensure};
use live_tests::{
    agent_http::{self, AUTHORIZATION, Agent, LONGEST, TOKEN, ask},
    fixture::{Own, Variant},
    machine,
    process::Process,
    toolchain::Go,
    tree,
};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(clients_that_do_not_read_cost_no_memory).alone(),
        live(clients_in_a_loop_stop_no_scan).alone(),
        live(a_service_manager_is_told_how_it_is),
    ]
}

/// Clients that ask and do not read.
const CLIENTS: usize = 15;

/// What all processes of the agent may have had at the end: its own, one snapshot for each of the requests that may read at a time,
/// and the answers that wait (`IN_FLIGHT` in `serve/http/bound.rs`).
const MOST_BYTES: u64 = 256 << 20;

/// Goroutines of the program that they ask about, so that an answer has more than 10 MiB.
const GOROUTINES: &str = "40000";

fn watching(own: &Own, args: &[&str]) -> Result<(Process, Agent)> {
    let target = own.start(args)?;
    let agent = Agent::watching(&target, &[])?;
    Ok((target, agent))
}

fn clients_that_do_not_read_cost_no_memory() -> Result<()> {
    let own = Own::new("idle", &Go::newest(), Variant::Plain)?;
    let (target, agent) = watching(&own, &["-n", GOROUTINES])?;
    // Another program, about which nobody asks.
    let innocent = own.start(&["-n", "100"])?;
    let pid = innocent.pid();
    agent.until(&format!("/sfgi/processes?pid={pid}"), |document| document[0]["goroutines"].is_u64())?;
    let path = format!("/sfgi/goroutines?pid={}&limit=10000", target.pid());
    let one = agent.get(&path)?;
    ensure!(one.status == 200 && one.body.len() > 2 << 20, "{} {} bytes", one.status, one.body.len());
    let before = tree::peak_bytes(agent.process.pid())?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(agent.address)?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n{AUTHORIZATION}\r\n")?;
        clients.push(stream);
    }
    // Those who do read are answered meanwhile, and the programs are looked at.
    let (first, began) = (scans(&agent, pid)?, Instant::now());
    while began.elapsed() < Duration::from_secs(8) {
        ensure!(agent.get("/metrics")?.status == 200 && agent.get("/readyz")?.status == 200);
        thread::sleep(Duration::from_millis(100));
    }
    let made = scans(&agent, pid)? - first;
    ensure!(made >= SCANS, "{made} scans beside clients that do not read");
    let after = tree::peak_bytes(agent.process.pid())?;
    machine::report(&format!(
        "{CLIENTS} clients do not read answers of {} KiB: {} MiB became {} MiB; {made} scans of another program",
        one.body.len() >> 10,
        before >> 20,
        after >> 20
    ));
    ensure!(after < MOST_BYTES, "{after} bytes");
    // Who does not read is sent away, and others have its place.
    let deadline = Instant::now() + LONGEST;
    while agent.get(&path)?.status != 200 {
        ensure!(Instant::now() < deadline, "their places stay taken");
        thread::sleep(Duration::from_millis(200));
    }
    drop(clients);
    Ok(())
}

/// How often a program was scanned, by the metrics.
fn scans(agent: &Agent, pid: u32) -> Result<u64> {
    let metrics = agent.get("/metrics")?.text();
    let start = format!("sfgi_process_scans_total{{pid=\"{pid}\"");
    let line = metrics.lines().find(|line| line.starts_with(&start)).unwrap_or("0");
    Ok(line.rsplit(' ').next().unwrap_or("0").parse::<f64>()? as u64)
}

/// How long the clients ask, and how many scans of a program there must be meanwhile, at an interval of a second.
const LOOP: Duration = Duration::from_secs(10);
const SCANS: u64 = 3;

fn clients_in_a_loop_stop_no_scan() -> Result<()> {
    let own = Own::new("idle", &Go::newest(), Variant::Plain)?;
    let (target, agent) = watching(&own, &["-n", "2000"])?;
    let path = format!("/sfgi/processes?pid={}", target.pid());
    let goroutines = format!("/sfgi/goroutines?pid={}", target.pid());
    for (asked, shown) in [(goroutines.as_str(), true), ("/metrics", false), ("/sfgi/processes", false)] {
        let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        let before = scans(&agent, target.pid())?;
        thread::scope(|scope| -> Result<()> {
            for _ in 0..8 {
                scope.spawn(|| {
                    let shown = if shown { format!("Bearer {TOKEN}") } else { "none".to_owned() };
                    while !over.load(Ordering::Relaxed) {
                        // Whatever the answer is.
                        let _ = ask(agent.address, "GET", asked, &[("authorization", &shown)]);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            thread::sleep(LOOP);
            over.store(true, Ordering::Relaxed);
            Ok(())
        })?;
        let (made, answered) = (scans(&agent, target.pid())? - before, answered.into_inner());
        machine::report(&format!(
            "8 clients ask for {asked} in a loop: {answered} answers, {made} scans in 10 s"
        ));
        ensure!(made >= SCANS, "{made} scans while clients asked for {asked}");
        ensure!(agent.json(&path)?[0]["goroutines"].is_u64());
    }
    Ok(())
}

fn a_service_manager_is_told_how_it_is() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(LONGEST))?;
    let mut command = agent_http::command(&["--include", "^/nothing$"])?;
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let mut agent = Agent::of(&mut command)?;
    let told = || -> Result<String> {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    };
    let until = |wanted: &str| -> Result<Vec<String>> {
        let mut all = Vec::new();
        while all.last().is_none_or(|last: &String| last != wanted) {
            all.push(told()?);
        }
        Ok(all)
    };
    until("READY=1")?;
    for _ in 0..3 {
        until("WATCHDOG=1")?;
    }
    ensure!(agent.get("/healthz")?.json()?["status"] == "ok");
    // An agent that stands still says nothing, whatever it says later.
    let all = |signal| -> Result<()> {
        for pid in tree::of(agent.process.pid())? {
            kill_process(Pid::from_raw(pid.cast_signed()).context("no PID")?, signal)?;
        }
        Ok(())
    };
    all(Signal::STOP)?;
    thread::sleep(Duration::from_millis(500));
    manager.set_read_timeout(Some(Duration::from_millis(1)))?;
    while told().is_ok() {}
    manager.set_read_timeout(Some(Duration::from_secs(2)))?;
    ensure!(told().is_err(), "a stopped agent says that it lives");
    manager.set_read_timeout(Some(LONGEST))?;
    all(Signal::CONT)?;
    until("WATCHDOG=1")?;
    agent.process.signal(Signal::TERM)?;
    until("STOPPING=1")?;
    agent.process.wait_code(LONGEST, 0)?;
    ensure!(fs::metadata(&path).is_ok(), "it has removed what is not its own");
    Ok(())
}

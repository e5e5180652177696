//! Programs that nobody here wrote, as Debian builds them, at work: `sfgi dump` says of their goroutines
//! what they say themselves by `/debug/pprof/goroutine?debug=2`.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    dump, machine,
    process::Process,
    traceback::{self, Frame, Goroutine},
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(prometheus_that_scrapes_and_answers).needs(Need::Unpacked("prometheus")),
        live(syncthing).needs(Need::Unpacked("syncthing")),
    ]
}

const ROUNDS: usize = 20;

/// A server that serves its profile.
struct Server {
    process: Process,
    /// Of the profile.
    address: String,
}

impl Server {
    /// Starts it; returns when it serves its profile.
    fn start(command: &mut Command, address: String) -> Result<Server> {
        let server = Server { process: Process::spawn(command)?, address };
        let deadline = Instant::now() + Duration::from_secs(120);
        while server.profile().is_err() {
            let log = || format!("it does not serve:\n{}", server.process.stderr.text());
            ensure!(Instant::now() < deadline, log());
            thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    fn profile(&self) -> Result<BTreeMap<u64, Goroutine>> {
        traceback::parse(&get(&self.address, "/debug/pprof/goroutine?debug=2")?)
    }
}

/// The body of a page. HTTP 1.0, so that it comes in one piece.
fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    ensure!(head.contains(" 200 "), "{path}: {head}");
    Ok(body.to_owned())
}

/// An address that nobody listens at.
fn free_address() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn prometheus_that_scrapes_and_answers() -> Result<()> {
    let program = machine::unpacked("prometheus")?;
    let (dir, address) = (tempfile::tempdir()?, free_address()?);
    let config = dir.path().join("prometheus.yml");
    let scrape = format!("[{{job_name: self, static_configs: [{{targets: ['{address}']}}]}}]");
    fs::write(&config, format!("global: {{scrape_interval: 1s}}\nscrape_configs: {scrape}\n"))?;
    let mut command = Command::new(program);
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
    command.arg(format!("--web.listen-address={address}"));
    let server = Server::start(&mut command, address)?;

    let done = AtomicBool::new(false);
    let agreement = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // It may be too busy for one of them.
                let _ =
                    get(&server.address, "/api/v1/query?query=sum(rate(go_gc_duration_seconds_count[1m]))");
                let _ = get(&server.address, "/metrics");
            }
        });
        let agreement = agreement(&server);
        done.store(true, Ordering::Relaxed);
        agreement
    })?;
    machine::report(&format!("prometheus: {agreement:?}"));
    ensure!(agreement.same > 10 * ROUNDS, "too few compared: {agreement:?}");
    Ok(())
}

fn syncthing() -> Result<()> {
    let program = machine::unpacked("syncthing")?;
    let (dir, gui, address) = (tempfile::tempdir()?, free_address()?, free_address()?);
    let mut command = Command::new(program);
    command.args(["serve", "--no-browser", "--no-restart", "--no-default-folder"]);
    command.arg(format!("--home={}", dir.path().display())).arg(format!("--gui-address={gui}"));
    // Without the process that watches over it.
    command.env("STMONITORED", "yes").env("STPROFILER", &address).env("STNOUPGRADE", "1");
    let server = Server::start(&mut command, address)?;
    // Until it has set itself up.
    thread::sleep(Duration::from_secs(2));
    let agreement = agreement(&server)?;
    machine::report(&format!("syncthing: {agreement:?}"));
    ensure!(agreement.same > 40 * ROUNDS, "too few compared: {agreement:?}");
    Ok(())
}

/// What the comparison found, over all rounds.
#[derive(Debug, Default)]
struct Agreement {
    /// Goroutines that the dump shows as the program did before and after it.
    same: usize,
    /// Shown on their way to or from that wait, by their state.
    moved: usize,
    /// Shown in another wait, below which it is the same goroutine.
    elsewhere: usize,
    /// Frames looked at.
    frames: usize,
}

/// The program's own profile, a dump, the profile again: goroutines that are alike in both profiles are
/// so in the dump.
fn agreement(server: &Server) -> Result<Agreement> {
    let mut agreement = Agreement::default();
    for round in 0..ROUNDS {
        let before = server.profile()?;
        let shown = dump::traceback(server.process.pid(), &[])?;
        let after = server.profile()?;
        for (goid, own) in &before {
            let own = own.timeless();
            if after.get(goid).map(Goroutine::timeless).as_ref() != Some(&own) {
                continue;
            }
            let shown = shown.get(goid).with_context(|| format!("goroutine {goid} is missing: {own}"))?;
            if own == shown.timeless() {
                agreement.same += 1;
            } else if dump::is_marked(shown) || ["runnable", "syscall"].contains(&shown.status.as_str()) {
                agreement.moved += 1;
            } else {
                let (outermost, creator) = (own.frames.last(), &own.creator);
                let origin = |frame: Option<&Frame>| frame.map(|frame| frame.func.clone());
                let same = origin(outermost) == origin(shown.frames.last()) && *creator == shown.creator;
                ensure!(same, "the program says\n{own}\nbut shown is\n{shown}");
                agreement.elsewhere += 1;
            }
        }
        if round % 3 == 0 {
            agreement.frames += all_resolved(server.process.pid())?;
        }
    }
    let moved = agreement.moved + agreement.elsewhere;
    ensure!(moved * 20 < agreement.same, "too many moved meanwhile: {agreement:?}");
    Ok(agreement)
}

/// Each frame of each goroutine, system ones included, has a function with its package, a file and a
/// line, and no goroutine makes no sense. Returns how many frames there were.
fn all_resolved(pid: u32) -> Result<usize> {
    let dump = dump::json(pid, &["--system"])?;
    ensure!(dump.unreadable == 0, "{} goroutines could not be read", dump.unreadable);
    let mut frames = 0;
    for goroutine in &dump.goroutines {
        ensure!(["still", "running", "in motion"].contains(&goroutine.trust.as_str()), "{goroutine:#?}");
        let has_stack = goroutine.trust != "still" || !goroutine.stack.is_empty();
        ensure!(has_stack && goroutine.start_func.is_some(), "no stack or no start: {goroutine:#?}");
        for frame in goroutine.stack.iter().chain(&goroutine.created_by) {
            let whole = frame.func.contains('.') && !frame.func.contains('?') && frame.line > 0;
            ensure!(whole && Path::new(&frame.file).extension().is_some(), "{frame:?} in {goroutine:#?}");
            frames += 1;
        }
    }
    Ok(frames)
}

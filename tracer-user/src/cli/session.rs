//! A command while it runs: its targets under trace, the line that says how far it is, how it is asked to stop,
//! and where its results go.

use super::source::{self, Attached, Launched};
use crate::live::{Ending, Engine, Observers};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
};

/// How often it is shown, and how long a command may take without.
const EVERY: Duration = Duration::from_millis(200);

/// Targets under trace until the user, the clock or the targets end it.
pub(super) struct Session {
    attached: Attached,
    /// How often the rings are read.
    every: Duration,
    limit: Option<Duration>,
}

impl Session {
    pub(super) fn new(attached: Attached, every: Duration, limit: Option<Duration>) -> Session {
        attached.describe();
        Session { attached, every, limit }
    }

    /// How many targets there are.
    pub(super) fn targets(&self) -> usize {
        self.attached.targets.len()
    }

    /// When the trace begins (`CLOCK_MONOTONIC`, ns): no event of it is older.
    pub(super) fn start_ts(&self) -> u64 {
        self.attached.targets.iter().map(|(live, _)| live.since()).min().unwrap_or(0)
    }

    /// Follows the targets; a command that was launched begins now, and is ended with the trace. `last_look` is told
    /// the processes that still run then, before that.
    pub(super) fn follow(self, observers: Observers, last_look: &mut dyn FnMut(u32)) -> Result<()> {
        let Session { attached, every, limit } = self;
        let (pidfds, pids) = (attached.pidfds()?, attached.pids());
        let engine = Engine::new(attached.targets, observers, attached.calibration, every);
        let mut child = attached.launched.map(Launched::go).transpose()?;
        if drive(engine, pidfds, limit)? == Ending::TargetsGone {
            return Ok(());
        }
        pids.into_iter().for_each(last_look);
        child.as_mut().map_or(Ok(()), source::stop)
    }
}

/// Runs the engine on a thread of its own until the user, the clock or the targets end it.
fn drive(engine: Engine, pidfds: Vec<OwnedFd>, limit: Option<Duration>) -> Result<Ending> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stop = Arc::new(AtomicBool::new(false));
    let ending = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut hangup = signal(SignalKind::hangup())?;
        let flag = Arc::clone(&stop);
        let mut work = tokio::task::spawn_blocking(move || engine.run(&flag));
        let ending = tokio::select! {
            _ = interrupt.recv() => Ending::Asked,
            _ = terminate.recv() => Ending::Asked,
            _ = hangup.recv() => Ending::Asked,
            () = sleep(limit) => Ending::Asked,
            result = all_gone(pidfds) => { result?; Ending::TargetsGone }
            // Output closed, or every target replaced its program.
            result = &mut work => return result?.map(|()| Ending::TargetsGone),
        };
        stop.store(true, Ordering::Relaxed);
        tokio::select! {
            result = work => result??,
            // The user insists.
            _ = interrupt.recv() => bail!("interrupted while the rings were drained: the end is missing"),
        }
        Ok(ending)
    });
    // If the user insisted, the engine is not waited for.
    runtime.shutdown_background();
    ending
}

async fn sleep(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Waits until every process has ended.
async fn all_gone(pidfds: Vec<OwnedFd>) -> io::Result<()> {
    for pidfd in pidfds {
        // SAFETY: the descriptor is owned, and lives in the AsyncFd until that is dropped.
        let ended = unsafe { AsyncFd::register(pidfd) }.map_err(io::Error::from)?;
        ended.readable().await?.retain_ready();
    }
    Ok(())
}

/// A line on the terminal that says how far a command is.
pub(super) struct Progress {
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    /// Nothing is shown before [`EVERY`] is over, nor where standard error is no terminal.
    pub(super) fn new() -> Progress {
        Progress { next: io::stderr().is_terminal().then(|| Instant::now() + EVERY), shown: false }
    }

    /// Shows what `text` says, if it is time.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        if let Some(next) = &mut self.next
            && Instant::now() >= *next
        {
            *next = Instant::now() + EVERY;
            self.shown = true;
            eprint!("\r\x1b[Ksfgi: {}", text());
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            eprint!("\r\x1b[K");
        }
    }
}

/// Whether the user has asked to stop.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Listens for SIGINT, SIGTERM and SIGHUP from now on. A second one ends the process at once.
    pub(super) fn on_signals() -> Result<Stop> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        drop(guard);
        let stop = Stop::default();
        let asked = stop.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                for _ in 0..2 {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    asked.ask();
                }
            });
            std::process::exit(1);
        })?;
        Ok(stop)
    }

    fn ask(&self) {
        let (asked, changed) = &*self.0;
        *asked.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Waits for so long, or until it was asked; says whether it was.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let (asked, changed) = &*self.0;
        let guard = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, _) =
            changed.wait_timeout_while(guard, time, |asked| !*asked).unwrap_or_else(PoisonError::into_inner);
        *asked
    }
}

/// Opens the file of `-o` (`-` and none: standard output). Says also whether it is a terminal.
pub(super) fn output(path: Option<&Path>) -> Result<(Box<dyn Write + Send>, bool)> {
    Ok(match path {
        Some(path) if path.as_os_str() != "-" => {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            (Box::new(file), false)
        }
        _ => (Box::new(io::stdout()), io::stdout().is_terminal()),
    })
}

/// Refuses to write what is no text to a terminal.
pub(super) fn no_text(what: &str, terminal: bool) -> Result<()> {
    ensure!(!terminal, "{what} is not for a terminal: write it to a file with -o FILE");
    Ok(())
}

/// What the wall clock says, nanoseconds since 1970.
pub(super) fn wall_clock_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(0)
}

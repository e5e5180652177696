//! What a command needs while it runs: its targets under trace, the progress line, the signals that stop it, and its
//! output.

use super::source::{self, Attached, Launched, pipe};
use crate::{
    files,
    live::{Ending, Engine, Observers},
    output::{one_line, raw},
    supervise,
};
use anyhow::{Context as _, Result, bail, ensure};
use std::{
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
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

/// The progress line appears after this time, and is refreshed as often.
const EVERY: Duration = Duration::from_millis(200);

/// Targets under trace until the user, the time limit or the targets end it.
pub(super) struct Session {
    attached: Attached,
    /// Pause between two drains of the rings.
    every: Duration,
    limit: Option<Duration>,
    signals: Signals,
}

impl Session {
    pub(super) fn new(
        attached: Attached,
        every: Duration,
        limit: Option<Duration>,
        signals: Signals,
    ) -> Session {
        attached.describe();
        Session { attached, every, limit, signals }
    }

    pub(super) fn targets(&self) -> usize {
        self.attached.targets.len()
    }

    /// When the trace began, `CLOCK_MONOTONIC` nanoseconds: no event is older.
    pub(super) fn start_ts(&self) -> u64 {
        self.attached.targets.iter().map(|(live, _)| live.since()).min().unwrap_or(0)
    }

    /// Traces until the end. A launched command begins here and is stopped at the end. Before that, if any target still
    /// runs, `last_look` gets the PIDs.
    pub(super) fn follow(self, observers: Observers, last_look: &mut dyn FnMut(u32)) -> Result<()> {
        let Session { attached, every, limit, signals } = self;
        // The engine takes the targets, so what else is needed of them is taken first.
        let (pidfds, pids) = (attached.pidfds()?, attached.pids());
        let engine = Engine::new(attached.targets, observers, attached.calibration, every);
        // The command executes only now: probes stand and the engine exists, so that its first goroutine is seen.
        let mut child = attached.launched.map(Launched::go).transpose()?;
        if drive(engine, pidfds, limit, signals)? == Ending::TargetsGone {
            return Ok(());
        }
        pids.into_iter().for_each(last_look);
        child.as_mut().map_or(Ok(()), source::stop)
    }
}

/// The signals that ask for the end, from the moment this is made on. Before anything is attached: it takes descriptors, and probes
/// may have used up those that there are.
pub(super) struct Signals {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Signals> {
        let too_few = "too few files may be open (ulimit -n)";
        // What listens to signals panics where these cannot be had, so it is tried before.
        let spare = [pipe(), pipe(), pipe()].into_iter().collect::<io::Result<Vec<_>>>();
        drop(spare.context(too_few)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(too_few)?;
        // It needs a runtime in whose context it registers.
        let guard = runtime.enter();
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let hangup = signal(SignalKind::hangup())?;
        drop(guard);
        Ok(Signals { runtime, interrupt, terminate, hangup })
    }
}

/// Runs the engine on a thread of its own until the user, the time limit or the targets end it.
fn drive(engine: Engine, pidfds: Vec<OwnedFd>, limit: Option<Duration>, signals: Signals) -> Result<Ending> {
    let Signals { runtime, mut interrupt, mut terminate, mut hangup } = signals;
    let stop = Arc::new(AtomicBool::new(false));
    let ending = runtime.block_on(async {
        let flag = Arc::clone(&stop);
        let mut work = tokio::task::spawn_blocking(move || engine.run(&flag));
        let ending = tokio::select! {
            _ = interrupt.recv() => Ending::Asked,
            _ = terminate.recv() => Ending::Asked,
            _ = hangup.recv() => Ending::Asked,
            () = sleep(limit) => Ending::Asked,
            result = all_gone(pidfds) => { result?; Ending::TargetsGone }
            // The engine ended by itself: its output was closed, or every target has replaced its program.
            result = &mut work => return result?.map(|()| Ending::TargetsGone),
        };
        supervise::noticed();
        // The engine drains what the rings still hold before it returns.
        stop.store(true, Ordering::Relaxed);
        tokio::select! {
            result = work => result??,
            // A second Ctrl-C: the user does not want to wait for the rings.
            _ = interrupt.recv() => bail!("interrupted while the rings were drained: the end is missing"),
        }
        Ok(ending)
    });
    // Dropping the runtime would wait for the engine's thread, which a second Ctrl-C is to prevent.
    runtime.shutdown_background();
    ending
}

async fn sleep(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Waits until every process has ended. One after the other is enough, since all must.
async fn all_gone(pidfds: Vec<OwnedFd>) -> io::Result<()> {
    for pidfd in pidfds {
        // SAFETY: the descriptor is owned, and lives in the AsyncFd until that is dropped.
        let ended = unsafe { AsyncFd::register(pidfd) }.map_err(io::Error::from)?;
        ended.readable().await?.retain_ready();
    }
    Ok(())
}

/// The progress line on a terminal.
pub(super) struct Progress {
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    /// Shows nothing before [`EVERY`] is over, and nothing at all where standard error is not a terminal.
    pub(super) fn new() -> Progress {
        Progress { next: io::stderr().is_terminal().then(|| Instant::now() + EVERY), shown: false }
    }

    /// Shows `text`, which is only made if [`EVERY`] has passed since the last time.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        if let Some(next) = &mut self.next
            && Instant::now() >= *next
        {
            *next = Instant::now() + EVERY;
            self.shown = true;
            raw(&format!("\r\x1b[Ksfgi: {}", one_line(&text())));
        }
    }

    /// Removes the line, so that the next output begins in the first column.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            raw("\r\x1b[K");
        }
    }
}

/// Whether a signal has asked the command to stop. Clones share the flag.
#[derive(Clone, Default)]
pub(super) struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Is asked by the first of these signals. A second one ends the process at once.
    pub(super) fn on(signals: Signals) -> Result<Stop> {
        let Signals { runtime, interrupt, terminate, hangup } = signals;
        let stop = Stop::default();
        let asked = stop.clone();
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let (mut interrupt, mut terminate, mut hangup) = (interrupt, terminate, hangup);
            runtime.block_on(async {
                for _ in 0..2 {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    supervise::noticed();
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

    /// Waits for `time`, or until a signal came; returns whether one has.
    pub(super) fn wait(&self, time: Duration) -> bool {
        let (asked, changed) = &*self.0;
        let guard = asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked, _) =
            changed.wait_timeout_while(guard, time, |asked| !*asked).unwrap_or_else(PoisonError::into_inner);
        *asked
    }
}

/// Opens the file of `-o`; `-` or none is standard output. The second value says whether it is a terminal.
pub(super) fn output(path: Option<&Path>) -> Result<(Box<dyn Write + Send>, bool)> {
    Ok(match path {
        Some(path) if path.as_os_str() != "-" => {
            let file = files::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            (Box::new(file), false)
        }
        _ => (Box::new(io::stdout()), io::stdout().is_terminal()),
    })
}

/// Refuses to write a binary format to a terminal.
pub(super) fn no_text(what: &str, terminal: bool) -> Result<()> {
    ensure!(!terminal, "{what} is not for a terminal: write it to a file with -o FILE");
    Ok(())
}

/// The wall clock, nanoseconds since 1970; 0 where the clock is set before that.
pub(super) fn wall_clock_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(0)
}

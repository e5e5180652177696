//! What all commands that follow live processes have in common: which ones, by which probes, and until when.
use sfgi_core::event::{Mode, Set};

use super::{
    launch::{self, Launched},
    opened::{LayoutArg, Opened},
    parse,
};
use crate::{
    live::{Attach, Ending, Engine, Observers, Targets, Traced},
    probe,
    probe::Calibration,
};
use anyhow::{Context as _, Result, bail};
use clap::{
    Args as ClapArgs,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use std::{
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
};

/// Takes one of these modes, and lists them in the help.
pub(super) fn mode(of: &'static [Mode]) -> impl TypedValueParser<Value = Mode> {
    let named = |mode: &Mode| {
        PossibleValue::new(mode.word()).help(match mode {
            Mode::Full => "Every state transition",
            Mode::Wait => "Blocking and waking only",
            Mode::Life => "Birth and death only",
            Mode::Poll => "No probes: the goroutines are read from outside, once an interval",
        })
    };
    PossibleValuesParser::new(of.iter().map(named)).try_map(|word| word.parse())
}

fn set() -> impl TypedValueParser<Value = Set> {
    PossibleValuesParser::new(Set::ALL.map(Set::word)).try_map(|word| word.parse())
}

/// The options that say what to follow, and how.
#[derive(ClapArgs)]
pub(super) struct TargetArgs {
    /// Process to trace (several: repeat)
    #[arg(
        short,
        long = "pid",
        value_name = "PID",
        required_unless_present = "command",
        conflicts_with = "command"
    )]
    pid: Vec<u32>,
    /// Only this goroutine (several: repeat)
    #[arg(long, value_name = "GOID")]
    pub(super) goid: Vec<u64>,
    /// Stop after TIME
    #[arg(short, long, value_name = "TIME", value_parser = parse::time)]
    duration: Option<Duration>,
    /// What to observe: less costs the target less
    #[arg(long, value_parser = mode(&[Mode::Full, Mode::Wait, Mode::Life]), default_value = "full")]
    mode: Mode,
    /// Force a probe set instead of choosing by the binary (A: the scheduler's functions,
    /// B: casgstatus)
    #[arg(long, value_parser = set(), ignore_case = true, hide = true)]
    set: Option<Set>,
    #[command(flatten)]
    pub(super) layout: LayoutArg,
    /// Size of each event ring, a power of two
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = ring_size)]
    ring_size: u32,
    /// How often the rings are read
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse::time)]
    drain_every: Duration,
    /// Command to start and trace, with its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn ring_size(text: &str) -> Result<u32> {
    let size = u32::try_from(parse::size(text)?).ok();
    let size = size.filter(|size| size.is_power_of_two() && *size >= 4096);
    size.with_context(|| format!("{text}: a ring's size is a power of two, from 4KiB to 2GiB"))
}

/// What a command wants to be told beside the goroutines' states.
#[derive(Clone, Copy, Default)]
pub(super) struct Wants {
    /// Garbage collections.
    pub(super) gc: bool,
    /// When threads get and lose their CPU.
    pub(super) threads: bool,
    /// How long a block must last for its stack to be read; `None`: no stacks.
    pub(super) stacks: Option<Duration>,
    /// Callers with each block, also where the place is found.
    pub(super) callers: bool,
}

/// Targets with their probes.
pub(super) struct Attached {
    calibration: Calibration,
    pub(super) targets: Targets,
    launched: Option<Launched>,
    every: Duration,
    limit: Option<Duration>,
}

impl TargetArgs {
    fn probes(&self, wants: Wants) -> Attach {
        Attach {
            mode: self.mode,
            set: self.set,
            gc: wants.gc,
            threads: wants.threads,
            goids: self.goid.clone(),
            ring_bytes: self.ring_size,
            stacks_ns: wants.stacks.map(|least| u64::try_from(least.as_nanos()).unwrap_or(u64::MAX)),
            callers: wants.callers,
        }
    }

    /// Looks at every target first, so that a wrong one costs nobody anything; then measures what a
    /// probe costs here, and attaches.
    pub(super) fn attach(&self, wants: Wants) -> Result<Attached> {
        let probes = self.probes(wants);
        let (every, limit) = (self.drain_every, self.duration);
        if !self.command.is_empty() {
            let (calibration, targets, launched) = to_command(&self.command, &self.layout, &probes, false)?;
            return Ok(Attached { calibration, targets, launched: Some(launched), every, limit });
        }
        let (calibration, targets) = to_processes(&self.pid, open(&self.pid, &self.layout)?, &probes)?;
        Ok(Attached { calibration, targets, launched: None, every, limit })
    }
}

/// Looks at processes; nothing is attached yet.
pub(super) fn open(pids: &[u32], layout: &LayoutArg) -> Result<Vec<Opened>> {
    pids.iter().map(|pid| Opened::process(*pid, layout)).collect()
}

/// Measures what a probe costs here, and attaches to processes.
pub(super) fn to_processes(
    pids: &[u32],
    opened: Vec<Opened>,
    probes: &Attach,
) -> Result<(Calibration, Targets)> {
    let calibration = calibrate()?;
    let attach_one = |(pid, opened): (&u32, Opened)| Traced::attach(*pid, opened, probes);
    let targets = pids.iter().zip(opened).map(attach_one).collect::<Result<Vec<_>>>()?;
    Ok((calibration, targets))
}

/// The same for a command, which waits to be started; `silent` as [`Launched::fork`] has it.
pub(super) fn to_command(
    command: &[OsString],
    layout: &LayoutArg,
    probes: &Attach,
    silent: bool,
) -> Result<(Calibration, Targets, Launched)> {
    let (name, arguments) = command.split_first().context("no command was given")?;
    let path = launch::resolve(name)?;
    let opened = Opened::file(&path, layout)?;
    let calibration = calibrate()?;
    let launched = Launched::fork(&path, arguments, silent)?;
    let targets = vec![Traced::attach(launched.pid, opened, probes)?];
    Ok((calibration, targets, launched))
}

fn calibrate() -> Result<Calibration> {
    probe::calibrate().context("cannot measure what a probe costs here")
}

impl Attached {
    /// Says what is attached, and at what price.
    pub(super) fn describe(&self) {
        for (traced, _) in &self.targets {
            eprintln!("sfgi: {}", traced.describe(&self.calibration));
        }
    }

    /// When the trace begins (`CLOCK_MONOTONIC`, ns): no event of it is older.
    pub(super) fn start_ts(&self) -> u64 {
        self.targets.iter().map(|(traced, _)| traced.since()).min().unwrap_or(0)
    }

    /// Follows the targets until the user, the clock or the targets end it; a command that was
    /// launched begins now, and is ended with the trace. `last_look` is told the processes that still run
    /// then, before that.
    pub(super) fn follow(self, observers: Observers, last_look: &mut dyn FnMut(u32)) -> Result<()> {
        let Attached { calibration, targets, launched, every, limit } = self;
        let pidfds = targets.iter().map(|(traced, _)| traced.pidfd()).collect::<io::Result<Vec<_>>>()?;
        let pids: Vec<u32> = targets.iter().map(|(traced, _)| traced.pid).collect();
        let engine = Engine::new(targets, observers, calibration, every);
        let mut child = launched.map(Launched::go).transpose()?;
        let ending = drive(engine, pidfds, limit)?;
        if ending != Ending::TargetsGone {
            pids.into_iter().for_each(last_look);
        }
        if let Some(child) = &mut child
            && ending != Ending::TargetsGone
            && child.try_wait()?.is_none()
        {
            eprintln!("sfgi: stopping the command (PID {})", child.id());
            // SAFETY: our own child, not waited for yet, so the id is still its.
            unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
        }
        Ok(())
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

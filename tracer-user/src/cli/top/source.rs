//! Where the pictures come from: probes, or where these cannot be had, snapshots.

use super::{args::Args, poll::Poller};
use crate::{
    cli::{attach, launch, launch::Launched, opened::Opened},
    live::{Attach, Engine, Observers},
    probe,
    top::{Publisher, Shared, Source},
};
use anyhow::{Context as _, Result, anyhow};
use rustix::event::{PollFd, PollFlags, Timespec};
use sfgi_core::event::Mode;
use std::{
    io,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Bytes of each ring: as `sfgi trace` has them.
const RING_BYTES: u32 = 16 << 20;
/// How often the rings are read.
const DRAIN_EVERY: Duration = Duration::from_millis(2);

/// What makes the pictures, on a thread of its own.
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    work: Option<JoinHandle<Result<()>>>,
    /// Readable when the process has ended.
    pidfds: Vec<OwnedFd>,
    child: Option<Child>,
    /// The processes.
    pub(super) pids: Vec<u32>,
}

impl Running {
    /// Whether nothing more will come: every process has ended, or the thread has.
    pub(super) fn ended(&mut self) -> bool {
        let gone = |pidfd: &OwnedFd| {
            let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
        };
        let over = self.work.as_ref().is_none_or(JoinHandle::is_finished);
        if !over && self.pidfds.iter().all(gone) {
            self.stop.store(true, Ordering::Relaxed);
        }
        over
    }

    /// Ends it, and says what went wrong on its thread.
    pub(super) fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let result = match self.work.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(anyhow!("the tracing thread ended by a bug, which is said above")),
            None => Ok(()),
        };
        if let Some(child) = &mut self.child
            && child.try_wait()?.is_none()
        {
            eprintln!("sfgi: stopping the command (PID {})", child.id());
            // SAFETY: our own child, not waited for yet, so the id is still its.
            unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
        }
        result
    }
}

/// Begins, and says why in another way than was to be expected.
pub(super) fn start(args: &Args, shared: &Arc<Shared>) -> Result<(Running, Option<String>)> {
    // A wrong process or program is an error whatever the mode.
    let opened = attach::open(&args.pid, &args.layout)?;
    let mode = args.mode.unwrap_or(Mode::Full);
    if mode == Mode::Poll {
        return Ok((poll(args, shared)?, None));
    }
    match trace(args, mode, opened, shared) {
        Ok(running) => Ok((running, None)),
        Err(error) if args.mode.is_none() => {
            let notice = format!("no probes, so goroutines are only read once an interval: {error:#}");
            Ok((poll(args, shared)?, Some(notice)))
        }
        Err(error) => Err(error),
    }
}

fn trace(args: &Args, mode: Mode, opened: Vec<Opened>, shared: &Arc<Shared>) -> Result<Running> {
    probe::check_host()?;
    let threads = mode == Mode::Full;
    let probes = Attach {
        mode,
        set: None,
        gc: false,
        threads,
        goids: Vec::new(),
        ring_bytes: RING_BYTES,
        stacks_ns: None,
        callers: false,
    };
    let (calibration, targets, launched) = if args.command.is_empty() {
        let (calibration, targets) = attach::to_processes(&args.pid, opened, &probes)?;
        (calibration, targets, None)
    } else {
        let (calibration, targets, launched) =
            attach::to_command(&args.command, &args.layout, &probes, true)?;
        (calibration, targets, Some(launched))
    };
    for (live, _) in &targets {
        eprintln!("sfgi: {}", live.describe(&calibration));
    }
    let pids = targets.iter().map(|(live, _)| live.pid).collect();
    let pidfds = targets.iter().map(|(live, _)| live.pidfd()).collect::<io::Result<Vec<_>>>()?;
    let observers = publisher(args, shared, Source::Probes { threads });
    let costs = Arc::clone(shared);
    let engine =
        Engine::new(targets, observers, calibration, DRAIN_EVERY).metered(move |now| costs.tell_costs(now));
    let child = launched.map(Launched::go).transpose()?;
    run(move |stop| engine.run(stop), pids, pidfds, child)
}

fn poll(args: &Args, shared: &Arc<Shared>) -> Result<Running> {
    let mut child = None;
    let mut pids = args.pid.clone();
    if let Some((name, arguments)) = args.command.split_first() {
        let path = launch::resolve(name)?;
        let mut command = Command::new(&path);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let launched = command.spawn().with_context(|| format!("cannot run {}", path.display()))?;
        pids = vec![launched.id()];
        child = Some(launched);
    }
    let observers = publisher(args, shared, Source::Snapshots);
    let poller = Poller::new(&pids, &args.layout, observers, args.every)?;
    let pidfds = poller.pidfds()?;
    run(move |stop| poller.run(stop), pids, pidfds, child)
}

fn publisher(args: &Args, shared: &Arc<Shared>, source: Source) -> Observers {
    let every_ns = u64::try_from(args.every.as_nanos()).unwrap_or(u64::MAX);
    vec![Box::new(Publisher::new(source, Arc::clone(shared), every_ns))]
}

fn run(
    work: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static,
    pids: Vec<u32>,
    pidfds: Vec<OwnedFd>,
    child: Option<Child>,
) -> Result<Running> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let work = thread::Builder::new().name("tracing".to_owned()).spawn(move || work(&asked))?;
    Ok(Running { stop, work: Some(work), pidfds, child, pids })
}

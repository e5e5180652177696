//! `sfgi trace`: goroutine events live, a line each, or their summary.

use super::{
    engine::{Ending, Engine},
    launch::{self, Launched},
    opened::{LayoutArg, Opened},
    output,
    parse::{duration, seconds},
    target::{Attach, Observers, Targets, Traced},
};
use crate::{
    clock,
    model::What,
    present::{Filter, Json, Printer, Sink, Text},
    probe::{self, Calibration},
    target::{Mode, ProbeSet},
};
use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use regex::Regex;
use std::{
    ffi::OsString,
    io::{self, BufWriter},
    path::PathBuf,
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

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EventArg {
    Create,
    Found,
    Start,
    Exit,
    Block,
    Unblock,
    Syscall,
    Preempt,
    Gc,
    Illegal,
    Sched,
}

impl EventArg {
    fn events(self) -> &'static [What] {
        match self {
            EventArg::Create => &[What::Create],
            EventArg::Found => &[What::Found],
            EventArg::Start => &[What::Start],
            EventArg::Exit => &[What::Exit],
            EventArg::Block => &[What::Block],
            EventArg::Unblock => &[What::Unblock],
            EventArg::Syscall => &[What::SyscallEnter, What::SyscallExit],
            EventArg::Preempt => &[What::Preempt],
            EventArg::Gc => &[What::GcStart, What::GcEnd],
            EventArg::Illegal => &[What::Illegal],
            EventArg::Sched => &[What::ThreadOff, What::ThreadOn, What::ThreadWake],
        }
    }

    /// All but `sched`, which costs a look at every context switch of the machine.
    const DEFAULT: [EventArg; 10] = [
        EventArg::Create,
        EventArg::Found,
        EventArg::Start,
        EventArg::Exit,
        EventArg::Block,
        EventArg::Unblock,
        EventArg::Syscall,
        EventArg::Preempt,
        EventArg::Gc,
        EventArg::Illegal,
    ];
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// Every state transition
    Full,
    /// Blocking and waking only
    Wait,
    /// Birth and death only
    Life,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SetArg {
    A,
    B,
}

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi trace [OPTIONS] (-p PID... | -- CMD...)",
    after_help = "\
Times are seconds since the trace began. A block shows its length when it ends; unblock says by
whom (nobody: a timer, the network poller, or the garbage collector). What was lost is said.

EXAMPLES
  sfgi trace -p 1234 -e block,unblock --min 10ms    who was blocked for 10 ms or more, and on what
  sfgi trace -p 1234 -c -d 10                       per wait reason and site: count, p50, p99, max
  sfgi trace -p 1234 --func 'main\\.worker'          only goroutines and sites of main.worker
  sfgi trace -p 1234 -e create,exit --mode life     which go statements make goroutines, cheaply
  sfgi trace --format json -o out.json -- ./server  everything from the start, for a program"
)]
pub(super) struct Args {
    /// Process to trace (several: repeat)
    #[arg(
        short,
        long = "pid",
        value_name = "PID",
        required_unless_present = "command",
        conflicts_with = "command"
    )]
    pid: Vec<u32>,
    /// Kinds of events to show [default: all but sched]
    #[arg(short, long, value_delimiter = ',', value_name = "EVENTS")]
    events: Vec<EventArg>,
    /// Only this goroutine (several: repeat)
    #[arg(long, value_name = "GOID")]
    goid: Vec<u64>,
    /// Only where the goroutine's function, its go statement or the wait site matches
    #[arg(long, value_name = "REGEX")]
    func: Option<Regex>,
    /// Only what lasted at least this long (blocks and system calls, shown when they end)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    min: Option<Duration>,
    /// Show the whole stack of what lasted longer than TIME (10ms if not given), and of what waited
    /// before the trace began
    #[arg(long, value_name = "TIME", value_parser = duration, num_args = 0..=1, require_equals = true,
          default_missing_value = "10ms")]
    stacks: Option<Duration>,
    /// Print a summary at the end instead of events
    #[arg(short = 'c', long)]
    summary: bool,
    /// Stop after this many seconds
    #[arg(short, long, value_name = "SECS", value_parser = seconds)]
    duration: Option<Duration>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What to observe: less costs the target less
    #[arg(long, value_enum, default_value = "full")]
    mode: ModeArg,
    /// Force a probe set instead of choosing by the binary (A: the scheduler's functions,
    /// B: casgstatus)
    #[arg(long, value_enum, ignore_case = true, hide = true)]
    set: Option<SetArg>,
    #[command(flatten)]
    layout: LayoutArg,
    /// Bytes of each event ring, a power of two
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, value_parser = parse_ring_size)]
    ring_size: u32,
    /// How often the rings are read
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = duration)]
    drain_every: Duration,
    /// Command to start and trace, with its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

fn parse_ring_size(text: &str) -> Result<u32, String> {
    let size = text.parse::<u32>().ok().filter(|size| size.is_power_of_two() && *size >= 4096);
    size.ok_or_else(|| format!("{text}: a ring's size is a power of two, at least 4096 bytes"))
}

impl Args {
    fn events(&self) -> Vec<What> {
        let kinds: &[EventArg] = if self.events.is_empty() { &EventArg::DEFAULT } else { &self.events };
        kinds.iter().flat_map(|kind| kind.events()).copied().collect()
    }

    fn attach(&self) -> Attach {
        let events = self.events();
        Attach {
            mode: match self.mode {
                ModeArg::Full => Mode::Full,
                ModeArg::Wait => Mode::Wait,
                ModeArg::Life => Mode::Life,
            },
            set: self.set.map(|set| match set {
                SetArg::A => ProbeSet::A,
                SetArg::B => ProbeSet::B,
            }),
            gc: events.contains(&What::GcStart),
            threads: events.contains(&What::ThreadOn),
            goids: self.goid.clone(),
            ring_bytes: self.ring_size,
            stacks_ns: self.stacks.map(|threshold| u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX)),
        }
    }

    /// Looks at every target first, so that a wrong one costs nobody anything; then measures what a
    /// probe costs here, and attaches.
    fn attach_all(&self) -> Result<(Calibration, Targets, Option<Launched>)> {
        let attach = self.attach();
        let calibrate = || probe::calibrate().context("cannot measure what a probe costs here");
        if let Some((name, arguments)) = self.command.split_first() {
            let path = launch::resolve(name)?;
            let opened = Opened::file(&path, &self.layout)?;
            let calibration = calibrate()?;
            let launched = Launched::fork(&path, arguments, false)?;
            let traced = Traced::attach(launched.pid, opened, &attach)?;
            return Ok((calibration, vec![traced], Some(launched)));
        }
        let open = |pid: &u32| Opened::process(*pid, &self.layout);
        let opened = self.pid.iter().map(open).collect::<Result<Vec<_>>>()?;
        let calibration = calibrate()?;
        let attach_one = |(pid, opened): (&u32, Opened)| Traced::attach(*pid, opened, &attach);
        let traced = self.pid.iter().zip(opened).map(attach_one).collect::<Result<Vec<_>>>()?;
        Ok((calibration, traced, None))
    }
}

pub(super) fn run(args: Args) -> Result<()> {
    probe::check_host()?;
    // An output that cannot be written is refused before anything is touched.
    let (out, terminal) = output::open(args.output.as_deref())?;
    let (calibration, targets, launched) = args.attach_all()?;
    for (traced, _) in &targets {
        eprintln!("sfgi: {}", traced.describe(&calibration));
    }
    let filter = Filter {
        events: args.events(),
        goids: args.goid.clone(),
        func: args.func.clone(),
        min_ns: args.min.map_or(0, |min| u64::try_from(min.as_nanos()).unwrap_or(u64::MAX)),
    };
    let several = targets.len() > 1;
    let out = BufWriter::with_capacity(1 << 16, out);
    let sink: Box<dyn Sink + Send> = match args.format {
        Format::Json => Box::new(Json::new(out)),
        Format::Text => Box::new(Text::new(out, clock::now(), several, terminal)),
    };
    let pidfds = targets.iter().map(|(traced, _)| traced.pidfd()).collect::<io::Result<Vec<_>>>()?;
    let observers: Observers = vec![Box::new(Printer::new(sink, filter, args.summary))];
    let engine = Engine::new(targets, observers, calibration, args.drain_every);

    let mut child = launched.map(Launched::go).transpose()?;
    let ending = drive(engine, pidfds, args.duration)?;
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

/// Runs the engine on a thread of its own until the user, the clock or the targets end it.
fn drive(engine: Engine, pidfds: Vec<std::os::fd::OwnedFd>, limit: Option<Duration>) -> Result<Ending> {
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
async fn all_gone(pidfds: Vec<std::os::fd::OwnedFd>) -> io::Result<()> {
    for pidfd in pidfds {
        // SAFETY: the descriptor is owned, and lives in the AsyncFd until that is dropped.
        let ended = unsafe { AsyncFd::register(pidfd) }.map_err(io::Error::from)?;
        ended.readable().await?.retain_ready();
    }
    Ok(())
}

//! Options that several commands share: which target with which probes, where the runtime's fields lie, which events
//! to show and how.

use super::{
    parse,
    session::{Session, Signals},
    source::{self, Attached},
    user::User,
};
use crate::{
    confine::{self, Needs},
    live::Attach,
    output::{Json, Printer, Sink, Text},
};
use anyhow::{Context as _, Result, ensure};
use clap::{
    Args as ClapArgs, ValueEnum,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use regex::Regex;
use sfgi_core::{
    binary::Layout as FieldLayout,
    event::{Mode, Set},
    model::What,
    names::Filter,
};
use std::{
    ffi::OsString,
    io::{BufWriter, Write},
    path::PathBuf,
    time::Duration,
};

/// `--layout`, for a binary without DWARF and a Go version without a built-in layout.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct LayoutArg {
    /// Where the runtime's structs have their fields, for a binary that does not say and a Go version
    /// that is not known (a JSON file as `cargo xtask layouts --one` writes it)
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
}

impl LayoutArg {
    pub(super) fn load(&self) -> Result<Option<FieldLayout>> {
        Ok(self.layout.as_deref().map(FieldLayout::from_file).transpose()?)
    }
}

/// Accepts one of these modes, and lists them in the help.
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

/// The options that name the targets and their probes: for `trace` and `record`.
#[derive(ClapArgs)]
pub(super) struct TargetArgs {
    /// Process to trace (several: repeat)
    #[arg(short, long = "pid", value_name = "PID", conflicts_with = "command")]
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
    layout: LayoutArg,
    /// Size of each event ring, a power of two
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = ring_size)]
    ring_size: u32,
    /// How often the rings are read
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse::time)]
    drain_every: Duration,
    #[command(flatten)]
    user: UserArg,
    /// Command to start and trace, with its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// `--user`, for commands that start another one.
#[derive(Debug, ClapArgs)]
pub(super) struct UserArg {
    /// Run CMD as this user, by name or number [default: the one who called sudo]
    #[arg(long, value_name = "USER", requires = "command", conflicts_with = "pid")]
    user: Option<String>,
}

impl UserArg {
    /// `None`: as sfgi itself.
    pub(super) fn chosen(&self) -> Result<Option<User>> {
        User::chosen(self.user.as_deref())
    }
}

fn ring_size(text: &str) -> Result<u32> {
    let size = u32::try_from(parse::size(text)?).ok();
    // The kernel takes a power of two that is a multiple of the page size (`ringbuf_map_alloc`, kernel/bpf/ringbuf.c).
    let size = size.filter(|size| size.is_power_of_two() && *size >= 4096);
    size.with_context(|| format!("{text}: a ring's size is a power of two, from 4KiB to 2GiB"))
}

/// What a command wants to know beside the goroutines' states. Each costs probes or reads, so each is off by default.
#[derive(Clone, Copy, Default)]
pub(super) struct Wants {
    pub(super) gc: bool,
    /// Context switches of the target's threads (`sched_switch`, `sched_wakeup`).
    pub(super) threads: bool,
    /// How long a block must last for its stack to be read; `None`: no stacks.
    pub(super) stacks: Option<Duration>,
    /// Looks for goroutines that wait for each other.
    pub(super) deadlocks: bool,
    /// Sends the callers with each block, even where the probe would stop at the first frame of the program.
    pub(super) callers: bool,
}

impl TargetArgs {
    pub(super) fn is_empty(&self) -> bool {
        self.pid.is_empty() && self.command.is_empty()
    }

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
            deadlocks: wants.deadlocks,
        }
    }

    pub(super) fn pids(&self) -> &[u32] {
        &self.pid
    }

    /// Opens every target first, so that a wrong PID fails before anything is attached. Then it measures what a probe
    /// costs on this host, attaches, and gives up all but `needs` and what ending the command takes.
    pub(super) fn attach(&self, wants: Wants, needs: Needs) -> Result<Session> {
        if wants.deadlocks {
            ensure!(
                self.goid.is_empty(),
                "a deadlock is not about one goroutine: use -e deadlock without --goid"
            );
            ensure!(
                self.mode != Mode::Life,
                "--mode life does not see who waits: use -e deadlock with --mode wait or full"
            );
        }
        let (probes, signals) = (self.probes(wants), Signals::listen()?);
        // clap refuses -p together with a command (`conflicts_with`), so one of the two is empty.
        let attached = if self.command.is_empty() {
            Attached::processes(&self.pid, source::open(&self.pid, &self.layout)?, &probes)?
        } else {
            Attached::command(&self.command, &self.layout, &probes, self.user.chosen()?, false)?
        };
        confine::apply(&if self.command.is_empty() { needs } else { needs.with_signals() });
        Ok(Session::new(attached, self.drain_every, self.duration, signals))
    }
}

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
    Deadlock,
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
            // No step of one goroutine: see [`LineArgs::deadlocks`].
            EventArg::Deadlock => &[],
            EventArg::Sched => &[What::ThreadOff, What::ThreadOn, What::ThreadWake],
        }
    }

    /// All but `sched`, whose probes run at every context switch of the machine, not only of the target, and `deadlock`, which
    /// reads the target's memory whenever a goroutine waits for long.
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

/// The options that choose events and their form: the same for `trace` and `report`.
#[derive(ClapArgs)]
pub(super) struct LineArgs {
    /// Kinds of events to show [default: all but sched and deadlock]
    #[arg(short, long, value_delimiter = ',', value_name = "EVENTS")]
    events: Vec<EventArg>,
    /// Only where the goroutine's function, its go statement or the wait site matches
    #[arg(long, value_name = "REGEX")]
    func: Option<Regex>,
    /// Only what lasted at least this long (blocks and system calls, shown when they end)
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    min: Option<Duration>,
    /// Show the whole stack of what lasted longer than TIME (10ms if not given), and of what waited
    /// before the trace began
    #[arg(long, value_name = "TIME", value_parser = parse::time, num_args = 0..=1, require_equals = true,
          default_missing_value = "10ms")]
    pub(super) stacks: Option<Duration>,
    /// Print a summary at the end instead of events
    #[arg(short = 'c', long)]
    summary: bool,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) struct Layout {
    /// Times in text count from here, `CLOCK_MONOTONIC` nanoseconds.
    pub(super) start_ts: u64,
    /// Whether each line names its process.
    pub(super) several: bool,
    pub(super) colour: bool,
}

impl LineArgs {
    pub(super) fn events(&self) -> Vec<What> {
        let kinds: &[EventArg] = if self.events.is_empty() { &EventArg::DEFAULT } else { &self.events };
        kinds.iter().flat_map(|kind| kind.events()).copied().collect()
    }

    /// Whether goroutines that wait for each other are to be told of.
    pub(super) fn deadlocks(&self) -> bool {
        self.events.contains(&EventArg::Deadlock)
    }

    /// The observer that writes what these options choose; `goids` are of another group of options.
    pub(super) fn printer(&self, out: Box<dyn Write + Send>, goids: &[u64], layout: &Layout) -> Printer {
        let filter = Filter {
            events: self.events().into_iter().collect(),
            goids: goids.to_vec(),
            func: self.func.clone(),
            min_ns: self.min.map_or(0, nanoseconds),
            stacks_ns: self.stacks.map(nanoseconds),
        };
        let out = BufWriter::with_capacity(1 << 16, out);
        let sink: Box<dyn Sink + Send> = match self.format {
            Format::Json => Box::new(Json::new(out)),
            Format::Text => Box::new(Text::new(out, layout.start_ts, layout.several, layout.colour)),
        };
        Printer::new(sink, filter, self.summary)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

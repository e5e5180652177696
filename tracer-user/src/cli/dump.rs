//! `sfgi dump`: every goroutine of a running program, or of a core file, as its memory shows it.

use super::{opened::Opened, output, parse::duration};
use crate::{
    memory::{Core, Live},
    model::State,
    present::dump::{About, Choice, Executable, Group, GroupText, JsonDump, Names, Order, object_in_full, write_profile},
    snapshot::{self, Clock, Snapshot, Trust, View},
};
use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use regex::Regex;
use std::{
    io::{self, BufWriter, IsTerminal as _, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Bytes that are collected before they are written: a large dump is hundreds of megabytes.
const BUFFER: usize = 1 << 20;
/// How often the progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Pprof,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StateArg {
    Runnable,
    Running,
    Syscall,
    Waiting,
    Leaked,
    Preempted,
    Copystack,
}

impl StateArg {
    fn states(self) -> &'static [State] {
        match self {
            StateArg::Runnable => &[State::Runnable],
            StateArg::Running => &[State::Running],
            StateArg::Syscall => &[State::Syscall],
            // A leaked goroutine waits; that the runtime found it does not change that.
            StateArg::Waiting => &[State::Waiting, State::Leaked],
            StateArg::Leaked => &[State::Leaked],
            StateArg::Preempted => &[State::Preempted],
            StateArg::Copystack => &[State::CopyStack],
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SortArg {
    /// By goid
    Goid,
    /// Longest known wait first
    Age,
    /// By state and wait reason
    State,
    /// By the innermost function
    Func,
    /// By the function that created them
    Creator,
}

impl SortArg {
    fn order(self) -> Order {
        match self {
            SortArg::Goid => Order::Goid,
            SortArg::Age => Order::Age,
            SortArg::State => Order::State,
            SortArg::Func => Order::Func,
            SortArg::Creator => Order::Creator,
        }
    }
}

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi dump [OPTIONS] (-p PID | --core FILE --exe FILE)",
    after_help = "\
Text is in the form of the runtime's own tracebacks. The program goes on running while it is read:
a goroutine that moved meanwhile is marked (in motion) and has no stack, one that runs has what can
be told of its outer frames. How long a goroutine waits is known only once a garbage collection has
found it waiting; it may have been waiting longer.

EXAMPLES
  sfgi dump -p 1234                                 all goroutines, as a panic would print them
  sfgi dump -p 1234 --group                         the same stack once, with how many there are
  sfgi dump -p 1234 --reason '^chan' --older 5m     who waits for a channel for five minutes or more
  sfgi dump -p 1234 --func 'main\\.worker' --limit 3 three of those in, or made by, main.worker
  sfgi dump -p 1234 --object 0xc000012120           a channel or lock, and who waits for it
  sfgi dump -p 1234 --format pprof -o g.pb.gz       then: go tool pprof -http : g.pb.gz
  sfgi dump --core core.1234 --exe ./server         from a core file"
)]
pub(super) struct Args {
    /// Process to read
    #[arg(short, long, value_name = "PID", required_unless_present = "core", conflicts_with = "core")]
    pid: Option<u32>,
    /// Core file to read
    #[arg(long, value_name = "FILE", requires = "exe")]
    core: Option<PathBuf>,
    /// The executable that the core file is of
    #[arg(long, value_name = "FILE", requires = "core")]
    exe: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// One entry for all goroutines with the same stack, state and wait reason
    #[arg(long)]
    group: bool,
    /// Only goroutines in these states
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATES")]
    state: Vec<StateArg>,
    /// Only those whose wait reason matches ("chan" finds "chan receive" and "chan send")
    #[arg(long, value_name = "REGEX")]
    reason: Option<Regex>,
    /// Only those with a matching function on their stack (inlined ones too) or as their creator
    #[arg(long, value_name = "REGEX")]
    func: Option<Regex>,
    /// Only those known to have been waiting for at least this long (from the first garbage
    /// collection after they began to)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    older: Option<Duration>,
    /// Only this goroutine (several: repeat)
    #[arg(long, value_name = "GOID")]
    goid: Vec<u64>,
    /// Only those that wait for the channel, lock, wait group, condition or semaphore at ADDR, which
    /// is shown first
    #[arg(long, value_name = "ADDR", value_parser = address)]
    object: Option<u64>,
    /// The runtime's own goroutines too
    #[arg(long)]
    system: bool,
    /// Order [default: the runtime's own; groups: the largest first]
    #[arg(long, value_enum, conflicts_with = "group")]
    sort: Option<SortArg>,
    /// At most so many goroutines or groups
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

fn address(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).map_err(|_| format!("{text}: an address is a hexadecimal number, as 0xc000012120"))
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.group && args.format == Format::Pprof {
        bail!("a pprof profile always is in groups: leave out --group");
    }
    let opened = match (args.pid, &args.exe) {
        (Some(pid), _) => Opened::process(pid)?,
        (None, Some(exe)) => Opened::file(exe)?,
        (None, None) => bail!("neither a process nor a core file was given: use -p PID, or --core FILE --exe FILE"),
    };
    // An output that cannot be written is refused before anything is read.
    let (out, terminal) = output::open(args.output.as_deref())?;
    if args.format == Format::Pprof && terminal {
        bail!("a pprof profile is not for a terminal: write it to a file with -o FILE");
    }
    let mut out = BufWriter::with_capacity(BUFFER, out);
    if let Some(process) = &opened.process {
        let (memory, bias) = (Live::of(process), opened.bias()?);
        let view = View { memory: &memory, binary: &opened.binary, bias, clock: Clock::Live };
        return Dump { args, opened: &opened, pid: args.pid, bias }.run(&view, &mut out, terminal);
    }
    let path = args.core.as_deref().unwrap_or_else(|| std::path::Path::new(""));
    let name = path.display();
    let core = Core::open(path, &opened.binary).with_context(|| name.to_string())?;
    if let Some(truncated) = core.truncated() {
        eprintln!("sfgi: {name}: {truncated}");
    }
    let (bias, pid) = (core.bias(), u32::try_from(core.pid()).ok().filter(|pid| *pid != 0));
    let view = View { memory: &core, binary: &opened.binary, bias, clock: Clock::Stopped };
    Dump { args, opened: &opened, pid, bias }.run(&view, &mut out, terminal)
}

/// What is dumped, and how.
struct Dump<'a> {
    args: &'a Args,
    opened: &'a Opened,
    pid: Option<u32>,
    bias: u64,
}

impl Dump<'_> {
    fn run(&self, view: &View<'_>, out: &mut impl Write, terminal: bool) -> Result<()> {
        let started = Instant::now();
        let time_ns = self.wall_clock_ns();
        let mut progress = Progress::new();
        let snapshot = snapshot::take(view, self.options(), &mut |read, all| progress.show(read, all))
            .with_context(|| self.name())?;
        progress.clear();
        let took = started.elapsed();
        let mut names = Names::new(Arc::clone(&self.opened.binary), self.bias, &snapshot);
        let choice = self.choice(&snapshot)?;
        let mut chosen = choice.of(&snapshot, &mut names);
        let matching = chosen.len();
        if let Some(sort) = self.args.sort {
            sort.order().sort(&mut chosen, &snapshot, &mut names);
        }
        let mut groups = None;
        let limit = self.args.limit.unwrap_or(usize::MAX);
        let left_out = if self.args.group {
            let groups = groups.insert(Group::all(&snapshot, &names, &chosen));
            let left_out = groups.len().saturating_sub(limit);
            groups.truncate(limit);
            left_out
        } else {
            chosen.truncate(limit);
            matching - chosen.len()
        };
        self.write(out, terminal, &snapshot, &mut names, &chosen, groups.as_deref(), choice.object, time_ns)?;
        out.flush()?;
        self.close(&snapshot, took, matching, left_out);
        Ok(())
    }
}

//! `sfgi dump`: every goroutine of a running program, or of a core file, as its memory shows it.

use super::{
    parse, session,
    session::Progress,
    source::{self, MemoryArgs, Opened},
};
use crate::{
    confine::{self, Needs},
    output::{
        Traceback, count,
        dump::{About, Choice, Group, GroupText, JsonDump, Order, object_in_full},
        graph::{Graph, GraphFormat},
        pprof::{ProfileKind, write_profile},
        say,
    },
};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args as ClapArgs, ValueEnum};
use regex::Regex;
use sfgi_core::{
    goruntime::State,
    heap,
    model::Wakers,
    names::Names,
    snapshot,
    snapshot::{Options, Snapshot, Trust, View},
};
use std::{
    io::{BufWriter, Write},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// Size of the output buffer: a dump of a million goroutines is hundreds of megabytes.
const BUFFER: usize = 1 << 20;

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
            // The runtime's own leak detector (Go 1.26) renames the state only; a leaked goroutine still waits.
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
be told of its outer frames. How long a goroutine waits is the runtime's own count: known once a
garbage collection has found it waiting, and too long by up to the time between two collections.

TIME is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h.

EXAMPLES
  sfgi dump -p 1234                                 all goroutines, as a panic would print them
  sfgi dump -p 1234 --group                         the same stack once, with how many there are
  sfgi dump -p 1234 --reason '^chan' --older 5m     who waits for a channel for five minutes or more
  sfgi dump -p 1234 --func 'main\\.worker' --limit 3 three of those in, or made by, main.worker
  sfgi dump -p 1234 --object 0xc000012120           a channel or lock, and who waits for it
  sfgi dump -p 1234 --graph dot | dot -Tsvg > w.svg who waits for whom, and who holds what
  sfgi dump -p 1234 --format pprof -o g.pb.gz       then: go tool pprof -http : g.pb.gz
  sfgi dump --core core.1234 --exe ./server         from a core file"
)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) target: MemoryArgs,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// One entry for all goroutines with the same stack, state and wait reason
    #[arg(long)]
    group: bool,
    /// Who waits for whom, instead of stacks: who holds each lock, and who could use each channel
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with_all = ["group", "format", "sort", "limit"])]
    graph: Option<GraphFormat>,
    /// Only goroutines in these states
    #[arg(long, value_enum, value_delimiter = ',', value_name = "STATES")]
    state: Vec<StateArg>,
    /// Only those whose wait reason matches ("chan" finds "chan receive" and "chan send")
    #[arg(long, value_name = "REGEX")]
    reason: Option<Regex>,
    /// Only those with a matching function on their stack (inlined ones too) or as their creator
    #[arg(long, value_name = "REGEX")]
    func: Option<Regex>,
    /// Only those that have been waiting for at least this long, as the runtime counts it
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    older: Option<Duration>,
    /// Only this goroutine (several: repeat)
    #[arg(long, value_name = "GOID")]
    goid: Vec<u64>,
    /// Only those that wait for the channel, lock, wait group, condition or semaphore at ADDR, which
    /// is shown first
    #[arg(long, value_name = "ADDR", value_parser = parse::address)]
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

pub(super) fn run(args: &Args) -> Result<()> {
    if args.group && args.format == Format::Pprof {
        bail!("a pprof profile always is in groups: leave out --group");
    }
    // A process that is not there is said before an output is made for it, and an output that cannot be written before anything
    // is read.
    source::may_be_read(args.target.pid)?;
    let (out, terminal) = session::output(args.output.as_deref())?;
    if args.format == Format::Pprof {
        session::no_text("a pprof profile", terminal)?;
    }
    confine::apply(&Needs::reader());
    let opened = args.target.open()?;
    let mut out = BufWriter::with_capacity(BUFFER, out);
    args.target.with_view(&opened, |view, pid| {
        Dump { args, opened: &opened, pid, bias: view.bias }.run(view, &mut out, terminal)
    })
}

struct Dump<'a> {
    args: &'a Args,
    opened: &'a Opened,
    pid: Option<u32>,
    bias: u64,
}

/// The part of a snapshot that the options choose.
struct Shown<'a> {
    snapshot: &'a Snapshot,
    /// Indices into [`Snapshot::goroutines`], in the order to show.
    chosen: Vec<u32>,
    /// The groups of `chosen`, with `--group`.
    groups: Option<Vec<Group>>,
    object: Option<u32>,
    /// How many goroutines or groups `--limit` left out.
    left_out: usize,
}

impl Dump<'_> {
    fn run(&self, view: &View<'_>, out: &mut impl Write, terminal: bool) -> Result<()> {
        let (started, time_ns) = (Instant::now(), self.wall_clock_ns());
        let mut progress = Progress::new();
        let taken = snapshot::take(view, self.options(), &mut |read, all| {
            progress.show(|| format!("read {} of {} goroutines", count(read), count(all)));
        });
        progress.clear();
        let (snapshot, took) = (taken.with_context(|| self.name())?, started.elapsed());
        let mut names = Names::new(Arc::clone(&self.opened.binary), self.bias, &snapshot);
        let shown = self.select(&snapshot, &mut names)?;
        if let Some(format) = self.args.graph {
            return self.graph(view, out, format, &shown, &mut names);
        }
        match self.args.format {
            Format::Text => self.text(out, terminal, &shown, &mut names)?,
            Format::Json => self.json(out, &shown, &mut names)?,
            Format::Pprof => {
                let (chosen, exe) = (&shown.chosen, &self.opened.name);
                write_profile(
                    &mut *out,
                    ProfileKind::Goroutines,
                    &snapshot,
                    &mut names,
                    chosen,
                    exe,
                    time_ns,
                )?;
            }
        }
        out.flush()?;
        say(self.closing(&shown, took));
        Ok(())
    }

    fn options(&self) -> Options {
        // Arguments of frames are printed by tracebacks only, and objects by JSON, by groups and for --object: reading
        // what nobody prints would lengthen the time in which goroutines move.
        let text = self.args.format == Format::Text && !self.args.group;
        let pprof = self.args.format == Format::Pprof;
        Options {
            stacks: true,
            args: text,
            labels: true,
            objects: !(text || pprof) || self.args.object.is_some() || self.args.graph.is_some(),
            most: 0,
        }
    }

    fn select<'s>(&self, snapshot: &'s Snapshot, names: &mut Names) -> Result<Shown<'s>> {
        let args = self.args;
        let object = args.object.map(|addr| {
            snapshot
                .object_at(addr)
                .with_context(|| format!("{}: no goroutine waits for anything at {addr:#x}", self.name()))
        });
        // Nobody waits at the address: better an error than an empty list, which would read as an answer.
        let object = object.transpose()?;
        let choice = Choice {
            states: args.state.iter().flat_map(|state| state.states()).copied().collect(),
            reason: args.reason.clone(),
            func: args.func.clone(),
            older_ns: args.older.map_or(0, |older| u64::try_from(older.as_nanos()).unwrap_or(u64::MAX)),
            goids: args.goid.iter().copied().collect(),
            object,
            system: args.system,
        };
        let mut chosen = choice.of(snapshot, names);
        if let Some(sort) = args.sort {
            sort.order().sort(&mut chosen, snapshot, names);
        }
        let mut groups = args.group.then(|| Group::all(snapshot, names, &chosen));
        // --limit counts what is listed: groups with --group, else goroutines.
        let all = groups.as_ref().map_or(chosen.len(), Vec::len);
        let limit = args.limit.unwrap_or(all);
        match &mut groups {
            Some(groups) => groups.truncate(limit),
            None => chosen.truncate(limit),
        }
        Ok(Shown { snapshot, chosen, groups, object, left_out: all.saturating_sub(limit) })
    }

    fn graph(
        &self,
        view: &View<'_>,
        out: &mut impl Write,
        format: GraphFormat,
        shown: &Shown<'_>,
        names: &mut Names,
    ) -> Result<()> {
        let waits = heap::waits(view, shown.snapshot, &Wakers::default());
        let waits = waits.map_err(|error| anyhow!("{}: {error}", self.name()))?;
        let about = (self.pid, &*self.opened.name);
        let graph = Graph::new(about, shown.snapshot, &waits, &shown.chosen, names);
        graph.write(format, &mut *out)?;
        out.flush()?;
        say(format!("{}: {}", self.name(), graph.closing(format != GraphFormat::Json)));
        Ok(())
    }

    fn text(&self, out: &mut impl Write, terminal: bool, shown: &Shown<'_>, names: &mut Names) -> Result<()> {
        if let Some(text) = shown.object.and_then(|object| object_in_full(shown.snapshot, object)) {
            writeln!(out, "{text}\n")?;
        }
        if let Some(groups) = &shown.groups {
            return Ok(GroupText::new(out, shown.snapshot, names, terminal).write(groups)?);
        }
        let binary = &self.opened.binary;
        let now_ns = shown.snapshot.taken_ns.1;
        let mut traceback = Traceback::new(binary, self.bias, shown.snapshot, now_ns);
        let goroutine = |index: &u32| shown.snapshot.goroutines.get(*index as usize);
        for (index, goroutine) in shown.chosen.iter().filter_map(goroutine).enumerate() {
            if index > 0 {
                out.write_all(b"\n")?;
            }
            traceback.write(out, goroutine)?;
        }
        Ok(())
    }

    fn json(&self, out: &mut impl Write, shown: &Shown<'_>, names: &mut Names) -> Result<()> {
        let incomplete = shown.snapshot.lacks();
        let about = About {
            pid: self.pid,
            exe: &self.opened.name,
            incomplete: incomplete.as_deref(),
            object: shown.object,
        };
        let document = JsonDump::new(out, shown.snapshot, names);
        match &shown.groups {
            Some(groups) => document.groups(&about, groups)?,
            None => document.goroutines(&about, &shown.chosen)?,
        }
        Ok(())
    }

    /// The closing sentence: what was read, what is missing or doubtful, and what was left out.
    fn closing(&self, shown: &Shown<'_>, took: Duration) -> String {
        let snapshot = shown.snapshot;
        let mut text = format!(
            "{} ({}): {} goroutines read in {:.1} ms",
            self.name(),
            self.opened.binary.version().raw,
            count(snapshot.goroutines.len() as u64),
            took.as_secs_f64() * 1e3
        );
        let with = |trust| snapshot.goroutines.iter().filter(|one| one.trust == trust).count() as u64;
        let doubts = [
            (with(Trust::InMotion), "in motion"),
            (with(Trust::Broken), "whose memory makes no sense"),
            (snapshot.unreadable, "that could not be read"),
        ];
        for (number, what) in doubts.into_iter().filter(|(number, _)| *number > 0) {
            text += &format!(", {} {what}", count(number));
        }
        let layout = self.opened.binary.layout().source();
        if layout.is_unusual() {
            text += &format!("; layout: {layout}");
        }
        if let Some(why) = snapshot.lacks() {
            text += &format!("; incomplete: {why}");
        }
        if shown.left_out > 0 {
            let what = if shown.groups.is_some() { "groups" } else { "goroutines" };
            text += &format!("; {} more {what} left out (--limit)", count(shown.left_out as u64));
        }
        text
    }

    fn name(&self) -> String {
        self.args.target.name(self.opened, self.pid)
    }

    /// Wall clock of the snapshot, nanoseconds since 1970; 0 for a core file, which does not record it.
    fn wall_clock_ns(&self) -> i64 {
        if self.args.target.core.is_some() {
            return 0;
        }
        session::wall_clock_ns()
    }
}

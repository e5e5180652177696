//! `sfgi export`: converts a recording for other tools.

use super::{parse, report, session};
use crate::output::{
    Csv, GoTrace, Json, Perfetto, Printer, Sink, say,
    stacks::{Form, Kind, Span, Stacks, Wanted},
};
use anyhow::{Context as _, Result, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use regex::Regex;
use sfgi_core::{
    model::Whats,
    names::Filter,
    recording::{Head, copy_document},
    session::Observer,
};
use std::{
    io::{BufWriter, Write},
    path::PathBuf,
    time::Duration,
};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum To {
    /// A profile by stack, for go tool pprof
    Pprof,
    /// A profile by stack as an SVG, for a browser
    Flamegraph,
    /// A profile by stack as text: a stack a line, then its number or nanoseconds
    Folded,
    /// All events, a JSON object a line, as sfgi trace --format json has them
    Json,
    /// All events as a table, a row each
    Csv,
    /// An execution trace of Go, for go tool trace and gotraceui
    GoTrace,
    /// A Perfetto trace, for ui.perfetto.dev
    Perfetto,
}

impl To {
    /// Whether the format is a profile by stack, which alone has --kind and its like.
    fn is_profile(self) -> bool {
        match self {
            To::Pprof | To::Flamegraph | To::Folded => true,
            To::Json | To::Csv | To::GoTrace | To::Perfetto => false,
        }
    }

    /// Whether it can be of one process only (--pid). The others name the process of each event.
    fn takes_pid(self) -> bool {
        match self {
            To::Pprof | To::Flamegraph | To::Folded | To::GoTrace | To::Perfetto => true,
            To::Json | To::Csv => false,
        }
    }

    fn is_text(self) -> bool {
        match self {
            To::Flamegraph | To::Folded | To::Json | To::Csv => true,
            To::Pprof | To::GoTrace | To::Perfetto => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// Time that goroutines waited, by where
    Blocked,
    /// Time that threads of goroutines had no CPU (needs sfgi record --sched)
    Offcpu,
    /// Goroutines made, by go statement
    Created,
    /// Goroutines that exist at the end, by where they are
    Goroutines,
    /// Leaked goroutines (pprof only; needs sfgi record --leaks)
    Leaks,
}

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi export [OPTIONS] FILE --to FORMAT",
    after_help = "\
A profile counts time as far as it lies between --from and --until: a wait from before counts from
there on, and one that had not ended counts up to there and has the label open. Go's own block
profile counts a wait when it ends, and only waits for channels and of package sync:
--reason '^(chan (send|receive)|select|sync|semacquire)' compares with it.

TIME is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h.

EXAMPLES
  sfgi export server.sfgi --to pprof -o blocked.pb.gz          then: go tool pprof -http=: blocked.pb.gz
  sfgi export server.sfgi --to flamegraph -o blocked.svg       where goroutines wait, for a browser
  sfgi export server.sfgi --to flamegraph --kind goroutines --by-creator -o now.svg
  sfgi export server.sfgi --to folded --reason '^sync' --from 2s --until 5s
  sfgi export server.sfgi --to csv -o events.csv               for a spreadsheet or a database
  sfgi export server.sfgi --to go-trace -o go.trace            then: go tool trace go.trace
  sfgi export server.sfgi --to perfetto -o server.pftrace      for ui.perfetto.dev"
)]
pub(super) struct Args {
    /// Recording to convert
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Format to convert it to
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: To,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What a profile counts [default: blocked]
    #[arg(long, value_enum)]
    kind: Option<KindArg>,
    /// Only this process of several
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// In a profile, only waits whose reason matches
    #[arg(long, value_name = "REGEX")]
    reason: Option<Regex>,
    /// In a profile, put the go statement that made a goroutine before its own stack
    #[arg(long)]
    by_creator: bool,
    /// In a profile, the runtime's own goroutines too
    #[arg(long)]
    system: bool,
    /// In a profile, only what was later than TIME after the beginning
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    from: Option<Duration>,
    /// Only up to TIME after the beginning
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    until: Option<Duration>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    args.check()?;
    // An output that cannot be written is refused before any event is read.
    let (out, terminal) = report::output(args.output.as_deref(), &args.file)?;
    if !args.to.is_text() {
        session::no_text("this format", terminal)?;
    }
    report::confine(&args.file);
    let player = report::open(&args.file)?;
    let mut out = BufWriter::with_capacity(1 << 16, out);
    if args.kind == Some(KindArg::Leaks) {
        return args.leaks(&mut out);
    }
    let head = player.head().clone();
    let until_ts = report::after(&head, args.until).unwrap_or(u64::MAX);
    let mut observer = args.observer(&head, until_ts, Box::new(out));
    let played = report::play(player, &args.file, &mut [&mut *observer], until_ts)?;
    for end in played.ends.iter().filter(|end| end.lost > 0) {
        say(&end.closing);
    }
    Ok(())
}

impl Args {
    /// Refuses options that do not go together, before anything is opened.
    fn check(&self) -> Result<()> {
        let kind = self.kind.unwrap_or(KindArg::Blocked);
        let of_profiles = [
            ("--kind", self.kind.is_some()),
            ("--reason", self.reason.is_some()),
            ("--by-creator", self.by_creator),
            ("--system", self.system),
            ("--from", self.from.is_some()),
        ];
        ensure!(
            self.pid.is_none() || self.to.takes_pid(),
            "--pid is for profiles and traces: json and csv name the process of each event"
        );
        if !self.to.is_profile() {
            let given = of_profiles.iter().find(|(_, given)| *given);
            ensure!(given.is_none(), "{} is only for a profile by stack", given.map_or("", |(name, _)| name));
        }
        ensure!(
            self.reason.is_none() || matches!(kind, KindArg::Blocked | KindArg::Goroutines),
            "--reason is only for --kind blocked and goroutines: nothing else waits for a reason"
        );
        if kind == KindArg::Leaks {
            ensure!(self.to == To::Pprof, "--kind leaks is only for --to pprof");
            let others = self.by_creator || self.system || self.from.is_some() || self.until.is_some();
            ensure!(
                !others,
                "--kind leaks is what was found at the end: it has no further options but --pid"
            );
        }
        if let (Some(from), Some(until)) = (self.from, self.until) {
            ensure!(from < until, "--from is not before --until: nothing lies between");
        }
        Ok(())
    }

    fn observer(&self, head: &Head, until_ts: u64, out: Box<dyn Write + Send>) -> Box<dyn Observer> {
        let events = |sink: Box<dyn Sink + Send>| {
            let events = Whats::ALL;
            // An export has everything that was recorded: no filter, and every stack whatever its length.
            let filter = Filter { events, goids: Vec::new(), func: None, min_ns: 0, stacks_ns: Some(0) };
            Box::new(Printer::new(sink, filter, false))
        };
        let form = match self.to {
            To::Pprof => Form::Pprof,
            To::Flamegraph => Form::Flamegraph,
            To::Folded => Form::Folded,
            To::Json => return events(Box::new(Json::new(out))),
            To::Csv => return events(Box::new(Csv::new(out))),
            To::GoTrace => return Box::new(GoTrace::new(out, self.pid)),
            To::Perfetto => return Box::new(Perfetto::new(out, self.pid)),
        };
        let span = Span { from_ts: report::after(head, self.from).unwrap_or(head.start_ts), to_ts: until_ts };
        let wanted = Wanted {
            kind: match self.kind {
                // `run` has served --kind leaks already: its profile is a document of the recording.
                None | Some(KindArg::Blocked | KindArg::Leaks) => Kind::Blocked,
                Some(KindArg::Offcpu) => Kind::OffCpu,
                Some(KindArg::Created) => Kind::Created,
                Some(KindArg::Goroutines) => Kind::Goroutines,
            },
            span,
            pid: self.pid,
            reason: self.reason.clone(),
            system: self.system,
            by_creator: self.by_creator,
        };
        if wanted.kind == Kind::OffCpu && !head.threads {
            say(format_args!(
                "{}: no time off CPU was recorded: use sfgi record --sched",
                self.file.display()
            ));
        }
        // Profiles carry the wall clock of their beginning; events have only `CLOCK_MONOTONIC`.
        let offset_ns = i64::try_from(span.from_ts.saturating_sub(head.start_ts)).unwrap_or(i64::MAX);
        let time_ns = head.start_unix_ns.saturating_add(offset_ns);
        Box::new(Stacks::new(out, form, wanted, time_ns))
    }

    fn leaks(&self, out: &mut impl Write) -> Result<()> {
        let name = self.file.display();
        // The profile was made when the leaks were found: heap and stacks of the target are not in the recording.
        let there =
            copy_document(&self.file, "leaks.pprof", self.pid, out).with_context(|| name.to_string())?;
        ensure!(there, "{name}: no leaks were looked for: record with --leaks");
        Ok(out.flush()?)
    }
}

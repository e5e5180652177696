//! `sfgi leaks`: which goroutines of a running program, or of a core file, are leaked.

use super::{
    Outcome,
    opened::{LayoutArg, Opened},
    output,
    parse::duration,
    progress::Progress,
    stop::Stop,
};
use crate::{
    detect::{self, Baseline, Group, History, Report, Rules, Scope, Thresholds, Verdict},
    heap::{self, Observation},
    memory::{Core, Live},
    present::{
        bytes, count,
        dump::{Names, ProfileKind, write_profile},
        leaks::{Changes, Found, LeakText, summary, write_json, write_sarif},
    },
    snapshot::{Clock, View},
};
use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use regex::Regex;
use std::{
    fs,
    io::{BufWriter, Write},
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Threads that scan where nobody says how many: more would take the machine from the program.
const MAX_THREADS: usize = 4;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Pprof,
    Sarif,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VerdictArg {
    /// Old and many, or made faster than they end
    Suspect,
    /// A rule of the catalogue says so
    Likely,
    /// Nothing that can still run reaches what would wake them
    Proven,
}

impl VerdictArg {
    fn verdict(self) -> Verdict {
        match self {
            VerdictArg::Suspect => Verdict::Suspect,
            VerdictArg::Likely => Verdict::Likely,
            VerdictArg::Proven => Verdict::Proven,
        }
    }
}

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi leaks [OPTIONS] (-p PID | --core FILE --exe FILE)",
    after_help = "\
The program goes on running. `proven` says that no variable, no timer and no goroutine that can still run leads to what
would wake these; `likely` that a rule for a known kind of leak holds; `suspect` that many of the same stack are old, or
that a go statement makes them faster than they end.

JSON is one document, schema sfgi.leaks/1: `leaks` (a goroutine each), `groups` (same creation site, stack, class and
verdict; their ids stay the same from run to run) and `sets` (goroutines that wait for each other). With --watch it is
one document a line.

A rule file for --rules holds entries like this; what is left out under match is not asked:
  [[rule]]
  id = \"own-queue\"            # the id of a built-in rule replaces that
  class = \"queue-stuck\"
  title = \"waits for the queue\"
  priority = 600              # the highest is asked first; those built in lie between -1000 and 1000
  severity = \"warning\"        # error, warning or note
  gives = \"likely\"            # or suspect; what the heap proves is proven whatever stands here
  explanation = \"...\"
  fix = \"...\"
  formal = { context = \"...\", precondition = \"...\", change = \"...\", label = \"...\" }
  [rule.match]
  verdict = \"any\"             # \"proven\": where nothing is proven it can only be a suspect
  wait_reason = [\"select\"]    # or a regular expression; state = [\"waiting\", \"syscall\", \"runnable\", \"running\"]
  frames = ['^main\\.\\(\\*queue\\)\\.take$']   # each on the stack, with in_order = true from the innermost on
  not_frames = ['^net/http\\.']
  creator = '^main\\.serve'
  object = [\"channel\"]        # nil none mutex rwmutex waitgroup cond semaphore context timer
  channel = { cap = [1, 64], closed = false, senders = 0 }
  count = \"min\"               # or a number; age = \"min\" or \"30s\"; growth = true; stable = true; set = true;
                              # cycle = \"lock\", \"mixed\", \"any\"; busy, yielding, moved = 0.5 (part of the looks)

Exit codes: 0 done, 1 the tool failed, 2 bad usage, 3 something was found (--fail).

EXAMPLES
  sfgi leaks -p 1234                                    what is leaked, with evidence and what to do
  sfgi leaks -p 1234 --min-verdict proven --fail        for scripts: exit code 3 if something is proven
  sfgi leaks -p 1234 --watch=30s                        again and again: what is new, what is gone, what grows
  sfgi leaks -p 1234 --write-baseline known.json        accept what there is now ...
  sfgi leaks -p 1234 --baseline known.json --fail       ... and be told of anything else
  sfgi leaks -p 1234 --min-age 30s --ignore-func '^main\\.idle$'
  sfgi leaks -p 1234 --format pprof -o leaks.pb.gz      then: go tool pprof -http : leaks.pb.gz
  sfgi leaks -p 1234 --format sarif -o leaks.sarif      for a code host or an editor
  sfgi leaks --core core.1234 --exe ./server            from a core file"
)]
pub(super) struct Args {
    /// Process to look at
    #[arg(short, long, value_name = "PID", required_unless_present = "core", conflicts_with = "core")]
    pid: Option<u32>,
    /// Core file to look at
    #[arg(long, value_name = "FILE", requires = "exe", conflicts_with_all = ["watch", "freeze"])]
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
    /// Look again and again, with a pause of TIME (30s if not given), until Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = duration, num_args = 0..=1, require_equals = true,
          default_missing_value = "30s")]
    watch: Option<Duration>,
    /// How long to look each time: stability and growth need some time
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    observe: Duration,
    /// Passes over the heap at least
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u32).range(1..=1000))]
    passes: u32,
    /// Threads that read the heap [default: one a processor, at most 4]
    #[arg(long, value_name = "N")]
    threads: Option<NonZero<usize>>,
    /// Do not read the heap: nothing is proven then
    #[arg(long)]
    no_heap: bool,
    /// Stop the program while it is read, for one consistent view; how long that took is said
    #[arg(long)]
    freeze: bool,
    /// The least verdict that is shown
    #[arg(long, value_enum, default_value = "suspect", value_name = "VERDICT")]
    min_verdict: VerdictArg,
    /// Exit with code 3 if anything is shown
    #[arg(long)]
    fail: bool,
    /// Leave out what this file accepts
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// Write a baseline that accepts all that is found
    #[arg(long, value_name = "FILE")]
    write_baseline: Option<PathBuf>,
    /// Leave out goroutines with a matching function on their stack (several: repeat)
    #[arg(long, value_name = "REGEX")]
    ignore_func: Vec<Regex>,
    /// Leave out goroutines that a matching function created (several: repeat)
    #[arg(long, value_name = "REGEX")]
    ignore_created_by: Vec<Regex>,
    /// Only this goroutine (several: repeat)
    #[arg(long, value_name = "GOID")]
    goid: Vec<u64>,
    /// From which age on waiting is suspicious
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m")]
    min_age: Duration,
    /// How many alike are suspicious
    #[arg(long, value_name = "N", default_value = "3")]
    min_count: NonZero<u64>,
    /// Add the rules of all .toml files in DIR; those with the id of a built-in one replace it
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    #[command(flatten)]
    layout: LayoutArg,
}

impl Args {
    fn rules(&self) -> Result<Rules> {
        let rules = Rules::built_in()?;
        Ok(match &self.rules {
            Some(directory) => rules.with_directory(directory)?,
            None => rules,
        })
    }

    fn baseline(&self) -> Result<Baseline> {
        let Some(path) = &self.baseline else { return Ok(Baseline::default()) };
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the baseline {name}"))?;
        Baseline::parse(&text).with_context(|| name.to_string())
    }

    fn scope(&self) -> Scope {
        Scope {
            goids: self.goid.iter().copied().collect(),
            ignore_func: self.ignore_func.clone(),
            ignore_created_by: self.ignore_created_by.clone(),
        }
    }

    fn options(&self) -> heap::Options {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        heap::Options {
            window: self.observe,
            passes: self.passes,
            threads: self.threads.map_or(processors.min(MAX_THREADS), NonZero::get),
            heap: !self.no_heap,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<Outcome> {
    if args.watch.is_some() && matches!(args.format, Format::Pprof | Format::Sarif) {
        bail!("--watch writes text or JSON: leave out --watch, or choose --format text or json");
    }
    let (rules, baseline) = (args.rules()?, args.baseline()?);
    let opened = match (args.pid, &args.exe) {
        (Some(pid), _) => Opened::process(pid, &args.layout)?,
        (None, Some(exe)) => Opened::file(exe, &args.layout)?,
        (None, None) => {
            bail!("neither a process nor a core file was given: use -p PID, or --core FILE --exe FILE")
        }
    };
    // An output that cannot be written is refused before anything is read.
    let (out, terminal) = output::open(args.output.as_deref())?;
    if args.format == Format::Pprof && terminal {
        bail!("a pprof profile is not for a terminal: write it to a file with -o FILE");
    }
    let out = BufWriter::with_capacity(1 << 16, out);
    let mut leaks = Leaks {
        args,
        opened: &opened,
        rules,
        baseline,
        scope: args.scope(),
        pid: args.pid,
        out,
        colour: terminal,
        history: History::default(),
        changes: Changes::default(),
    };
    if let Some(process) = &opened.process {
        let (memory, bias) = (Live::of(process), opened.bias()?);
        let view = View { memory: &memory, binary: &opened.binary, bias, clock: Clock::Live };
        return match args.watch {
            Some(pause) => leaks.watch(&view, pause),
            None => leaks.once(&view),
        };
    }
    let path = args.core.as_deref().unwrap_or_else(|| Path::new(""));
    let name = path.display();
    let core = Core::open(path, &opened.binary).with_context(|| name.to_string())?;
    if let Some(truncated) = core.truncated() {
        eprintln!("sfgi: {name}: {truncated}");
    }
    leaks.pid = u32::try_from(core.pid()).ok().filter(|pid| *pid != 0);
    let view = View { memory: &core, binary: &opened.binary, bias: core.bias(), clock: Clock::Stopped };
    leaks.once(&view)
}

/// One run of the command.
struct Leaks<'a> {
    args: &'a Args,
    opened: &'a Opened,
    rules: Rules,
    baseline: Baseline,
    scope: Scope,
    pid: Option<u32>,
    out: BufWriter<Box<dyn Write + Send>>,
    colour: bool,
    history: History,
    changes: Changes,
}

impl Leaks<'_> {
    /// Looks again and again until it is asked to stop, or the program ends.
    fn watch(&mut self, view: &View<'_>, pause: Duration) -> Result<Outcome> {
        let stop = Stop::on_signals()?;
        let mut outcome = self.once(view)?;
        while !stop.wait(pause) {
            outcome = match self.once(view) {
                Ok(outcome) => outcome,
                Err(_) if self.opened.bias().is_err() => {
                    eprintln!("sfgi: {}: the program has ended", self.name());
                    break;
                }
                Err(err) => return Err(err),
            };
        }
        Ok(outcome)
    }

    /// Looks once, and writes what was found.
    fn once(&mut self, view: &View<'_>) -> Result<Outcome> {
        let mut observation = self.observe(view)?;
        if self.args.watch.is_some() {
            self.history.extend(&mut observation.observed);
        }
        let snapshot = &observation.observed.snapshot;
        let mut names = Names::new(Arc::clone(&self.opened.binary), view.bias, snapshot);
        let thresholds = Thresholds {
            min_age_ns: u64::try_from(self.args.min_age.as_nanos()).unwrap_or(u64::MAX),
            min_count: self.args.min_count.get(),
            now_ns: snapshot.taken_ns.1,
        };
        let mut report =
            detect::detect(&observation.observed, &self.rules, &self.scope, &thresholds, &mut names);
        let least = self.args.min_verdict.verdict();
        report.retain(|group| group.verdict >= least);
        self.write_baseline(&report)?;
        let accepted = self.accept(&mut report);
        let members: Vec<Vec<u32>> = report.groups.iter().map(|group| group.members.clone()).collect();
        let pinned = observation.pinned(&members);
        let found = Found {
            pid: self.pid,
            exe: &self.opened.name,
            observed: &observation.observed,
            report: &report,
            pinned: &pinned,
            accepted,
        };
        self.write(&found, &mut names)?;
        Ok(if self.args.fail && !report.groups.is_empty() { Outcome::Found } else { Outcome::Done })
    }

    fn observe<'v>(&self, view: &View<'v>) -> Result<Observation<'v>> {
        let mut line = Progress::new();
        let mut registers = Vec::new;
        let mut progress = |progress| {
            line.show(|| match progress {
                heap::Progress::Looking(look) => format!("looking at the goroutines, {look}"),
                heap::Progress::Scanning(pass, read, all) => {
                    format!("reading the heap, pass {pass}: {} of {}", bytes(read), bytes(all))
                }
            });
        };
        let observation = heap::observe(view, &self.args.options(), &mut registers, &mut progress);
        line.clear();
        observation.with_context(|| self.name())
    }

    fn write_baseline(&self, report: &Report) -> Result<()> {
        let Some(path) = &self.args.write_baseline else { return Ok(()) };
        let name = path.display();
        fs::write(path, Baseline::text(report))
            .with_context(|| format!("cannot write the baseline {name}"))?;
        eprintln!("sfgi: {name} accepts {} groups", count(report.groups.len() as u64));
        Ok(())
    }

    /// Takes out what the baseline accepts, and says how many goroutines and timers that is.
    fn accept(&self, report: &mut Report) -> u64 {
        let mut accepted = 0;
        report.retain(|Group { id, count, .. }| {
            let known = self.baseline.accepts(*id);
            accepted += if known { *count } else { 0 };
            !known
        });
        accepted
    }

    fn write(&mut self, found: &Found<'_>, names: &mut Names) -> Result<()> {
        let (out, colour) = (&mut self.out, self.colour);
        let watching = self.args.watch.is_some();
        match self.args.format {
            Format::Text if watching => {
                let difference = self.changes.since(found.report);
                LeakText::new(out, found, names, colour).write_changes(&difference)?;
            }
            Format::Text => LeakText::new(out, found, names, colour).write()?,
            Format::Json => write_json(out, found, names, watching)?,
            Format::Sarif => write_sarif(out, found, names)?,
            Format::Pprof => {
                let chosen: Vec<u32> =
                    found.report.groups.iter().flat_map(|group| &group.members).copied().collect();
                let time_ns = if self.args.core.is_some() { 0 } else { output::wall_clock_ns() };
                let snapshot = &found.observed.snapshot;
                write_profile(&mut *out, ProfileKind::Leaks, snapshot, names, &chosen, found.exe, time_ns)?;
                out.flush()?;
            }
        }
        if self.args.format != Format::Text || self.args.output.is_some() {
            eprintln!("sfgi: {}: {}", self.name(), summary(found));
        }
        Ok(())
    }

    fn name(&self) -> String {
        match (&self.args.core, self.pid) {
            (None, Some(pid)) => format!("PID {pid}"),
            (core, _) => core.as_deref().unwrap_or(&self.opened.name).display().to_string(),
        }
    }
}

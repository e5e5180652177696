//! `sfgi leaks`: which goroutines of a running program, or of a core file, are leaked.

mod args;

use super::{Outcome, opened::Opened, output, progress::Progress, stop::Stop};
use crate::{
    detect::{self, Baseline, Group, History, Report, Rules, Scope, Thresholds},
    heap::{self, Observation, Registers},
    memory::{Core, Live, Sampler},
    present::{
        bytes, count,
        dump::{Names, ProfileKind, write_profile},
        leaks::{Changes, Found, LeakText, summary, write_json, write_sarif},
    },
    snapshot::{Clock, View},
    target::Process,
};
use anyhow::{Context as _, Result, bail};
pub(super) use args::Args;
use args::Format;
use std::{
    fs,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

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
        let mut registers = registers(process, args.freeze);
        return match args.watch {
            Some(pause) => leaks.watch(&view, &mut registers, pause),
            None => leaks.once(&view, &mut registers),
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
    leaks.once(&view, &mut Registers::Unknown)
}

/// Where what is only in registers comes from.
fn registers(process: &Process, freeze: bool) -> Registers<'_> {
    if freeze {
        return Registers::Frozen(process);
    }
    match Sampler::start(process) {
        Ok(sampler) => Registers::Sampled(sampler),
        Err(err) => {
            eprintln!("sfgi: {err}");
            Registers::Unknown
        }
    }
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
    fn watch(&mut self, view: &View<'_>, registers: &mut Registers<'_>, pause: Duration) -> Result<Outcome> {
        let stop = Stop::on_signals()?;
        let mut outcome = self.once(view, registers)?;
        while !stop.wait(pause) {
            outcome = match self.once(view, registers) {
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
    fn once(&mut self, view: &View<'_>, registers: &mut Registers<'_>) -> Result<Outcome> {
        let mut observation = self.observe(view, registers)?;
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

    fn observe<'v>(&self, view: &View<'v>, registers: &mut Registers<'_>) -> Result<Observation<'v>> {
        let mut line = Progress::new();
        let mut progress = |progress| {
            line.show(|| match progress {
                heap::Progress::Looking(look) => format!("looking at the goroutines, {look}"),
                heap::Progress::Scanning(pass, read, all) => {
                    format!("reading the heap, pass {pass}: {} of {}", bytes(read), bytes(all))
                }
            });
        };
        let observation = heap::observe(view, &self.args.options(), registers, &mut progress);
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

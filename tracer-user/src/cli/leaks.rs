//! `sfgi leaks`: which goroutines of a running program, or of a core file, are leaked.

mod args;
mod documents;

use super::{
    Outcome, session,
    session::{Progress, Signals, Stop},
    source::{self, Opened},
};
use crate::{
    confine::{self, Needs, Writes},
    files,
    output::{
        count,
        leaks::{Changes, Document, LeakText, progress, summary, write_json, write_sarif},
        pprof::{ProfileKind, write_profile},
        say,
    },
};
use anyhow::{Context as _, Result, bail};
pub(super) use args::Args;
use args::Format;
pub(super) use documents::documents;
use sfgi_core::{
    detect::{Baseline, Rules, Scope},
    heap::Registers,
    leaks::{Earlier, Found, Leaks, Search},
    memory::Sampler,
    names::Names,
    process::Process,
    snapshot::View,
};
use std::{
    io::{BufWriter, Write},
    time::Duration,
};

pub(super) fn run(args: &Args) -> Result<Outcome> {
    if args.watch.is_some() && matches!(args.format, Format::Pprof | Format::Sarif) {
        bail!("--watch writes text or JSON: leave out --watch, or choose --format text or json");
    }
    let (rules, baseline) = (args.rules()?, args.baseline()?);
    // A process that is not there is said before an output is made for it, and an output that cannot be written before anything
    // is read.
    source::may_be_read(args.target.pid)?;
    let (out, terminal) = session::output(args.output.as_deref())?;
    if args.format == Format::Pprof {
        session::no_text("a pprof profile", terminal)?;
    }
    // The baseline is made anew when the search is over.
    let writes = if args.write_baseline.is_some() { Writes::Anything } else { Writes::Nothing };
    confine::apply(&Needs::reader().with_registers().with_freeze(args.freeze).with_writes(writes));
    let opened = args.target.open()?;
    let out = BufWriter::with_capacity(1 << 16, out);
    let mut writer = Writer { out, colour: terminal, changes: Changes::default() };
    let mut run = Run::new(args, &opened, rules, baseline);
    args.target.with_view(&opened, |view, pid| {
        run.pid = pid;
        // Of a core file nothing runs, so no registers can be sampled, and a second look would tell nothing new.
        let mut registers = match &opened.process {
            Some(process) => registers(process, args.freeze),
            None => Registers::Unknown,
        };
        match args.watch {
            Some(pause) => run.watch(view, &mut registers, &mut writer, pause),
            None => run.once(view, &mut registers, &mut writer),
        }
    })
}

/// How pointers that are only in registers of running threads are found: by stopping the target, by sampling, or not
/// at all, which makes the observation doubtful.
fn registers(process: &Process, freeze: bool) -> Registers<'_> {
    if freeze {
        return Registers::Frozen(process);
    }
    match Sampler::start(process) {
        Ok(sampler) => Registers::Sampled(sampler),
        Err(err) => {
            say(err);
            Registers::Unknown
        }
    }
}

/// One run of the command: what to look for, in which target, and what earlier rounds of `--watch` told.
struct Run<'a> {
    args: &'a Args,
    opened: &'a Opened,
    rules: Rules,
    baseline: Baseline,
    scope: Scope,
    pid: Option<u32>,
    earlier: Earlier,
}

impl<'a> Run<'a> {
    fn new(args: &'a Args, opened: &'a Opened, rules: Rules, baseline: Baseline) -> Run<'a> {
        Run {
            args,
            opened,
            rules,
            baseline,
            scope: args.scope(),
            pid: args.target.pid,
            earlier: Earlier::default(),
        }
    }

    /// Searches until a signal, or until the target ends.
    fn watch(
        &mut self,
        view: &View<'_>,
        registers: &mut Registers<'_>,
        writer: &mut Writer,
        pause: Duration,
    ) -> Result<Outcome> {
        let stop = Stop::on(Signals::listen()?)?;
        let mut outcome = self.once(view, registers, writer)?;
        while !stop.wait(pause) {
            outcome = match self.once(view, registers, writer) {
                Ok(outcome) => outcome,
                // `bias` reads /proc of the target. Where that fails, the target has ended: no error of the search.
                Err(_) if self.opened.bias().is_err() => {
                    say(format_args!("{}: the program has ended", self.name()));
                    break;
                }
                Err(err) => return Err(err),
            };
        }
        Ok(outcome)
    }

    fn once(
        &mut self,
        view: &View<'_>,
        registers: &mut Registers<'_>,
        writer: &mut Writer,
    ) -> Result<Outcome> {
        // The baseline is written first: it must exist even where the reader of the output goes away.
        let mut found = self.search(view, registers)?;
        self.write_baseline(&found.leaks)?;
        writer.write(self, &self.document(&found.leaks), &mut found.names)?;
        Ok(if self.args.fail && !found.leaks.groups.is_empty() { Outcome::Found } else { Outcome::Done })
    }

    fn search(&mut self, view: &View<'_>, registers: &mut Registers<'_>) -> Result<Found> {
        let search = Search {
            thresholds: self.args.thresholds(),
            least: self.args.min_verdict,
            baseline: Some(&self.baseline),
            options: self.args.options(),
            process: self.opened.process.as_ref(),
            ..Search::new(&self.rules, &self.scope)
        };
        let mut line = Progress::new();
        // A single search has no earlier looks, so it does not pay for keeping them.
        let earlier = self.args.watch.is_some().then_some(&mut self.earlier);
        let found = search.run(view, &self.opened.binary, registers, earlier, &mut |how_far| {
            line.show(|| progress(how_far));
        });
        line.clear();
        found.with_context(|| self.name())
    }

    fn document<'d>(&'d self, leaks: &'d Leaks) -> Document<'d> {
        let go_version = &self.opened.binary.version().raw;
        Document { pid: self.pid, exe: &self.opened.name, go_version, leaks }
    }

    fn write_baseline(&self, leaks: &Leaks) -> Result<()> {
        let Some(path) = &self.args.write_baseline else { return Ok(()) };
        let name = path.display();
        files::replace(path, leaks.baseline().as_bytes())
            .with_context(|| format!("cannot write the baseline {name}"))?;
        let accepted = leaks.groups.len() + leaks.accepted.len();
        say(format_args!("{name} accepts {} groups", count(accepted as u64)));
        Ok(())
    }

    fn name(&self) -> String {
        self.args.target.name(self.opened, self.pid)
    }
}

/// The output, and what `--watch` has shown already.
struct Writer {
    out: BufWriter<Box<dyn Write + Send>>,
    colour: bool,
    changes: Changes,
}

impl Writer {
    fn write(&mut self, run: &Run<'_>, document: &Document<'_>, names: &mut Names) -> Result<()> {
        let (out, colour, args) = (&mut self.out, self.colour, run.args);
        let (watching, leaks) = (args.watch.is_some(), document.leaks);
        match args.format {
            Format::Text if watching => {
                let difference = self.changes.since(&leaks.groups);
                LeakText::new(out, leaks, names, colour).write_changes(&difference)?;
            }
            Format::Text => LeakText::new(out, leaks, names, colour).write()?,
            Format::Json => write_json(out, document, names, watching)?,
            Format::Sarif => write_sarif(out, document)?,
            Format::Pprof => {
                let time_ns = if args.target.core.is_some() { 0 } else { session::wall_clock_ns() };
                write_pprof(&mut *out, document, names, time_ns)?;
                out.flush()?;
            }
        }
        // Text ends with the summary. Where text does not reach the terminal, the summary is said on standard error.
        if args.format != Format::Text || args.output.is_some() {
            say(format_args!("{}: {}", run.name(), summary(leaks)));
        }
        Ok(())
    }
}

fn write_pprof(out: impl Write, document: &Document<'_>, names: &mut Names, time_ns: i64) -> Result<()> {
    let leaks = document.leaks;
    let chosen: Vec<u32> = leaks.groups.iter().flat_map(|group| &group.members).copied().collect();
    write_profile(out, ProfileKind::Leaks, &leaks.observed.snapshot, names, &chosen, document.exe, time_ns)?;
    Ok(())
}

//! `sfgi leaks`: which goroutines of a running program, or of a core file, are leaked.

mod args;
mod documents;
mod judge;

use super::{Outcome, session, session::Stop, source::Opened};
use crate::output::{
    dump::{Names, ProfileKind, write_profile},
    leaks::{Changes, Found, LeakText, summary, write_json, write_sarif},
};
use anyhow::{Context as _, Result, bail};
pub(super) use args::Args;
use args::Format;
pub(super) use documents::documents;
use judge::{Judge, registers};
use sfgi_core::{
    detect::History,
    heap::Registers,
    memory::{Core, Live},
    snapshot::{Clock, View},
};
use std::{
    io::{BufWriter, Write},
    path::Path,
    time::Duration,
};

pub(super) fn run(args: &Args) -> Result<Outcome> {
    if args.watch.is_some() && matches!(args.format, Format::Pprof | Format::Sarif) {
        bail!("--watch writes text or JSON: leave out --watch, or choose --format text or json");
    }
    let (rules, baseline) = (args.rules()?, args.baseline()?);
    let opened = Opened::either(args.pid, args.exe.as_deref(), &args.layout)?;
    // An output that cannot be written is refused before anything is read.
    let (out, terminal) = session::output(args.output.as_deref())?;
    if args.format == Format::Pprof {
        session::no_text("a pprof profile", terminal)?;
    }
    let (scope, pid, history) = (args.scope(), args.pid, History::default());
    let judge = Judge { args, opened: &opened, rules, baseline, scope, pid, history };
    let out = BufWriter::with_capacity(1 << 16, out);
    let mut leaks = Leaks { judge, writer: Writer { out, colour: terminal, changes: Changes::default() } };
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
    leaks.judge.pid = u32::try_from(core.pid()).ok().filter(|pid| *pid != 0);
    let view = View { memory: &core, binary: &opened.binary, bias: core.bias(), clock: Clock::Stopped };
    leaks.once(&view, &mut Registers::Unknown)
}

/// One run of the command.
struct Leaks<'a> {
    judge: Judge<'a>,
    writer: Writer,
}

/// Where what is found is written.
struct Writer {
    out: BufWriter<Box<dyn Write + Send>>,
    colour: bool,
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
                Err(_) if self.judge.opened.bias().is_err() => {
                    eprintln!("sfgi: {}: the program has ended", self.judge.name());
                    break;
                }
                Err(err) => return Err(err),
            };
        }
        Ok(outcome)
    }

    /// Looks once, and writes what was found.
    fn once(&mut self, view: &View<'_>, registers: &mut Registers<'_>) -> Result<Outcome> {
        let writer = &mut self.writer;
        self.judge.look(view, registers, |judge, found, names| writer.write(judge, found, names))
    }
}

impl Writer {
    fn write(&mut self, judge: &Judge<'_>, found: &Found<'_>, names: &mut Names) -> Result<()> {
        let (out, colour, args) = (&mut self.out, self.colour, judge.args);
        let watching = args.watch.is_some();
        match args.format {
            Format::Text if watching => {
                let difference = self.changes.since(found.report);
                LeakText::new(out, found, names, colour).write_changes(&difference)?;
            }
            Format::Text => LeakText::new(out, found, names, colour).write()?,
            Format::Json => write_json(out, found, names, watching)?,
            Format::Sarif => write_sarif(out, found, names)?,
            Format::Pprof => {
                let time_ns = if args.core.is_some() { 0 } else { session::wall_clock_ns() };
                write_pprof(&mut *out, found, names, time_ns)?;
                out.flush()?;
            }
        }
        if args.format != Format::Text || args.output.is_some() {
            eprintln!("sfgi: {}: {}", judge.name(), summary(found));
        }
        Ok(())
    }
}

fn write_pprof(out: impl Write, found: &Found<'_>, names: &mut Names, time_ns: i64) -> Result<()> {
    let groups = &found.report.groups;
    let chosen: Vec<u32> = groups.iter().flat_map(|group| &group.members).copied().collect();
    let snapshot = &found.observed.snapshot;
    write_profile(out, ProfileKind::Leaks, snapshot, names, &chosen, found.exe, time_ns)?;
    Ok(())
}

//! `sfgi doctor`: what this host and a binary allow, and which commands would be refused.

use super::{args::LayoutArg, source::Opened};
use crate::{
    confine::{self, InForce, Needs},
    live::in_words,
    output::{bytes, clean, count},
    probe,
    probe::Calibration,
};
use anyhow::{Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use serde::Serialize;
use sfgi_core::{
    event::Mode,
    heap,
    memory::{Live, Sampler},
    plan::{CostClass, Plan},
    process::Process,
    snapshot,
    snapshot::{Clock, Options, View},
};
use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    time::Instant,
};

#[derive(ClapArgs)]
#[command(after_help = "\
Everything that dump, leaks and trace need is tried, and what is missing is said. Exit code 1: one of them
would be refused. `confined` is what this kernel lets sfgi give up before it reads a program.

JSON is one document, schema sfgi.doctor/1: `told` (the lines: `what`, `text`), `refused` (commands),
`confined` (`profile`, `no_new_privs`, `capabilities`, `seccomp`, `landlock`) and `probes` (`mode`,
`function`, `address`, `offset`, `instruction`, `ns`; `missing` says why there is none).

EXAMPLES
  sfgi doctor                  is this host fit, and what does a probe cost here?
  sfgi doctor -p 1234          can process 1234 be read and traced, and which probes would stand where?
  sfgi doctor ./server         the same for a file
  sfgi doctor --format json    for scripts")]
pub(super) struct Args {
    /// Process to look at
    #[arg(short, long, value_name = "PID", conflicts_with = "file")]
    pid: Option<u32>,
    /// Executable to look at
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    layout: LayoutArg,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// The schema name of the JSON document.
const SCHEMA: &str = "sfgi.doctor/1";

impl Args {
    pub(super) fn pids(&self) -> &[u32] {
        self.pid.as_slice()
    }
}

/// The modes that place probes: all but `poll`.
const MODES: [Mode; 3] = [Mode::Full, Mode::Wait, Mode::Life];

pub(super) fn run(args: &Args) -> Result<()> {
    let mut report = Report::new(args.format);
    let calibration = report.host()?;
    // Executables and memory are read by a process that can do nothing else.
    let confined = confine::apply(&Needs::reader().with_registers());
    report.say("confined", &confined.to_string())?;
    report.document.confined = Some(confined);
    let opened = match (args.pid, &args.file) {
        (Some(pid), _) => Some(Opened::process(pid, &args.layout)?),
        (None, Some(path)) => Some(Opened::file(path, &args.layout)?),
        (None, None) => None,
    };
    let mut plans = Vec::new();
    if let Some(opened) = &opened {
        report.binary(opened)?;
        // All refusals stand together above the plans, whose tables are long.
        plans = MODES.map(|mode| (mode, Plan::choose(&opened.binary, mode, None, true))).into();
        for (mode, plan) in &plans {
            if let Err(error) = plan {
                report.no("trace", &format!("--mode {mode}: {error}"))?;
            }
        }
    }
    for (mode, plan) in plans {
        if let Ok(plan) = plan {
            report.plan(mode, &plan, calibration.as_ref())?;
        }
    }
    report.end()?;
    match &report.document.refused[..] {
        [] => Ok(()),
        refused => bail!("would be refused here: {}", refused.join(", ")),
    }
}

/// The report. Each line of text is printed as soon as it is known, because calibration and reading take their time.
struct Report {
    out: io::StdoutLock<'static>,
    format: Format,
    document: Document,
}

/// The JSON document.
#[derive(Serialize)]
struct Document {
    schema: &'static str,
    told: Vec<Told>,
    /// Commands that would be refused, each once. They make the exit code.
    refused: Vec<&'static str>,
    confined: Option<InForce>,
    probes: Vec<ProbeRow>,
}

#[derive(Serialize)]
struct Told {
    what: String,
    text: String,
}

#[derive(Serialize)]
struct ProbeRow {
    mode: &'static str,
    function: String,
    address: Option<u64>,
    offset: Option<u64>,
    instruction: Option<String>,
    ns: Option<f64>,
    missing: Option<String>,
}

impl Report {
    fn new(format: Format) -> Report {
        let document = Document {
            schema: SCHEMA,
            told: Vec::new(),
            refused: Vec::new(),
            confined: None,
            probes: Vec::new(),
        };
        Report { out: io::stdout().lock(), format, document }
    }

    fn say(&mut self, what: &str, text: &str) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(self.out, "{what:<12} {}", clean(text)),
            Format::Json => {
                // A line without a name goes on with the one before.
                match self.document.told.last_mut() {
                    Some(told) if what.is_empty() => told.text += &format!(" {text}"),
                    _ => self.document.told.push(Told { what: what.to_owned(), text: text.to_owned() }),
                }
                Ok(())
            }
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.format == Format::Json {
            serde_json::to_writer(&mut self.out, &self.document)?;
            writeln!(self.out)?;
        }
        self.out.flush()
    }

    /// Says that a command would be refused, and why.
    fn no(&mut self, command: &'static str, why: &str) -> io::Result<()> {
        if !self.document.refused.contains(&command) {
            self.document.refused.push(command);
        }
        self.say(command, &format!("no: {why}"))
    }

    /// Checks whether this user may trace on this host, and measures what a probe costs; `None`: no tracing here.
    fn host(&mut self) -> Result<Option<Calibration>> {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        self.say("kernel", kernel.trim())?;
        let checked = probe::check_host().map_err(anyhow::Error::from);
        let calibration = match checked.and_then(|()| Ok(probe::calibrate()?)) {
            Ok(calibration) => calibration,
            Err(error) => {
                self.no("trace", &format!("{error:#}"))?;
                return Ok(None);
            }
        };
        let Calibration { emulated_ns, single_stepped_ns, .. } = calibration;
        let emulated = format!("yes, {emulated_ns:.0} ns a hit where the kernel emulates the instruction,");
        self.say("uprobes", &emulated)?;
        self.say("", &format!("{single_stepped_ns:.0} ns where it single-steps"))?;
        self.say("BTF", "yes")?;
        Ok(Some(calibration))
    }

    /// Reports what the executable says, and what can be read of the process that runs it.
    fn binary(&mut self, opened: &Opened) -> io::Result<()> {
        let binary = &opened.binary;
        self.say("binary", &opened.name.display().to_string())?;
        self.say("Go", &binary.version().raw)?;
        self.say("module", binary.info().path.as_deref().unwrap_or("unknown"))?;
        self.say("layout", &binary.layout().source().to_string())?;
        let Some(process) = &opened.process else {
            // Nothing runs the file. A core file of it would be read by way of the same list of goroutines.
            return match binary.globals() {
                Ok(_) => self.say("goroutines", "their list is found"),
                Err(error) => self.no_goroutines(&error.to_string()),
            };
        };
        match opened.bias() {
            Ok(bias) => {
                let memory = Live::of(process);
                self.memory(&View { memory: &memory, binary, bias, clock: Clock::Live }, process)
            }
            Err(error) => self.no_goroutines(&error.to_string()),
        }
    }

    fn memory(&mut self, view: &View<'_>, process: &Process) -> io::Result<()> {
        let began = Instant::now();
        let options = Options { stacks: true, ..Options::default() };
        let snapshot = match snapshot::take(view, options, &mut |_, _| {}) {
            Ok(snapshot) => snapshot,
            Err(error) => return self.no_goroutines(&error.to_string()),
        };
        // An incomplete snapshot that has goroutines is still of use: `sfgi dump` would show it.
        if let (Some(fault), true) = (snapshot.incomplete, snapshot.goroutines.is_empty()) {
            return self.no_goroutines(&fault.to_string());
        }
        let (number, ms) = (count(snapshot.goroutines.len() as u64), began.elapsed().as_secs_f64() * 1e3);
        self.say("goroutines", &format!("{number} read in {ms:.1} ms"))?;
        self.say("dump", "yes")?;
        // Without heap or registers `sfgi leaks` still works by rules, so neither is a refusal.
        let heap = heap::usage(view).map(|usage| format!("{} in use", bytes(usage.bytes)));
        self.say("heap", heap.as_deref().unwrap_or("cannot be read: leaks proves nothing"))?;
        let registers = match Sampler::start(process) {
            Ok(_) => "can be sampled".to_owned(),
            Err(error) => error.to_string(),
        };
        self.say("registers", &registers)?;
        self.say("leaks", if heap.is_some() { "yes" } else { "yes, by rules only" })
    }

    fn no_goroutines(&mut self, why: &str) -> io::Result<()> {
        self.no("dump", why)?;
        self.no("leaks", why)
    }

    /// Lists the probes of a mode, with what a hit costs where that could be measured.
    fn plan(&mut self, mode: Mode, plan: &Plan, calibration: Option<&Calibration>) -> io::Result<()> {
        if self.format == Format::Json {
            self.probes(mode, plan, calibration);
            return Ok(());
        }
        let out = &mut self.out;
        writeln!(out, "\nmode {mode}: {}", in_words(plan, mode, false))?;
        let titles = ("FUNCTION", "ADDRESS", "OFFSET", "INSTRUCTION", "NS/HIT");
        let (function, address, offset, instruction, ns) = titles;
        writeln!(out, "  {function:<46} {address:>10} {offset:>9}  {instruction:<28} {ns:>8}")?;
        for probe in &plan.probes {
            let mark = match probe.cost() {
                CostClass::Emulated => "",
                CostClass::SingleStepped => "  single-stepped",
            };
            let ns = price(probe.cost(), calibration).map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0}"));
            writeln!(
                out,
                "  {:<46} {:>#10x} {:>#9x}  {:<28} {ns:>8}{mark}",
                clean(probe.function),
                probe.placement.vaddr,
                probe.file_offset,
                probe.placement.instruction
            )?;
        }
        for missing in &plan.missing {
            writeln!(out, "  {:<46} not probed: {}", missing.function, missing.reason)?;
        }
        Ok(())
    }

    fn probes(&mut self, mode: Mode, plan: &Plan, calibration: Option<&Calibration>) {
        let rows = &mut self.document.probes;
        rows.extend(plan.probes.iter().map(|probe| ProbeRow {
            mode: mode.word(),
            function: probe.function.to_string(),
            address: Some(probe.placement.vaddr),
            offset: Some(probe.file_offset),
            instruction: Some(probe.placement.instruction.to_string()),
            ns: price(probe.cost(), calibration),
            missing: None,
        }));
        rows.extend(plan.missing.iter().map(|missing| ProbeRow {
            mode: mode.word(),
            function: missing.function.to_string(),
            address: None,
            offset: None,
            instruction: None,
            ns: None,
            missing: Some(missing.reason.to_string()),
        }));
    }
}

/// What a hit costs, nanoseconds, where that could be measured.
fn price(class: CostClass, calibration: Option<&Calibration>) -> Option<f64> {
    calibration.map(|measured| match class {
        CostClass::Emulated => measured.emulated_ns,
        CostClass::SingleStepped => measured.single_stepped_ns,
    })
}

//! `sfgi report`: shows a recording by the code that shows a live trace.

use super::{
    args::{Layout, LineArgs},
    parse, session,
    session::Progress,
};
use crate::{
    confine::{self, Capability, Needs},
    output::{bytes, clean, count, duration as in_words, say},
    top::{By, Frozen, Query, Screen, Source},
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use sfgi_core::{
    files,
    model::Whats,
    recording::{Head, PlayError, Played, Player, copy_document},
    session::{End, Input, Observer, Round, Target},
};
use std::{
    fs,
    io::{self, BufWriter, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// An interval of `--top`: the default of `sfgi top --every`.
const TOP_EVERY_NS: u64 = 1_000_000_000;
/// Columns and lines of a page of `--top`, which does not depend on the terminal: the same file gives the same text.
const TOP_PAGE: (u16, u16) = (120, 40);

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LeakFormat {
    Text,
    Json,
    Sarif,
    Pprof,
}

impl LeakFormat {
    fn document(self) -> &'static str {
        match self {
            LeakFormat::Text => "leaks.text",
            LeakFormat::Json => "leaks.json",
            LeakFormat::Sarif => "leaks.sarif",
            LeakFormat::Pprof => "leaks.pprof",
        }
    }
}

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi report [OPTIONS] FILE",
    after_help = "\
Options mean what they mean for sfgi trace: the recording goes through the same code, and gives
the same lines. A recording that was cut off is shown up to its last whole frame, and that is said.

TIME is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h.

EXAMPLES
  sfgi report server.sfgi                              all events
  sfgi report server.sfgi -e unblock --min 10ms        who was blocked for 10 ms or more
  sfgi report server.sfgi -c                           per wait reason and site: count, p50, p99
  sfgi report server.sfgi --until 2s --goid 17         goroutine 17 in the first two seconds
  sfgi report server.sfgi -e illegal                   what the runtime should never do
  sfgi report server.sfgi --top --at 2s                how things stood after two seconds
  sfgi report server.sfgi --leaks                      what sfgi record --leaks found at the end
  sfgi report server.sfgi --info                       what was recorded, when, of what"
)]
pub(super) struct Args {
    /// Recording to show
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    lines: LineArgs,
    /// Only this goroutine (several: repeat)
    #[arg(long, value_name = "GOID")]
    goid: Vec<u64>,
    /// Only up to TIME after the beginning
    #[arg(long, value_name = "TIME", value_parser = parse::time)]
    until: Option<Duration>,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show the leaks that were found at the end (sfgi record --leaks) instead of events
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true,
          default_missing_value = "text")]
    leaks: Option<LeakFormat>,
    /// Show what sfgi top would have shown, at the end or --at a time
    #[arg(long, conflicts_with_all = ["leaks", "info"])]
    top: bool,
    /// The time of --top, from the beginning
    #[arg(long, value_name = "TIME", value_parser = parse::time, requires = "top", conflicts_with = "until")]
    at: Option<Duration>,
    /// Show what was recorded instead of events
    #[arg(long, conflicts_with = "leaks")]
    info: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    // An output that cannot be written is refused before anything is read.
    let (out, terminal) = output(args.output.as_deref(), &args.file)?;
    confine(&args.file);
    let player = open(&args.file)?;
    let head = player.head().clone();
    if args.info {
        return info(out, &head, &args.file);
    }
    if let Some(format) = args.leaks {
        return leaks(out, &args.file, format, terminal);
    }
    if args.top {
        return top(out, player, args);
    }
    let layout = Layout { start_ts: head.start_ts, several: head.targets.len() > 1, colour: terminal };
    ensure!(
        !args.lines.deadlocks(),
        "a recording does not say who holds a lock: -e deadlock is for sfgi trace, while the program runs"
    );
    let mut printer = args.lines.printer(out, &args.goid, &layout);
    let until = after(&head, args.until).unwrap_or(u64::MAX);
    let played = play(player, &args.file, &mut [&mut printer], until)?;
    for end in &played.ends {
        if let Some(why) = &end.why {
            say(why);
        }
        say(&end.closing);
    }
    Ok(())
}

/// The time `offset` after the beginning, on the clock of the events; `None` where none was given.
pub(super) fn after(head: &Head, offset: Option<Duration>) -> Option<u64> {
    let ns = u64::try_from(offset?.as_nanos()).unwrap_or(u64::MAX);
    Some(head.start_ts.saturating_add(ns))
}

/// Writes the four tables of `sfgi top`.
fn top(mut out: Box<dyn Write + Send>, player: Player, args: &Args) -> Result<()> {
    let head = player.head().clone();
    let at_ts = after(&head, args.at.or(args.until)).unwrap_or(u64::MAX);
    let mut frozen =
        Frozen::new(Source::Probes { threads: head.threads }, Query::usual(), TOP_EVERY_NS, at_ts);
    play(player, &args.file, &mut [&mut frozen], at_ts)?;
    for (by, blank) in By::ALL.into_iter().zip(["", "\n", "\n", "\n"]) {
        let text = frozen.text(&Screen::new(by), TOP_PAGE.0, TOP_PAGE.1).unwrap_or_default();
        write!(out, "{blank}{text}")?;
    }
    Ok(out.flush()?)
}

/// Opens the file of `-o`. The second value says whether it is a terminal. The recording itself is refused: creating it
/// would empty it before it is read.
pub(super) fn output(path: Option<&Path>, recording: &Path) -> Result<(Box<dyn Write + Send>, bool)> {
    // A pipe would keep us until somebody writes, and a recording is read twice for some of what is asked. And no output is made
    // for a recording that is not there.
    files::open(recording)
        .map_err(files::FileError::into_io)
        .with_context(|| recording.display().to_string())?;
    if path.is_some_and(|path| is_same(path, recording)) {
        bail!("{}: that is the recording itself: write to another file", recording.display());
    }
    session::output(path)
}

/// Whether both paths lead to one file. A file that does not exist yet is another one.
fn is_same(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    id(one).is_some_and(|one| Some(one) == id(other))
}

/// Leaves this process nothing but the recording, which is opened again for some of what is asked, and what is open.
pub(super) fn confine(recording: &Path) {
    let mut needs = Needs::converter(vec![recording.to_owned()]);
    // Root reads the recordings of others by this capability only; Landlock keeps it to the recording.
    if fs::metadata(recording).is_ok_and(|file| file.uid() != rustix::process::geteuid().as_raw()) {
        needs.capabilities.push(Capability::CAP_DAC_READ_SEARCH);
    }
    confine::apply(&needs);
}

pub(super) fn open(path: &Path) -> Result<Player> {
    Player::open(path).with_context(|| path.display().to_string())
}

/// Plays a recording up to `until_ts`, shows the progress, and says where the file is damaged.
pub(super) fn play(
    player: Player,
    path: &Path,
    observers: &mut [&mut dyn Observer],
    until_ts: u64,
) -> Result<Played> {
    let mut line = Progress::new();
    let played = player.play(observers, until_ts, &mut |read, all| {
        line.show(|| format!("{}: {} of {}", path.display(), bytes(read), bytes(all)));
    });
    line.clear();
    let played = match played {
        // An observer's error is of the output, not of the recording, so it gets no file name; a closed pipe stays one.
        Err(PlayError::Observer(error)) => return Err(error.into()),
        played => played.with_context(|| path.display().to_string())?,
    };
    if let Some((offset, damage)) = played.damage {
        say(format_args!(
            "{}: damaged after {}: {damage}; everything before is shown",
            path.display(),
            bytes(offset)
        ));
    }
    Ok(played)
}

fn leaks(out: Box<dyn Write + Send>, path: &Path, format: LeakFormat, terminal: bool) -> Result<()> {
    if format == LeakFormat::Pprof {
        session::no_text("a pprof profile", terminal)?;
    }
    let mut out = BufWriter::new(out);
    let there =
        copy_document(path, format.document(), None, &mut out).with_context(|| path.display().to_string())?;
    if !there {
        bail!("{}: no leaks were looked for: record with --leaks", path.display());
    }
    Ok(out.flush()?)
}

fn info(mut out: Box<dyn Write + Send>, head: &Head, path: &Path) -> Result<()> {
    // Numbers of events are not in the head: a recording that was cut off would have none. So the whole file is read.
    let mut counter = Counter::default();
    let played = play(open(path)?, path, &mut [&mut counter], u64::MAX)?;
    writeln!(out, "recorded by    sfgi {} on Linux {}", clean(&head.sfgi), clean(&head.kernel))?;
    let began_ms = head.start_unix_ns / 1_000_000;
    writeln!(out, "began          {}.{:03} s after 1970", began_ms / 1000, began_ms % 1000)?;
    let until_ts = played.ends.iter().map(|end| end.until_ts).max().unwrap_or(0);
    writeln!(out, "lasted         {}", in_words(until_ts.saturating_sub(head.start_ts)))?;
    writeln!(out, "events         {}, {} lost", count(counter.events), count(counter.lost))?;
    writeln!(out, "snapshots      {}", count(counter.snapshots))?;
    writeln!(out, "whole stacks   {}", count(counter.stacks))?;
    writeln!(out, "ended          {}", if played.whole { "yes" } else { "no: it was cut off" })?;
    for about in &head.targets {
        let pid = about.pid;
        let [version, module, exe] = [&about.go_version, &about.module, &about.exe].map(|text| clean(text));
        writeln!(out, "PID {pid:<10} {version} {module} ({exe})")?;
    }
    Ok(out.flush()?)
}

/// Counts the inputs of a recording.
#[derive(Debug, Default)]
struct Counter {
    events: u64,
    lost: u64,
    snapshots: u64,
    stacks: u64,
}

impl Observer for Counter {
    // No kind of step is needed, which makes reading a matter of decoding.
    fn wants(&self) -> Whats {
        Whats::default()
    }

    fn input(&mut self, _: usize, input: &Input, _: &mut Target) -> io::Result<()> {
        match input {
            Input::Events(batch) => {
                self.events += batch.events.len() as u64;
                self.lost += batch.lost;
            }
            Input::Snapshot(_) => self.snapshots += 1,
            Input::Stacks(stacks) => self.stacks += stacks.len() as u64,
        }
        Ok(())
    }

    fn round(&mut self, _: &mut [Target], _: &Round) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: &mut [Target], _: &[End]) -> io::Result<()> {
        Ok(())
    }
}

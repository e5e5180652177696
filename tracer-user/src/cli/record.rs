//! `sfgi record`: what `sfgi trace` sees, into a file.

use super::session::Progress;
use super::{
    args::{TargetArgs, Wants},
    leaks, parse, session,
};
use crate::{
    confine::{Needs, Writes},
    files,
    live::Observers,
    output::{bytes, count, say},
    probe,
};
use anyhow::{Context as _, Result, bail, ensure};
use clap::{ArgGroup, Args as ClapArgs};
use sfgi_core::{
    clock,
    recording::{Document, Head, Keep, Recorder, Trigger, append},
    session::{End, Input, Observer, Round, Target},
};
use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

#[derive(ClapArgs)]
#[command(
    // -o is required only with a target: a call without any argument lists the processes.
    group = ArgGroup::new("target").args(["pid", "command"]).multiple(true).requires("output"),
    override_usage = "sfgi record [OPTIONS] -o FILE (-p PID... | -- CMD...)",
    after_help = "\
The file has all that is needed to read it on another machine: sfgi report shows it as sfgi trace
would have, sfgi export hands it to other tools. It can be read up to its last whole frame
(a second, or a megabyte) whatever happens to sfgi, the machine or the disk.

With --last only the end is kept, in memory: a flight recorder. It is written on SIGUSR2, with
--on-finding when there is something to see, and at the end; the first time to FILE, then to
FILE.2, FILE.3 and so on.

TIME is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h. SIZE likewise: bytes, 64KiB, 16MiB, 1GiB.

EXAMPLES
  sfgi record -p 1234 -d 30 -o server.sfgi            thirty seconds
  sfgi record -o test.sfgi -- ./server                from the first goroutine on
  sfgi record -p 1234 --last 30s -o server.sfgi &     the last thirty seconds ...
  kill -USR2 %1                                       ... up to now
  sfgi record -p 1234 --last 64MiB --on-finding -o server.sfgi
  sfgi report server.sfgi -c                          then: where did the time go"
)]
pub(super) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// The recording (- for standard output)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Keep only the last so much: a time (30s) or a size (64MiB)
    #[arg(long, value_name = "TIME|SIZE", value_parser = keep)]
    last: Option<Keep>,
    /// With --last: write it when a transition is illegal, or the program's own collector finds a leak
    #[arg(long, requires = "last")]
    on_finding: bool,
    /// Read the whole stack of what lasts longer than TIME
    #[arg(long, value_name = "TIME", value_parser = parse::time, default_value = "10ms")]
    stacks: Duration,
    /// Only the place of each block, without its callers: less to read at each block
    #[arg(long)]
    no_callers: bool,
    /// Also when threads get and lose their CPU, for the time off the CPU and in the run queue: costs a look at
    /// each context switch of the machine
    #[arg(long)]
    sched: bool,
    /// Look for leaks at the end, as sfgi leaks does, and put the result in
    #[arg(long)]
    leaks: bool,
}

impl Args {
    pub(super) fn has_no_target(&self) -> bool {
        self.target.is_empty()
    }

    pub(super) fn pids(&self) -> &[u32] {
        self.target.pids()
    }
}

/// Parses `--last`: `30s` or `64MiB`. A number alone could be either, so it is refused.
fn keep(text: &str) -> Result<Keep> {
    let keep = match (parse::time_with_unit(text), parse::size_with_unit(text)) {
        (Ok(time), _) => Keep::Last(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        (Err(_), Ok(size)) => Keep::Bytes(size),
        (Err(_), Err(_)) => bail!("{text}: neither a time, as 30s or 5m, nor a size, as 64MiB or 1GiB"),
    };
    ensure!(!matches!(keep, Keep::Last(0) | Keep::Bytes(0)), "{text}: nothing would be kept");
    Ok(keep)
}

pub(super) fn run(args: &Args) -> Result<()> {
    let path = args.output.as_deref().context("a recording needs -o FILE")?;
    probe::check_host()?;
    // An output that cannot be written is refused before anything is attached.
    let output = Output::create(path)?;
    let trigger = Trigger { asked: Arc::default(), on_finding: args.on_finding };
    // Without --last SIGUSR2 keeps its default: there is nothing to write on demand.
    // Listened to from here on, but by a thread that is started when this process has given up what it does not need.
    let usr2 = args.last.map(|_| Usr2::listen()).transpose()?;
    let wants = Wants {
        gc: true,
        threads: args.sched,
        stacks: Some(args.stacks),
        deadlocks: false,
        callers: !args.no_callers,
    };
    // A flight recorder makes a file each time that it writes.
    let writes = if args.last.is_some() { Writes::Anything } else { Writes::Nothing };
    let session = args.target.attach(wants, Needs::attached().with_writes(writes))?;
    if let Some(usr2) = usr2 {
        usr2.tell(Arc::clone(&trigger.asked))?;
    }
    let counts = Arc::<Counts>::default();
    let keep = args.last.unwrap_or(Keep::All);
    let recorder = output.recorder(session.start_ts(), args.sched, keep, trigger)?;
    let observers: Observers = vec![Box::new(recorder), Box::new(Status::new(Arc::clone(&counts)))];
    // The leaks are searched while the target still runs, but appended only when the recorder has written its end.
    let mut found = Vec::new();
    let result = session.follow(observers, &mut |pid| {
        if args.leaks {
            match leaks::documents(pid) {
                Ok(documents) => found.push((pid, documents)),
                Err(err) => say(format_args!("PID {pid}: no search for leaks: {err:#}")),
            }
        }
    });
    for (pid, documents) in &found {
        output.append(*pid, documents)?;
    }
    // An error of the trace comes last: what was recorded until then is in the file, and this line says so.
    say(counts.closing(path, output.bytes()));
    result
}

/// The file of `-o`, and the files beside it that a flight recorder writes.
pub(super) struct Output {
    path: PathBuf,
    /// The file of `-o`; `None`: standard output.
    first: Option<File>,
}

impl Output {
    /// Creates the file. A recording is binary, so a terminal is refused.
    pub(super) fn create(path: &Path) -> Result<Output> {
        let first = if path.as_os_str() == "-" {
            session::no_text("a recording", io::stdout().is_terminal())?;
            None
        } else {
            Some(files::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        };
        Ok(Output { path: path.to_owned(), first })
    }

    /// The observer that records a trace which begins at `start_ts`, `CLOCK_MONOTONIC` nanoseconds.
    pub(super) fn recorder(
        &self,
        start_ts: u64,
        threads: bool,
        keep: Keep,
        trigger: Trigger,
    ) -> Result<Recorder> {
        // Events have only `CLOCK_MONOTONIC`. Both clocks are read now, and the difference dates the beginning.
        let ago_ns = clock::now().saturating_sub(start_ts).cast_signed();
        let head = Head::new(start_ts, session::wall_clock_ns().saturating_sub(ago_ns), threads);
        let mut first = Some(match &self.first {
            // The clone shares the file's offset, so `append` writes behind the end that the recorder writes.
            Some(file) => Box::new(file.try_clone()?) as Box<dyn Write + Send>,
            None => Box::new(io::stdout()),
        });
        let (path, mut number) = (self.path.clone(), 1);
        // A flight recorder asks for one output for each time it writes: FILE, then FILE.2, FILE.3 and so on.
        let outputs = move || {
            if let Some(first) = first.take() {
                return Ok(first);
            }
            number += 1;
            let mut name = path.clone().into_os_string();
            name.push(format!(".{number}"));
            Ok(Box::new(files::create(Path::new(&name))?) as Box<dyn Write + Send>)
        };
        let recorder = Recorder::new(head, keep, trigger, Box::new(outputs));
        recorder.with_context(|| format!("cannot write {}", self.path.display()))
    }

    fn append(&self, pid: u32, documents: &[(&str, Vec<u8>)]) -> Result<()> {
        for (name, body) in documents {
            let document = Document { name, pid, body };
            match &self.first {
                Some(file) => append(&mut &*file, &document),
                None => append(&mut io::stdout(), &document),
            }
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        }
        Ok(())
    }

    /// Size of the file; `None` for standard output.
    fn bytes(&self) -> Option<u64> {
        Some(self.first.as_ref()?.metadata().ok()?.len())
    }
}

/// SIGUSR2, whose default action is the end of the process.
struct Usr2 {
    runtime: Runtime,
    signals: Signal,
}

impl Usr2 {
    /// From now on it does not end the process.
    fn listen() -> Result<Usr2> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // `signal` needs a runtime in whose context it registers.
        let guard = runtime.enter();
        let signals = signal(SignalKind::user_defined2())?;
        drop(guard);
        Ok(Usr2 { runtime, signals })
    }

    /// Sets `asked` at every one, those that came meanwhile too.
    fn tell(self, asked: Arc<AtomicBool>) -> Result<()> {
        let Usr2 { runtime, mut signals } = self;
        std::thread::Builder::new().name("SIGUSR2".to_owned()).spawn(move || {
            runtime.block_on(async {
                while signals.recv().await.is_some() {
                    // Relaxed: the flag stands for nothing but itself.
                    asked.store(true, Ordering::Relaxed);
                }
            });
        })?;
        Ok(())
    }
}

/// Events received and lost. The tracing thread counts, the main thread reads at the end.
#[derive(Default)]
struct Counts {
    events: AtomicU64,
    lost: AtomicU64,
}

impl Counts {
    /// The closing sentence about the file.
    fn closing(&self, path: &Path, size: Option<u64>) -> String {
        let events = self.events.load(Ordering::Relaxed);
        let mut text = format!("{}: {} events", path.display(), count(events));
        if let Some(size) = size {
            text += &format!(", {}", bytes(size));
            if events > 0 {
                text += &format!(" ({:.1} bytes an event)", size as f64 / events as f64);
            }
        }
        text
    }
}

/// Counts events, and shows the count on a terminal.
struct Status {
    counts: Arc<Counts>,
    line: Progress,
    began: Instant,
}

impl Status {
    fn new(counts: Arc<Counts>) -> Status {
        Status { counts, line: Progress::new(), began: Instant::now() }
    }
}

impl Observer for Status {
    fn input(&mut self, _: usize, input: &Input, _: &mut Target) -> io::Result<()> {
        if let Input::Events(batch) = input {
            self.counts.events.fetch_add(batch.events.len() as u64, Ordering::Relaxed);
            self.counts.lost.fetch_add(batch.lost, Ordering::Relaxed);
        }
        Ok(())
    }

    fn round(&mut self, _: &mut [Target], _: &Round) -> io::Result<()> {
        let Status { counts, line, began } = self;
        line.show(|| {
            let events = counts.events.load(Ordering::Relaxed);
            let lost = counts.lost.load(Ordering::Relaxed);
            let seconds = began.elapsed().as_secs();
            format!(
                "recording for {seconds} s: {} events, {} lost; Ctrl-C ends it",
                count(events),
                count(lost)
            )
        });
        Ok(())
    }

    fn end(&mut self, _: &mut [Target], _: &[End]) -> io::Result<()> {
        self.line.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_keep_is_a_time_or_a_size() {
        assert!(matches!(keep("30s"), Ok(Keep::Last(30_000_000_000))));
        assert!(matches!(keep("5m"), Ok(Keep::Last(300_000_000_000))));
        assert!(matches!(keep("64MiB"), Ok(Keep::Bytes(size)) if size == 64 << 20));
        assert!(matches!(keep("64MB"), Ok(Keep::Bytes(64_000_000))));
        for bad in ["", "0s", "0MiB", "64", "5M5", "-1s", "99999999999GiB", "MiB"] {
            assert!(keep(bad).is_err(), "{bad}");
        }
    }
}

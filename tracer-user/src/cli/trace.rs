//! `sfgi trace`: goroutine events live, one line each, or their summary.

use super::{
    args::{Layout, LineArgs, TargetArgs, Wants},
    record, session,
};
use crate::{confine::Needs, live::Observers, probe};
use anyhow::Result;
use clap::Args as ClapArgs;
use sfgi_core::{
    model::What,
    recording::{Keep, Trigger},
};
use std::path::PathBuf;

#[derive(ClapArgs)]
#[command(
    override_usage = "sfgi trace [OPTIONS] (-p PID... | -- CMD...)",
    after_help = "\
Times are seconds since the trace began. A block shows its length when it ends; unblock says by
whom (nobody: a timer, the network poller, or the garbage collector). What was lost is said.

TIME is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h. SIZE likewise: bytes, 64KiB, 16MiB, 1GiB.

EXAMPLES
  sfgi trace -p 1234 -e block,unblock --min 10ms    who was blocked for 10 ms or more, and on what
  sfgi trace -p 1234 -c -d 10                       per wait reason and site: count, p50, p99, max
  sfgi trace -p 1234 --func 'main\\.worker'          only goroutines and sites of main.worker
  sfgi trace -p 1234 -e deadlock --mode wait        rings of goroutines, as they close
  sfgi trace -p 1234 -e create,exit --mode life     which go statements make goroutines, cheaply
  sfgi trace --format json -o out.json -- ./server  everything from the start, for a program"
)]
pub(super) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lines: LineArgs,
    /// Write to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Record what is traced, too, for sfgi report and sfgi export
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

impl Args {
    pub(super) fn has_no_target(&self) -> bool {
        self.target.is_empty()
    }

    pub(super) fn pids(&self) -> &[u32] {
        self.target.pids()
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    probe::check_host()?;
    // An output that cannot be written is refused before anything is attached.
    let (out, colour) = session::output(args.output.as_deref())?;
    let events = args.lines.events();
    let threads = events.contains(&What::ThreadOn);
    let wants = Wants {
        gc: events.contains(&What::GcStart),
        threads,
        stacks: args.lines.stacks,
        deadlocks: args.lines.deadlocks(),
        callers: false,
    };
    let recording = args.record.as_deref().map(record::Output::create).transpose()?;
    let session = args.target.attach(wants, Needs::attached())?;
    let start_ts = session.start_ts();
    let layout = Layout { start_ts, several: session.targets() > 1, colour };
    let mut observers: Observers = vec![Box::new(args.lines.printer(out, &args.target.goid, &layout))];
    if let Some(recording) = &recording {
        let recorder = recording.recorder(start_ts, threads, Keep::All, Trigger::default())?;
        observers.push(Box::new(recorder));
    }
    session.follow(observers, &mut |_| {})
}

//! The options that say which events to show, and how: the same for a live trace and for a recording.

use super::parse::time;
use crate::output::{Json, Printer, Sink, Text};
use clap::{Args as ClapArgs, ValueEnum};
use regex::Regex;
use sfgi_core::{model::What, names::Filter};
use std::{
    io::{BufWriter, Write},
    time::Duration,
};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EventArg {
    Create,
    Found,
    Start,
    Exit,
    Block,
    Unblock,
    Syscall,
    Preempt,
    Gc,
    Illegal,
    Sched,
}

impl EventArg {
    fn events(self) -> &'static [What] {
        match self {
            EventArg::Create => &[What::Create],
            EventArg::Found => &[What::Found],
            EventArg::Start => &[What::Start],
            EventArg::Exit => &[What::Exit],
            EventArg::Block => &[What::Block],
            EventArg::Unblock => &[What::Unblock],
            EventArg::Syscall => &[What::SyscallEnter, What::SyscallExit],
            EventArg::Preempt => &[What::Preempt],
            EventArg::Gc => &[What::GcStart, What::GcEnd],
            EventArg::Illegal => &[What::Illegal],
            EventArg::Sched => &[What::ThreadOff, What::ThreadOn, What::ThreadWake],
        }
    }

    /// All but `sched`, which costs a look at every context switch of the machine.
    const DEFAULT: [EventArg; 10] = [
        EventArg::Create,
        EventArg::Found,
        EventArg::Start,
        EventArg::Exit,
        EventArg::Block,
        EventArg::Unblock,
        EventArg::Syscall,
        EventArg::Preempt,
        EventArg::Gc,
        EventArg::Illegal,
    ];
}

/// See above.
#[derive(ClapArgs)]
pub(super) struct LineArgs {
    /// Kinds of events to show [default: all but sched]
    #[arg(short, long, value_delimiter = ',', value_name = "EVENTS")]
    events: Vec<EventArg>,
    /// Only where the goroutine's function, its go statement or the wait site matches
    #[arg(long, value_name = "REGEX")]
    func: Option<Regex>,
    /// Only what lasted at least this long (blocks and system calls, shown when they end)
    #[arg(long, value_name = "TIME", value_parser = time)]
    min: Option<Duration>,
    /// Show the whole stack of what lasted longer than TIME (10ms if not given), and of what waited
    /// before the trace began
    #[arg(long, value_name = "TIME", value_parser = time, num_args = 0..=1, require_equals = true,
          default_missing_value = "10ms")]
    pub(super) stacks: Option<Duration>,
    /// Print a summary at the end instead of events
    #[arg(short = 'c', long)]
    summary: bool,
    /// Output format
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// How lines are laid out.
pub(super) struct Layout {
    /// Times count from here, `CLOCK_MONOTONIC` nanoseconds.
    pub(super) start_ts: u64,
    /// Each line names its process.
    pub(super) several: bool,
    pub(super) colour: bool,
}

impl LineArgs {
    /// The events that are wanted.
    pub(super) fn events(&self) -> Vec<What> {
        let kinds: &[EventArg] = if self.events.is_empty() { &EventArg::DEFAULT } else { &self.events };
        kinds.iter().flat_map(|kind| kind.events()).copied().collect()
    }

    /// Shows them.
    pub(super) fn printer(&self, out: Box<dyn Write + Send>, goids: &[u64], layout: &Layout) -> Printer {
        let filter = Filter {
            events: self.events().into_iter().collect(),
            goids: goids.to_vec(),
            func: self.func.clone(),
            min_ns: self.min.map_or(0, nanoseconds),
            stacks_ns: self.stacks.map(nanoseconds),
        };
        let out = BufWriter::with_capacity(1 << 16, out);
        let sink: Box<dyn Sink + Send> = match self.format {
            Format::Json => Box::new(Json::new(out)),
            Format::Text => Box::new(Text::new(out, layout.start_ts, layout.several, layout.colour)),
        };
        Printer::new(sink, filter, self.summary)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

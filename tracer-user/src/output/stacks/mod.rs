//! Profiles by stack: an observer that gathers, and writes at the end.

mod flame;
mod gather;
mod profile;
mod table;

use gather::Gather;
pub use profile::Kind;
use profile::Profile;
use regex::Regex;
use sfgi_core::session::{End, Observer, Round, Target};
use std::io::{self, Write};
pub use table::Span;
use table::Table;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A compressed `perftools.profiles.Profile`, for `go tool pprof`.
    Pprof,
    /// A flame graph as an SVG that needs no other file.
    Flamegraph,
    /// One line for each stack: functions, outermost first, separated by `;`, then the number or nanoseconds. Flame
    /// graph tools read this.
    Folded,
}

#[derive(Clone, Debug)]
pub struct Wanted {
    pub kind: Kind,
    /// The part of the trace that counts.
    pub span: Span,
    /// The process; `None`: the only one.
    pub pid: Option<u32>,
    /// Only waits whose reason matches.
    pub reason: Option<Regex>,
    /// The runtime's own goroutines, too.
    pub system: bool,
    /// Puts the `go` statement that made a goroutine before its own stack.
    pub by_creator: bool,
}

/// The observer that gathers one target's time or goroutines by stack, and writes the profile at the end.
///
/// Time counts as far as it lies within [`Wanted::span`] and the trace. A wait from before counts from the span's
/// beginning on; one that has not ended counts up to the end of the trace and has the label `open`.
pub struct Stacks<W> {
    out: W,
    form: Form,
    wanted: Wanted,
    time_ns: i64,
    /// Index of the target.
    target: usize,
    gather: Box<dyn Gather + Send>,
    table: Table,
}

impl<W: Write> Stacks<W> {
    /// `out` gets nothing before the end. `time_ns`: wall clock of the span's beginning, nanoseconds since 1970; 0: not
    /// known.
    pub fn new(out: W, form: Form, wanted: Wanted, time_ns: i64) -> Stacks<W> {
        let (gather, table) = (gather::of(wanted.kind), Table::new(wanted.span));
        Stacks { out, form, wanted, time_ns, target: 0, gather, table }
    }
}

impl<W: Write> Observer for Stacks<W> {
    fn begin(&mut self, targets: &mut [Target]) -> io::Result<()> {
        self.target = choose(targets, self.wanted.pid)?;
        Ok(())
    }

    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()> {
        let (Some(target), Some(news)) = (targets.get_mut(self.target), round.news.get(self.target)) else {
            return Ok(());
        };
        if news.lost != 0 {
            self.gather.lost();
        }
        for step in &news.steps {
            self.gather.step(target, step, &mut self.table);
        }
        Ok(())
    }

    fn end(&mut self, targets: &mut [Target], ends: &[End]) -> io::Result<()> {
        let Some(target) = targets.get_mut(self.target) else { return Ok(()) };
        let End { until_ts, lost, .. } = ends.get(self.target).cloned().unwrap_or_default();
        self.gather.end(target, until_ts, &mut self.table);
        let span = self.wanted.span;
        let when = (self.time_ns, until_ts.min(span.to_ts).saturating_sub(span.from_ts));
        let table = std::mem::replace(&mut self.table, Table::new(span));
        let profile = Profile::of(target, table, &self.wanted, when, lost);
        match self.form {
            Form::Pprof => profile.write_pprof(&mut self.out)?,
            Form::Flamegraph => flame::write_svg(&mut self.out, &profile)?,
            Form::Folded => flame::write_folded(&mut self.out, &profile)?,
        }
        self.out.flush()
    }
}

/// Index of the target with this PID, or of the only one.
pub(super) fn choose(targets: &[Target], pid: Option<u32>) -> io::Result<usize> {
    let pids = || {
        let pids: Vec<String> = targets.iter().map(|target| target.about().pid.to_string()).collect();
        pids.join(", ")
    };
    match pid {
        Some(pid) => targets
            .iter()
            .position(|target| target.about().pid == pid)
            .ok_or_else(|| io::Error::other(format!("nothing is known of PID {pid}; there are: {}", pids()))),
        None if targets.len() > 1 => {
            let all = pids();
            Err(io::Error::other(format!("this format holds one process: choose one of {all} by --pid")))
        }
        None => Ok(0),
    }
}

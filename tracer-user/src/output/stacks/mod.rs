//! Profiles by stack: an observer that gathers, and at the end writes.

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

/// How a profile is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For `go tool pprof`: a compressed `perftools.profiles.Profile`.
    Pprof,
    /// A flame graph: an SVG that stands alone.
    Flamegraph,
    /// A stack a line, outermost function first, separated by `;`, then its number or nanoseconds: what flame
    /// graph tools read.
    Folded,
}

/// What goes into a profile.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What counts.
    pub kind: Kind,
    /// The part of the trace that counts.
    pub span: Span,
    /// The process; `None`: the only one.
    pub pid: Option<u32>,
    /// Only waits whose reason matches.
    pub reason: Option<Regex>,
    /// The runtime's own goroutines too.
    pub system: bool,
    /// Where a goroutine was made stands before its own stack.
    pub by_creator: bool,
}

/// Gathers what happens to one process by stack, and writes it at the end.
///
/// Time counts as far as it lies within [`Wanted::span`] and the trace: a wait that began before counts from
/// there on, one that has not ended when the trace does counts up to its end, and is labelled `open`.
pub struct Stacks<W> {
    out: W,
    form: Form,
    wanted: Wanted,
    time_ns: i64,
    /// The number of the target.
    target: usize,
    gather: Box<dyn Gather + Send>,
    table: Table,
}

impl<W: Write> Stacks<W> {
    /// Into `out`, which gets nothing before the end. `time_ns`: when the span begins by the wall clock,
    /// nanoseconds since 1970; 0: not known.
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

/// The number of the target with this pid, or of the only one.
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

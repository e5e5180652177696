//! Profiles by stack: an observer that gathers, and at the end writes.

use super::{
    Kind, Window, blocked::Blocked, created::Created, existing::Existing, flame, folded, off_cpu::OffCpu,
    pprof, profile::Profile, table::Table,
};
use crate::{
    follow::{End, Followed, Input, Observer, Round},
    model::Step,
};
use regex::Regex;
use std::io::{self, Write};

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
    /// The part of the trace that counts. Of goroutines that exist, its end is when they do.
    pub window: Window,
    /// The process; `None`: the only one.
    pub pid: Option<u32>,
    /// Only waits whose reason matches.
    pub reason: Option<Regex>,
    /// The runtime's own goroutines too.
    pub system: bool,
    /// Where a goroutine was made stands before its own stack.
    pub by_creator: bool,
}

/// What finds out what counts.
pub(super) trait Gather {
    /// Something happened.
    fn step(&mut self, followed: &mut Followed, step: &Step, table: &mut Table);

    /// Events were lost before what comes.
    fn lost(&mut self) {}

    /// Nothing comes any more.
    fn end(&mut self, followed: &Followed, until_ts: u64, table: &mut Table);
}

/// Gathers what happens to one process by stack, and writes it at the end.
///
/// Time counts as far as it lies within the trace: a wait that began before counts from the beginning of the
/// trace, one that has not ended up to its end (and is labelled `open`).
pub struct Stacks<W> {
    out: W,
    form: Form,
    wanted: Wanted,
    time_ns: i64,
    /// The number of the target.
    target: usize,
    gather: Box<dyn Gather + Send>,
    /// `None`: nothing has happened yet.
    table: Option<Table>,
    /// When the trace began.
    began_ts: u64,
    /// What exists has been counted.
    closed: bool,
}

impl<W: Write> Stacks<W> {
    /// Into `out`, which gets nothing before the end. `time_ns`: when the trace began by the wall clock, nanoseconds since 1970; 0:
    /// not known.
    pub fn new(out: W, form: Form, wanted: Wanted, time_ns: i64) -> Stacks<W> {
        let gather: Box<dyn Gather + Send> = match wanted.kind {
            Kind::Blocked => Box::<Blocked>::default(),
            Kind::OffCpu => Box::<OffCpu>::default(),
            Kind::Created => Box::new(Created),
            Kind::Goroutines => Box::new(Existing),
        };
        Stacks { out, form, wanted, time_ns, target: 0, gather, table: None, began_ts: 0, closed: false }
    }

    /// The table, which is made when the first thing happens.
    fn begun(&mut self, ts: u64) -> &mut Table {
        let (window, began_ts) = (self.wanted.window, &mut self.began_ts);
        self.table.get_or_insert_with(|| {
            *began_ts = ts;
            Table::new(window.since(ts))
        })
    }
}

impl<W: Write> Observer for Stacks<W> {
    fn begin(&mut self, targets: &mut [Followed]) -> io::Result<()> {
        self.target = choose(targets, self.wanted.pid)?;
        Ok(())
    }

    fn input(&mut self, target: usize, input: &Input, followed: &mut Followed) -> io::Result<()> {
        if target != self.target {
            return Ok(());
        }
        match input {
            Input::Snapshot(snapshot) => drop(self.begun(snapshot.began_ts)),
            Input::Events(batch) => {
                if let Some(first) = batch.events.first() {
                    self.begun(first.ts);
                }
                if batch.lost != 0 {
                    self.gather.lost();
                }
                let Some(table) = &mut self.table else { return Ok(()) };
                let exact = self.wanted.kind == Kind::Goroutines && self.wanted.window.to.is_some();
                if exact && !self.closed && batch.complete_until >= table.span.to_ts {
                    self.closed = true;
                    self.gather.end(followed, table.span.to_ts, table);
                }
            }
            Input::Stacks(_) => {}
        }
        Ok(())
    }

    fn round(&mut self, targets: &mut [Followed], round: &Round) -> io::Result<()> {
        let (Some(followed), Some(news)) = (targets.get_mut(self.target), round.news.get(self.target)) else {
            return Ok(());
        };
        for step in &news.steps {
            let table = self.table.get_or_insert_with(|| {
                self.began_ts = step.ts;
                Table::new(self.wanted.window.since(step.ts))
            });
            self.gather.step(followed, step, table);
        }
        Ok(())
    }

    fn end(&mut self, targets: &mut [Followed], ends: &[End]) -> io::Result<()> {
        let Some(followed) = targets.get_mut(self.target) else { return Ok(()) };
        let end = ends.get(self.target).cloned().unwrap_or_default();
        let until_ts = end.until_ts;
        self.begun(until_ts);
        let Some(mut table) = self.table.take() else { return Ok(()) };
        if !self.closed {
            self.gather.end(followed, until_ts, &mut table);
        }
        let length_ns = table.span.part(self.began_ts, until_ts).unwrap_or(0);
        let profile = Profile::of(followed, table, &self.wanted, (self.time_ns, length_ns), end.lost);
        match self.form {
            Form::Pprof => pprof::write(&mut self.out, &profile)?,
            Form::Flamegraph => flame::write(&mut self.out, &profile)?,
            Form::Folded => folded::write(&mut self.out, &profile)?,
        }
        self.out.flush()
    }
}

/// The number of the target with this pid, or of the only one.
fn choose(targets: &[Followed], pid: Option<u32>) -> io::Result<usize> {
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
            Err(io::Error::other(format!("a profile is of one process: choose one of {all} by --pid")))
        }
        None => Ok(0),
    }
}

//! Events as they happen, or a summary at the end.

use super::{DeadlockLine, Did, Sink};
use sfgi_core::names::Filter;
use sfgi_core::{
    model::{Step, Summary, Whats},
    session::{End, Observer, Round, Target},
};
use std::io;

/// The observer that filters events and writes lines, or a summary, to a [`Sink`].
pub struct Printer {
    sink: Box<dyn Sink + Send>,
    filter: Filter,
    /// One for each target; `None`: lines are wanted.
    summaries: Option<Vec<Summary>>,
}

impl Printer {
    /// `summary_only`: a summary at the end instead of lines.
    pub fn new(sink: Box<dyn Sink + Send>, filter: Filter, summary_only: bool) -> Printer {
        Printer { sink, filter, summaries: summary_only.then(Vec::new) }
    }
}

impl Observer for Printer {
    fn wants(&self) -> Whats {
        // A summary needs some kinds only; a recording then makes no steps of the others.
        let counted = if self.summaries.is_some() { Summary::counts() } else { Whats::ALL };
        self.filter.events.and(counted)
    }

    fn begin(&mut self, targets: &mut [Target]) -> io::Result<()> {
        match &mut self.summaries {
            Some(summaries) => summaries.resize_with(targets.len(), Summary::default),
            None => self.sink.begin()?,
        }
        Ok(())
    }

    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()> {
        if self.summaries.is_none() {
            for (target, news) in targets.iter().zip(&round.news) {
                if news.lost > 0 {
                    self.sink.lost(target.about().pid, news.lost, news.ts)?;
                }
                if let Some(merged) = &news.resync {
                    self.sink.resync(target.about().pid, merged, news.ts)?;
                }
            }
        }
        for (index, step) in round.steps() {
            if !self.filter.wants_step(step) {
                continue;
            }
            // A line looks up names, which is the dear part: a summary without --func goes without.
            if self.filter.func.is_some() || self.summaries.is_none() {
                let mut line = targets[index].line(step);
                if !self.filter.wants_stack(step) {
                    line.stack.clear();
                }
                if !self.filter.wants_line(&line) {
                    continue;
                }
                if self.summaries.is_none() {
                    self.sink.line(&line)?;
                }
            }
            if let Some(summaries) = &mut self.summaries {
                summaries[index].add(step);
            }
        }
        for (target, news) in targets.iter_mut().zip(&round.news) {
            for deadlock in &news.deadlocks {
                let pid = target.about().pid;
                let mut did = |step: &Step| {
                    let line = target.line(step);
                    Did { step: *step, reason: line.reason.to_owned(), site: line.site }
                };
                let last = deadlock.members.iter().map(|member| member.last.iter().map(&mut did).collect());
                self.sink.deadlock(&DeadlockLine { pid, deadlock, last: last.collect() })?;
            }
        }
        self.sink.flush()
    }

    fn end(&mut self, targets: &mut [Target], ends: &[End]) -> io::Result<()> {
        let summaries = self.summaries.iter_mut().flatten();
        for ((target, summary), end) in targets.iter_mut().zip(summaries).zip(ends) {
            self.sink.summary(&target.report(summary, end))?;
        }
        self.sink.flush()
    }
}

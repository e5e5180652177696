//! The loop of a trace: drain, digest, show; and what is said when it ends.

use super::target::{Collected, Traced};
use crate::{
    clock,
    model::{Step, Summary},
    present::{Filter, Sink},
    probe::Calibration,
};
use anyhow::Result;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// What ended a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Every traced process has ended, or replaced its program.
    TargetsGone,
    /// The user, by a signal or `-d`.
    Asked,
}

/// Where the results go.
pub(super) struct Output {
    pub(super) sink: Box<dyn Sink + Send>,
    pub(super) filter: Filter,
    /// Print a summary at the end instead of events.
    pub(super) summary_only: bool,
}

/// Everything that runs on the tracing thread.
pub(super) struct Engine {
    targets: Vec<Traced>,
    output: Output,
    calibration: Calibration,
    every: Duration,
    /// One a target, with `summary_only`.
    summaries: Vec<Summary>,
    steps: Vec<(usize, Step)>,
}

impl Engine {
    pub(super) fn new(
        targets: Vec<Traced>,
        output: Output,
        calibration: Calibration,
        every: Duration,
    ) -> Engine {
        let summaries = targets.iter().map(|_| Summary::default()).collect();
        Engine { targets, output, calibration, every, summaries, steps: Vec::new() }
    }

    /// Runs until `stop` is set or every target's trace has ended, then drains what is left and
    /// reports.
    pub(super) fn run(mut self, stop: &AtomicBool) -> Result<()> {
        if !self.output.summary_only {
            self.output.sink.begin()?;
        }
        loop {
            let finish =
                stop.load(Ordering::Relaxed) || self.targets.iter().all(|target| target.ended.is_some());
            let result = self.round(finish);
            if finish || result.is_err() {
                // The report is owed also to a user whose output was closed.
                self.report()?;
                return result.map(|_| ());
            }
            if let Ok(false) = result {
                thread::sleep(self.every);
            }
        }
    }

    /// Drains every target once. Says whether there is more to drain at once.
    fn round(&mut self, finish: bool) -> Result<bool> {
        let (mut fresh, mut more) = (Vec::new(), false);
        for (index, target) in self.targets.iter_mut().enumerate() {
            let Collected { lost, more: more_here, resync } = target.collect(finish, &mut fresh)?;
            more |= more_here;
            if lost > 0 && !self.output.summary_only {
                self.output.sink.lost(target.pid, lost, clock::now())?;
            }
            if let Some(merged) = resync
                && !self.output.summary_only
            {
                self.output.sink.resync(target.pid, &merged, clock::now())?;
            }
            self.steps.extend(fresh.drain(..).map(|step| (index, step)));
        }
        if self.targets.len() > 1 {
            self.steps.sort_by_key(|(_, step)| step.ts);
        }
        for (index, step) in self.steps.drain(..) {
            if !self.output.filter.wants_step(&step) {
                continue;
            }
            if self.output.summary_only && self.output.filter.func.is_none() {
                self.summaries[index].add(&step);
                continue;
            }
            let line = self.targets[index].line(&step);
            if !self.output.filter.wants_line(&line) {
                continue;
            }
            if self.output.summary_only {
                self.summaries[index].add(&step);
            } else {
                self.output.sink.line(&line)?;
            }
        }
        self.output.sink.flush()?;
        Ok(more)
    }

    fn report(&mut self) -> Result<()> {
        for (target, summary) in self.targets.iter_mut().zip(&mut self.summaries) {
            if self.output.summary_only {
                self.output.sink.summary(&target.report(summary)?)?;
            }
            if let Some(why) = &target.ended {
                eprintln!("sfgi: {why}");
            }
            eprintln!("sfgi: {}", target.closing(&self.calibration)?);
        }
        Ok(self.output.sink.flush()?)
    }
}

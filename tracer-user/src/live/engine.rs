//! The loop of a trace: drain the rings, apply the events to the model, tell the observers; and the lines at its end.

use super::target::{Feed, LiveTarget, Observers, Targets};
use crate::{
    output::say,
    probe::{Calibration, Cost},
};
use anyhow::Result;
use sfgi_core::session::{End, Round, Target};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Why a trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Every target has ended, or replaced its program.
    TargetsGone,
    /// The user, by a signal or `-d`.
    Asked,
}

/// The state of the tracing thread, which runs [`Engine::run`].
pub(crate) struct Engine {
    live: Vec<LiveTarget>,
    targets: Vec<Target>,
    observers: Observers,
    calibration: Calibration,
    every: Duration,
    round: Round,
    meter: Option<Meter>,
    /// The closing lines go to the log, not to standard error.
    quiet: bool,
}

/// Reports the cost of the probes every [`METER_EVERY`] while they stand.
struct Meter {
    tell: Box<dyn FnMut(Vec<Cost>) + Send>,
    last: Option<Instant>,
}

const METER_EVERY: Duration = Duration::from_millis(500);

impl Engine {
    pub(crate) fn new(
        targets: Targets,
        observers: Observers,
        calibration: Calibration,
        every: Duration,
    ) -> Engine {
        let (live, targets) = targets.into_iter().unzip();
        Engine {
            live,
            targets,
            observers,
            calibration,
            every,
            round: Round::default(),
            meter: None,
            quiet: false,
        }
    }

    /// Has `tell` called every [`METER_EVERY`] with the cost of each target, in the order of the targets.
    pub(crate) fn metered(mut self, tell: impl FnMut(Vec<Cost>) + Send + 'static) -> Engine {
        self.meter = Some(Meter { tell: Box::new(tell), last: None });
        self
    }

    /// Sends the closing lines to the log in place of standard error.
    pub(crate) fn quiet(mut self) -> Engine {
        self.quiet = true;
        self
    }

    /// Runs until `stop` is set or every target has ended, then removes the probes, drains the rest and reports. On
    /// an error of an observer it reports, too, and returns the error.
    pub(crate) fn run(mut self, stop: &AtomicBool) -> Result<()> {
        for observer in &mut self.observers {
            observer.begin(&mut self.targets)?;
        }
        loop {
            let ended = |target: &Target| target.ended().is_some();
            // Read once a round: the round that sees it removes the probes, and no round follows. Relaxed: the flag
            // guards no data.
            let finish = stop.load(Ordering::Relaxed) || self.targets.iter().all(ended);
            let result = self.round(finish);
            if finish || result.is_err() {
                // Also after an error: a user who closed the output (`| head`) still gets the summary on standard
                // error.
                self.report()?;
                return result.map(|_| ());
            }
            if let Ok(false) = result {
                // Rings are drained by the clock: a wake-up from the probe would double its price.
                thread::sleep(self.every);
            }
        }
    }

    /// Drains every target once. Returns whether a ring still holds records, so that the next round must follow at
    /// once.
    fn round(&mut self, finish: bool) -> Result<bool> {
        let mut more = false;
        self.round.clear(self.live.len());
        let targets = self.live.iter_mut().zip(&mut self.targets).zip(&mut self.round.news);
        for (index, ((live, target), news)) in targets.enumerate() {
            let mut feed = Feed { index, target, news, observers: &mut self.observers };
            more |= live.collect(finish, &mut feed)?;
        }
        if let Some(meter) = self
            .meter
            .as_mut()
            .filter(|meter| !finish && meter.last.is_none_or(|last| last.elapsed() >= METER_EVERY))
        {
            let costs = self.live.iter().map(|live| live.cost(&self.calibration)).collect::<Result<_>>()?;
            (meter.tell)(costs);
            meter.last = Some(Instant::now());
        }
        for observer in &mut self.observers {
            observer.round(&mut self.targets, &self.round)?;
        }
        Ok(more)
    }

    fn report(&mut self) -> Result<()> {
        let ends = self.live.iter().zip(&self.targets);
        let ends: Vec<End> =
            ends.map(|(live, target)| live.end(target, &self.calibration)).collect::<Result<_>>()?;
        let mut result = Ok(());
        for observer in &mut self.observers {
            // Every observer hears of the end, also behind one that failed; the first error is returned.
            result = result.and(observer.end(&mut self.targets, &ends));
        }
        for end in &ends {
            for line in end.why.iter().chain([&end.closing]) {
                if self.quiet {
                    log::debug!("{line}");
                } else {
                    say(line);
                }
            }
        }
        Ok(result?)
    }
}

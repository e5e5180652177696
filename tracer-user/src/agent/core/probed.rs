//! The probes of one process, as the agent's own thread sees them: wanted, being attached, standing, being removed.

use crate::agent::{
    picture::Events,
    watch::{Ceiling, Figures, News, Pace, Reading, Spent, Step, Target, Watcher},
};
use sfgi_core::event::Mode;
use std::{io, sync::Arc};

/// See above.
#[derive(Default)]
pub(super) struct Probed {
    pace: Pace,
    stage: Stage,
    figures: Figures,
    /// Since probes stand, of late.
    spent: Spent,
    /// A reading that was not looked at yet.
    fresh: bool,
    /// Of sessions that are over.
    before: Totals,
    /// How long probes stood in this session.
    seconds: f64,
    reason: Arc<str>,
    /// What was wanted last.
    wanted: Mode,
    ever: bool,
}

#[derive(Default)]
enum Stage {
    #[default]
    None,
    /// A thread tries this mode.
    Attaching(Watcher),
    Standing(Watcher, Mode),
    /// The thread removes its probes; then this mode is tried.
    Removing(#[expect(dead_code, reason = "dropping it would not wait for its end either")] Watcher, Mode),
}

#[derive(Clone, Copy, Default)]
struct Totals {
    hits: u64,
    lost: u64,
    seconds: f64,
}

/// What is to be done about a process, and to be said.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Nothing,
    /// A thread is to try this mode ([`Probed::start`]).
    Start(Mode),
    /// The mode changes; why.
    Changed(String),
}

impl Probed {
    /// The mode that it is in.
    pub(super) fn mode(&self) -> Mode {
        match &self.stage {
            Stage::Standing(_, mode) => *mode,
            _ => Mode::Poll,
        }
    }

    /// Why it is not another one.
    pub(super) fn reason(&self) -> Arc<str> {
        Arc::clone(&self.reason)
    }

    /// Whether a thread works for it.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.stage, Stage::None)
    }

    /// Whether it is being attached to.
    pub(super) fn is_attaching(&self) -> bool {
        matches!(self.stage, Stage::Attaching(..))
    }

    /// What its probes cost now, cores: the program, and us.
    pub(super) fn cores(&self) -> f64 {
        if self.is_active() { self.spent.program_cores + self.spent.own_cores } else { 0.0 }
    }

    /// What of that the program pays.
    pub(super) fn program_cores(&self) -> f64 {
        if self.is_active() { self.spent.program_cores } else { 0.0 }
    }

    /// What is to be done, `at` seconds on any clock, when it may cost `budget` cores.
    pub(super) fn step(&mut self, at: f64, wanted: Mode, budget: f64) -> Next {
        if std::mem::replace(&mut self.wanted, wanted) != wanted {
            self.pace.ask();
        }
        match &self.stage {
            Stage::None => match self.pace.without(wanted, at) {
                Step::Try(mode) => Next::Start(mode),
                _ => Next::Nothing,
            },
            Stage::Attaching(..) | Stage::Removing(..) => Next::Nothing,
            Stage::Standing(_, mode) => {
                let mode = *mode;
                let cores = self.cores();
                let reading = std::mem::take(&mut self.fresh).then_some(Reading { at, cores, budget });
                match self.pace.with_probes(mode, wanted, reading) {
                    Step::Down(to) => {
                        let text = format!(
                            "{mode} costs {:.1} % of a core ({:.0} hits/s at {:.0} ns, and {:.1} % to read them), of {:.1} % that it may",
                            cores * 100.0,
                            self.spent.hits_per_second,
                            self.spent.hit_ns,
                            self.spent.own_cores * 100.0,
                            budget * 100.0
                        );
                        self.remove(to);
                        self.reason = text.as_str().into();
                        Next::Changed(format!("{mode} → {to}: {text}"))
                    }
                    Step::Change => {
                        self.remove(wanted);
                        Next::Changed(format!("{mode} → {wanted} is tried"))
                    }
                    Step::Stay | Step::Try(_) => Next::Nothing,
                }
            }
        }
    }

    fn remove(&mut self, then: Mode) {
        if let Stage::Standing(watcher, _) = std::mem::take(&mut self.stage) {
            watcher.stop();
            self.stage = Stage::Removing(watcher, then);
        }
    }

    /// Has a thread try `mode`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(
        &mut self,
        target: &Arc<Target>,
        mode: Mode,
        budget: f64,
        tell: impl Fn(News) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let watcher = Watcher::start(Arc::clone(target), mode, Ceiling(budget), self.figures.clone(), tell)?;
        self.stage = Stage::Attaching(watcher);
        Ok(())
    }

    /// Takes in what its thread says.
    pub(super) fn news(&mut self, news: News, at: f64) -> Next {
        match news {
            News::Attached { mode, reason } => {
                let Stage::Attaching(watcher) = std::mem::take(&mut self.stage) else {
                    return Next::Nothing;
                };
                self.stage = Stage::Standing(watcher, mode);
                (self.spent, self.seconds, self.fresh, self.ever) = (Spent::default(), 0.0, false, true);
                self.pace.attached(at, !reason.is_empty());
                let text = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                // What was said when it stepped down still holds.
                if !reason.is_empty() || mode >= self.wanted {
                    self.reason = reason.into();
                }
                Next::Changed(format!("poll → {mode}{text}"))
            }
            News::TooDear(reason) => {
                self.pace.refused(at);
                self.reason = reason.as_str().into();
                Next::Changed(format!(
                    "stays in poll: {reason}; tried again in {:.0} s",
                    self.pace.next() - at
                ))
            }
            News::Cost(spent) => {
                self.seconds += spent.seconds;
                (self.spent, self.fresh) = (spent, true);
                Next::Nothing
            }
            News::Ended(error) => {
                let stage = std::mem::take(&mut self.stage);
                let Totals { hits, lost, seconds } = self.before;
                self.before = Totals {
                    hits: hits + self.spent.hits,
                    lost: lost + self.spent.lost,
                    seconds: seconds + self.seconds,
                };
                (self.spent, self.seconds) = (Spent::default(), 0.0);
                if let Some(error) = error {
                    self.pace.refused(at);
                    self.reason = error.as_str().into();
                    return Next::Changed(format!("stays in poll: {error}"));
                }
                match stage {
                    Stage::Removing(_, mode) if mode != Mode::Poll && mode <= self.wanted => {
                        Next::Start(mode)
                    }
                    _ => Next::Nothing,
                }
            }
        }
    }

    /// What is published; `None`: nothing was ever probed.
    pub(super) fn events(&self, top: usize) -> Option<Events> {
        if !self.ever {
            return None;
        }
        let Spent { hits, lost, hits_per_second, hit_ns, program_cores, own_cores, bpf_cores, .. } =
            self.spent;
        let mut events = Events {
            watched_seconds: self.before.seconds + self.seconds,
            hits: self.before.hits + hits,
            lost: self.before.lost + lost,
            hits_per_second,
            hit_ns,
            predicted_cores: program_cores,
            bpf_cores,
            own_cores,
            ..Events::default()
        };
        self.figures.show(&mut events, top);
        Some(events)
    }
}

//! Decides the probes of all targets within the budget, and follows those of each through attaching, standing and
//! removal.

use super::Core;
use crate::agent::{
    picture::{Events, ProcessId},
    watch::{Failure, Figures, News, Pace, ProbeAsk, Reading, Spent, Step},
};
use sfgi_core::{clock, event::Mode};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The most targets that have probes at the same time, because each takes a thread and rings; and the most of them
/// that are being attached to at the same time.
const MOST_WITH_PROBES: usize = 64;
const ATTACHING: usize = 2;
/// The part of the node's budget that probes may use; the rest is left for scans.
const PROBES_SHARE: f64 = 0.7;

impl Core {
    /// Starts, changes and removes the probes of targets according to the wanted modes and the budget.
    pub(super) fn govern(&mut self) {
        let at = clock::now() as f64 / 1e9;
        let budget = &self.config.budget;
        let all: f64 = self.targets.values().map(|state| state.probes.cores()).sum();
        let count =
            |wanted: fn(&Probes) -> bool| self.targets.values().filter(|state| wanted(&state.probes)).count();
        let (mut active, mut attaching) = (count(Probes::is_active), count(Probes::is_attaching));
        // Collected and done after the loop: starting and telling need all of `self`.
        let mut starts = Vec::new();
        let mut changes = Vec::new();
        for (pid, state) in &mut self.targets {
            if let Some((cause, said)) = state.raise(at, &self.config.raise) {
                if let Some(cause) = cause {
                    self.node.raises.count(cause);
                }
                log::info!("PID {pid} ({}): {said}", state.identity.service);
            }
            let wanted = state.wanted();
            // What is left of the node's budget when the probes of the other targets are paid, but never more than
            // one process may cost.
            let left = budget.process().min(PROBES_SHARE * budget.node - (all - state.probes.cores()));
            match state.probes.step(at, wanted, left) {
                Next::Start(mode)
                    if active < MOST_WITH_PROBES && attaching < ATTACHING && self.bucket.has_left() =>
                {
                    (active, attaching) = (active + 1, attaching + 1);
                    starts.push((*pid, mode, left));
                }
                Next::Nothing | Next::Start(_) => {}
                Next::Changed(text) => changes.push((*pid, text)),
            }
        }
        for state in self.targets.values_mut() {
            if let Some(number) = state.probes.take_stop() {
                self.pool.send_prober(&ProbeAsk::Stop { number });
            }
        }
        for (pid, text) in changes {
            self.say_change(pid, &text);
        }
        for (pid, mode, left) in starts {
            self.probe(pid, mode, left);
        }
    }

    fn probe(&mut self, pid: u32, mode: Mode, budget: f64) {
        let Some(state) = self.targets.get_mut(&pid) else { return };
        let number = self.next_session;
        self.next_session += 1;
        self.sessions.insert(number, state.target.id);
        state.probes.start(number);
        let target = Arc::clone(&state.target);
        self.pool.send_prober(&ProbeAsk::Watch { number, target, mode, cores: budget });
    }

    /// The worker that probed is gone: every session begins anew, but those that may have been its end count as failed.
    /// `why`: why it is gone, as a clause.
    pub(super) fn prober_lost(&mut self, hung: bool, why: &str) {
        self.bpf_ns = (self.bpf_ns.0 + self.bpf_ns.1.unwrap_or(0), self.bpf_ns.1.map(|_| 0));
        let silence = self.config.scan.timeout;
        let ended = |state: &super::TargetState| {
            let blamed = if hung { state.probes.silent_for() > silence } else { state.probes.is_attaching() };
            let failure = match (blamed, hung) {
                (false, _) => None,
                (true, true) => Some(Failure::Hangs),
                (true, false) => Some(Failure::Other(format!("the process that probed it was ended: {why}"))),
            };
            (state.target.id, News::Ended(failure))
        };
        let active = self.targets.values().filter(|state| state.probes.is_active());
        let all: Vec<_> = active.map(ended).collect();
        self.sessions.clear();
        all.into_iter().for_each(|(id, news)| self.probe_news(id, news));
    }

    /// Takes in a message about the probes of a target.
    pub(super) fn probe_news(&mut self, id: ProcessId, news: News) {
        let at = clock::now() as f64 / 1e9;
        // Before the target is looked up: the CPU time was spent even if it has ended by now.
        if let News::Cost(spent, _) = &news {
            self.programs_seconds += spent.program_cores * spent.seconds;
            self.bpf_ns.1 = spent.ran_ns.or(self.bpf_ns.1);
        }
        let Some(state) = self.state(id) else { return };
        // A target that ends makes its probes fail. That is no error; the next sweep removes the target.
        if matches!(news, News::Ended(Some(Failure::Ended))) {
            return;
        }
        state.changed();
        match state.probes.news(news, at) {
            Next::Nothing => {}
            Next::Start(mode) => {
                // Without the session that has just ended.
                let all: f64 = self.targets.values().map(|state| state.probes.cores()).sum();
                let budget = &self.config.budget;
                self.probe(id.pid, mode, budget.process().min(PROBES_SHARE * budget.node - all));
            }
            Next::Changed(text) => self.say_change(id.pid, &text),
        }
    }

    fn say_change(&mut self, pid: u32, text: &str) {
        self.node.mode_changes += 1;
        if let Some(state) = self.targets.get_mut(&pid) {
            state.changed();
            log::info!("PID {pid} ({}): {text}", state.identity.service);
        }
    }
}

/// The probes of one target, from being wanted to being removed.
#[derive(Default)]
pub(super) struct Probes {
    pace: Pace,
    stage: Stage,
    figures: Figures,
    /// The last reading of their cost. It stays while they are removed.
    spent: Spent,
    /// `pace` has not judged `spent` yet: it judges each reading once.
    fresh: bool,
    /// Sums over the sessions that have ended.
    before: Totals,
    /// How long probes have stood in this session, seconds.
    seconds: f64,
    reason: Arc<str>,
    /// The mode wanted at the last step; another one resets the pauses of `pace`.
    wanted: Mode,
    /// Probes have stood at least once, so there are figures to publish.
    ever: bool,
    /// A session that the prober must be told to end.
    stop: Option<u64>,
    /// When the session said something last.
    heard: Option<Instant>,
}

/// Each has the number of its session.
#[derive(Clone, Copy, Default)]
enum Stage {
    #[default]
    None,
    /// A thread tries to attach; [`News::Attached`] says in which mode.
    Attaching(u64),
    Standing(u64, Mode),
    /// The session removes its probes. When it has ended, this mode is tried; `Poll`: none.
    Removing(u64, Mode),
}

#[derive(Clone, Copy, Default)]
struct Totals {
    hits: u64,
    lost: u64,
    seconds: f64,
}

/// What the core has to do for a target after a step.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    Nothing,
    /// Call [`Probes::start`] with this mode.
    Start(Mode),
    /// The mode changes; the text for the log says from what to what and why.
    Changed(String),
}

impl Probes {
    /// The mode that the probes stand in; `Poll` while none stand.
    pub(super) fn mode(&self) -> Mode {
        match &self.stage {
            Stage::Standing(_, mode) => *mode,
            Stage::None | Stage::Attaching(_) | Stage::Removing(..) => Mode::Poll,
        }
    }

    /// Why the mode is not the wanted one; empty where it is.
    pub(super) fn reason(&self) -> Arc<str> {
        Arc::clone(&self.reason)
    }

    /// Whether a thread exists for it: attaching, listening or removing.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.stage, Stage::None)
    }

    pub(super) fn is_attaching(&self) -> bool {
        matches!(self.stage, Stage::Attaching(..))
    }

    /// The cost of the probes, to the target and to the agent together, in cores.
    pub(super) fn cores(&self) -> f64 {
        if self.is_active() { self.spent.program_cores + self.spent.own_cores } else { 0.0 }
    }

    /// The part of [`Probes::cores`] that the target pays.
    pub(super) fn program_cores(&self) -> f64 {
        if self.is_active() { self.spent.program_cores } else { 0.0 }
    }

    /// Decides what to do at `at` (seconds on a monotonic clock) when the probes may cost `budget` cores.
    pub(super) fn step(&mut self, at: f64, wanted: Mode, budget: f64) -> Next {
        if std::mem::replace(&mut self.wanted, wanted) != wanted {
            self.pace.ask();
        }
        match &self.stage {
            Stage::None => match self.pace.without(wanted, at) {
                Step::Try(mode) => Next::Start(mode),
                Step::Stay | Step::Change | Step::Down(_) => Next::Nothing,
            },
            // Neither can be hurried; `News` ends both.
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
        if let Stage::Standing(number, _) = self.stage {
            // The stage keeps the place in the count of active targets until the session has ended.
            self.stop = Some(number);
            self.stage = Stage::Removing(number, then);
        }
    }

    /// A session was ordered.
    pub(super) fn start(&mut self, number: u64) {
        (self.stage, self.heard) = (Stage::Attaching(number), Some(Instant::now()));
    }

    /// The session that attaches, stands or ends; `None`: there is none.
    pub(super) fn session(&self) -> Option<u64> {
        match self.stage {
            Stage::None => None,
            Stage::Attaching(number) | Stage::Standing(number, _) | Stage::Removing(number, _) => {
                Some(number)
            }
        }
    }

    /// The session that the prober must be told to end, once.
    pub(super) fn take_stop(&mut self) -> Option<u64> {
        self.stop.take()
    }

    /// How long its session has said nothing; zero where there is none.
    pub(super) fn silent_for(&self) -> Duration {
        self.heard.filter(|_| self.is_active()).map_or(Duration::ZERO, |heard| heard.elapsed())
    }

    /// Takes in a message of its thread.
    pub(super) fn news(&mut self, news: News, at: f64) -> Next {
        self.heard = Some(Instant::now());
        match news {
            News::Attached { mode, reason } => {
                let Stage::Attaching(prober) = std::mem::take(&mut self.stage) else {
                    return Next::Nothing;
                };
                self.stage = Stage::Standing(prober, mode);
                (self.spent, self.seconds, self.fresh, self.ever) = (Spent::default(), 0.0, false, true);
                self.pace.attached(at, !reason.is_empty());
                let text = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                // In a lower mode without a new reason (after a step down) the reason of that step still holds.
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
            News::Cost(spent, sums) => {
                self.figures.add(*sums);
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
                    self.reason = error.to_string().into();
                    return Next::Changed(format!("stays in poll: {error}"));
                }
                match stage {
                    // By now less may be wanted than when the removal began.
                    Stage::Removing(_, mode) if mode != Mode::Poll && mode <= self.wanted => {
                        Next::Start(mode)
                    }
                    _ => Next::Nothing,
                }
            }
        }
    }

    /// The figures to publish, with tables of `top` rows; `None`: it never had probes.
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

//! Raises and lowers the probes of processes.

use super::{
    Core, Message,
    probed::{Next, Probed},
};
use crate::agent::{picture::ProcessId, watch::News};
use sfgi_core::{clock, event::Mode};

/// Processes that have probes at the same time, and that are being attached to: each has a thread and rings.
const MOST_PROBED: usize = 64;
const ATTACHING: usize = 2;
/// The part of the node's budget that probes may use: the rest is for scans.
const PROBES_SHARE: f64 = 0.7;

impl Core {
    /// Raises and lowers probes, as wishes and the budget have it.
    pub(super) fn govern(&mut self) {
        let at = clock::now() as f64 / 1e9;
        let budget = self.settings.budget;
        let all: f64 = self.tracked.values().map(|tracked| tracked.probed.cores()).sum();
        let count = |wanted: fn(&Probed) -> bool| {
            self.tracked.values().filter(|tracked| wanted(&tracked.probed)).count()
        };
        let (mut active, mut attaching) = (count(Probed::is_active), count(Probed::is_attaching));
        let mut starts = Vec::new();
        let mut changes = Vec::new();
        for (pid, tracked) in &mut self.tracked {
            if let Some((cause, said)) = tracked.raise(at, &self.settings.raise) {
                if let Some(cause) = cause {
                    self.node.raises.count(cause);
                }
                log::info!("PID {pid} ({}): {said}", tracked.target.identity.service);
            }
            let wanted = tracked.wanted();
            // What the others leave of the node's.
            let left = budget.process.min(PROBES_SHARE * budget.node - (all - tracked.probed.cores()));
            match tracked.probed.step(at, wanted, left) {
                Next::Start(mode)
                    if active < MOST_PROBED && attaching < ATTACHING && self.bucket.has_left() =>
                {
                    (active, attaching) = (active + 1, attaching + 1);
                    starts.push((*pid, mode, left));
                }
                Next::Nothing | Next::Start(_) => {}
                Next::Changed(text) => changes.push((*pid, text)),
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
        let Some(tracked) = self.tracked.get_mut(&pid) else { return };
        let (id, told) = (tracked.found.id, self.told.clone());
        let tell = move |news| {
            let _ = told.send(Message::Watched { id, news });
        };
        if let Err(err) = tracked.probed.start(&tracked.target, mode, budget, tell) {
            self.complain(format!("no thread can be started to probe PID {pid} with: {err}"));
        }
    }

    /// What the thread that probes a process says.
    pub(super) fn watched(&mut self, id: ProcessId, news: News) {
        let at = clock::now() as f64 / 1e9;
        if let News::Cost(spent) = &news {
            self.programs_seconds += spent.program_cores * spent.seconds;
        }
        let all: f64 = self.tracked.values().map(|tracked| tracked.probed.cores()).sum();
        let Some(tracked) = self.tracked.get_mut(&id.pid).filter(|tracked| tracked.found.id == id) else {
            return;
        };
        if matches!(news, News::Ended(Some(_))) && !tracked.target.process.alive() {
            return;
        }
        tracked.changed();
        match tracked.probed.news(news, at) {
            Next::Nothing => {}
            Next::Start(mode) => {
                let budget = self.settings.budget;
                self.probe(id.pid, mode, budget.process.min(PROBES_SHARE * budget.node - all));
            }
            Next::Changed(text) => self.say_change(id.pid, &text),
        }
    }

    fn say_change(&mut self, pid: u32, text: &str) {
        self.node.mode_changes += 1;
        if let Some(tracked) = self.tracked.get_mut(&pid) {
            tracked.changed();
            log::info!("PID {pid} ({}): {text}", tracked.target.identity.service);
        }
    }
}

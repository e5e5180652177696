//! What is asked of the agent: done at once by its own thread, or by one that takes its time and answers itself.

use super::{Core, answer, follow, follow::Limits, target::Tracked};
use crate::agent::{
    picture::ProcessId,
    request::{Answer, Profile, Refusal, Request, Scanned},
    settings::Settings,
    watch::{Ceiling, Target, Task, scan::Leaks},
};
use sfgi_core::{detect::Verdict, event::Mode};
use std::{collections::HashSet, sync::Arc, time::Duration};

/// Scans that someone waits for.
pub(super) struct Trigger {
    waiting: HashSet<ProcessId>,
    scanned: Scanned,
    answer: Answer<Scanned>,
}

impl Core {
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::TriggerScan { pid, answer } => self.trigger(pid, answer),
            Request::SetMode { pid, mode, answer } => {
                let result = self.set_mode(pid, mode);
                let _ = answer.send(result);
            }
            Request::Raise { process, why } => {
                let tracked = self.tracked.get_mut(&process.pid);
                if let Some(tracked) = tracked.filter(|tracked| tracked.found.id == process) {
                    tracked.ask_detail(&why);
                }
            }
            Request::Profile { pid, kind: Profile::Block(seconds), answer } => {
                self.follow(pid, seconds, answer, follow::block_profile);
            }
            Request::Profile { pid, kind, answer } => {
                self.ask(pid, answer, move |target, settings| answer::profile(target, kind, settings));
            }
            Request::Goroutines { pid, filter, form, answer } => {
                self.ask(pid, answer, move |target, _| answer::goroutines(target, &filter, form));
            }
            Request::Trace { pid, seconds, answer } => self.follow(pid, seconds, answer, follow::trace),
            Request::Record { pid, seconds, file, answer } => {
                self.follow(pid, seconds, answer, |target, limits, answer| {
                    follow::record(target, limits, file.into(), answer);
                });
            }
            Request::Reload(settings) => self.reload(*settings),
            Request::Stop => {}
        }
    }

    /// Has a thread follow a process for a time.
    fn follow<T>(
        &self,
        pid: u32,
        seconds: Duration,
        answer: Answer<T>,
        begin: impl FnOnce(Arc<Target>, Limits, Answer<T>),
    ) {
        let Some(tracked) = self.tracked.get(&pid) else {
            let _ = answer.send(Err(Refusal::Unknown(pid)));
            return;
        };
        let left = self.settings.budget.process - tracked.probed.program_cores();
        begin(Arc::clone(&tracked.target), Limits { ceiling: Ceiling(left), seconds }, answer);
    }

    /// Has a thread of the pool make the answer.
    fn ask<T: Send + 'static>(
        &self,
        pid: u32,
        answer: Answer<T>,
        make: impl FnOnce(&Target, &Settings) -> Result<T, Refusal> + Send + 'static,
    ) {
        let Some(tracked) = self.tracked.get(&pid) else {
            let _ = answer.send(Err(Refusal::Unknown(pid)));
            return;
        };
        let (target, settings) = (Arc::clone(&tracked.target), Arc::clone(&self.settings));
        let run = Box::new(move || {
            let made = make(&target, &settings);
            let ended = made.is_err() && !target.process.alive();
            let _ = answer.send(if ended { Err(Refusal::Ended(pid)) } else { made });
        });
        self.pool.run(Task { about: pid, run });
    }

    fn trigger(&mut self, pid: Option<u32>, answer: Answer<Scanned>) {
        let wanted = |tracked: &&mut Tracked| pid.is_none_or(|pid| tracked.found.id.pid == pid);
        let mut waiting = HashSet::new();
        for tracked in self.tracked.values_mut().filter(wanted) {
            tracked.triggered = true;
            waiting.insert(tracked.found.id);
        }
        let scanned = Scanned::default();
        match (waiting.is_empty(), pid) {
            (false, _) => self.triggers.push(Trigger { waiting, scanned, answer }),
            (true, Some(pid)) => drop(answer.send(Err(Refusal::Unknown(pid)))),
            (true, None) => drop(answer.send(Ok(scanned))),
        }
    }

    fn set_mode(&mut self, pid: u32, mode: Option<Mode>) -> Result<(), Refusal> {
        let tracked = self.tracked.get_mut(&pid).ok_or(Refusal::Unknown(pid))?;
        tracked.ask_mode(mode);
        Ok(())
    }

    /// A process has been scanned, or will not be.
    pub(super) fn untrigger(&mut self, id: ProcessId, scanned: Option<Scanned>) {
        for trigger in &mut self.triggers {
            if trigger.waiting.remove(&id) {
                let Scanned { scanned, leaked } = scanned.unwrap_or_default();
                trigger.scanned.scanned += scanned;
                trigger.scanned.leaked += leaked;
            }
        }
        for trigger in self.triggers.extract_if(.., |trigger| trigger.waiting.is_empty()) {
            let _ = trigger.answer.send(Ok(trigger.scanned));
        }
    }
}

/// What a look at a heap comes to.
pub(super) fn scanned(leaks: &Leaks) -> Scanned {
    // Timers are no goroutines.
    let sure =
        leaks.groups.iter().filter(|group| group.verdict > Verdict::Suspect && !group.goids.is_empty());
    Scanned { scanned: leaks.scanned, leaked: sure.map(|group| group.count).sum() }
}

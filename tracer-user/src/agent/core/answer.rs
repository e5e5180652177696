//! Answers requests. Those that only change settings are done at once by the core; those that read a target by a
//! thread of the pool; those that follow a target for a time by a thread of their own ([`stream`]).

use super::{Core, state::TargetState, stream, stream::Limits};
use crate::{
    agent::{
        Config,
        picture::ProcessId,
        request::{Answer, Filter, Form, Profile, Refusal, Request, Scanned},
        watch::{
            Ceiling, Target, TargetError, Task,
            scan::{self, Leaks},
        },
    },
    output::{
        Traceback,
        dump::{About, Choice, Group, JsonDump},
        pprof::{ProfileKind, write_profile},
    },
};
use bytes::Bytes;
use sfgi_core::{
    detect::Verdict, event::Mode, leaks::Found, memory::Live, names::Names, snapshot, snapshot::Options,
};
use std::{collections::HashSet, io, sync::Arc, time::Duration};


/// A client that waits until a look at each of these targets is done.
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
                if let Some(state) = self.state(process) {
                    state.ask_detail(&why);
                }
            }
            Request::Profile { pid, kind: Profile::Block(seconds), answer } => {
                self.stream(pid, seconds, answer, stream::block_profile);
            }
            Request::Profile { pid, kind, answer } => {
                self.ask(pid, answer, move |target, config| profile(target, kind, config));
            }
            Request::Goroutines { pid, filter, form, answer } => {
                self.ask(pid, answer, move |target, _| goroutines(target, &filter, form));
            }
            Request::Trace { pid, seconds, answer } => self.stream(pid, seconds, answer, stream::trace),
            Request::Record { pid, seconds, file, answer } => {
                self.stream(pid, seconds, answer, |target, limits, answer| {
                    stream::record(target, limits, file.into(), answer);
                });
            }
            Request::Reload(config) => self.reload(config),
            // `Core::run` has ended the loop for it.
            Request::Stop => {}
        }
    }

    /// Starts a stream of a target on a thread of its own.
    fn stream<T>(
        &self,
        pid: u32,
        seconds: Duration,
        answer: Answer<T>,
        begin: impl FnOnce(Arc<Target>, Limits, Answer<T>),
    ) {
        let Some(state) = self.targets.get(&pid) else {
            let _ = answer.send(Err(Refusal::Unknown(pid)));
            return;
        };
        // The stream has probes of its own, beside those that stand already.
        let left = self.config.budget.process() - state.probes.program_cores();
        begin(Arc::clone(&state.target), Limits { ceiling: Ceiling(left), seconds }, answer);
    }

    /// Has a thread of the pool make the answer, so that a target that does not answer holds up no other request.
    fn ask<T: Send + 'static>(
        &self,
        pid: u32,
        answer: Answer<T>,
        make: impl FnOnce(&Target, &Config) -> Result<T, Refusal> + Send + 'static,
    ) {
        let Some(state) = self.targets.get(&pid) else {
            let _ = answer.send(Err(Refusal::Unknown(pid)));
            return;
        };
        let (target, config) = (Arc::clone(&state.target), Arc::clone(&self.config));
        let run = Box::new(move || {
            let made = make(&target, &config);
            // Of a target that ended meanwhile any error may have come; the client is told the reason.
            let ended = made.is_err() && !target.process.alive();
            let _ = answer.send(if ended { Err(Refusal::Ended(pid)) } else { made });
        });
        self.pool.run(Task { about: pid, run });
    }

    fn trigger(&mut self, pid: Option<u32>, answer: Answer<Scanned>) {
        let wanted = |state: &&mut TargetState| pid.is_none_or(|pid| state.target.pid() == pid);
        let mut waiting = HashSet::new();
        for state in self.targets.values_mut().filter(wanted) {
            state.triggered = true;
            waiting.insert(state.target.id);
        }
        let scanned = Scanned::default();
        match (waiting.is_empty(), pid) {
            (false, _) => self.triggers.push(Trigger { waiting, scanned, answer }),
            (true, Some(pid)) => drop(answer.send(Err(Refusal::Unknown(pid)))),
            (true, None) => drop(answer.send(Ok(scanned))),
        }
    }

    fn set_mode(&mut self, pid: u32, mode: Option<Mode>) -> Result<(), Refusal> {
        self.targets.get_mut(&pid).ok_or(Refusal::Unknown(pid))?.ask_mode(mode);
        Ok(())
    }

    /// Notes for all waiting clients that this target has been looked at, or will not be (`None`), and answers those
    /// that wait for no other.
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

/// The numbers of a look at a heap for a client: goroutines judged, and goroutines proven or likely leaked.
pub(super) fn scanned(leaks: &Leaks) -> Scanned {
    // Groups of timers have no goids and are not goroutines.
    let sure =
        leaks.groups.iter().filter(|group| group.verdict > Verdict::Suspect && !group.goids.is_empty());
    Scanned { scanned: leaks.scanned, leaked: sure.map(|group| group.count).sum() }
}

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

/// Goroutines in a document: where the request names no limit, and the largest that it may name.
const LIMIT: usize = 1000;
const MAX_LIMIT: usize = 100_000;

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

/// Reads the goroutines of a target into a document.
fn goroutines(target: &Target, filter: &Filter, form: Form) -> Result<Bytes, Refusal> {
    let opened = target.open()?;
    let memory = Live::of(&target.process);
    let view = opened.view(&memory);
    let text = form == Form::Text;
    let options = Options { stacks: true, args: text, labels: true, objects: !text, most: 0 };
    let snapshot = snapshot::take(&view, options, &mut |_, _| {}).map_err(failed)?;
    // Only now is it certain that the snapshot is of the program whose names follow.
    target.still_the_same()?;
    let mut names = Names::new(Arc::clone(&opened.binary), opened.bias, &snapshot);
    let choice = Choice {
        states: filter.states.clone(),
        reason: filter.reason.clone(),
        func: filter.func.clone(),
        older_ns: u64::try_from(filter.older.as_nanos()).unwrap_or(u64::MAX),
        goids: filter.goids.iter().copied().collect(),
        object: None,
        system: filter.system,
    };
    let limit = if filter.limit == 0 { LIMIT } else { filter.limit.min(MAX_LIMIT) };
    let mut chosen = choice.of(&snapshot, &mut names);
    let incomplete = snapshot.lacks();
    let exe = target.exe();
    let about = About { pid: Some(target.pid()), exe: &exe, incomplete: incomplete.as_deref(), object: None };
    let mut out = Vec::new();
    match form {
        Form::JsonGroups => {
            let mut groups = Group::all(&snapshot, &names, &chosen);
            groups.drain(..filter.skip.min(groups.len()));
            groups.truncate(limit);
            JsonDump::new(&mut out, &snapshot, &mut names).groups(&about, &groups).map_err(failed)?;
        }
        Form::Json | Form::Text => {
            chosen.drain(..filter.skip.min(chosen.len()));
            chosen.truncate(limit);
            if text {
                let mut traceback =
                    Traceback::new(&opened.binary, opened.bias, &snapshot, snapshot.taken_ns.1);
                let goroutine = |index: &u32| snapshot.goroutines.get(*index as usize);
                for (number, goroutine) in chosen.iter().filter_map(goroutine).enumerate() {
                    if number > 0 {
                        out.push(b'\n');
                    }
                    traceback.write(&mut out, goroutine).map_err(failed)?;
                }
            } else {
                JsonDump::new(&mut out, &snapshot, &mut names).goroutines(&about, &chosen).map_err(failed)?;
            }
        }
    }
    Ok(out.into())
}

/// Makes a profile of a target as `net/http/pprof` would serve it.
fn profile(target: &Target, kind: Profile, config: &Config) -> Result<Bytes, Refusal> {
    let opened = target.open()?;
    let memory = Live::of(&target.process);
    let view = opened.view(&memory);
    let (exe, time_ns) = (target.exe(), i64::try_from(scan::unix_ns()).unwrap_or(0));
    let mut out = Vec::new();
    let mut write = |kind, snapshot, names: &mut Names, chosen: &[u32]| -> io::Result<()> {
        write_profile(&mut out, kind, snapshot, names, chosen, &exe, time_ns)
    };
    match kind {
        Profile::Goroutines => {
            let options = Options { stacks: true, labels: true, ..Options::default() };
            let snapshot = snapshot::take(&view, options, &mut |_, _| {}).map_err(failed)?;
            target.still_the_same()?;
            let mut names = Names::new(Arc::clone(&opened.binary), opened.bias, &snapshot);
            let chosen = Choice::default().of(&snapshot, &mut names);
            write(ProfileKind::Goroutines, &snapshot, &mut names, &chosen).map_err(failed)?;
        }
        Profile::Leaks => {
            let Found { leaks, mut names } = scan::search(target, &opened, &view, None, config)?;
            let sure = leaks.groups.iter().filter(|group| group.verdict > Verdict::Suspect);
            let chosen: Vec<u32> = sure.flat_map(|group| &group.members).copied().collect();
            let snapshot = &leaks.observed.snapshot;
            write(ProfileKind::Leaks, snapshot, &mut names, &chosen).map_err(failed)?;
        }
        // `Core::answer` sends this kind to `stream`.
        Profile::Block(_) => {
            return Err(Refusal::Failed("where it blocks is told by events, not by its memory".to_owned()));
        }
    }
    Ok(out.into())
}

impl From<TargetError> for Refusal {
    fn from(error: TargetError) -> Self {
        failed(error)
    }
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed(error.to_string())
}

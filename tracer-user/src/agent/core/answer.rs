//! Answers requests. Those that only change settings are done at once by the core; those that read a target by a reader that
//! scans nothing; those that follow a target for a time by a worker of their own.

use super::{Core, state::TargetState};
use crate::{
    agent::{
        picture::ProcessId,
        request::{Answer, Filter, MAX_DOCUMENT, Profile, Refusal, Request, Scanned},
        watch::{Ask, Failure, Following, ProbeAsk, Stream, Task, WireFilter, scan::Leaks},
    },
    files,
};
use bytes::Bytes;
use sfgi_core::{detect::Verdict, event::Mode};
use std::{
    collections::HashSet,
    io::{self, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// By how much a document grows, bytes. Doubling it would take twice as much memory in the end; the allocator moves no
/// pages when blocks as large as these grow.
const GROWS: usize = 1 << 20;
/// Pieces that wait for whoever takes them.
const PIECES: usize = 16;

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
                self.block_profile(pid, seconds, answer);
            }
            Request::Profile { pid, kind, answer } => self.ask(pid, answer, Ask::Profile(kind)),
            Request::Goroutines { pid, filter, form, answer } => {
                self.ask(pid, answer, Ask::Goroutines { filter: filter.into(), form });
            }
            Request::Trace { pid, seconds, answer } => self.trace(pid, seconds, answer),
            Request::Record { pid, seconds, file, answer } => self.record(pid, seconds, &file, answer),
            Request::RunHook { job, answer } => {
                let done = Box::new(move |ended: Result<(), String>| {
                    drop(answer.send(ended.map_err(Refusal::Failed)));
                });
                self.pool.hook(job, done);
            }
            Request::Reload(config) => self.reload(config),
            // `Core::run` has ended the loop for it.
            Request::Stop => {}
        }
    }

    /// Streams the events of a target as JSON lines. The answer, a channel of them, is sent when the probes stand.
    fn trace(&mut self, pid: u32, seconds: Duration, answer: Answer<mpsc::Receiver<Bytes>>) {
        let (pieces, receiver) = mpsc::channel(PIECES);
        // Either the probes stand, or they never will.
        let answer = Arc::new(Mutex::new(Some(answer)));
        let take = |answer: &Mutex<Option<_>>| answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let begun = {
            let answer = Arc::clone(&answer);
            Box::new(move || {
                if let Some(answer) = take(&answer) {
                    let answer: Answer<_> = answer;
                    let _ = answer.send(Ok(receiver));
                }
            })
        };
        let done = Box::new(move |ended: Result<(), Failure>| {
            if let (Err(failure), Some(answer)) = (ended, take(&answer)) {
                let answer: Answer<mpsc::Receiver<Bytes>> = answer;
                let _ = answer.send(Err(refusal(pid, failure)));
            }
        });
        self.follow(pid, Stream::Trace, seconds, false, pieces, begun, done);
    }

    /// Records into a file that must not exist yet. The answer, its length, is sent when the recording is complete.
    fn record(&mut self, pid: u32, seconds: Duration, file: &Path, answer: Answer<u64>) {
        let cannot = |error: io::Error| Refusal::Failed(format!("cannot write {}: {error}", file.display()));
        // A request must not overwrite a file, nor follow a symbolic link.
        let mut out = match files::create_new(file) {
            Ok(out) => out,
            Err(error) => return drop(answer.send(Err(cannot(error)))),
        };
        let (pieces, mut receiver) = mpsc::channel::<Bytes>(PIECES);
        let written = tokio::task::spawn_blocking(move || -> io::Result<u64> {
            let mut length = 0;
            while let Some(piece) = receiver.blocking_recv() {
                out.write_all(&piece)?;
                length += piece.len() as u64;
            }
            Ok(length)
        });
        let file = file.to_owned();
        let done = Box::new(move |ended: Result<(), Failure>| {
            tokio::spawn(async move {
                let made = match (ended, written.await) {
                    (Err(failure), _) => Err(refusal(pid, failure)),
                    (Ok(()), Ok(Ok(length))) => Ok(length),
                    (Ok(()), Ok(Err(error))) => {
                        Err(Refusal::Failed(format!("cannot write {}: {error}", file.display())))
                    }
                    (Ok(()), Err(_)) => {
                        Err(Refusal::Failed("writing it failed inside sfgi, which is a bug".to_owned()))
                    }
                };
                let _ = answer.send(made);
            });
        });
        self.follow(pid, Stream::Record, seconds, true, pieces, Box::new(|| {}), done);
    }

    /// Makes a profile of where the goroutines block from now on. The answer, a pprof file, is sent at the end.
    fn block_profile(&mut self, pid: u32, seconds: Duration, answer: Answer<Bytes>) {
        let (pieces, whole) = collect(pid, answer);
        let done = Box::new(move |ended: Result<(), Failure>| drop(whole.send(ended)));
        self.follow(pid, Stream::Block, seconds, false, pieces, Box::new(|| {}), done);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is one thing of a stream; a struct of them would be used here alone"
    )]
    fn follow(
        &mut self,
        pid: u32,
        what: Stream,
        seconds: Duration,
        for_alert: bool,
        pieces: mpsc::Sender<Bytes>,
        begun: Box<dyn FnOnce() + Send>,
        done: Box<dyn FnOnce(Result<(), Failure>) + Send>,
    ) {
        let Some(state) = self.targets.get(&pid) else { return done(Err(Failure::Ended)) };
        let cores = self.config.budget.process() - state.probes.program_cores();
        let ask = ProbeAsk::Stream { target: Arc::clone(&state.target), what, cores, seconds };
        self.pool.follow(Following { ask, for_alert, pieces, begun, done });
    }

    /// Has a reader make a document, so that a target that cannot be read holds up no other request.
    fn ask(&mut self, pid: u32, answer: Answer<Bytes>, ask: Ask) {
        let Some(state) = self.targets.get(&pid) else {
            let _ = answer.send(Err(Refusal::Unknown(pid)));
            return;
        };
        let (pieces, whole) = collect(pid, answer);
        let done = Box::new(move |ended: Result<_, Failure>| drop(whole.send(ended.map(|_| ()))));
        let limit = state.limit;
        let target = Arc::clone(&state.target);
        self.pool.ask(Task { target, ask, limit, unproven: false, pieces: Some(pieces), done });
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

/// Puts the pieces of a document together. Returns where they go, and where it is said how the document ended.
fn collect(pid: u32, answer: Answer<Bytes>) -> (mpsc::Sender<Bytes>, oneshot::Sender<Result<(), Failure>>) {
    let (pieces, mut receiver) = mpsc::channel::<Bytes>(PIECES);
    let (whole, ended) = oneshot::channel();
    tokio::spawn(async move {
        let mut document = Vec::new();
        while let Some(piece) = receiver.recv().await {
            if document.len() + piece.len() > MAX_DOCUMENT {
                let _ = answer.send(Err(Refusal::TooLarge));
                return;
            }
            if document.capacity() - document.len() < piece.len() {
                document.reserve_exact(piece.len().max(GROWS));
            }
            document.extend_from_slice(&piece);
        }
        let made = match ended.await {
            Ok(Ok(())) => Ok(document.into()),
            Ok(Err(failure)) => Err(refusal(pid, failure)),
            Err(_) => Err(Refusal::Failed("the agent is ending".to_owned())),
        };
        let _ = answer.send(made);
    });
    (pieces, whole)
}

fn refusal(pid: u32, failure: Failure) -> Refusal {
    match failure {
        Failure::Ended => Refusal::Ended(pid),
        Failure::TooDear(why) => Refusal::Busy(why),
        failure => Refusal::Failed(failure.to_string()),
    }
}

impl From<Filter> for WireFilter {
    fn from(filter: Filter) -> WireFilter {
        let Filter { states, reason, func, older, goids, system, skip, limit } = filter;
        let [reason, func] = [reason, func].map(|pattern| pattern.map(|pattern| pattern.as_str().to_owned()));
        WireFilter { states, reason, func, older, goids, system, skip, limit }
    }
}

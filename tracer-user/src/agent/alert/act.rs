//! Carries out what alerts ask for. Each runs beside all else; how it ended is logged.

use super::{Action, Alert, evidence::Evidence, hook};
use crate::agent::{
    Request, config,
    picture::ProcessId,
    request::{Answer, Filter, Form},
};
use anyhow::{Context as _, Result};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Actions at a time: a node that fails as a whole must not be recorded as a whole. What is above is logged and left out.
const AT_A_TIME: usize = 4;

/// The longest dump that is kept.
const MAX_GOROUTINES: usize = 10_000;

/// What carries out actions.
#[derive(Debug)]
pub struct Actor {
    requests: mpsc::Sender<Request>,
    evidence: Option<Evidence>,
    record: Duration,
    hook: Option<config::Hook>,
    free: Arc<Semaphore>,
    /// Processes whose evidence is being kept: it is the same for all alerts of a process.
    keeping: Arc<Mutex<BTreeSet<ProcessId>>>,
}

impl Actor {
    /// As configured.
    pub fn new(
        alerts: &config::Alerts,
        evidence: &config::Evidence,
        requests: mpsc::Sender<Request>,
    ) -> Actor {
        Actor {
            requests,
            evidence: Evidence::of(evidence),
            record: evidence.record,
            hook: alerts.hook.clone(),
            free: Arc::new(Semaphore::new(AT_A_TIME)),
            keeping: Arc::default(),
        }
    }

    /// Begins an action. Must be called within a tokio runtime.
    pub fn begin(&self, action: Action) {
        let alert = match &action {
            Action::WantDetail(alert) => return self.want_detail(alert),
            Action::KeepEvidence(alert) | Action::RunHook(alert) => alert,
        };
        let name = format!("{} (PID {})", alert.service, alert.pid);
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            log::warn!("{name}: {AT_A_TIME} actions of alerts are going on already: this one is left out");
            return;
        };
        let work: std::pin::Pin<Box<dyn Future<Output = Result<String>> + Send>> = match (action, &self.hook)
        {
            (Action::KeepEvidence(alert), _) => {
                let Some(evidence) = self.evidence.clone() else { return };
                let Some(place) = Keeping::begin(&self.keeping, alert.process) else { return };
                let kept = keep(evidence, self.record, self.requests.clone(), alert);
                Box::pin(async move {
                    let _place = place;
                    kept.await
                })
            }
            (Action::RunHook(_), None) | (Action::WantDetail(_), _) => return,
            (Action::RunHook(alert), Some(hook)) => {
                let hook = hook.clone();
                Box::pin(
                    async move { hook::run(&hook, &alert).await.map(|()| "the hook has run".to_owned()) },
                )
            }
        };
        tokio::spawn(async move {
            match work.await {
                Ok(done) => log::info!("{name}: {done}"),
                Err(error) => log::error!("{name}: {error:#}"),
            }
            drop(permit);
        });
    }

    fn want_detail(&self, alert: &Alert) {
        let why = format!("alert {} of {}: {}", alert.level.word(), alert.class, alert.reason);
        // Where the core is too busy to be asked, it has no time for detail either.
        let _ = self.requests.try_send(Request::Raise { process: alert.process, why });
    }
}

/// A process whose evidence is being kept, until this is dropped.
struct Keeping {
    all: Arc<Mutex<BTreeSet<ProcessId>>>,
    process: ProcessId,
}

impl Keeping {
    /// `None`: it is being kept already.
    fn begin(all: &Arc<Mutex<BTreeSet<ProcessId>>>, process: ProcessId) -> Option<Keeping> {
        let new = all.lock().unwrap_or_else(PoisonError::into_inner).insert(process);
        new.then(|| Keeping { all: Arc::clone(all), process })
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.process);
    }
}

/// Keeps a dump, at once, and a recording of what follows.
async fn keep(
    evidence: Evidence,
    record: Duration,
    requests: mpsc::Sender<Request>,
    alert: Arc<Alert>,
) -> Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let room = |extension| {
        let file = evidence.make_room(&alert.service, alert.pid, now, extension);
        file.context("cannot make room for evidence: look at evidence.directory")
    };
    let (dump, recording) = (room("txt")?, room("sfgi")?);
    let filter = Filter { limit: MAX_GOROUTINES, ..Filter::default() };
    let text =
        ask(&requests, |answer| Request::Goroutines { pid: alert.pid, filter, form: Form::Text, answer });
    let text = text.await?;
    write(&dump, &text)?;
    let file = recording.clone();
    let size =
        ask(&requests, |answer| Request::Record { pid: alert.pid, seconds: record, file, answer }).await?;
    evidence.shrink(0).context("cannot shrink the evidence")?;
    Ok(format!("kept {} and {} ({size} bytes)", dump.display(), recording.display()))
}

fn write(file: &Path, text: &[u8]) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Asks the core and waits for its answer.
async fn ask<T>(requests: &mpsc::Sender<Request>, request: impl FnOnce(Answer<T>) -> Request) -> Result<T> {
    let (answer, answered) = oneshot::channel();
    let gone = "the agent is ending";
    requests.send(request(answer)).await.ok().context(gone)?;
    Ok(answered.await.ok().context(gone)??)
}

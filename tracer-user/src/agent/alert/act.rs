//! Carries out the actions of alerts: more detail, evidence, the hook. Each runs as a task of its own and logs its
//! result.

use super::{Action, Alert, hook::HookJob};
use crate::{
    agent::{
        Request, config,
        picture::ProcessId,
        request::{Answer, Filter, Form, Refusal},
        store::own_folder,
    },
    files,
};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The bound of actions at a time: when a whole node fails, sfgi must not record all of its targets. Actions beyond
/// are logged and left out.
const AT_A_TIME: usize = 4;

/// Goroutines in a dump of evidence; the core gives fewer where a request says nothing (`LIMIT` in `core/answer.rs`).
const MAX_GOROUTINES: usize = 10_000;

/// A dump of so few is not made shorter.
const FEW: usize = 100;

#[derive(Debug)]
pub struct Actor {
    requests: mpsc::Sender<Request>,
    evidence: Option<Evidence>,
    record: Duration,
    hook: Option<config::Hook>,
    free: Arc<Semaphore>,
    /// Targets whose evidence is being kept: two alerts of one target ask for the same evidence.
    keeping: Arc<Mutex<BTreeSet<ProcessId>>>,
}

impl Actor {
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

    /// Starts an action. Must be called within a tokio runtime.
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
                    // Moved into the task: it is dropped when the task ends, however it ends.
                    let _place = place;
                    kept.await
                })
            }
            (Action::RunHook(_), None) | (Action::WantDetail(_), _) => return,
            (Action::RunHook(alert), Some(hook)) => {
                let (hook, requests) = (hook.clone(), self.requests.clone());
                Box::pin(async move {
                    let job = HookJob::new(&hook, &alert);
                    ask(&requests, |answer| Request::RunHook { job, answer }).await?;
                    Ok("the hook has run".to_owned())
                })
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
        // A core whose queue of requests is full has no time for more detail either.
        let _ = self.requests.try_send(Request::Raise { process: alert.process, why });
    }
}

/// Marks a target whose evidence is being kept; dropping it removes the mark, however the task ends.
struct Keeping {
    all: Arc<Mutex<BTreeSet<ProcessId>>>,
    process: ProcessId,
}

impl Keeping {
    /// `None`: another task keeps the evidence of this target already.
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

/// Writes a dump at once, then a recording of what follows.
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
    let text = goroutines(&requests, alert.pid).await?;
    write(&dump, &text)?;
    let file = recording.clone();
    let size =
        ask(&requests, |answer| Request::Record { pid: alert.pid, seconds: record, file, answer }).await?;
    // The size of a recording is known only now; before, `make_room` could make room for the number of files only.
    evidence.shrink(0).context("cannot shrink the evidence")?;
    Ok(format!("kept {} and {} ({size} bytes)", dump.display(), recording.display()))
}

/// The traceback of a target; of fewer goroutines, where those of many would be too long.
async fn goroutines(requests: &mpsc::Sender<Request>, pid: u32) -> Result<Bytes> {
    let mut limit = MAX_GOROUTINES;
    loop {
        let filter = Filter { limit, ..Filter::default() };
        let asked = ask(requests, |answer| Request::Goroutines { pid, filter, form: Form::Text, answer });
        match asked.await {
            Err(error) if limit > FEW && matches!(error.downcast_ref(), Some(Refusal::TooLarge)) => {
                limit /= 4;
            }
            made => return made,
        }
    }
}

fn write(file: &Path, text: &[u8]) -> Result<()> {
    let written = files::create_new(file).and_then(|mut out| out.write_all(text));
    written.with_context(|| format!("cannot write {}", file.display()))
}

/// Sends the core a request and waits for its answer.
async fn ask<T>(requests: &mpsc::Sender<Request>, request: impl FnOnce(Answer<T>) -> Request) -> Result<T> {
    let (answer, answered) = oneshot::channel();
    let gone = "the agent is ending";
    requests.send(request(answer)).await.ok().context(gone)?;
    Ok(answered.await.ok().context(gone)??)
}

/// A directory of evidence with bounds; new files push out the oldest.
#[derive(Clone, Debug)]
struct Evidence {
    directory: PathBuf,
    max_files: usize,
    max_size: u64,
}

/// The prefix of all files of evidence: no other file of the directory is ever removed.
const PREFIX: &str = "sfgi-";

impl Evidence {
    /// `None`: the configuration keeps no evidence.
    fn of(config: &config::Evidence) -> Option<Evidence> {
        let directory = config.directory.clone()?;
        Some(Evidence { directory, max_files: config.max_files, max_size: config.max_size })
    }

    /// Makes room for one more file and names it. The service's name comes from the target, so only its ASCII
    /// letters, digits and dashes get into the path.
    fn make_room(&self, service: &str, pid: u32, unix_s: u64, extension: &str) -> io::Result<PathBuf> {
        own_folder(&self.directory)?;
        self.shrink(1)?;
        let tame = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let service: String = service.chars().take(64).map(tame).collect();
        Ok(self.directory.join(format!("{PREFIX}{service}-{pid}-{unix_s}.{extension}")))
    }

    /// Removes the oldest files until the rest and `more` new ones are within the bounds.
    fn shrink(&self, more: usize) -> io::Result<()> {
        let mut files = self.files()?;
        // Each tuple begins with the time of modification, so the oldest come first.
        files.sort();
        let mut size: u64 = files.iter().map(|(_, size, _)| size).sum();
        let mut count = files.len();
        for (_, bytes, path) in files {
            // `max(more)`: with `max_files = 0` the file that is about to be written still has room.
            if count + more <= self.max_files.max(more) && size <= self.max_size {
                break;
            }
            remove(&path)?;
            size -= bytes;
            count -= 1;
        }
        Ok(())
    }

    fn files(&self) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            // Another process may have removed the file meanwhile.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_file() {
                files.push((meta.modified()?, meta.len(), entry.path()));
            }
        }
        Ok(files)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // A file that is gone already is what was wanted.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_what_is_not_ours_stays() {
        let directory = tempfile::tempdir().unwrap();
        let evidence = Evidence { directory: directory.path().into(), max_files: 3, max_size: 250 };
        let foreign = directory.path().join("notes.txt");
        fs::write(&foreign, [0; 1000]).unwrap();
        let mut paths = Vec::new();
        for at in 0..5 {
            let path = evidence.make_room("../../etc/shop", 7, at, "txt").unwrap();
            assert_eq!(path.parent(), Some(directory.path()), "{path:?}");
            fs::write(&path, [0; 50]).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
            paths.push(path);
        }
        assert_eq!(
            paths.iter().map(|path| path.exists()).collect::<Vec<_>>(),
            [false, false, true, true, true]
        );
        fs::write(&paths[4], [0; 200]).unwrap();
        evidence.shrink(0).unwrap();
        assert_eq!(
            paths.iter().map(|path| path.exists()).collect::<Vec<_>>(),
            [false, false, false, true, true]
        );
        assert!(foreign.exists());
    }
}

//! What outlives a restart: the last hour of every process, in steps of five minutes, what scans know of it, and the alerts
//! that stand.

mod file;
mod history;
mod pasts;

#[cfg(test)]
mod tests;

use super::{Earlier, alert::Remembered, config, picture::Picture};
use file::File;
pub use file::StoreError;
pub use history::{History, Key, STEP_SECONDS, STEPS, Series, Step};
use pasts::Pasts;
use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

/// Between two commits: what `kill -9` may cost.
const COMMIT: Duration = Duration::from_secs(10);

/// The history, in memory and, where one is configured, in a file.
pub struct Store {
    boot: String,
    history: Arc<RwLock<History>>,
    alerts: Vec<Remembered>,
    earlier: Earlier,
    pasts: Pasts,
    file: Option<File>,
    committed: Instant,
}

impl Store {
    /// Opens the file and reads what it holds. Whatever is wrong with it is logged, in a sentence, and the history
    /// begins anew; only a file that cannot be used at all is an error.
    ///
    /// # Errors
    /// Another agent uses the file, or it cannot be made or written.
    pub fn open(config: &config::Store) -> Result<Store, StoreError> {
        let boot = boot_id();
        let (mut remembered, mut alerts) = (Vec::new(), Vec::new());
        let (mut earlier, mut file) = (Earlier::new(), None);
        if let Some(path) = &config.file {
            let (opened, said) = File::open(path)?;
            if let Some(said) = said {
                log::warn!("{said}");
            }
            (remembered, alerts) = (opened.read_series()?, opened.read_alerts(&boot)?);
            earlier = opened.read_pasts(&boot)?;
            file = Some(opened);
        }
        let history = Arc::new(RwLock::new(History::new(&boot, config.max_processes, remembered)));
        let pasts = Pasts::new(&boot, config.max_processes, &earlier);
        Ok(Store { boot, history, alerts, earlier, pasts, file, committed: Instant::now() })
    }

    /// Takes a picture, and commits now and then. It may wait for the disk.
    ///
    /// # Errors
    /// The file cannot be written; the history in memory goes on.
    pub fn take(&mut self, picture: &Picture) -> Result<(), StoreError> {
        self.history.write().unwrap_or_else(PoisonError::into_inner).take(picture);
        self.pasts.take(picture);
        if self.committed.elapsed() < COMMIT { Ok(()) } else { self.commit() }
    }

    /// Writes what has changed.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn commit(&mut self) -> Result<(), StoreError> {
        self.committed = Instant::now();
        let Some(file) = &self.file else { return Ok(()) };
        // Readers of the history do not wait for the disk.
        let (changed, keep) = {
            let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
            let keep: BTreeSet<Key> = history.rows().map(|(key, _)| key.clone()).collect();
            (history.changed(), keep)
        };
        if !changed.is_empty() {
            file.write_series(&changed, &keep)?;
        }
        self.pasts.changes().map_or(Ok(()), |changes| file.write_pasts(&changes))
    }

    /// What scans of an earlier agent knew; the second time nothing.
    pub fn take_earlier(&mut self) -> Earlier {
        std::mem::take(&mut self.earlier)
    }

    /// The alerts that stood when it was opened; the second time none.
    pub fn take_alerts(&mut self) -> Vec<Remembered> {
        std::mem::take(&mut self.alerts)
    }

    /// Makes these the alerts that are remembered; they are on the disk when this returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_alerts(&self, alerts: &[Remembered]) -> Result<(), StoreError> {
        self.file.as_ref().map_or(Ok(()), |file| file.write_alerts(&self.boot, alerts))
    }

    pub fn history(&self) -> Arc<RwLock<History>> {
        Arc::clone(&self.history)
    }
}

/// Names this run of the machine: start times of processes count from its begin.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

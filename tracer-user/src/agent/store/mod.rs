//! What outlives a restart of the agent: the last hour of every target in steps of five minutes, what scans know of
//! each target, and the alerts that stand.

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
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

/// Between two commits of history and scans' knowledge: what `kill -9` may cost. Alerts are written at once.
const COMMIT: Duration = Duration::from_secs(10);

/// The mode of folders that the agent makes: what it keeps was read out of programs of all users.
const FOLDER_MODE: u32 = 0o700;

/// All that outlives a restart, in memory and, where the configuration names one, in a file.
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
    /// Opens the file and reads its content. A damaged file is set aside and logged, and the history begins anew;
    /// only a file that cannot be used at all is an error.
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

    /// Takes a picture, and commits every ten seconds (`COMMIT`). May wait for the disk. Returns whether it wrote anything.
    ///
    /// # Errors
    /// The file cannot be written; the history in memory goes on.
    pub fn take(&mut self, picture: &Picture) -> Result<bool, StoreError> {
        self.history.write().unwrap_or_else(PoisonError::into_inner).take(picture);
        self.pasts.take(picture);
        if self.committed.elapsed() < COMMIT { Ok(false) } else { self.commit() }
    }

    /// Writes what has changed since the last commit. Returns whether anything had.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn commit(&mut self) -> Result<bool, StoreError> {
        // Before the write: a disk that fails is tried again after [`COMMIT`], not at every picture.
        self.committed = Instant::now();
        let Some(file) = &self.file else { return Ok(false) };
        // Released before the write: readers of the history must not wait for the disk.
        let (changed, keep) = {
            let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
            let keep: BTreeSet<Key> = history.rows().map(|(key, _)| key.clone()).collect();
            (history.changed(), keep)
        };
        if !changed.is_empty() {
            file.write_series(&changed, &keep)?;
        }
        let Some(changes) = self.pasts.changes() else { return Ok(!changed.is_empty()) };
        file.write_pasts(&changes)?;
        Ok(true)
    }

    /// What scans of an earlier agent knew; empty when called a second time.
    pub fn take_earlier(&mut self) -> Earlier {
        std::mem::take(&mut self.earlier)
    }

    /// The alerts that stood when the store was opened; empty when called a second time.
    pub fn take_alerts(&mut self) -> Vec<Remembered> {
        std::mem::take(&mut self.alerts)
    }

    /// Replaces the alerts in the file; they are on the disk when this returns.
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

/// Names this run of the machine: start times of processes are ticks since its boot.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Makes a folder for what the agent keeps, of mode 0700. One that exists must be one where nobody else may write: he
/// could lay links there, or put other files in the place of ours.
///
/// # Errors
/// It cannot be made, or others may write to it.
pub(super) fn own_folder(path: &Path) -> io::Result<()> {
    // Without a folder of its own a file lies in the working directory.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let meta = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)?;
            fs::metadata(path)?
        }
        meta => meta?,
    };
    let refused = |why: &str| io::Error::other(format!("{} {why}", path.display()));
    if !meta.is_dir() {
        return Err(refused("is no folder"));
    }
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused("belongs to another user: choose another folder"));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(refused("may be written to by others: chmod 700 it, or choose another folder"));
    }
    Ok(())
}

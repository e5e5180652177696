//! The file of the store: an embedded database (redb) whose commits are atomic, so that `kill -9` at any moment
//! leaves the last commit.

use super::{
    history::{Key, Series},
    own_folder,
    pasts::{Changes, MAX_BYTES},
};
use crate::agent::{
    Earlier,
    alert::{MAX_ALERTS, Remembered},
};
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError,
    backends::FileBackend,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Rows by key. The number in a table's name is the version of its values' format.
type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// One [`Series`] as JSON, by [`Key`].
const SERIES: Table = TableDefinition::new("series/1");
/// One alert as JSON, by boot id, PID, start time, group and executable.
const ALERTS: Table = TableDefinition::new("alerts/1");
/// What scans know of one target, by boot id, PID and start time.
const PASTS: Table = TableDefinition::new("pasts/2");
/// What older versions of sfgi wrote in place of [`PASTS`], in another format; it is deleted unread.
const OLD_PASTS: Table = TableDefinition::new("pasts/1");

/// The mode of the file: what it keeps was read out of programs of all users.
const FILE_MODE: u32 = 0o600;

/// redb's page cache, bytes: the store has hundreds of kilobytes, and redb's default is 1 GiB.
const CACHE_BYTES: usize = 1 << 20;

/// Why the file cannot be used. The agent can always begin with an empty one.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the file open.
    #[error("{}: another sfgi agent uses this store: give each its own with --store", .0.display())]
    Used(PathBuf),
    /// The file cannot be made, read or written.
    #[error("{}: {error}", file.display())]
    Failed { file: PathBuf, error: String },
}

pub(super) struct File {
    path: PathBuf,
    database: Database,
}

impl File {
    /// Opens or makes the file. A damaged one is renamed; the second value is the sentence that says so.
    pub(super) fn open(path: &Path) -> Result<(File, Option<String>), StoreError> {
        // The parent of a bare file name is the empty path.
        if let Some(parent) = path.parent() {
            own_folder(parent).map_err(|error| failed(path, error))?;
        }
        let error = match open(path) {
            Ok(file) => return Ok((file, None)),
            Err(Opening::Used) => return Err(StoreError::Used(path.to_owned())),
            Err(Opening::Io(error)) => return Err(failed(path, error)),
            Err(Opening::Damaged(error)) => error,
        };
        let aside = aside(path);
        fs::rename(path, &aside).map_err(|error| failed(path, error))?;
        let said = format!(
            "{} is damaged ({error}): it was set aside as {}, and the history begins anew",
            path.display(),
            aside.display()
        );
        // Only once: a new file that is damaged, too, is an error of the disk.
        match open(path) {
            Ok(file) => Ok((file, Some(said))),
            Err(Opening::Used) => Err(StoreError::Used(path.to_owned())),
            Err(Opening::Io(error)) => Err(failed(path, error)),
            Err(Opening::Damaged(error)) => Err(failed(path, error)),
        }
    }

    fn make(&self) -> Result<(), StoreError> {
        let make = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            transaction.open_table(SERIES)?;
            if transaction.delete_table(OLD_PASTS)? {
                let file = self.path.display();
                log::info!(
                    "{file}: what an older version of sfgi knew of targets is left out and begins anew"
                );
            }
            transaction.commit()?;
            Ok(())
        };
        self.guarded(make)
    }

    /// Calls `row` for each row of a table. All rows are read, which also finds damaged pages.
    fn rows(&self, table: Table, mut row: impl FnMut(&str, &[u8])) -> Result<(), StoreError> {
        self.guarded(|| {
            let table = match self.database.begin_read()?.open_table(table) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table?,
            };
            for entry in table.iter()? {
                let (key, value) = entry?;
                row(key.value(), value.value());
            }
            Ok(())
        })
    }

    /// Removes the rows that `keep` refuses (where it is given) and those in `remove`, and puts `put`, in one commit
    /// that is on the disk when this returns. Nothing is written where no row changes.
    fn change<'r>(
        &self,
        table: Table,
        keep: Option<&dyn Fn(&str) -> bool>,
        remove: &[String],
        put: impl IntoIterator<Item = (&'r str, &'r [u8])>,
    ) -> Result<(), StoreError> {
        self.guarded(|| {
            let transaction = self.database.begin_write()?;
            let mut changed = false;
            {
                let mut table = transaction.open_table(table)?;
                if let Some(keep) = keep {
                    table.retain(|key, _| {
                        let keeps = keep(key);
                        changed |= !keeps;
                        keeps
                    })?;
                }
                for key in remove {
                    changed |= table.remove(key.as_str())?.is_some();
                }
                for (key, value) in put {
                    let same = table.get(key)?.is_some_and(|old| old.value() == value);
                    if !same {
                        changed = true;
                        table.insert(key, value)?;
                    }
                }
            }
            // A commit waits for the disk and wears it; the alerts are put every ten seconds, mostly unchanged.
            if changed {
                transaction.commit()?;
            } else {
                transaction.abort()?;
            }
            Ok(())
        })
    }

    /// All series. A row that is no series is left out: one bad row must not cost the others.
    pub(super) fn read_series(&self) -> Result<Vec<(Key, Series)>, StoreError> {
        let mut all = Vec::new();
        self.rows(SERIES, |key, value| {
            if let Ok(series) = serde_json::from_slice(value) {
                all.push((Key(key.to_owned()), series));
            }
        })?;
        Ok(all)
    }

    /// Puts the changed series and removes all that are not in `keep`.
    pub(super) fn write_series(
        &self,
        changed: &[(Key, Series)],
        keep: &BTreeSet<Key>,
    ) -> Result<(), StoreError> {
        let json = |(key, series): &(Key, Series)| Ok((key.0.clone(), self.json(series)?));
        let put = changed.iter().map(json).collect::<Result<Vec<_>, StoreError>>()?;
        let keep = |key: &str| keep.contains(&Key(key.to_owned()));
        self.change(SERIES, Some(&keep), &[], put.iter().map(|(key, json)| (key.as_str(), json.as_slice())))
    }

    /// The alerts of this boot. A row that is no alert is left out.
    pub(super) fn read_alerts(&self, boot: &str) -> Result<Vec<Remembered>, StoreError> {
        let (prefix, mut all) = (format!("{boot}/"), Vec::new());
        self.rows(ALERTS, |key, value| {
            if key.starts_with(&prefix)
                && all.len() < MAX_ALERTS
                && let Ok(alert) = serde_json::from_slice(value)
            {
                all.push(alert);
            }
        })?;
        Ok(all)
    }

    /// Makes these the only alerts in the file.
    pub(super) fn write_alerts(&self, boot: &str, alerts: &[Remembered]) -> Result<(), StoreError> {
        let mut wanted = BTreeMap::new();
        // `take`: the bound holds for what is written, as it does for what is read.
        for alert in alerts.iter().take(MAX_ALERTS) {
            let group = alert.group.as_deref().unwrap_or("-");
            let key = format!("{boot}/{}/{}/{group}/{}", alert.pid, alert.start_ticks, alert.exe);
            wanted.insert(key, self.json(alert)?);
        }
        let keep = |key: &str| wanted.contains_key(key);
        self.change(
            ALERTS,
            Some(&keep),
            &[],
            wanted.iter().map(|(key, json)| (key.as_str(), json.as_slice())),
        )
    }

    /// What scans knew of the targets of this boot.
    pub(super) fn read_pasts(&self, boot: &str) -> Result<Earlier, StoreError> {
        let (mut all, mut bytes) = (Earlier::new(), 0);
        self.rows(PASTS, |key, value| {
            let ids = key.strip_prefix(boot).and_then(|rest| rest.strip_prefix('/'));
            let ids = ids.and_then(|ids| ids.split_once('/'));
            let which = ids.and_then(|(pid, start)| Some((pid.parse().ok()?, start.parse().ok()?)));
            // The bound holds for hostile or damaged files, too.
            bytes += value.len();
            if let Some(which) = which.filter(|_| bytes <= MAX_BYTES) {
                all.insert(which, value.into());
            }
        })?;
        Ok(all)
    }

    pub(super) fn write_pasts(&self, changes: &Changes) -> Result<(), StoreError> {
        let keep = changes.only.as_ref().map(|only| |key: &str| only.contains(key));
        let keep = keep.as_ref().map(|keep| keep as &dyn Fn(&str) -> bool);
        let put = changes.put.iter().map(|(key, bytes)| (key.as_str(), &**bytes));
        self.change(PASTS, keep, &changes.remove, put)
    }

    fn json(&self, value: &impl serde::Serialize) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(value).map_err(|error| failed(&self.path, error))
    }

    /// Runs `work` and makes a panic an error: redb checks pages when it comes to them, and panics on some damage.
    fn guarded<T>(&self, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => result.map_err(|error| failed(&self.path, error)),
            Err(_) => Err(failed(&self.path, "the file makes no sense")),
        }
    }
}

enum Opening {
    Used,
    Io(io::Error),
    Damaged(String),
}

/// Opens or makes the file itself, for its owner only. No link is followed: it would be another user's, or lead to a
/// file that the store would overwrite.
fn opened(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    // O_NONBLOCK: a FIFO would hold the agent up.
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if meta.nlink() > 1 {
        return Err(io::Error::other("it has a second name somewhere (a hard link)"));
    }
    // An older version has made it for everybody to read.
    file.set_permissions(fs::Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

fn open(path: &Path) -> Result<File, Opening> {
    let attempt = || {
        let backend = FileBackend::new(opened(path).map_err(Opening::Io)?);
        let database = backend
            .and_then(|backend| Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend));
        let database = database.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => Opening::Used,
            // redb reports a damaged file by these two kinds as well; other kinds are errors of the disk or of
            // permissions.
            DatabaseError::Storage(redb::StorageError::Io(error))
                if error.kind() != io::ErrorKind::InvalidData
                    && error.kind() != io::ErrorKind::UnexpectedEof =>
            {
                Opening::Io(error)
            }
            error => Opening::Damaged(error.to_string()),
        })?;
        let file = File { path: path.to_owned(), database };
        // `make` makes the table. The reads find damage that opening does not look at; an empty boot id keeps no row
        // of them.
        file.make().map_err(|error| Opening::Damaged(error.to_string()))?;
        file.read_series().map_err(|error| Opening::Damaged(error.to_string()))?;
        file.read_alerts("").map_err(|error| Opening::Damaged(error.to_string()))?;
        file.read_pasts("").map_err(|error| Opening::Damaged(error.to_string()))?;
        Ok(file)
    };
    // Opening itself may panic on damage, before there is a [`File`] to guard.
    catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|_| Err(Opening::Damaged("it makes no sense".into())))
}

fn failed(path: &Path, error: impl ToString) -> StoreError {
    StoreError::Failed { file: path.to_owned(), error: error.to_string() }
}

fn aside(path: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut name = path.as_os_str().to_owned();
    // With the time: a file that was set aside earlier must not be overwritten.
    name.push(format!(".damaged-{now}"));
    name.into()
}

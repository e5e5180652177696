//! The file: a small embedded database whose commits are whole or not at all, so `kill -9` at any moment leaves what was
//! committed last.

use super::history::{Key, Series};
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::{
    collections::BTreeSet,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::SystemTime,
};

/// A series as JSON, by its key. The name carries the version of what stands in it.
const SERIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("series/1");

/// Memory for pages: what we keep is hundreds of kilobytes.
const CACHE_BYTES: usize = 1 << 20;

/// Why the file cannot be used. What it held is not needed to go on.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("{}: another sfgi agent uses this store: give each its own with --store", .0.display())]
    Used(PathBuf),
    /// It cannot be made, read or written.
    #[error("{}: {error}", file.display())]
    Failed {
        /// The file.
        file: PathBuf,
        /// Why.
        error: String,
    },
}

/// The open file.
pub(super) struct File {
    path: PathBuf,
    pub(super) database: Database,
}

impl File {
    /// Opens the file, or makes it. A damaged one is set aside, and that is said, in the second value.
    pub(super) fn open(path: &Path) -> Result<(File, Option<String>), StoreError> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|error| failed(path, error))?;
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
            transaction.commit()?;
            Ok(())
        };
        self.guarded(make)
    }

    /// All that it holds. What cannot be read is left out.
    pub(super) fn read(&self) -> Result<Vec<(Key, Series)>, StoreError> {
        let read = || -> Result<Vec<(Key, Series)>, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(SERIES)?;
            let mut all = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                if let Ok(series) = serde_json::from_slice(value.value()) {
                    all.push((Key(key.value().to_owned()), series));
                }
            }
            Ok(all)
        };
        self.guarded(read)
    }

    /// Writes these series and removes all that are not in `keep`, as one commit that is on the disk when this returns.
    pub(super) fn write(&self, changed: &[(Key, Series)], keep: &BTreeSet<Key>) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(SERIES)?;
                table.retain(|key, _| keep.contains(&Key(key.to_owned())))?;
                for (key, series) in changed {
                    let json = serde_json::to_vec(series).map_err(|error| redb::Error::Io(error.into()))?;
                    table.insert(key.0.as_str(), json.as_slice())?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        self.guarded(write)
    }

    /// The library checks pages as it comes to them, and some of what it finds in a damaged file it answers with a panic.
    pub(super) fn guarded<T>(&self, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
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

fn open(path: &Path) -> Result<File, Opening> {
    let attempt = || {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = database.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => Opening::Used,
            DatabaseError::Storage(redb::StorageError::Io(error))
                if error.kind() != io::ErrorKind::InvalidData
                    && error.kind() != io::ErrorKind::UnexpectedEof =>
            {
                Opening::Io(error)
            }
            error => Opening::Damaged(error.to_string()),
        })?;
        let file = File { path: path.to_owned(), database };
        // Makes the table, and finds what opening does not look at.
        file.make().map_err(|error| Opening::Damaged(error.to_string()))?;
        file.read().map_err(|error| Opening::Damaged(error.to_string()))?;
        file.read_alerts("").map_err(|error| Opening::Damaged(error.to_string()))?;
        file.read_pasts("").map_err(|error| Opening::Damaged(error.to_string()))?;
        Ok(file)
    };
    catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|_| Err(Opening::Damaged("it makes no sense".into())))
}

fn failed(path: &Path, error: impl ToString) -> StoreError {
    StoreError::Failed { file: path.to_owned(), error: error.to_string() }
}

fn aside(path: &Path) -> PathBuf {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{now}"));
    name.into()
}

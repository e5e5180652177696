//! Executables: what each is, remembered as long as some process may run it again; and the parsed ones, shared by
//! all processes that run them.

use sfgi_core::binary::{BinaryError, BuildInfo, GoBinary, Identified, identify};
use std::{
    collections::{HashMap, VecDeque},
    fs::{File, Metadata},
    io,
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Files that are remembered; above that, all are looked at anew.
const MAX_FILES: usize = 16_384;
/// Bytes of executables that no process runs any more, or that were not needed of late, which are kept parsed.
const MAX_IDLE_BYTES: u64 = 48 << 20;
/// Larger programs are not read: they would not fit into an agent.
const MAX_BINARY: u64 = 512 << 20;

/// A file, as long as nobody writes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::agent) struct FileKey {
    pub(super) dev: u64,
    pub(super) ino: u64,
    size: u64,
    mtime: (i64, i64),
}

impl FileKey {
    pub(super) fn of(file: &Metadata) -> FileKey {
        let mtime = (file.mtime(), file.mtime_nsec());
        FileKey { dev: file.dev(), ino: file.ino(), size: file.size(), mtime }
    }
}

/// A Go program: a file that processes run.
#[derive(Debug)]
pub(in crate::agent) struct Program {
    key: FileKey,
    /// What its build says of it; `None`: only the whole file tells.
    pub(super) info: Option<BuildInfo>,
    pub(super) build_id: Option<String>,
    go_build_id: Option<String>,
}

/// What files are.
#[derive(Debug, Default)]
pub(super) struct Programs {
    known: HashMap<FileKey, Option<Arc<Program>>>,
}

impl Programs {
    /// What this open file is; `None`: no Go program.
    pub(super) fn of(&mut self, file: &File) -> io::Result<Option<Arc<Program>>> {
        let key = FileKey::of(&file.metadata()?);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let program =
            |info, build_id, go_build_id| Some(Arc::new(Program { key, info, build_id, go_build_id }));
        let found = match identify(file)? {
            Identified::NotGo => None,
            Identified::Go { info, build_id, go_build_id } => program(Some(*info), build_id, go_build_id),
            Identified::Unsure => match GoBinary::read_to_keep(file.try_clone()?) {
                Err(BinaryError::NotGo | BinaryError::Elf(_)) => None,
                Ok(binary) => program(Some(binary.info().clone()), binary.image().build_id(), None),
                Err(_) => program(None, None, None),
            },
        };
        if self.known.len() >= MAX_FILES {
            self.known.clear();
        }
        self.known.insert(key, found.clone());
        Ok(found)
    }
}

/// What two files share when they are copies of one build.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Build {
    /// Go's id and the length: a strip leaves the id as it is.
    Id(String, u64),
    File(FileKey),
}

impl Program {
    /// Whether it is this file.
    pub(in crate::agent) fn is(&self, dev: u64, ino: u64) -> bool {
        (self.key.dev, self.key.ino) == (dev, ino)
    }

    fn build(&self) -> Build {
        match &self.go_build_id {
            Some(id) if !id.is_empty() => Build::Id(id.clone(), self.key.size),
            _ => Build::File(self.key),
        }
    }
}

/// The parsed executables. One is there as long as someone uses it; the last ones used stay a while.
#[derive(Default)]
pub(in crate::agent) struct Binaries {
    shelf: Mutex<Shelf>,
}

#[derive(Default)]
struct Shelf {
    /// Each has a lock of its own: two that want the same one read it once, others do not wait for that.
    known: HashMap<Build, Arc<Mutex<Weak<GoBinary>>>>,
    /// The last used at the end, with their size.
    recent: VecDeque<(Build, u64, Arc<GoBinary>)>,
}

impl Binaries {
    /// The parsed program; `open` gives its file, where it must be read.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(in crate::agent) fn get(
        &self,
        program: &Program,
        open: impl FnOnce() -> Result<File, String>,
    ) -> Result<Arc<GoBinary>, String> {
        let build = program.build();
        let slot = Arc::clone(self.lock().known.entry(build.clone()).or_default());
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let binary = match slot.upgrade() {
            Some(binary) => binary,
            None => {
                if program.key.size > MAX_BINARY {
                    return Err(format!(
                        "its executable has {} MiB: more than the agent reads; look at it with sfgi dump",
                        program.key.size >> 20
                    ));
                }
                let binary = Arc::new(GoBinary::read_to_keep(open()?).map_err(|err| err.to_string())?);
                *slot = Arc::downgrade(&binary);
                binary
            }
        };
        self.lock().used(build, program.key.size, &binary);
        Ok(binary)
    }

    /// How many are in memory.
    pub(in crate::agent) fn len(&self) -> u64 {
        let mut shelf = self.lock();
        shelf.known.retain(|_, slot| {
            // One that is being read is locked, and stays.
            slot.try_lock().map_or(true, |slot| slot.strong_count() > 0)
        });
        shelf.known.len() as u64
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn used(&mut self, build: Build, size: u64, binary: &Arc<GoBinary>) {
        self.recent.retain(|(other, ..)| *other != build);
        self.recent.push_back((build, size, Arc::clone(binary)));
        let mut total: u64 = self.recent.iter().map(|(_, size, _)| size).sum();
        while total > MAX_IDLE_BYTES && self.recent.len() > 1 {
            total -= self.recent.pop_front().map_or(0, |(_, size, _)| size);
        }
    }
}

//! A target and its program. The executable is identified once a file and parsed once a build, however many targets
//! execute it.

use super::wire::Failure;
use crate::agent::picture::{Identity, ProcessId};
use serde::{Deserialize, Serialize};
use sfgi_core::{
    binary::{BinaryError, BuildInfo, GoBinary, Identified, identify},
    heap::ObserveError,
    memory::Live,
    process::{Process, ProcessError},
    snapshot::{Clock, SnapshotError, View},
};
use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// Files that are remembered; when there are more, all are forgotten and identified anew.
const MAX_FILES: usize = 16_384;
/// Larger executables are not read: parsed, they would not fit into the memory that an agent may take.
const MAX_BINARY: u64 = 512 << 20;

/// Why a target cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("it has ended")]
    Ended,
    /// It has executed another program, or the same anew: nothing that was read before holds any more.
    #[error("it has replaced its program")]
    Replaced,
    #[error("its executable has {mib} MiB: more than the agent reads; look at it with sfgi dump")]
    TooLarge { mib: u64 },
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Executable(#[from] io::Error),
    #[error(transparent)]
    Binary(#[from] BinaryError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Failure {
        match error {
            TargetError::Ended => Failure::Ended,
            TargetError::Replaced => Failure::Replaced,
            error => Failure::Other(error.to_string()),
        }
    }
}

/// A Go process of this host: all that the server needs to know of it, and that a worker needs to find it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TargetSpec {
    pub(crate) id: ProcessId,
    /// The user that it runs as, in the host's user namespace.
    pub(crate) uid: u32,
    /// The identity that the host tells; a rule may give its service another name.
    pub(crate) identity: Arc<Identity>,
    pub(super) program: ProgramFile,
}

impl TargetSpec {
    pub(crate) fn pid(&self) -> u32 {
        self.id.pid
    }

    /// Equal for targets that execute copies of one build.
    pub(crate) fn build(&self) -> impl Eq + std::hash::Hash + use<> {
        self.program.build()
    }
}

/// A target as a worker has it: found again and held on to.
pub(crate) struct Target {
    spec: Arc<TargetSpec>,
    pub(crate) process: Process,
    binaries: Arc<Binaries>,
    /// The auxiliary vector as the first scan read it. Every `exec` makes another one, an `exec` of the same file,
    /// too, because it contains addresses (of the vDSO, of 16 random bytes) that the kernel randomises.
    auxv: Mutex<Option<Vec<u8>>>,
}

/// A target's program in memory, and where it lies in the process.
pub(crate) struct Opened {
    pub(crate) binary: Arc<GoBinary>,
    pub(crate) bias: u64,
}

impl Opened {
    pub(crate) fn view<'v>(&'v self, memory: &'v Live<'v>) -> View<'v> {
        View { memory, binary: &self.binary, bias: self.bias, clock: Clock::Live }
    }
}

impl Target {
    /// Finds the process again.
    ///
    /// # Errors
    /// It has ended; its PID may be another's by now.
    pub(super) fn open_process(
        spec: Arc<TargetSpec>,
        binaries: Arc<Binaries>,
    ) -> Result<Target, TargetError> {
        let process = Process::open(spec.id.pid.cast_signed()).map_err(|error| match error {
            ProcessError::NoSuchProcess(_) | ProcessError::Zombie(_) => TargetError::Ended,
            error => error.into(),
        })?;
        if process.start_time() != spec.id.start_ticks {
            return Err(TargetError::Ended);
        }
        Ok(Target { spec, process, binaries, auxv: Mutex::default() })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.spec.identity
    }

    pub(crate) fn pid(&self) -> u32 {
        self.spec.id.pid
    }

    /// A number for this run of the program: another one after an `exec`, even of the same file, and the same one for
    /// every agent that looks at it. `None`: nothing was read of it yet.
    pub(crate) fn run(&self) -> Option<u32> {
        self.auxv.lock().unwrap_or_else(PoisonError::into_inner).as_deref().map(crc32fast::hash)
    }

    /// The path of the executable, as the process sees it.
    pub(crate) fn exe(&self) -> PathBuf {
        self.spec.identity.exe.clone()
    }

    /// The parsed program and its load bias.
    ///
    /// # Errors
    /// The target has ended or has executed something else, or the executable cannot be parsed.
    pub(crate) fn open(&self) -> Result<Opened, TargetError> {
        self.still_the_same()?;
        let program = &self.spec.program;
        let binary = self.binaries.get(program, || {
            let file = self.process.exe()?;
            // The link of the kernel may lead to another file by now.
            let metadata = file.metadata()?;
            let same = (program.key.dev, program.key.ino) == (metadata.dev(), metadata.ino());
            if same { Ok(file) } else { Err(TargetError::Replaced) }
        })?;
        let bias = self.process.load_bias(binary.image().entry())?;
        Ok(Opened { binary, bias })
    }

    /// Fails unless the process still executes what it did when it was first opened. Called before and after a scan:
    /// if both succeed, nothing that was read in between is another program's.
    pub(crate) fn still_the_same(&self) -> Result<(), TargetError> {
        let now = fs::read(format!("/proc/{}/auxv", self.pid())).map_err(|_| TargetError::Ended)?;
        let mut first = self.auxv.lock().unwrap_or_else(PoisonError::into_inner);
        // After the read: if the process lives now, the vector that was read is its own and not that of a later
        // process.
        if !self.process.alive() {
            return Err(TargetError::Ended);
        }
        if *first.get_or_insert_with(|| now.clone()) == now { Ok(()) } else { Err(TargetError::Replaced) }
    }
}

/// Names the contents of a file: another size or time of change is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct FileKey {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
}

impl FileKey {
    fn of(file: &Metadata) -> FileKey {
        let mtime = (file.mtime(), file.mtime_nsec());
        FileKey { dev: file.dev(), ino: file.ino(), size: file.size(), mtime }
    }
}

/// Which file a target executes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ProgramFile {
    key: FileKey,
    go_build_id: Option<String>,
}

/// A file that is a Go program.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) file: ProgramFile,
    /// Its build information; `None`: it is found only by parsing the whole file, and that failed.
    pub(super) info: Option<BuildInfo>,
    pub(super) build_id: Option<String>,
}

/// For each executable file that was seen, what it is.
#[derive(Debug, Default)]
pub(super) struct Programs {
    known: HashMap<FileKey, Option<Arc<Program>>>,
}

impl Programs {
    /// The program in this file; `None`: it is no Go program.
    pub(super) fn of(&mut self, file: &File) -> io::Result<Option<Arc<Program>>> {
        let key = FileKey::of(&file.metadata()?);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let program = |info, build_id, go_build_id| {
            Some(Arc::new(Program { file: ProgramFile { key, go_build_id }, info, build_id }))
        };
        let found = match identify(file)? {
            Identified::NotGo => None,
            Identified::Go { info, build_id, go_build_id } => program(Some(*info), build_id, go_build_id),
            // The section table does not tell: only parsing does, once a file.
            Identified::Unsure => match GoBinary::read_to_keep(file.try_clone()?) {
                Err(BinaryError::NotGo | BinaryError::Elf(_)) => None,
                Ok(binary) => program(Some(binary.info().clone()), binary.image().build_id(), None),
                // A Go program that we cannot read: a scan will say why.
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

/// The key of a parsed binary: equal for copies of one build, as each container image has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Build {
    /// Go's build id and the length of the file, because `strip` leaves the id as it is and takes the symbols.
    Id(String, u64),
    File(FileKey),
}

impl ProgramFile {
    fn build(&self) -> Build {
        match &self.go_build_id {
            Some(id) if !id.is_empty() => Build::Id(id.clone(), self.key.size),
            _ => Build::File(self.key),
        }
    }
}

/// The parsed executables of a worker. Each lives while somebody uses it; the last ones used stay, as many as
/// [`keep_bytes`](Self::keep_bytes) allows: without that every scan of a lone target would parse anew.
#[derive(Default)]
pub(crate) struct Binaries {
    shelf: Mutex<Shelf>,
    idle_bytes: AtomicU64,
}

#[derive(Default)]
struct Shelf {
    /// Each slot has a lock of its own: two threads that want the same binary parse it once, and threads that want
    /// another do not wait for that.
    known: HashMap<Build, Arc<Mutex<Weak<GoBinary>>>>,
    /// The last used at the end, with the size of the file. Holds strong references, the slots weak ones.
    recent: VecDeque<(Build, u64, Arc<GoBinary>)>,
}

impl Binaries {
    /// The parsed program. `open` is called for the file only if it must be parsed.
    fn get(
        &self,
        program: &ProgramFile,
        open: impl FnOnce() -> Result<File, TargetError>,
    ) -> Result<Arc<GoBinary>, TargetError> {
        let build = program.build();
        // The lock of the shelf is released before the slot is locked: parsing takes long. `used` takes them in the
        // other order, so it only tries the slots.
        let slot = Arc::clone(self.lock().known.entry(build.clone()).or_default());
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let binary = match slot.upgrade() {
            Some(binary) => binary,
            None => {
                if program.key.size > MAX_BINARY {
                    return Err(TargetError::TooLarge { mib: program.key.size >> 20 });
                }
                let binary = Arc::new(GoBinary::read_to_keep(open()?)?);
                *slot = Arc::downgrade(&binary);
                binary
            }
        };
        let idle_bytes = self.idle_bytes.load(Ordering::Relaxed);
        self.lock().used(build, program.key.size, &binary, idle_bytes);
        Ok(binary)
    }

    /// How many bytes of executables (of their files) stay parsed after their last use.
    pub(super) fn keep_bytes(&self, bytes: u64) {
        self.idle_bytes.store(bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn used(&mut self, build: Build, size: u64, binary: &Arc<GoBinary>, idle_bytes: u64) {
        // The slots of binaries that nobody has any more; one that is locked is just being parsed.
        self.known.retain(|_, slot| slot.try_lock().map_or(true, |slot| slot.strong_count() > 0));
        self.recent.retain(|(other, ..)| *other != build);
        self.recent.push_back((build, size, Arc::clone(binary)));
        let mut total: u64 = self.recent.iter().map(|(_, size, _)| size).sum();
        while total > idle_bytes && self.recent.len() > 1 {
            total -= self.recent.pop_front().map_or(0, |(_, size, _)| size);
        }
    }
}

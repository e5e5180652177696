//! A running process: its identity, its executable and the load bias of that, its CPU time, and whether it still lives.
//! Reads `/proc` and writes nothing. [`crate::memory::Live`] reads its memory.

mod calls;
mod cgroup;
mod fds;
mod pipes;
mod sockets;
pub mod threads;

pub use calls::{Argument, Call};
pub use cgroup::Group;
pub use fds::{EpollEntry, FdKind, FdsError, RawFd, RawFds};
pub use pipes::{End, writers};
pub use sockets::{Socket, SocketState, Sockets};
pub use threads::Thread;

use crate::clock;
use crate::patience::{self, What};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Key of the entry point's address in the auxiliary vector (`include/uapi/linux/auxvec.h`).
const AT_ENTRY: u64 = 9;
/// The most bytes that are read of a file in `/proc`: a process makes its environment as large as it likes.
const MAX_PROC_FILE: u64 = 256 << 10;
/// Indices into the fields of `/proc/PID/stat` behind the name: 0 is the state, field 3 in proc(5).
const STAT_STATE: usize = 0;
const STAT_START_TIME: usize = 19;

/// Why a process cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// No process has this id.
    #[error("there is no process with PID {0}")]
    NoSuchProcess(i32),
    /// The id belongs to a thread that is not the first of its process.
    #[error("{tid} is a thread of process {pid}: give the PID {pid}")]
    IsThread {
        tid: i32,
        /// The process of the thread.
        pid: i32,
    },
    /// It has ended, and its parent has not fetched its exit status.
    #[error("process {0} has already ended (it is a zombie)")]
    Zombie(i32),
    /// A thread of the kernel, which has no executable and no memory.
    #[error("process {0} is a thread of the kernel")]
    Kernel(i32),
    /// The kernel does not allow this user to look.
    #[error("{what} of process {pid} cannot be read: needs root or CAP_SYS_PTRACE (run with sudo)")]
    Permission { pid: i32, what: &'static str },
    #[error("{what} of process {pid} cannot be read")]
    Io { pid: i32, what: &'static str, source: io::Error },
}

/// Resident memory of a process, bytes; `None`: it has ended.
pub fn rss_bytes(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// A process that ran when it was opened. A later process with the same PID is not mistaken for it: the pidfd and the
/// start time tell.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    start_time: u64,
}

impl Process {
    /// Opens the process with this id in our PID namespace.
    ///
    /// # Errors
    /// [`ProcessError`]: there is none, it is a thread, it has ended, or it is the kernel's.
    pub fn open(pid: i32) -> Result<Process, ProcessError> {
        let _reading = patience::reading(What::Proc);
        let id = (pid > 0).then(|| Pid::from_raw(pid)).flatten().ok_or(ProcessError::NoSuchProcess(pid))?;
        let status =
            fs::read_to_string(proc_path(pid, "status")).map_err(|_| ProcessError::NoSuchProcess(pid))?;
        let leader = status_field(&status, "Tgid:").and_then(|text| text.parse().ok()).unwrap_or(pid);
        if leader != pid {
            return Err(ProcessError::IsThread { tid: pid, pid: leader });
        }
        // Before `stat`: what is read there is then of the process that the pidfd holds, or of none.
        let pidfd = pidfd_open(id, PidfdFlags::empty()).map_err(|error| match error {
            rustix::io::Errno::SRCH => ProcessError::NoSuchProcess(pid),
            error => ProcessError::Io { pid, what: "the pidfd", source: error.into() },
        })?;
        let (state, start_time) = stat(pid).ok_or(ProcessError::NoSuchProcess(pid))?;
        if state == 'Z' || state == 'X' {
            return Err(ProcessError::Zombie(pid));
        }
        // Threads of the kernel have no memory, hence no line about its size.
        if status_field(&status, "VmSize:").is_none() {
            return Err(ProcessError::Kernel(pid));
        }
        Ok(Process { pid, pidfd, start_time })
    }

    /// Its PID in our PID namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// When it was made, in clock ticks since boot (`starttime` of `/proc/PID/stat`). Does not change with an `exec`.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// When it was made, `CLOCK_MONOTONIC` nanoseconds, to a hundredth of a second.
    pub fn started_ns(&self) -> u64 {
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let after_boot = u128::from(self.start_time) * 1_000_000_000 / u128::from(ticks);
        let age = clock::since_boot().saturating_sub(u64::try_from(after_boot).unwrap_or(u64::MAX));
        clock::now().saturating_sub(age)
    }

    /// A variable of the environment that it was started with. `None`: it has no such variable, or that cannot be read.
    pub fn variable(&self, name: &str) -> Option<String> {
        let all = self.proc_text("environ").ok()?;
        // Of several the first counts, as for Go (`src/syscall/env_unix.go: copyenv`).
        let value = |one: &str| one.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        all.split('\0').find_map(value)
    }

    /// What a descriptor of it leads to, as the kernel names it: a path, `socket:[4711]`, `pipe:[4712]`. `None`: it has no
    /// such descriptor (any more), or we may not look.
    pub fn file_name(&self, fd: u32) -> Option<String> {
        let _reading = patience::reading(What::Proc);
        let name = fs::read_link(proc_path(self.pid, "fd").join(fd.to_string())).ok()?;
        Some(name.to_string_lossy().into_owned())
    }

    /// The name of another process (`/proc/PID/comm`), by its PID in our PID namespace. `None`: there is none.
    pub fn name_of(pid: i32) -> Option<String> {
        let _reading = patience::reading(What::Proc);
        // As bytes: a name may be no UTF-8.
        let name = fs::read(proc_path(pid, "comm")).ok()?;
        Some(String::from_utf8_lossy(&name).trim_end().to_owned())
    }

    /// A file of its directory in `/proc` as text: at most the first 256 KiB, bytes that are no UTF-8 replaced.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn proc_text(&self, name: &str) -> io::Result<String> {
        let _reading = patience::reading(What::Proc);
        let mut bytes = Vec::new();
        File::open(proc_path(self.pid, name))?.take(MAX_PROC_FILE).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its effective uid, as our user namespace numbers it.
    ///
    /// # Errors
    /// The process has ended.
    pub fn uid(&self) -> Result<u32, ProcessError> {
        // Not the owner of `/proc/PID`: that is root where the process may not be dumped.
        let status = self.proc_text("status").map_err(|error| self.error("the status", error))?;
        let uids = status_field(&status, "Uid:").unwrap_or_default();
        let effective = uids.split_ascii_whitespace().nth(1).and_then(|uid| uid.parse().ok());
        effective.ok_or(ProcessError::NoSuchProcess(self.pid))
    }

    /// Bytes that it has in memory or swapped out: what it can have written at most. `None`: the kernel does not say.
    pub fn resident(&self) -> Option<u64> {
        let status = self.proc_text("status").ok()?;
        let size = |name| {
            let kib: u64 = status_field(&status, name)?.strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        // Pages of hugetlbfs are counted by themselves.
        let more = ["VmSwap:", "HugetlbPages:"].into_iter().filter_map(size);
        Some(more.fold(size("VmRSS:")?, u64::saturating_add))
    }

    /// A descriptor that becomes readable when the process ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it still runs; a zombie does not.
    pub fn alive(&self) -> bool {
        // The start time tells it from a later process with the same PID.
        stat(self.pid).is_some_and(|(state, start)| start == self.start_time && state != 'Z' && state != 'X')
    }

    /// Its executable, even if the file was deleted or replaced since: the kernel's link leads to the very file that
    /// is mapped.
    ///
    /// # Errors
    /// [`ProcessError::Permission`], or the process has ended.
    pub fn exe(&self) -> Result<File, ProcessError> {
        let _reading = patience::reading(What::Executable);
        File::open(self.exe_link()).map_err(|error| self.error("the executable", error))
    }

    /// The kernel's link to its executable. It opens as the mapped file, from any mount namespace.
    pub fn exe_link(&self) -> PathBuf {
        proc_path(self.pid, "exe")
    }

    /// The path of its executable in its own mount namespace. It ends with ` (deleted)` if the file has no name any
    /// more.
    ///
    /// # Errors
    /// As [`Process::exe`].
    pub fn exe_name(&self) -> Result<PathBuf, ProcessError> {
        let _reading = patience::reading(What::Proc);
        fs::read_link(self.exe_link()).map_err(|error| self.error("the name of the executable", error))
    }

    /// The load bias: what the kernel added to the link-time addresses of its executable; 0 for an executable that is
    /// not position-independent. `entry` is the link-time address of the entry point.
    ///
    /// The auxiliary vector has the run-time address of the entry point (`AT_ENTRY`). Unlike `/proc/PID/maps` it
    /// holds however the file is named, mounted or replaced.
    ///
    /// # Errors
    /// As [`Process::exe`]; also for a 32-bit process.
    pub fn load_bias(&self, entry: u64) -> Result<u64, ProcessError> {
        let what = "the auxiliary vector";
        let _reading = patience::reading(What::Proc);
        let auxv = fs::read(proc_path(self.pid, "auxv")).map_err(|error| self.error(what, error))?;
        let word = |bytes: &[u8], at| crate::binary::bytes::u64_at(bytes, at);
        let loaded = auxv
            .chunks_exact(16)
            .find(|entry| word(entry, 0) == Some(AT_ENTRY))
            .and_then(|entry| word(entry, 8))
            .ok_or_else(|| self.error(what, io::Error::other("it has no entry point (a 32-bit process?)")))?;
        Ok(loaded.wrapping_sub(entry))
    }

    /// CPU time of all its threads since its start, ended ones included, in user and kernel mode.
    ///
    /// # Errors
    /// The process has ended.
    pub fn cpu_time(&self) -> Result<Duration, ProcessError> {
        let used = clock::cpu_of(self.pid.unsigned_abs());
        used.map(Duration::from_nanos).map_err(|error| self.error("the CPU time", error))
    }

    fn error(&self, what: &'static str, source: io::Error) -> ProcessError {
        let pid = self.pid;
        match source.kind() {
            io::ErrorKind::PermissionDenied => ProcessError::Permission { pid, what },
            // Reads of a process that is ending fail in many ways; the end is the reason that helps.
            _ if !self.alive() => ProcessError::NoSuchProcess(pid),
            _ => ProcessError::Io { pid, what, source },
        }
    }
}

fn proc_path(pid: i32, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

/// The value of a field of a `status` file. `name` includes the colon, so that no name is found as the beginning of
/// another.
pub(super) fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// State and start time (ticks since boot) from `/proc/PID/stat`; `None`: there is no such process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let _reading = patience::reading(What::Proc);
    let stat = fs::read(proc_path(pid, "stat")).ok()?;
    parse_stat(&String::from_utf8_lossy(&stat))
}

/// Parses a line of `/proc/PID/stat`. The name of the program may contain spaces and parentheses, so the fields are
/// counted from behind the last `)`.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    Some((fields.get(STAT_STATE)?.chars().next()?, fields.get(STAT_START_TIME)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use std::process::{Child, Command};

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Sleeper {
            Sleeper(Command::new("sleep").arg("60").spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            i32::try_from(self.0.id()).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_is_described() {
        let child = Sleeper::start();
        let process = Process::open(child.pid()).unwrap();
        assert!(process.alive());
        assert_eq!(process.uid().unwrap(), rustix::process::geteuid().as_raw());
        assert!(process.proc_text("cgroup").unwrap().contains(':'));
        assert!(process.proc_text("none").is_err());
        // Until its `exec` it is still us.
        while !process.exe_name().unwrap().ends_with("sleep") {
            std::thread::yield_now();
        }
    }

    #[test]
    fn our_own_cpu_time_can_be_read() {
        let process = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let before = process.cpu_time().unwrap();
        let mut sum = 0u64;
        while process.cpu_time().unwrap() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(process.cpu_time().unwrap() > before);
    }

    #[test]
    fn the_load_bias_puts_the_entry_point_into_the_mapped_executable() {
        let process = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let data = fs::read(process.exe_link()).unwrap();
        let image = crate::binary::Image::parse(data.into()).unwrap();
        let bias = process.load_bias(image.entry()).unwrap();
        let mut code = [0; 16];
        crate::memory::Live::of(&process).read(image.entry().wrapping_add(bias), &mut code).unwrap();
        assert_eq!(image.read(image.entry(), 16), Some(&code[..]));
        assert_eq!(bias % 4096, 0);
    }

    #[test]
    fn what_is_no_process_is_refused() {
        assert!(matches!(Process::open(0), Err(ProcessError::NoSuchProcess(0))));
        assert!(matches!(Process::open(-1), Err(ProcessError::NoSuchProcess(-1))));
        assert!(matches!(Process::open(i32::MAX), Err(ProcessError::NoSuchProcess(_))));
        let child = Sleeper::start();
        let pid = child.pid();
        drop(child);
        assert!(matches!(Process::open(pid), Err(ProcessError::NoSuchProcess(_))));
    }

    #[test]
    fn a_thread_is_told_from_a_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let tid = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get());
        let tid = tid.join().unwrap();
        match Process::open(tid) {
            // It may be gone already.
            Err(ProcessError::IsThread { pid: leader, .. }) => assert_eq!(leader, pid),
            Err(ProcessError::NoSuchProcess(_)) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_zombie_has_ended() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        while stat(pid).is_some_and(|(state, _)| state != 'Z') {
            std::thread::yield_now();
        }
        assert!(matches!(Process::open(pid), Err(ProcessError::Zombie(_))));
        child.wait().unwrap();
    }

    #[test]
    fn names_in_stat_may_hold_anything() {
        let stat = "7 (a) R (b) S 1 7 7 0 -1 4194304 1 0 0 0 5 6 0 0 20 0 1 0 4711 0 0";
        assert_eq!(parse_stat(stat), Some(('S', 4711)));
        assert_eq!(parse_stat("7 (a"), None);
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }
}

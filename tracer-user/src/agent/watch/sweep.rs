//! Sweeps `/proc` and reports which Go processes have come and gone.
//!
//! A host has thousands of processes, few of them Go's, and a sweep comes each second. So a sweep is a directory
//! listing, if there can be a new process, a check that each Go process still has its address space, and the question
//! what some 512 others execute: all of them on most hosts, in turn where there are more. New processes may be about to
//! `exec` and are always asked. On a host that is idle all that lies in no cache any more and takes ten times as long.

use super::{
    identity::{self, PodNames},
    target::{Programs, TargetSpec},
};
use crate::agent::{
    Config,
    picture::{ProcessId, Seen},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use sfgi_core::process::{Process, ProcessError};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::Arc,
};

/// Sweeps after its first in which a process is asked every time what it executes: it may be about to `exec`.
const YOUNG: u32 = 3;
/// About how many older processes are asked in one sweep. Asking takes 2 µs a process, so this is 1 ms a second.
const ASKED: usize = 512;
/// A process without an executable (a thread of the kernel) is asked in one of so many sweeps, and `/proc` is listed in
/// one of so many even if nothing was started.
const RARELY: u32 = 10;
/// Processes that are remembered, a bound for our memory. Further ones are not looked at.
const MAX_PROCESSES: usize = 1 << 16;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Changes {
    pub(crate) started: Vec<Arc<TargetSpec>>,
    pub(crate) ended: Vec<ProcessId>,
    /// Sentences for the log, each said once.
    pub(crate) notes: Vec<String>,
}

/// What a process is to the agent.
#[derive(Debug)]
enum Kind {
    /// A thread of the kernel, this agent, or a program that is not Go's.
    Other,
    Unreadable,
    Go(ProcessId, Process, Space),
}

#[derive(Debug)]
struct Known {
    kind: Kind,
    /// Device and inode of its executable; (0, 0): none, or not readable.
    exe: (u64, u64),
    /// Sweeps since it was first looked at; 0 again after [`Sweep::run`] was told to look again.
    age: u32,
    /// How many programs it has executed before this one: makes a [`ProcessId`] of each.
    program: u32,
    /// The number of the last sweep that saw it. One that was not seen has ended.
    last: u64,
}

/// What all sweeps of one thread have found so far.
#[derive(Default)]
pub(super) struct Sweep {
    known: HashMap<i32, Known>,
    programs: Programs,
    pods: PodNames,
    /// Processes on which a thread hung: never looked at again.
    skipped: HashSet<i32>,
    number: u64,
    /// The PID that the kernel gave last, at the last listing of `/proc`; empty: not known.
    last_pid: String,
    /// Whether this sweep has listed `/proc`: only then a process that is seen is there for certain.
    listed: bool,
    /// Processes with an executable, at the last sweep.
    running: usize,
    said_unreadable: bool,
    started: u64,
    ended: u64,
}

/// Called with the PID of each process before it is looked at, so that another thread can see on which one this one
/// hangs.
type Note<'a> = &'a mut dyn FnMut(i32);

impl Sweep {
    /// Never looks at the processes in `skipped`.
    pub(super) fn skipping(skipped: HashSet<i32>) -> Sweep {
        Sweep { skipped, ..Sweep::default() }
    }

    /// Sweeps `/proc` once. `again` names processes that may have replaced their program by the same file.
    ///
    /// # Errors
    /// `/proc` cannot be listed.
    pub(super) fn run(&mut self, config: &Config, again: &[i32], note: Note<'_>) -> io::Result<Changes> {
        let mut changes = Changes::default();
        self.number += 1;
        for pid in again {
            if let Some(known) = self.known.get_mut(pid) {
                (known.age, known.exe) = (0, (0, 0));
            }
        }
        // Before the listing: a PID that was given to another process since is then found as a new one.
        for pid in self.gone() {
            self.forget(pid, &mut changes);
        }
        // Before the listing, which may not show a process that is started meanwhile.
        let last_pid = last_pid();
        self.listed =
            last_pid.is_empty() || last_pid != self.last_pid || self.number.is_multiple_of(RARELY.into());
        if self.listed {
            for entry in fs::read_dir("/proc")? {
                let name = entry?.file_name();
                let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
                if !self.skipped.contains(&pid) {
                    self.see(pid, config, &mut changes, note);
                }
            }
            self.last_pid = last_pid;
        } else {
            for pid in self.known.keys().copied().collect::<Vec<_>>() {
                self.see(pid, config, &mut changes, note);
            }
        }
        // What the listing did not show: other processes have no pidfd to ask.
        let (number, gone) = (self.number, |(pid, known): (&i32, &Known)| (known.last, *pid));
        let gone: Vec<i32> =
            self.known.iter().map(gone).filter(|(last, _)| *last != number).map(|(_, pid)| pid).collect();
        for pid in gone {
            self.forget(pid, &mut changes);
        }
        self.running = self.known.values().filter(|known| known.exe != (0, 0)).count();
        Ok(changes)
    }

    /// Counts for the picture. The core adds how many are excluded or unsupported.
    pub(super) fn seen(&self) -> Seen {
        let count = |wanted: fn(&Kind) -> bool| {
            self.known.values().filter(|known| wanted(&known.kind)).count() as u64
        };
        Seen {
            running: self.running as u64,
            unreadable: count(|kind| matches!(kind, Kind::Unreadable)),
            started_total: self.started,
            ended_total: self.ended,
            ..Seen::default()
        }
    }

    /// Go processes that have ended, told by their pidfds, because another process may have the PID by now. One
    /// `poll` for all.
    fn gone(&self) -> Vec<i32> {
        let living: Vec<(i32, &Process)> = self
            .known
            .iter()
            .filter_map(|(pid, known)| match &known.kind {
                Kind::Go(_, process, _) => Some((*pid, process)),
                Kind::Other | Kind::Unreadable => None,
            })
            .collect();
        let descriptors: Vec<_> = living.iter().map(|(_, process)| process.pidfd()).collect();
        let mut polled: Vec<PollFd<'_>> =
            descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut polled, Some(&now)).unwrap_or(0) == 0 {
            return Vec::new();
        }
        let ended = |(_, fd): &(&(i32, &Process), &PollFd<'_>)| !fd.revents().is_empty();
        living.iter().zip(&polled).filter(ended).map(|((pid, _), _)| *pid).collect()
    }

    fn forget(&mut self, pid: i32, changes: &mut Changes) {
        if let Some(Known { kind: Kind::Go(id, ..), .. }) = self.known.remove(&pid) {
            self.ended += 1;
            changes.ended.push(id);
        }
    }

    fn see(&mut self, pid: i32, config: &Config, changes: &mut Changes, note: Note<'_>) {
        let (number, full, listed) = (self.number, self.known.len() >= MAX_PROCESSES, self.listed);
        let turns = u32::try_from(self.running.div_ceil(ASKED)).unwrap_or(u32::MAX).max(1);
        let program = match self.known.get_mut(&pid) {
            Some(known) => {
                known.last = number;
                known.age = known.age.saturating_add(1);
                let turns = if known.exe == (0, 0) { RARELY } else { turns };
                let turn =
                    // The PID spreads the processes over the turns.
                    known.age <= YOUNG || known.age.wrapping_add(pid.unsigned_abs()).is_multiple_of(turns);
                // At every sweep, whosever turn it is: an `exec` of the same file shows only here, and without an `exec`
                // the file is the same.
                let space = if let Kind::Go(.., space) = &known.kind { space.gone() } else { None };
                if space != Some(true) {
                    if !turn || space == Some(false) {
                        return;
                    }
                    note(pid);
                    match exe(pid) {
                        // It has ended, or is about to.
                        Err(_) if !listed && known.exe != (0, 0) => {
                            known.last = number.wrapping_sub(1);
                            return;
                        }
                        asked if asked.as_ref().ok().copied().unwrap_or_default() == known.exe => return,
                        _ => {}
                    }
                }
                known.program + 1
            }
            None if full => return,
            None => 0,
        };
        // It is new, or it executes another program than before: then it is another target.
        self.forget(pid, changes);
        note(pid);
        let (kind, exe) = self.look(pid, program, config, changes);
        self.known.insert(pid, Known { kind, exe, age: 0, program, last: number });
    }

    fn look(&mut self, pid: i32, number: u32, config: &Config, changes: &mut Changes) -> (Kind, (u64, u64)) {
        if u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()) {
            return (Kind::Other, (0, 0));
        }
        // Before the program is looked at: if it changes meanwhile, the next sweep sees another file.
        let exe = match exe(pid) {
            Ok(exe) => exe,
            // A thread of the kernel, or a process that has ended.
            Err(err) if err.kind() == io::ErrorKind::NotFound => return (Kind::Other, (0, 0)),
            Err(err) => return (self.unreadable(pid, &err, changes), (0, 0)),
        };
        let space = Space::of(pid);
        match self.identify(pid, number, config) {
            Ok(None) => (Kind::Other, exe),
            Ok(Some((target, process))) => {
                let kind = Kind::Go(target.id, process, space);
                self.started += 1;
                changes.started.push(Arc::new(target));
                (kind, exe)
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => (Kind::Other, (0, 0)),
            Err(err) => (self.unreadable(pid, &err, changes), exe),
        }
    }

    fn identify(
        &mut self,
        pid: i32,
        number: u32,
        config: &Config,
    ) -> io::Result<Option<(TargetSpec, Process)>> {
        let file = File::open(format!("/proc/{pid}/exe"))?;
        // The file first: most processes are not Go programs, and cost no more than this.
        let Some(program) = self.programs.of(&file)? else { return Ok(None) };
        let process = Process::open(pid).map_err(|err| match err {
            ProcessError::Permission { .. } => io::Error::new(io::ErrorKind::PermissionDenied, err),
            _ => io::Error::new(io::ErrorKind::NotFound, err),
        })?;
        let identity =
            identity::of(&process, &program, &mut self.pods, config).map_err(|err| {
                match process.alive() {
                    true => err,
                    false => io::ErrorKind::NotFound.into(),
                }
            })?;
        let id = ProcessId { pid: pid.unsigned_abs(), start_ticks: process.start_time(), program: number };
        let uid = process.uid().map_err(io::Error::other)?;
        let spec = TargetSpec { id, uid, identity: Arc::new(identity), program: program.file.clone() };
        Ok(Some((spec, process)))
    }

    fn unreadable(&mut self, pid: i32, err: &io::Error, changes: &mut Changes) -> Kind {
        // Once: without the right to look, nearly every process is one.
        if !std::mem::replace(&mut self.said_unreadable, true) {
            changes.notes.push(format!(
                "PID {pid} cannot be looked at ({err}), perhaps others too: root, or CAP_SYS_PTRACE, may look at all"
            ));
        }
        Kind::Unreadable
    }
}

/// The PID that the kernel gave last, to a process or a thread (the last field of `/proc/loadavg`). Empty: not known.
fn last_pid() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_ascii_whitespace().last().unwrap_or_default().to_owned()
}

/// Device and inode of the executable of a process. Follows the link of the kernel, so it may hang on a file system
/// that does not answer.
fn exe(pid: i32) -> io::Result<(u64, u64)> {
    let file = fs::metadata(format!("/proc/{pid}/exe"))?;
    Ok((file.dev(), file.ino()))
}

/// The address space that a process had when this was made. Every `exec` gives the process a new one, an `exec` of
/// the same file, too.
///
/// The kernel frees an address space when no thread runs in it any more. A read of a `/proc/PID/mem` that was opened
/// before then returns 0 bytes (`mem_rw` in `fs/proc/base.c`); while the address space lives the read is an error,
/// because nothing is mapped at address 0. The read takes less than a microsecond. The open file pins only the
/// kernel's record of the address space, no memory of the process.
#[derive(Debug)]
struct Space(Option<File>);

impl Space {
    fn of(pid: i32) -> Space {
        Space(File::open(format!("/proc/{pid}/mem")).ok())
    }

    /// Whether the process has another address space by now, or none. `None`: `mem` could not be opened.
    fn gone(&self) -> Option<bool> {
        self.0.as_ref().map(|memory| matches!(memory.read_at(&mut [0], 0), Ok(0)))
    }
}

/// Sweeps of the real `/proc`; that Go programs are found is shown by the live tests.
#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        process::{Command, Stdio},
    };

    #[test]
    fn what_is_no_go_program_is_seen_and_not_found() {
        let config = Config::default();
        let mut sweep = Sweep::default();
        let before = sweep.run(&config, &[], &mut |_| {}).unwrap();
        assert!(before.ended.is_empty());
        let ours = before.started.iter().find(|target| target.id.pid == std::process::id());
        assert!(ours.is_none());
        let running = sweep.seen().running;
        assert!(running >= 1);
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        // It may be in its first sweep before its exec: then it runs what we run, which is not Go's either.
        let changes = sweep.run(&config, &[], &mut |_| {}).unwrap();
        assert!(changes.started.iter().all(|target| target.id.pid != child.id()));
        assert!(sweep.known.contains_key(&i32::try_from(child.id()).unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        sweep.run(&config, &[], &mut |_| {}).unwrap();
        assert!(!sweep.known.contains_key(&i32::try_from(child.id()).unwrap()));
    }

    #[test]
    fn an_old_process_that_runs_another_program_is_noticed_at_once() {
        let config = Config::default();
        let mut shell = Command::new("sh");
        let mut shell = shell.args(["-c", "read go; exec sleep 60"]).stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let exe = || fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        while exe() == std::env::current_exe().unwrap() {
            std::thread::yield_now();
        }
        let mut sweep = Sweep::default();
        for _ in 0..50 {
            sweep.run(&config, &[], &mut |_| {}).unwrap();
        }
        let before = (exe(), sweep.known[&pid].exe);
        shell.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        while exe() == before.0 {
            std::thread::yield_now();
        }
        for _ in 0..sweep.seen().running.div_ceil(ASKED as u64) {
            sweep.run(&config, &[], &mut |_| {}).unwrap();
        }
        assert_ne!(sweep.known[&pid].exe, before.1);
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn an_exec_of_the_same_program_is_seen_and_an_end() {
        let script = "echo one; read go; exec sh -c 'echo two; read go'";
        let mut shell = Command::new("sh");
        let mut shell =
            shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(shell.stdout.take().unwrap()).lines();
        let pid = i32::try_from(shell.id()).unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "one");
        let first = Space::of(pid);
        assert_eq!(first.gone(), Some(false));
        shell.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "two");
        assert_eq!(first.gone(), Some(true));
        let second = Space::of(pid);
        assert_eq!(second.gone(), Some(false));
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert_eq!(second.gone(), Some(true));
        assert_eq!(Space::of(pid).gone(), None, "there is nothing to be told of");
    }
}

//! Goes through `/proc` again and again, and says who came and who went.
//!
//! A host has thousands of processes, few of them Go's, and they are looked at each second; so a look is a
//! directory listing, whether each Go program still has its memory, and what a few hundred others run: each time all of them on
//! most hosts, in turn where there are more. Those that are new, which may be about to `exec`, are always asked.

use super::{
    identity,
    kubernetes::PodNames,
    programs::{Program, Programs},
    space::Space,
};
use crate::agent::{
    picture::{Identity, ProcessId, Seen},
    settings::Settings,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sfgi_core::process::{Process, ProcessError};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    sync::Arc,
};

/// In so many sweeps after it came a process is asked each time what it runs.
const YOUNG: u32 = 3;
/// Older ones that are asked in a sweep, about: that takes 1 ms.
pub(super) const ASKED: usize = 512;
/// What runs nothing, a thread of the kernel, is asked in one of so many.
const RARELY: u32 = 10;
/// Processes that are known; a host has no more PIDs than that by default.
const MAX_PROCESSES: usize = 1 << 16;

/// A Go process that has come.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Found {
    pub(in crate::agent) id: ProcessId,
    pub(in crate::agent) process: Arc<Process>,
    pub(in crate::agent) program: Arc<Program>,
    pub(in crate::agent) identity: Arc<Identity>,
}

/// What a sweep found.
#[derive(Debug, Default)]
pub(in crate::agent) struct Changes {
    pub(in crate::agent) started: Vec<Found>,
    pub(in crate::agent) ended: Vec<ProcessId>,
    /// What is to be said, once each.
    pub(in crate::agent) notes: Vec<String>,
}

/// What a process is to us.
#[derive(Debug)]
enum Kind {
    /// A thread of the kernel, ourselves, or a program that is not Go's.
    Other,
    Unreadable,
    Go(ProcessId, Arc<Process>, Space),
}

#[derive(Debug)]
pub(super) struct Known {
    kind: Kind,
    /// What it runs: device and inode.
    pub(super) exe: (u64, u64),
    /// Sweeps that saw it.
    age: u32,
    /// Programs that it has run since we know it.
    program: u32,
    /// The sweep that saw it last.
    last: u64,
}

/// See above.
#[derive(Debug, Default)]
pub(in crate::agent) struct Sweep {
    pub(super) known: HashMap<i32, Known>,
    programs: Programs,
    pods: PodNames,
    /// Not to be looked at.
    skipped: HashSet<i32>,
    number: u64,
    /// Those that run something.
    running: usize,
    said_unreadable: bool,
    started: u64,
    ended: u64,
}

/// Is told which process is being looked at.
type Note<'a> = &'a mut dyn FnMut(i32);

impl Sweep {
    /// Never looks at these.
    pub(super) fn skipping(skipped: HashSet<i32>) -> Sweep {
        Sweep { skipped, ..Sweep::default() }
    }

    /// Goes through `/proc` once; `again`: those that may have replaced their program by the same.
    ///
    /// # Errors
    /// It cannot be listed.
    pub(super) fn run(&mut self, settings: &Settings, again: &[i32], note: Note<'_>) -> io::Result<Changes> {
        let mut changes = Changes::default();
        self.number += 1;
        for pid in again {
            if let Some(known) = self.known.get_mut(pid) {
                (known.age, known.exe) = (0, (0, 0));
            }
        }
        for pid in self.gone() {
            self.forget(pid, &mut changes);
        }
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if !self.skipped.contains(&pid) {
                self.see(pid, settings, &mut changes, note);
            }
        }
        let (number, gone) = (self.number, |(pid, known): (&i32, &Known)| (known.last, *pid));
        let gone: Vec<i32> =
            self.known.iter().map(gone).filter(|(last, _)| *last != number).map(|(_, pid)| pid).collect();
        for pid in gone {
            self.forget(pid, &mut changes);
        }
        self.running = self.known.values().filter(|known| known.exe != (0, 0)).count();
        Ok(changes)
    }

    /// How many there are of each kind; who is excluded or unsupported others know.
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

    /// Go processes that have ended; their number may be another's by now.
    fn gone(&self) -> Vec<i32> {
        let tracked: Vec<(i32, &Arc<Process>)> = self
            .known
            .iter()
            .filter_map(|(pid, known)| match &known.kind {
                Kind::Go(_, process, _) => Some((*pid, process)),
                _ => None,
            })
            .collect();
        let descriptors: Vec<_> = tracked.iter().map(|(_, process)| process.pidfd()).collect();
        let mut polled: Vec<PollFd<'_>> =
            descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut polled, Some(&now)).unwrap_or(0) == 0 {
            return Vec::new();
        }
        let ended = |(_, fd): &(&(i32, &Arc<Process>), &PollFd<'_>)| !fd.revents().is_empty();
        tracked.iter().zip(&polled).filter(ended).map(|((pid, _), _)| *pid).collect()
    }

    fn forget(&mut self, pid: i32, changes: &mut Changes) {
        if let Some(Known { kind: Kind::Go(id, ..), .. }) = self.known.remove(&pid) {
            self.ended += 1;
            changes.ended.push(id);
        }
    }

    fn see(&mut self, pid: i32, settings: &Settings, changes: &mut Changes, note: Note<'_>) {
        let (number, full) = (self.number, self.known.len() >= MAX_PROCESSES);
        let turns = u32::try_from(self.running.div_ceil(ASKED)).unwrap_or(u32::MAX).max(1);
        let program = match self.known.get_mut(&pid) {
            Some(known) => {
                known.last = number;
                known.age = known.age.saturating_add(1);
                let turns = if known.exe == (0, 0) { RARELY } else { turns };
                let turn =
                    known.age <= YOUNG || known.age.wrapping_add(pid.unsigned_abs()).is_multiple_of(turns);
                let replaced = matches!(&known.kind, Kind::Go(.., space) if space.gone());
                if !replaced {
                    if !turn {
                        return;
                    }
                    note(pid);
                    if exe(pid).unwrap_or_default() == known.exe {
                        return;
                    }
                }
                known.program + 1
            }
            None if full => return,
            None => 0,
        };
        // It is new, or it runs another program than before: then it is another one to us.
        self.forget(pid, changes);
        note(pid);
        let (kind, exe) = self.look(pid, program, settings, changes);
        self.known.insert(pid, Known { kind, exe, age: 0, program, last: number });
    }

    fn look(
        &mut self,
        pid: i32,
        number: u32,
        settings: &Settings,
        changes: &mut Changes,
    ) -> (Kind, (u64, u64)) {
        if u32::try_from(pid).is_ok_and(|pid| pid == std::process::id()) {
            return (Kind::Other, (0, 0));
        }
        // Before the program is looked at: if it changes meanwhile, that is seen next time.
        let exe = match exe(pid) {
            Ok(exe) => exe,
            // A thread of the kernel, or it has ended.
            Err(err) if err.kind() == io::ErrorKind::NotFound => return (Kind::Other, (0, 0)),
            Err(err) => return (self.unreadable(pid, &err, changes), (0, 0)),
        };
        let space = Space::of(pid);
        match self.identify(pid, number, settings) {
            Ok(None) => (Kind::Other, exe),
            Ok(Some(found)) => {
                let kind = Kind::Go(found.id, Arc::clone(&found.process), space);
                self.started += 1;
                changes.started.push(found);
                (kind, exe)
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => (Kind::Other, (0, 0)),
            Err(err) => (self.unreadable(pid, &err, changes), exe),
        }
    }

    fn identify(&mut self, pid: i32, number: u32, settings: &Settings) -> io::Result<Option<Found>> {
        let file = fs::File::open(format!("/proc/{pid}/exe"))?;
        let Some(program) = self.programs.of(&file)? else { return Ok(None) };
        let process = Process::open(pid).map_err(|err| match err {
            ProcessError::Permission { .. } => io::Error::new(io::ErrorKind::PermissionDenied, err),
            _ => io::Error::new(io::ErrorKind::NotFound, err),
        })?;
        let identity =
            identity::of(&process, &program, &mut self.pods, settings).map_err(|err| {
                match process.alive() {
                    true => err,
                    false => io::ErrorKind::NotFound.into(),
                }
            })?;
        let id = ProcessId { pid: pid.unsigned_abs(), start_ticks: process.start_time(), program: number };
        Ok(Some(Found { id, process: Arc::new(process), program, identity: Arc::new(identity) }))
    }

    fn unreadable(&mut self, pid: i32, err: &io::Error, changes: &mut Changes) -> Kind {
        if !std::mem::replace(&mut self.said_unreadable, true) {
            changes.notes.push(format!(
                "PID {pid} cannot be looked at ({err}), perhaps others too: root, or CAP_SYS_PTRACE, may look at all"
            ));
        }
        Kind::Unreadable
    }
}

/// What a process runs: device and inode.
fn exe(pid: i32) -> io::Result<(u64, u64)> {
    let file = fs::metadata(format!("/proc/{pid}/exe"))?;
    Ok((file.dev(), file.ino()))
}

//! The descriptors of a Go program with their Go side.
//!
//! # Which fact comes from where
//! | fact | from | Go |
//! | --- | --- | --- |
//! | number, kind, path | links in `/proc/PID/fd` | all |
//! | state, addresses, queues | `/proc/PID/net` | all |
//! | who waits, with which deadline | `runtime.pollDesc`: what the runtime notes with its epoll instance ([`polls`]), or what a `poll.FD` refers to | 1.19 |
//! | the object, what has it, what keeps it alive | objects of the heap with their types ([`crate::objects`]) | 1.19 |
//!
//! Only the last line takes a pass over the heap. The first three cost a look at each descriptor.

mod polls;

pub use polls::{Deadline, Poll, Waiter};

use crate::memory::Fault;
use crate::objects::{FileObject, Files};
use crate::process::{FdKind, FdsError, Process, RawFd, RawFds, Socket, SocketState, Sockets};
use crate::snapshot::{Snapshot, View};
use hashbrown::HashMap;
use polls::Found;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Whose a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A `poll.FD` of Go's library has it: index into [`Files::list`].
    Object(u32),
    /// The runtime's own network poller: its epoll instance and what wakes that.
    Runtime,
    /// No `poll.FD` has it: it was opened by a bare system call or by C, or inherited and never used.
    NotGos,
    /// The objects were not looked at, or not with their types.
    Unknown,
}

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fd {
    pub raw: RawFd,
    pub poll: Option<Poll>,
    pub owner: Owner,
}

/// How many descriptors there are of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdCount {
    /// [`FdKind::word`].
    pub kind: Cow<'static, str>,
    /// [`SocketState::word`]; empty: it is no socket, or its state is not known.
    pub state: Cow<'static, str>,
    pub count: u64,
}

/// The descriptors of a program.
#[derive(Debug, Default)]
pub struct Fds {
    /// By their numbers.
    pub list: Vec<Fd>,
    /// How many more there are than were looked at.
    pub left_out: u64,
    pub sockets: Sockets,
    /// How many there may be (`RLIMIT_NOFILE`); `None`: any number, or not known.
    pub most: Option<u64>,
    /// Why it may not be told who waits for a descriptor, as a clause.
    pub doubt: Option<String>,
}

impl Fds {
    /// Reads the descriptors of a process and the runtime's side of them.
    ///
    /// # Errors
    /// The process has ended, may not be looked into, or has more descriptors than the budget has room for.
    pub fn read(process: &Process, view: &View<'_>) -> Result<Fds, FdsError> {
        let mut fds = Fds::of(process)?;
        fds.read_polls(process, view);
        Ok(fds)
    }

    /// Reads the descriptors of a process, without the runtime's side of them.
    ///
    /// # Errors
    /// As [`Fds::read`].
    pub fn of(process: &Process) -> Result<Fds, FdsError> {
        let raw = process.fds()?;
        let most = process.most_fds();
        let list = raw.list.into_iter().map(|raw| Fd { raw, poll: None, owner: Owner::Unknown }).collect();
        Ok(Fds { list, left_out: raw.left_out, sockets: raw.sockets, most, doubt: None })
    }

    /// Reads the runtime's side of them: who waits for which.
    pub fn read_polls(&mut self, process: &Process, view: &View<'_>) {
        let mut found = Found::default();
        for epoll in self.list.iter().filter(|fd| fd.raw.kind == FdKind::Epoll) {
            if let Err(why) = found.add(process, view, epoll.raw.number) {
                self.doubt = Some(why);
            }
        }
        self.take(&found);
    }

    /// How many there are of each kind, and of sockets of each state; of a kind the most first.
    pub fn counts(&self) -> Vec<FdCount> {
        let mut counts: BTreeMap<(FdKind, Option<SocketState>), u64> = BTreeMap::new();
        for fd in &self.list {
            let state = self.socket(fd).map(|socket| socket.state);
            *counts.entry((fd.raw.kind, state)).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|((kind, _), count)| (*kind, Reverse(*count)));
        let count = |((kind, state), count): ((FdKind, Option<SocketState>), u64)| FdCount {
            kind: kind.word().into(),
            state: state.map_or("", SocketState::word).into(),
            count,
        };
        counts.into_iter().map(count).collect()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.list.len() as u64 + self.left_out
    }

    /// A descriptor by its number.
    pub fn get(&self, number: u32) -> Option<&Fd> {
        let index = self.list.binary_search_by_key(&number, |fd| fd.raw.number).ok()?;
        self.list.get(index)
    }

    /// The socket that a descriptor is, as far as the kernel tells.
    pub fn socket(&self, fd: &Fd) -> Option<&Socket> {
        if fd.raw.kind.is_socket() { self.sockets.get(fd.raw.inode) } else { None }
    }

    /// Whether the peer of a TCP connection has closed it, and the program has not.
    pub fn is_closed_by_its_peer(&self, fd: &Fd) -> bool {
        self.socket(fd).is_some_and(|socket| socket.state == SocketState::CloseWait)
    }

    /// Whether the peer of a TCP connection has closed it, and no goroutine waits to read it or to write to it. `false` also where it
    /// is not known who waits.
    pub fn is_left(&self, fd: &Fd) -> bool {
        let idle = |waiter: Waiter| matches!(waiter, Waiter::Nobody | Waiter::Ready);
        self.is_closed_by_its_peer(fd) && fd.poll.is_some_and(|poll| idle(poll.reader) && idle(poll.writer))
    }

    fn take(&mut self, found: &Found) {
        let pipes: Vec<u64> = (found.wakers.iter())
            .filter_map(|number| self.get(*number))
            .filter(|fd| fd.raw.kind == FdKind::Pipe)
            .map(|fd| fd.raw.inode)
            .collect();
        for fd in &mut self.list {
            let RawFd { number, kind, inode, .. } = fd.raw;
            // Up to 1.20 a pipe wakes the poller (`src/runtime/netpoll_epoll.go`), and only one end of it is watched.
            let wakes = found.wakers.contains(&number) || kind == FdKind::Pipe && pipes.contains(&inode);
            if wakes || found.instances.contains(&number) {
                fd.owner = Owner::Runtime;
            }
            fd.poll = found.polls.get(&number).copied();
        }
    }

    /// Joins the goroutines that wait.
    pub fn join_goroutines(&mut self, snapshot: &Snapshot) {
        let by_g: HashMap<u64, u32> =
            snapshot.goroutines.iter().zip(0..).map(|(goroutine, index)| (goroutine.g, index)).collect();
        let index_of = |g: u64| {
            let index = by_g.get(&g).copied()?;
            // It has gone on since: its word was read before.
            snapshot.goroutines.get(index as usize).filter(|goroutine| goroutine.state.waits())?;
            Some(index)
        };
        for poll in self.list.iter_mut().filter_map(|fd| fd.poll.as_mut()) {
            poll.reader.find(&index_of);
            poll.writer.find(&index_of);
        }
    }

    /// Joins the objects that have them; before [`Fds::join_goroutines`], because an object may lead to who waits. `before`: what
    /// was open when the objects were read; of what was opened since nothing is said.
    ///
    /// # Errors
    /// The target has ended or may not be read.
    pub fn join_objects(&mut self, view: &View<'_>, files: &Files, before: &RawFds) -> Result<(), Fault> {
        let was_open = |raw: &RawFd| {
            let index = before.list.binary_search_by_key(&raw.number, |fd| fd.number).ok();
            let fd = index.and_then(|index| before.list.get(index));
            fd.is_some_and(|fd| {
                (fd.inode, &fd.path, fd.kind.is_socket()) == (raw.inode, &raw.path, raw.kind.is_socket())
            })
        };
        let mut by_number: HashMap<u32, Vec<u32>> = HashMap::new();
        for (file, index) in files.list.iter().zip(0..) {
            by_number.entry(file.number).or_default().push(index);
        }
        let mut unread: Vec<(u32, u64)> = Vec::new();
        for fd in self.list.iter_mut().filter(|fd| fd.owner == Owner::Unknown) {
            let candidates = by_number.get(&fd.raw.number).map(Vec::as_slice).unwrap_or_default();
            let poll = fd.poll.map_or(0, |poll| poll.addr);
            let best = best(candidates, &files.list, poll);
            fd.owner = match best {
                Some((index, file)) => {
                    if fd.poll.is_none() && file.poll != 0 {
                        unread.push((fd.raw.number, file.poll));
                    }
                    Owner::Object(index)
                }
                None if files.doubt.is_none() && fd.poll.is_none() && was_open(&fd.raw) => Owner::NotGos,
                None => Owner::Unknown,
            };
        }
        let polls = polls::read(view, &unread)?;
        for fd in self.list.iter_mut().filter(|fd| fd.poll.is_none()) {
            fd.poll = polls.get(&fd.raw.number).copied();
        }
        Ok(())
    }
}

/// Which of these objects, which all say that they have a descriptor, has it: the one with its `pollDesc`, and of several
/// the one that something leads to.
fn best<'f>(candidates: &[u32], list: &'f [FileObject], poll: u64) -> Option<(u32, &'f FileObject)> {
    let objects = candidates.iter().filter_map(|index| Some((*index, list.get(*index as usize)?)));
    objects
        .filter(|(_, file)| poll == 0 || file.poll == 0 || file.poll == poll)
        .max_by_key(|(_, file)| (file.poll != 0 && file.poll == poll, file.kept))
}

#[cfg(test)]
mod tests;

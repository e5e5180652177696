//! The open descriptors of a process, from `/proc/PID/fd` and `/proc/PID/fdinfo`.
//!
//! A link in `/proc/PID/fd` says what a descriptor is without touching the file: one on a file system that does not answer is
//! never asked.

use super::Process;
use super::sockets::{Sockets, Tables};
use crate::budget::{self, Exhausted};
use crate::patience::{self, What};
use rustix::fs::readlinkat;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};

/// Most descriptors that are told apart; the kernel's own limit for a process (`fs.nr_open`) is the same at first.
const MAX_FDS: usize = 1 << 20;
/// Bytes of all paths that are kept; those beyond are empty.
const MAX_PATHS: usize = 32 << 20;
/// Entries of all epoll instances of a process, and bytes of a line that are looked at.
const MAX_ENTRIES: usize = 1 << 20;
const MAX_LINE: u64 = 4 << 10;

/// What a descriptor leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FdKind {
    Tcp,
    Udp,
    Unix,
    /// Of another protocol, or of another network namespace than the process has now.
    Socket,
    Pipe,
    /// Something with a path: a file, a folder, a named pipe.
    File,
    /// Something below `/dev`.
    Device,
    Epoll,
    Eventfd,
    Timerfd,
    Signalfd,
    Inotify,
    Pidfd,
    Other,
}

impl FdKind {
    /// As text and JSON have it.
    pub const fn word(self) -> &'static str {
        match self {
            FdKind::Tcp => "tcp",
            FdKind::Udp => "udp",
            FdKind::Unix => "unix",
            FdKind::Socket => "socket",
            FdKind::Pipe => "pipe",
            FdKind::File => "file",
            FdKind::Device => "device",
            FdKind::Epoll => "eventpoll",
            FdKind::Eventfd => "eventfd",
            FdKind::Timerfd => "timerfd",
            FdKind::Signalfd => "signalfd",
            FdKind::Inotify => "inotify",
            FdKind::Pidfd => "pidfd",
            FdKind::Other => "other",
        }
    }

    /// Whether it is one end of a connection, or waits for some.
    pub const fn is_socket(self) -> bool {
        matches!(self, FdKind::Tcp | FdKind::Udp | FdKind::Unix | FdKind::Socket)
    }
}

/// A descriptor as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFd {
    pub number: u32,
    pub kind: FdKind,
    /// Of a socket or pipe: both ends of a pipe have the same; 0 of others.
    pub inode: u64,
    /// Of something with a path its path in the mount namespace of the process, of what else has no kind of its own what the
    /// kernel calls it. Empty: it has none, or there was no room.
    pub path: Box<str>,
}

/// The descriptors of a process, by their numbers.
#[derive(Debug, Default)]
pub struct RawFds {
    pub list: Vec<RawFd>,
    /// How many more there are than were looked at.
    pub left_out: u64,
    pub sockets: Sockets,
}

/// A descriptor in an epoll instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollEntry {
    pub number: u32,
    /// What the program noted with it.
    pub data: u64,
}

/// Why descriptors cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FdsError {
    #[error("its descriptors cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it has too many descriptors: {0}")]
    Exhausted(#[from] Exhausted),
}

impl Process {
    /// Its open descriptors; of sockets only that they are some. One that is closed meanwhile is left out.
    ///
    /// # Errors
    /// The process has ended, may not be looked into, or has more descriptors than the budget has room for.
    pub fn open_fds(&self) -> Result<RawFds, FdsError> {
        let _reading = patience::reading(What::Proc);
        let mut found = RawFds::default();
        self.list_fds(&mut found)?;
        found.list.sort_unstable_by_key(|fd| fd.number);
        Ok(found)
    }

    /// Its open descriptors, and what the kernel tells of those that are sockets.
    ///
    /// # Errors
    /// As [`Process::open_fds`].
    pub fn fds(&self) -> Result<RawFds, FdsError> {
        let mut found = self.open_fds()?;
        let inodes = found.list.iter().filter(|fd| fd.kind.is_socket()).map(|fd| fd.inode);
        found.sockets = Tables::of(self.pid()).read(inodes)?;
        for fd in found.list.iter_mut().filter(|fd| fd.kind.is_socket()) {
            fd.kind = found.sockets.kind(fd.inode);
        }
        Ok(found)
    }

    fn list_fds(&self, found: &mut RawFds) -> Result<(), FdsError> {
        let path = super::proc_path(self.pid(), "fd");
        let (directory, mut buffer, mut left) = (File::open(&path)?, Vec::new(), MAX_PATHS);
        for entry in fs::read_dir(&path)? {
            let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if found.list.len() >= MAX_FDS {
                found.left_out += 1;
                continue;
            }
            // It may have been closed since it was listed.
            let Ok(link) = readlinkat(&directory, number.to_string(), std::mem::take(&mut buffer)) else {
                continue;
            };
            let (kind, inode, path) = parse_link(&link.to_string_lossy());
            let path = if path.len() <= left { path } else { String::new() };
            left -= path.len();
            budget::reserve(&mut found.list, 1)?;
            found.list.push(RawFd { number, kind, inode, path: path.into() });
            buffer = link.into_bytes();
        }
        Ok(())
    }

    /// How many descriptors it may have open (`RLIMIT_NOFILE`, the soft limit). `None`: any number, or the kernel does not say.
    pub fn most_fds(&self) -> Option<u64> {
        let limits = self.proc_text("limits").ok()?;
        super::status_field(&limits, "Max open files")?.split_ascii_whitespace().next()?.parse().ok()
    }

    /// What an epoll instance of this process, by the number of its descriptor, watches. Handed over one by one; returns
    /// whether that was all.
    ///
    /// The kernel holds the instance while it writes the list (`fs/eventpoll.c`: `ep_show_fdinfo`), some microseconds for each
    /// entry, and `epoll_wait` of the program waits.
    ///
    /// # Errors
    /// It is none, has been closed, or may not be looked into.
    pub fn epoll(&self, number: u32, then: &mut dyn FnMut(EpollEntry)) -> io::Result<bool> {
        let _reading = patience::reading(What::Proc);
        let file = File::open(super::proc_path(self.pid(), "fdinfo").join(number.to_string()))?;
        let (mut file, mut line) = (BufReader::with_capacity(1 << 16, file), Vec::new());
        for _ in 0..MAX_ENTRIES {
            line.clear();
            if file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(true);
            }
            if let Some(entry) = std::str::from_utf8(&line).ok().and_then(parse_entry) {
                then(entry);
            }
        }
        Ok(false)
    }
}

/// What a link in `/proc/PID/fd` leads to: its kind, its inode and its path.
fn parse_link(link: &str) -> (FdKind, u64, String) {
    let inode = |rest: &str| rest.strip_suffix(']').and_then(|inode| inode.parse().ok()).unwrap_or(0);
    if let Some(rest) = link.strip_prefix("socket:[") {
        return (FdKind::Socket, inode(rest), String::new());
    }
    if let Some(rest) = link.strip_prefix("pipe:[") {
        return (FdKind::Pipe, inode(rest), String::new());
    }
    if link.starts_with("/dev/") {
        return (FdKind::Device, 0, link.to_owned());
    }
    if link.starts_with('/') {
        return (FdKind::File, 0, link.to_owned());
    }
    let kind = match link.strip_prefix("anon_inode:").unwrap_or_default() {
        "[eventpoll]" => FdKind::Epoll,
        "[eventfd]" => FdKind::Eventfd,
        "[timerfd]" => FdKind::Timerfd,
        "[signalfd]" => FdKind::Signalfd,
        "inotify" | "[inotify]" => FdKind::Inotify,
        "[pidfd]" => FdKind::Pidfd,
        // Since Linux 6.9 pidfds have a file system of their own.
        _ if link.starts_with("pidfd:") => FdKind::Pidfd,
        _ => return (FdKind::Other, 0, link.to_owned()),
    };
    (kind, 0, String::new())
}

/// A line of an epoll instance in `/proc/PID/fdinfo` (`fs/eventpoll.c`: `ep_show_fdinfo`).
fn parse_entry(line: &str) -> Option<EpollEntry> {
    let number = line.strip_prefix("tfd:")?.split_ascii_whitespace().next()?.parse().ok()?;
    let data = line.split_once("data:")?.1.split_ascii_whitespace().next()?;
    Some(EpollEntry { number, data: u64::from_str_radix(data, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn links_say_what_they_are() {
        for (link, kind, inode, path) in [
            ("socket:[4711]", FdKind::Socket, 4711, ""),
            ("pipe:[12]", FdKind::Pipe, 12, ""),
            ("pipe:[x]", FdKind::Pipe, 0, ""),
            ("/dev/null", FdKind::Device, 0, "/dev/null"),
            ("/tmp/a b (deleted)", FdKind::File, 0, "/tmp/a b (deleted)"),
            ("anon_inode:[eventpoll]", FdKind::Epoll, 0, ""),
            ("anon_inode:[eventfd]", FdKind::Eventfd, 0, ""),
            ("anon_inode:[timerfd]", FdKind::Timerfd, 0, ""),
            ("anon_inode:inotify", FdKind::Inotify, 0, ""),
            ("anon_inode:[pidfd]", FdKind::Pidfd, 0, ""),
            ("pidfd:[3]", FdKind::Pidfd, 0, ""),
            ("anon_inode:bpf-map", FdKind::Other, 0, "anon_inode:bpf-map"),
            ("", FdKind::Other, 0, ""),
        ] {
            assert_eq!(parse_link(link), (kind, inode, path.to_owned()), "{link}");
        }
    }

    #[test]
    fn lines_of_epoll_are_read_and_others_are_not() {
        let line = "tfd:       26 events: 80002019 data:     7f3f1c0a8e20  pos:0 ino:2a1b sdev:9\n";
        assert_eq!(parse_entry(line), Some(EpollEntry { number: 26, data: 0x7f3f_1c0a_8e20 }));
        for other in ["pos:\t0\n", "tfd: x data: 1", "tfd: 1", "tfd: 1 data: g", "tfd: 99999999999 data: 1"] {
            assert_eq!(parse_entry(other), None, "{other}");
        }
    }

    #[test]
    fn our_own_descriptors_are_found() {
        let process = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let null = File::open("/dev/null").unwrap();
        let found = process.fds().unwrap();
        let by = |number: i32| found.list.iter().find(|fd| fd.number == number.unsigned_abs()).unwrap();
        assert_eq!(by(listener.as_raw_fd()).kind, FdKind::Tcp);
        assert_eq!(&*by(null.as_raw_fd()).path, "/dev/null");
        let socket = found.sockets.get(by(listener.as_raw_fd()).inode).unwrap();
        assert_eq!(socket.local, Some(listener.local_addr().unwrap()));
        assert_eq!(socket.state.word(), "LISTEN");
        assert!(process.most_fds().is_none_or(|most| most >= found.list.len() as u64));
    }
}

//! The threads of a process, from `/proc/PID/task` (`fs/proc/array.c`: `proc_task_name`, `task_state`).

use super::{Process, status_field};
use crate::patience::{self, What};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// A thread at the moment of the look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its id in the PID namespace of the process, which is the one that Go's `m.procid` has.
    pub inner: u32,
    /// Its state as in ps(1): `R` runs, `S` sleeps, `D` sleeps uninterruptibly, `T` is stopped, `t` is stopped by its
    /// tracer, `Z` and `X` have ended.
    pub state: char,
    /// The id of the thread that traces it, in our PID namespace; 0: none.
    pub tracer: i32,
}

impl Process {
    /// The ids of its threads in our PID namespace.
    ///
    /// # Errors
    /// The process has ended.
    pub fn threads(&self) -> io::Result<Vec<i32>> {
        list(self.pid())
    }

    /// One of its threads, by its id in our PID namespace. `None`: the process has no such thread (any more).
    pub fn thread(&self, tid: i32) -> Option<Thread> {
        thread(self.pid(), tid)
    }
}

/// As [`Process::threads`], for a tracer that holds a PID only.
pub(crate) fn list(pid: i32) -> io::Result<Vec<i32>> {
    let _reading = patience::reading(What::Proc);
    let mut tids = Vec::new();
    for entry in fs::read_dir(directory(pid))? {
        tids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(tids)
}

/// As [`Process::thread`], for a tracer that holds a PID only.
pub(crate) fn thread(pid: i32, tid: i32) -> Option<Thread> {
    let _reading = patience::reading(What::Proc);
    // As bytes: the name, in the first line, may be no UTF-8.
    let status = fs::read(directory(pid).join(tid.to_string()).join("status")).ok()?;
    parse(&String::from_utf8_lossy(&status))
}

/// The process of a thread, which may be any thread of the host.
pub(crate) fn process_of(tid: i32) -> Option<i32> {
    let status = fs::read(Path::new("/proc").join(tid.to_string()).join("status")).ok()?;
    status_field(&String::from_utf8_lossy(&status), "Tgid:")?.parse().ok()
}

fn directory(pid: i32) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("task")
}

fn parse(status: &str) -> Option<Thread> {
    Some(Thread {
        // The line lists the ids from our own namespace inwards; the last is that of its own.
        inner: status_field(status, "NSpid:")?.split_ascii_whitespace().next_back()?.parse().ok()?,
        state: status_field(status, "State:")?.chars().next()?,
        tracer: status_field(status, "TracerPid:")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_among_our_own_threads() {
        let process = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let tid = rustix::thread::gettid().as_raw_nonzero().get();
        assert!(process.threads().unwrap().contains(&tid));
        let ourselves = process.thread(tid).unwrap();
        assert_eq!((ourselves.inner, ourselves.state), (tid.unsigned_abs(), 'R'));
        assert_eq!(process.thread(1), None, "a thread of another process");
    }

    #[test]
    fn the_innermost_namespace_counts() {
        let status = "Name:\tx\nState:\tt (tracing stop)\nTracerPid:\t12\nNSpid:\t4711\t30\t1\n";
        assert_eq!(parse(status), Some(Thread { inner: 1, state: 't', tracer: 12 }));
        assert_eq!(parse("State:\tS (sleeping)\nTracerPid:\t0\nNSpid:\t\n"), None);
        assert_eq!(parse(""), None);
    }
}

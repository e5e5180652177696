//! Stops a process, for one consistent view of its memory.
//!
//! It uses ptrace (`PTRACE_SEIZE`, `PTRACE_INTERRUPT`), because the kernel resumes every thread when the tracer ends,
//! even by `kill -9` (ptrace(2), "Death under ptrace"; `kernel/ptrace.c: exit_ptrace`). After `SIGSTOP` the process
//! would stand still until a person noticed, and its parent would see the stop (`SIGCHLD`, `WUNTRACED`). The cgroup
//! freezer would leave it frozen, too, and stop everything else in the cgroup.
//!
//! The process can notice this: a system call that waits is interrupted. The kernel restarts it, except for a few
//! that then end with `EINTR` (`epoll_wait`, `io_getevents`, `semop`: signal(7)). Go's runtime and library expect
//! that; C code in the process should.
//!
//! Only the thread that seized a thread may read its registers and detach it. So one thread of ours makes all ptrace
//! calls; when it ends, the kernel releases every thread that it could not detach.
//!
//! This process must not be a parent that waits for the stopped process with `waitpid`: it would be told of the
//! stops, too.

#[cfg(test)]
mod tests;
mod tracer;

use super::ThreadRegisters;
use crate::process::Process;
use std::io;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracer::Tracer;

/// How long all threads together may take to stop. Most stop within microseconds; one in an uninterruptible sleep may
/// take any time, while the others already stand still.
const LIMIT: Duration = Duration::from_secs(2);

/// Why a process could not be stopped. The threads that were stopped already go on.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// Another process traces it: a thread has at most one tracer.
    #[error(
        "process {pid} cannot be stopped: process {tracer} traces it already (a debugger, strace); end that first, \
         or scan without --freeze"
    )]
    Traced { pid: i32, tracer: i32 },
    /// The kernel does not allow this user to trace it.
    #[error(
        "process {0} cannot be stopped: needs root or CAP_SYS_PTRACE (run with sudo), and less than 3 in \
         /proc/sys/kernel/yama/ptrace_scope"
    )]
    Denied(i32),
    #[error("process {0} has ended")]
    Gone(i32),
    /// A thread sleeps uninterruptibly in the kernel.
    #[error(
        "process {pid} did not stop within {limit:?}: its thread {tid} is in state {state} (D: an uninterruptible sleep \
         in the kernel, a slow disk or a child between vfork and exec); it goes on: try again, or scan without --freeze"
    )]
    Stuck {
        pid: i32,
        /// The thread, in our PID namespace.
        tid: i32,
        /// Its state as in ps(1).
        state: char,
        limit: Duration,
    },
    #[error("process {pid} cannot be stopped")]
    Io { pid: i32, source: io::Error },
}

/// A process all of whose threads stand still until this is dropped.
///
/// Signals that are sent to it meanwhile reach it afterwards. A process that was stopped before (`SIGSTOP`) is stopped
/// afterwards. It can still be killed; its memory is gone then.
#[derive(Debug)]
pub struct Frozen {
    registers: Vec<ThreadRegisters>,
    since: Instant,
    /// The tracing thread stands still until this is dropped.
    hold: Option<mpsc::Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Frozen {
    /// Stops every thread of the process, within two seconds.
    ///
    /// # Errors
    /// [`FreezeError`]; the process goes on then.
    pub fn stop(process: &Process) -> Result<Frozen, FreezeError> {
        let pid = process.pid();
        let (hold, held) = mpsc::channel::<()>();
        let (say, stopped) = mpsc::channel();
        let trace = move || {
            let since = Instant::now();
            let mut tracer = Tracer::new(pid);
            let registers = tracer.stop(LIMIT);
            let whole = registers.is_ok();
            // Before the error is told: nothing of the process may stand still while the user reads it.
            if !whole {
                tracer.release();
            }
            if say.send(registers.map(|registers| (registers, since))).is_ok() && whole {
                // Nothing is ever sent: `recv` returns when the other end is dropped.
                let _ = held.recv();
            }
            tracer.release();
        };
        let tracer = std::thread::Builder::new().name("freeze".into()).spawn(trace);
        let tracer = Some(tracer.map_err(|source| FreezeError::Io { pid, source })?);
        let panicked = || FreezeError::Io { pid, source: io::Error::other("the tracing thread ended") };
        let (registers, since) = stopped.recv().unwrap_or_else(|_| Err(panicked()))?;
        let frozen = Frozen { registers, since, hold: Some(hold), tracer };
        // Threads are seized by number: another process may have got the PID before.
        if process.alive() { Ok(frozen) } else { Err(FreezeError::Gone(pid)) }
    }

    /// The registers of its threads, including those that stopped inside a system call.
    pub fn registers(&self) -> &[ThreadRegisters] {
        &self.registers
    }

    /// How long it has stood still, from the first request to stop.
    pub fn stopped_for(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.hold.take());
        if let Some(tracer) = self.tracer.take() {
            // A panic of the tracing thread is no reason to panic here: the kernel has released what it held.
            let _ = tracer.join();
        }
    }
}

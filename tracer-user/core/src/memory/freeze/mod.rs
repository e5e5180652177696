//! Stops a process, for one consistent view of its memory.
//!
//! By ptrace (`PTRACE_SEIZE`, `PTRACE_INTERRUPT`), because the kernel itself lets everything go on when the
//! tracer ends, however it ends, also by `kill -9` (ptrace(2), "Death under ptrace"; `kernel/ptrace.c:
//! exit_ptrace`). After `SIGSTOP` the process would stand still until a person noticed, and its parent sees
//! the stop (`SIGCHLD`, `WUNTRACED`). The cgroup freezer leaves it frozen, too, and stops whatever else is in
//! the cgroup.
//!
//! What the process itself can notice: a system call that waits is interrupted, and the kernel begins it
//! anew, except for a few that end with `EINTR` then (`epoll_wait`, `io_getevents`, `semop`: signal(7)). Go's
//! runtime and its library expect that, C code in the process should.
//!
//! Only the thread that seized a thread may ask for its registers and detach it. So a thread of its own does
//! all that; with its end the kernel releases what it could not detach.
//!
//! A parent that waits for the stopped process with `waitpid` must not be this very process: it would be told
//! of the stops, too.

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

/// How long all threads together may take to stop.
const LIMIT: Duration = Duration::from_secs(2);

/// Why a process could not be stopped. Whatever was stopped of it goes on again.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// A process can have one tracer only.
    #[error(
        "process {pid} cannot be stopped: process {tracer} traces it already (a debugger, strace); end that first, \
         or scan without --freeze"
    )]
    Traced { pid: i32, tracer: i32 },
    /// The kernel does not let us.
    #[error(
        "process {0} cannot be stopped: needs root or CAP_SYS_PTRACE (run with sudo), and less than 3 in \
         /proc/sys/kernel/yama/ptrace_scope"
    )]
    Denied(i32),
    #[error("process {0} has ended")]
    Gone(i32),
    /// A thread sleeps in the kernel and cannot be woken.
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
/// Signals that are sent to it meanwhile reach it afterwards; a process that was stopped before (`SIGSTOP`)
/// is so afterwards. It can still be killed; its memory is gone then.
#[derive(Debug)]
pub struct Frozen {
    registers: Vec<ThreadRegisters>,
    since: Instant,
    /// The tracer waits for this to be closed.
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
            if !whole {
                tracer.release();
            }
            if say.send(registers.map(|registers| (registers, since))).is_ok() && whole {
                // Nothing is ever sent: this ends when the other end is dropped.
                let _ = held.recv();
            }
            tracer.release();
        };
        let tracer = std::thread::Builder::new().name("freeze".into()).spawn(trace);
        let tracer = Some(tracer.map_err(|source| FreezeError::Io { pid, source })?);
        let panicked = || FreezeError::Io { pid, source: io::Error::other("the tracing thread ended") };
        let (registers, since) = stopped.recv().unwrap_or_else(|_| Err(panicked()))?;
        let frozen = Frozen { registers, since, hold: Some(hold), tracer };
        // Another one may have got its number before we seized it.
        if process.alive() { Ok(frozen) } else { Err(FreezeError::Gone(pid)) }
    }

    /// The registers of its threads, also of those that stopped inside a system call.
    pub fn registers(&self) -> &[ThreadRegisters] {
        &self.registers
    }

    /// Since when it stands still.
    pub fn stopped_for(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.hold.take());
        if let Some(tracer) = self.tracer.take() {
            // It cannot panic; and if it did, the kernel has released what it held.
            let _ = tracer.join();
        }
    }
}

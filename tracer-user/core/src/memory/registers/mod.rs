//! The registers of threads that run, without stopping them.
//!
//! A goroutine that runs may have in a register what is nowhere else; its saved state is stale. The kernel's
//! profiler (`perf_event_open`, the software event `cpu-clock`) interrupts each thread about a thousand times
//! in each second that the thread runs, and notes its general registers as they are in user mode, also where
//! it finds it in the kernel. Vector registers it does not note.
//!
//! What it costs the process: a timer interrupt for each sample, so nothing while a thread waits, and well
//! below one percent of the time that it runs; switches to or from a thread take a little longer. Not to be
//! told from other influences where it was measured (two processors of a virtual machine).

mod perf;

use super::ThreadRegisters;
use crate::process::Process;
use perf::Ring;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Threads that are watched at the same time; each takes a descriptor and a ring.
const MAX_THREADS: usize = 4096;
/// Samples that are given at once; more stay where they are until the next time.
const MAX_SAMPLES: usize = 1 << 16;

#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The kernel does not let us.
    #[error(
        "the registers of the running threads of process {0} cannot be read: needs root or CAP_PERFMON (run with sudo)"
    )]
    Denied(i32),
    #[error("process {0} has ended")]
    Gone(i32),
    /// Anything else: a kernel without `CONFIG_PERF_EVENTS`, a container that forbids `perf_event_open`.
    #[error("the registers of the running threads of process {pid} cannot be read: no perf events here")]
    Io { pid: i32, source: io::Error },
}

/// Samples the registers of a process's threads until it is dropped.
#[derive(Debug)]
pub struct Sampler<'a> {
    process: &'a Process,
    threads: BTreeMap<i32, Watched>,
    unwatched: usize,
    lost: u64,
}

/// A thread, its id in its own PID namespace, and what was noted of it.
#[derive(Debug)]
struct Watched {
    inner: u32,
    ring: Ring,
}

impl<'a> Sampler<'a> {
    /// Begins with all threads that there are.
    ///
    /// # Errors
    /// [`SampleError`], if not one of them can be watched.
    pub fn start(process: &'a Process) -> Result<Sampler<'a>, SampleError> {
        let pid = process.pid();
        let mut sampler = Sampler { process, threads: BTreeMap::new(), unwatched: 0, lost: 0 };
        let refused = sampler.watch().map_err(|_| SampleError::Gone(pid))?;
        match refused {
            _ if !process.alive() => Err(SampleError::Gone(pid)),
            Some(error) if sampler.threads.is_empty() => Err(match error {
                Errno::PERM | Errno::ACCESS => SampleError::Denied(pid),
                error => SampleError::Io { pid, source: error.into() },
            }),
            _ => Ok(sampler),
        }
    }

    /// What was sampled since the last time, of each thread in the order of time; then watches those threads
    /// that have been started since, too.
    pub fn take(&mut self) -> Vec<ThreadRegisters> {
        let mut samples = Vec::new();
        // First: what ends after this question is still read to its end the next time.
        let ended = self.ended();
        for watched in self.threads.values_mut() {
            if samples.len() >= MAX_SAMPLES {
                break;
            }
            let Watched { inner, ring } = watched;
            self.lost += ring.drain(|bytes| perf::parse(bytes, *inner, &mut samples));
        }
        self.threads.retain(|tid, _| !ended.contains(tid));
        // Fails only where the process has ended.
        let _ = self.watch();
        samples
    }

    /// Samples that the kernel had no room for, as far as it has said so.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Threads that could not be watched when they were last listed: there were too many.
    pub fn unwatched(&self) -> usize {
        self.unwatched
    }

    /// Watches those threads that are not watched yet. Tells why that failed for one of them.
    fn watch(&mut self) -> io::Result<Option<Errno>> {
        let mut refused = None;
        self.unwatched = 0;
        for tid in self.process.threads()? {
            if self.threads.contains_key(&tid) {
                continue;
            }
            if self.threads.len() >= MAX_THREADS {
                self.unwatched += 1;
                continue;
            }
            match Ring::open(tid) {
                // Only now is it certain whose thread it is: ids are used again.
                Ok(ring) => {
                    let watched =
                        self.process.thread(tid).map(|thread| Watched { inner: thread.inner, ring });
                    self.threads.extend(watched.map(|watched| (tid, watched)));
                }
                // It has ended since it was listed.
                Err(Errno::SRCH) => {}
                Err(error) => {
                    self.unwatched += 1;
                    refused = Some(error);
                }
            }
        }
        Ok(refused)
    }

    /// The threads that have ended: the kernel hangs their events up (`kernel/events/core.c: perf_poll`).
    fn ended(&self) -> BTreeSet<i32> {
        let mut events: Vec<_> = self
            .threads
            .values()
            .map(|watched| PollFd::new(watched.ring.event(), PollFlags::empty()))
            .collect();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if poll(&mut events, Some(&now)).is_err() {
            return BTreeSet::new();
        }
        let hung_up = events.iter().map(|event| event.revents().contains(PollFlags::HUP));
        self.threads.keys().zip(hung_up).filter(|(_, hung_up)| *hung_up).map(|(tid, _)| *tid).collect()
    }
}

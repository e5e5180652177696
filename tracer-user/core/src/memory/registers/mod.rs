//! The registers of running threads, sampled without stopping them.
//!
//! A running goroutine may hold a pointer in a register and nowhere else; the state saved in its `g` is stale. The
//! kernel's profiler (`perf_event_open`, the software event `cpu-clock`) interrupts each thread about a thousand
//! times in each second that the thread runs, and records its general registers as they were in user mode, even if
//! the interrupt finds the thread in the kernel. It does not record vector registers.
//!
//! The cost to the process is a timer interrupt for each sample: nothing while a thread waits, and well below one
//! percent of the time that it runs. Switches to and from a thread take a little longer. On the virtual machine with
//! two CPUs where it was measured the cost could not be told from noise.

mod perf;

use super::ThreadRegisters;
use crate::process::Process;
use perf::Ring;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// The most threads that are sampled at the same time. Each takes a descriptor and a ring of 64 KiB.
const MAX_THREADS: usize = 4096;
/// About the most samples that one [`Sampler::take`] returns; further ones stay in their rings.
const MAX_SAMPLES: usize = 1 << 16;

#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The kernel does not allow this user to sample.
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

/// A thread that is sampled: its id in its own PID namespace, and the ring of its samples.
#[derive(Debug)]
struct Watched {
    inner: u32,
    ring: Ring,
}

impl<'a> Sampler<'a> {
    /// Begins to sample all threads that the process has now.
    ///
    /// # Errors
    /// [`SampleError`], if not a single thread can be sampled.
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

    /// The samples since the last call, of each thread in the order of time. Afterwards begins to sample threads that
    /// were started meanwhile.
    pub fn take(&mut self) -> Vec<ThreadRegisters> {
        let mut samples = Vec::new();
        // Asked before the rings are drained: a thread that ends after this question is drained to its end by the
        // next call.
        let ended = self.ended();
        for watched in self.threads.values_mut() {
            if samples.len() >= MAX_SAMPLES {
                break;
            }
            let Watched { inner, ring } = watched;
            self.lost += ring.drain(|bytes| perf::parse(bytes, *inner, &mut samples));
        }
        self.threads.retain(|tid, _| !ended.contains(tid));
        // Fails only if the process has ended; the samples from before are still good.
        let _ = self.watch();
        samples
    }

    /// Samples that found their ring full, as far as the kernel has reported it by now.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Threads that could not be sampled when they were last listed: there were too many, or the kernel refused.
    pub fn unwatched(&self) -> usize {
        self.unwatched
    }

    /// Begins to sample the threads that are not sampled yet. Returns the last refusal of the kernel, if there was one.
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
                // Asked after the event was opened: ids are used again, and only now is it certain that the thread is
                // of this process.
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

    /// The threads that have ended: the kernel signals a hang-up of their events (`kernel/events/core.c: perf_poll`).
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

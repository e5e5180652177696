//! The ptrace calls. The kernel accepts them only from the thread that seized, so one thread makes them all.

use super::FreezeError;
use crate::memory::ThreadRegisters;
use crate::process::threads;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::ptr::null_mut;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The set of general registers for `PTRACE_GETREGSET` (`include/uapi/linux/elf.h`).
const NT_PRSTATUS: c_int = 1;

/// amd64 (`struct user_regs_struct` in `arch/x86/include/asm/user_64.h`): fifteen general registers, `orig_rax`, `rip`,
/// `cs`, `eflags`, `rsp`, and segments.
#[cfg(target_arch = "x86_64")]
mod arch {
    pub(super) const LEN: usize = 27;
    pub(super) const GENERAL: usize = 15;
    pub(super) const PC: usize = 16;
    pub(super) const SP: usize = 19;
    /// `NT_X86_XSTATE`: the area that XSAVE writes, with all vector registers.
    pub(super) const VECTOR: super::c_int = 0x202;
}

/// arm64 (`struct user_pt_regs` in `arch/arm64/include/uapi/asm/ptrace.h`): `x0` to `x30`, `sp`, `pc`,
/// `pstate`.
#[cfg(target_arch = "aarch64")]
mod arch {
    pub(super) const LEN: usize = 34;
    pub(super) const GENERAL: usize = 31;
    pub(super) const SP: usize = 31;
    pub(super) const PC: usize = 32;
    /// `NT_PRFPREG`, the set with the vector registers `v0` to `v31`.
    pub(super) const VECTOR: super::c_int = 2;
}

/// The most words of vector registers that are read. AVX-512 and AMX have fewer than half as many.
const MAX_VECTOR: usize = 4096;

/// The pause between two questions whether the threads have stopped: `SHORT` at first, because most stop within
/// microseconds, then doubled up to `LONG`.
const SHORT: Duration = Duration::from_micros(20);
const LONG: Duration = Duration::from_millis(1);

/// How far a thread is on its way to a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Asked,
    /// It stands still, and must be given this signal when it is detached; 0: none.
    Stopped(c_int),
    Ended,
}

/// Stops the threads of a process. All its methods must be called on one thread: the kernel refuses calls of another.
pub(super) struct Tracer {
    pid: i32,
    threads: BTreeMap<i32, Stop>,
}

impl Tracer {
    pub(super) fn new(pid: i32) -> Tracer {
        Tracer { pid, threads: BTreeMap::new() }
    }

    /// Stops all threads and returns their registers.
    pub(super) fn stop(&mut self, limit: Duration) -> Result<Vec<ThreadRegisters>, FreezeError> {
        let deadline = Instant::now() + limit;
        // A thread that still runs may start others. The kernel's list is complete for certain only if no thread came
        // or went while it was read, so it has to show nothing new twice in a row.
        let mut quiet = 0;
        while quiet < 2 {
            let listed = threads::list(self.pid).map_err(|_| FreezeError::Gone(self.pid))?;
            let new: Vec<_> = listed.into_iter().filter(|tid| !self.threads.contains_key(tid)).collect();
            quiet = if new.is_empty() { quiet + 1 } else { 0 };
            new.iter().try_for_each(|tid| self.seize(*tid))?;
            // All are seized before the first is interrupted: the time between first and last stop is the shortest so.
            new.iter().for_each(|tid| self.interrupt(*tid));
            self.wait(deadline, limit)?;
        }
        let mut registers = Vec::new();
        for (&tid, _) in self.threads.iter().filter(|(_, stop)| matches!(stop, Stop::Stopped(_))) {
            // Killed meanwhile: SIGKILL cannot be held back.
            let Some(thread) = threads::thread(self.pid, tid) else { continue };
            registers.extend(registers_of(tid, thread.inner));
        }
        Ok(registers)
    }

    /// Becomes the tracer of a thread without stopping it.
    pub(super) fn seize(&mut self, tid: i32) -> Result<(), FreezeError> {
        let pid = self.pid;
        match request(libc::PTRACE_SEIZE, tid, 0) {
            Ok(()) => {
                self.threads.insert(tid, Stop::Asked);
                Ok(())
            }
            // It has ended since it was listed.
            Err(Errno::SRCH) => Ok(()),
            Err(Errno::PERM | Errno::ACCESS) => match threads::thread(pid, tid) {
                Some(thread) if has_ended(thread) => {
                    self.threads.insert(tid, Stop::Ended);
                    Ok(())
                }
                None => Ok(()),
                Some(thread) if thread.tracer != 0 => {
                    let tracer = threads::process_of(thread.tracer).unwrap_or(thread.tracer);
                    Err(FreezeError::Traced { pid, tracer })
                }
                Some(_) => Err(FreezeError::Denied(pid)),
            },
            Err(error) => Err(FreezeError::Io { pid, source: error.into() }),
        }
    }

    /// Asks a thread to stop soon. An error is ignored: [`Tracer::wait`] notices a thread that has ended.
    pub(super) fn interrupt(&self, tid: i32) {
        if self.threads.get(&tid) == Some(&Stop::Asked) {
            let _ = request(libc::PTRACE_INTERRUPT, tid, 0);
        }
    }

    /// Waits until all threads that were asked to stop have done so.
    pub(super) fn wait(&mut self, deadline: Instant, limit: Duration) -> Result<(), FreezeError> {
        let pid = self.pid;
        let mut pause = SHORT;
        loop {
            let mut late = None;
            for (&tid, stop) in self.threads.iter_mut().filter(|(_, stop)| **stop == Stop::Asked) {
                *stop = look(tid);
                // The first thread of a process can end before the others, and its tracer is told only after them. So
                // `/proc` is asked, but only once the pause is long: it is far dearer than `waitpid`.
                if *stop == Stop::Asked && pause == LONG {
                    let thread = threads::thread(pid, tid).filter(|thread| !has_ended(*thread));
                    *stop = thread.map_or(Stop::Ended, |_| Stop::Asked);
                    late = thread.map(|thread| (tid, thread.state)).or(late);
                } else if *stop == Stop::Asked {
                    late = Some((tid, '?'));
                }
            }
            let Some((tid, state)) = late else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(FreezeError::Stuck { pid, tid, state, limit });
            }
            sleep(pause);
            pause = (pause * 2).min(LONG);
        }
    }

    /// Resumes all threads. One that has not stopped cannot be detached; the kernel does it when this thread of ours
    /// ends.
    pub(super) fn release(&mut self) {
        for (tid, stop) in std::mem::take(&mut self.threads) {
            if let Stop::Stopped(signal) = stop {
                // An error means that it was killed.
                let _ = request(libc::PTRACE_DETACH, tid, signal);
            }
        }
    }
}

fn has_ended(thread: threads::Thread) -> bool {
    matches!(thread.state, 'Z' | 'X')
}

/// Asks, without waiting, whether a thread has stopped, and why.
fn look(tid: i32) -> Stop {
    // Without `__WALL` only the first thread of a process is waited for.
    let options = WaitOptions::NOHANG | WaitOptions::from_bits_retain(libc::__WALL.cast_unsigned());
    match waitpid(Pid::from_raw(tid), options) {
        Ok(None) => Stop::Asked,
        Ok(Some((_, status))) => match status.stopping_signal() {
            // Both our interruption and a SIGSTOP that already holds the whole process show as this event. A process
            // that was stopped is stopped again once it is detached, so no signal is to be given.
            Some(_) if status.as_raw() >> 16 == libc::PTRACE_EVENT_STOP => Stop::Stopped(0),
            // A signal was about to be delivered. The kernel drops it unless we hand it over when we detach.
            Some(signal) => Stop::Stopped(signal),
            None => Stop::Ended,
        },
        Err(_) => Stop::Ended,
    }
}

/// Makes a ptrace request that takes no address.
fn request(request: c_uint, tid: i32, data: c_int) -> Result<(), Errno> {
    let data = data as usize as *mut c_void;
    // SAFETY: none of the requests that are made here writes to our memory.
    if unsafe { libc::ptrace(request, tid, null_mut::<c_void>(), data) } == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// The registers of a thread that this thread of ours has stopped; `inner` is its id in its own PID namespace.
/// `None`: it has been killed, or is not a 64-bit thread.
///
/// Vector registers are included: code that copies memory holds pointers in them, at times nowhere else.
fn registers_of(tid: i32, inner: u32) -> Option<ThreadRegisters> {
    let mut general = [0; arch::LEN];
    if get(tid, NT_PRSTATUS, &mut general)? != arch::LEN {
        return None;
    }
    let mut vector = vec![0; MAX_VECTOR];
    // A processor without XSAVE does not have this set; then there are no vector words.
    let len = get(tid, arch::VECTOR, &mut vector).unwrap_or(0);
    let mut words = general.get(..arch::GENERAL)?.to_vec();
    // Most are zero, which is no pointer.
    words.extend(vector.get(..len)?.iter().filter(|word| **word != 0));
    Some(ThreadRegisters { tid: inner, pc: *general.get(arch::PC)?, sp: *general.get(arch::SP)?, words })
}

/// Reads a set of registers into `words`. Returns how many words the kernel wrote; `None`: the thread is gone, or it
/// has no such set.
fn get(tid: i32, set: c_int, words: &mut [u64]) -> Option<usize> {
    let mut into = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: size_of_val(words) };
    let set = set as usize as *mut c_void;
    // SAFETY: the kernel writes no more than the vector says, and that is `words`.
    let done = unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, set, (&raw mut into).cast::<c_void>()) };
    (done == 0).then_some(into.iov_len / 8)
}

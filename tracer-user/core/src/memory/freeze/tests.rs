//! Tests with a child that sleeps. The live tests stop Go programs.

use super::tracer::Tracer;
use super::{FreezeError, Frozen, LIMIT};
use crate::process::Process;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};
use std::thread::yield_now;
use std::time::Instant;

struct Sleeper(Child);

impl Sleeper {
    fn start() -> (Sleeper, Process) {
        let sleeper = Sleeper(Command::new("sleep").arg("60").spawn().unwrap());
        let process = Process::open(sleeper.pid()).unwrap();
        sleeper.becomes('S');
        (sleeper, process)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    fn state(&self) -> char {
        crate::process::threads::thread(self.pid(), self.pid()).unwrap().state
    }

    /// Waits until the child is in this state of ps(1); fails after ten seconds.
    fn becomes(&self, state: char) {
        let begin = Instant::now();
        while self.state() != state {
            assert!(begin.elapsed().as_secs() < 10, "in state {}, not {state}", self.state());
            yield_now();
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_stands_still_and_goes_on() {
    let (sleeper, process) = Sleeper::start();
    for _ in 0..20 {
        let frozen = Frozen::stop(&process).unwrap();
        assert_eq!(sleeper.state(), 't');
        let [registers] = frozen.registers() else { panic!("{:?}", frozen.registers()) };
        assert_eq!(registers.tid, sleeper.0.id());
        assert!(registers.pc != 0 && registers.sp != 0 && registers.words.len() >= 15, "{registers:?}");
        assert!(frozen.stopped_for() < LIMIT);
        drop(frozen);
        sleeper.becomes('S');
    }
}

#[test]
fn a_signal_that_came_first_is_delivered_at_the_end() {
    let (mut sleeper, _process) = Sleeper::start();
    let mut tracer = Tracer::new(sleeper.pid());
    tracer.seize(sleeper.pid()).unwrap();
    // It stops for this one, before anybody interrupts it.
    sleeper.signal(Signal::TERM);
    sleeper.becomes('t');
    tracer.interrupt(sleeper.pid());
    assert_eq!(tracer.stop(LIMIT).unwrap().len(), 1);
    assert_eq!(sleeper.0.try_wait().unwrap(), None);
    tracer.release();
    assert_eq!(sleeper.0.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn a_signal_that_comes_meanwhile_is_delivered_at_the_end() {
    let (mut sleeper, process) = Sleeper::start();
    let frozen = Frozen::stop(&process).unwrap();
    sleeper.signal(Signal::TERM);
    assert_eq!(sleeper.state(), 't');
    drop(frozen);
    assert_eq!(sleeper.0.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn what_was_stopped_stays_stopped() {
    let (sleeper, process) = Sleeper::start();
    sleeper.signal(Signal::STOP);
    sleeper.becomes('T');
    drop(Frozen::stop(&process).unwrap());
    sleeper.becomes('T');
    // Also if it is to go on while it stands still.
    let frozen = Frozen::stop(&process).unwrap();
    sleeper.signal(Signal::CONT);
    assert_eq!(sleeper.state(), 't');
    drop(frozen);
    sleeper.becomes('S');
    // And if it is to stop.
    let frozen = Frozen::stop(&process).unwrap();
    sleeper.signal(Signal::STOP);
    drop(frozen);
    sleeper.becomes('T');
}

#[test]
fn a_process_has_one_tracer() {
    let (sleeper, process) = Sleeper::start();
    let frozen = Frozen::stop(&process).unwrap();
    let ourselves = i32::try_from(std::process::id()).unwrap();
    match Frozen::stop(&process) {
        Err(FreezeError::Traced { pid, tracer }) => assert_eq!((pid, tracer), (sleeper.pid(), ourselves)),
        other => panic!("{other:?}"),
    }
    assert_eq!(sleeper.state(), 't', "the other one let it go");
    drop(frozen);
}

#[test]
fn a_process_that_is_killed_has_gone() {
    let (mut sleeper, process) = Sleeper::start();
    let frozen = Frozen::stop(&process).unwrap();
    sleeper.signal(Signal::KILL);
    drop(frozen);
    assert_eq!(sleeper.0.wait().unwrap().signal(), Some(Signal::KILL.as_raw()));
    assert!(matches!(Frozen::stop(&process), Err(FreezeError::Gone(pid)) if pid == sleeper.pid()));
}

/// A process that waits as a parent does between `vfork` and the child's `exec`: only a kill can wake it.
fn waiting_in_vfork() -> i32 {
    let (vfork, kill) = (libc::CLONE_VFORK | libc::SIGCHLD, libc::SIGKILL);
    // SAFETY: both children make system calls only.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            if libc::syscall(libc::SYS_clone, vfork, 0, 0, 0, 0) == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, kill);
                libc::pause();
            }
            libc::_exit(0);
        }
        pid
    }
}

#[test]
fn what_cannot_be_woken_is_said() {
    let pid = waiting_in_vfork();
    let process = Process::open(pid).unwrap();
    let state = || crate::process::threads::thread(pid, pid).unwrap();
    while state().state != 'D' {
        yield_now();
    }
    let begin = Instant::now();
    let error = Frozen::stop(&process).unwrap_err();
    assert!((LIMIT..2 * LIMIT).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    assert!(matches!(error, FreezeError::Stuck { tid, state: 'D', .. } if tid == pid), "{error}");
    // The kernel detaches it when it has taken the tracing thread down.
    while state().tracer != 0 {
        assert!(begin.elapsed() < 3 * LIMIT);
        yield_now();
    }
    // SAFETY: our own child.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        libc::waitpid(pid, std::ptr::null_mut(), 0);
    }
}

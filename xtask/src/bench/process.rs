//! The memory and CPU time of a command, and a process that only keeps a processor busy.

use crate::sh;
use anyhow::{Result, ensure};
use std::process::{Command, Stdio};

/// What a command used.
pub(super) struct Used {
    /// The largest resident memory, MiB.
    pub(super) mib: f64,
    /// User and system time of all its threads, nanoseconds.
    pub(super) cpu_ns: f64,
}

/// Runs the command to its end; returns its largest resident memory.
pub(super) fn peak_mib(command: &mut Command) -> Result<f64> {
    Ok(used(command)?.mib)
}

/// Runs the command to its end; returns what it used.
pub(super) fn used(command: &mut Command) -> Result<Used> {
    let child = command.spawn()?;
    let pid = libc::pid_t::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: all zeroes is a value of rusage, which consists of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to variables that live until the call returns.
    // `wait4` and not `Child::wait`, which does not return the rusage.
    let ended = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    ensure!(ended == pid, "wait4: {}", std::io::Error::last_os_error());
    ensure!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "it failed: status {status:#x}");
    let ns = |time: libc::timeval| time.tv_sec as f64 * 1e9 + time.tv_usec as f64 * 1e3;
    Ok(Used { mib: usage.ru_maxrss as f64 / 1024.0, cpu_ns: ns(usage.ru_utime) + ns(usage.ru_stime) })
}

/// Lets another process keep one processor busy for three seconds, about as long as a dump takes.
pub(super) fn another_is_busy() -> Result<()> {
    let mut command = sh::command("timeout")?;
    let status = command.args(["3", "sha256sum", "/dev/zero"]).stdout(Stdio::null()).status()?;
    ensure!(status.code() == Some(124), "sha256sum: {status}");
    Ok(())
}

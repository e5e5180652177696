//! Starting a command so that it waits, before its first instruction, for the probes to stand.

use anyhow::{Context as _, Result, bail};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
};

/// A child between `fork` and `exec`.
pub(super) struct Launched {
    /// Its process id, which stays the same through `exec`.
    pub(super) pid: u32,
    go: File,
    spawner: JoinHandle<io::Result<Child>>,
}

/// The file that running `name` would execute, found as a shell finds it.
pub(super) fn resolve(name: &OsString) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.components().count() > 1 || name.as_encoded_bytes().contains(&b'/') {
        return Ok(path.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("no command {} on the PATH", name.to_string_lossy()))
}

impl Launched {
    /// Forks. The child waits until [`Launched::go`]; it ends by itself if we die before that. `silent`: it has no
    /// standard streams, because the terminal is ours.
    pub(super) fn fork(program: &Path, args: &[OsString], silent: bool) -> Result<Launched> {
        let (pid_read, pid_write) = pipe()?;
        let (go_read, go_write) = pipe()?;
        let mut command = Command::new(program);
        command.args(args);
        if silent {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
        let (pid_fd, go_fd, other_end) = (pid_write.as_raw_fd(), go_read.as_raw_fd(), go_write.as_raw_fd());
        // SAFETY: between fork and exec the closure makes system calls only.
        unsafe { command.pre_exec(move || wait_for_go(pid_fd, go_fd, other_end)) };
        // `spawn` returns after `exec`, so it needs a thread of its own; the child's ends of the
        // pipes live as long as that.
        let spawner = std::thread::spawn(move || {
            let result = command.spawn();
            drop((pid_write, go_read));
            result
        });
        let mut pid = [0; 4];
        if File::from(pid_read).read_exact(&mut pid).is_err() {
            return match spawner.join() {
                Ok(Err(err)) => Err(err).with_context(|| format!("cannot run {}", program.display())),
                _ => bail!("cannot run {}: it ended before it began", program.display()),
            };
        }
        Ok(Launched { pid: u32::from_ne_bytes(pid), go: File::from(go_write), spawner })
    }

    /// Lets it execute its program.
    pub(super) fn go(mut self) -> Result<Child> {
        self.go.write_all(&[1]).context("the command ended before it began")?;
        match self.spawner.join() {
            Ok(child) => child.context("cannot run the command"),
            Err(_) => bail!("cannot run the command"),
        }
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// In the child: says its pid, then waits for a byte. No byte means that the parent is gone.
fn wait_for_go(pid_fd: RawFd, go_fd: RawFd, other_end: RawFd) -> io::Result<()> {
    let pid = std::process::id().to_ne_bytes();
    let mut byte = 0u8;
    // SAFETY: plain system calls on descriptors that are open, with buffers of the sizes given.
    let got = unsafe {
        libc::close(other_end);
        libc::write(pid_fd, pid.as_ptr().cast(), pid.len());
        libc::read(go_fd, (&raw mut byte).cast(), 1)
    };
    if got == 1 { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
}

//! What a command looks at: a process, an executable, or a command that is started for it.

use super::args::LayoutArg;
pub(super) use crate::live::Opened;
use crate::{
    live::{Attach, LiveTarget, Targets},
    probe,
    probe::Calibration,
};
use anyhow::{Context as _, Result, bail};
use sfgi_core::{binary::GoBinary, process::Process};
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
    sync::Arc,
    thread::JoinHandle,
};

impl Opened {
    /// What a process runs, or the executable of a core file, whichever was given.
    pub(super) fn either(pid: Option<u32>, exe: Option<&Path>, layout: &LayoutArg) -> Result<Opened> {
        match (pid, exe) {
            (Some(pid), _) => Opened::process(pid, layout),
            (None, Some(exe)) => Opened::file(exe, layout),
            (None, None) => {
                bail!("neither a process nor a core file was given: use -p PID, or --core FILE --exe FILE")
            }
        }
    }

    /// What a process runs.
    pub(super) fn process(pid: u32, layout: &LayoutArg) -> Result<Opened> {
        let process = Process::open(pid.cast_signed())?;
        let (exe, name) = (process.exe()?, process.exe_name()?);
        let binary = GoBinary::read_with(exe.try_clone()?, layout.load()?)
            .with_context(|| format!("PID {pid} ({})", name.display()))?;
        Ok(Opened { process: Some(process), exe, name, binary: Arc::new(binary) })
    }

    /// What a command would run, or what a core file was made of.
    pub(super) fn file(path: &Path, layout: &LayoutArg) -> Result<Opened> {
        let exe = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let binary = GoBinary::read_with(exe.try_clone()?, layout.load()?)
            .with_context(|| path.display().to_string())?;
        Ok(Opened { process: None, exe, name: path.to_owned(), binary: Arc::new(binary) })
    }
}

/// Looks at processes; nothing is attached yet.
pub(super) fn open(pids: &[u32], layout: &LayoutArg) -> Result<Vec<Opened>> {
    pids.iter().map(|pid| Opened::process(*pid, layout)).collect()
}

/// Targets with their probes.
pub(super) struct Attached {
    pub(super) calibration: Calibration,
    pub(super) targets: Targets,
    /// The command that waits to be started, where it is the target.
    pub(super) launched: Option<Launched>,
}

impl Attached {
    /// Measures what a probe costs here, and attaches to processes.
    pub(super) fn processes(pids: &[u32], opened: Vec<Opened>, probes: &Attach) -> Result<Attached> {
        let calibration = calibrate()?;
        let attach_one = |(pid, opened): (&u32, Opened)| LiveTarget::attach(*pid, opened, probes);
        let targets = pids.iter().zip(opened).map(attach_one).collect::<Result<Vec<_>>>()?;
        Ok(Attached { calibration, targets, launched: None })
    }

    /// The same for a command, which waits to be started; `silent` as [`Launched::fork`] has it.
    pub(super) fn command(
        command: &[OsString],
        layout: &LayoutArg,
        probes: &Attach,
        silent: bool,
    ) -> Result<Attached> {
        let (name, arguments) = command.split_first().context("no command was given")?;
        let path = resolve(name)?;
        let opened = Opened::file(&path, layout)?;
        let calibration = calibrate()?;
        let launched = Launched::fork(&path, arguments, silent)?;
        let targets = vec![LiveTarget::attach(launched.pid, opened, probes)?];
        Ok(Attached { calibration, targets, launched: Some(launched) })
    }

    /// Says what is attached, and at what price.
    pub(super) fn describe(&self) {
        for (live, _) in &self.targets {
            eprintln!("sfgi: {}", live.describe(&self.calibration));
        }
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.targets.iter().map(|(live, _)| live.pid).collect()
    }

    /// Descriptors that become readable when the targets end.
    pub(super) fn pidfds(&self) -> io::Result<Vec<OwnedFd>> {
        self.targets.iter().map(|(live, _)| live.pidfd()).collect()
    }
}

fn calibrate() -> Result<Calibration> {
    probe::calibrate().context("cannot measure what a probe costs here")
}

/// Asks a command to end that was started for this session, if it still runs.
pub(super) fn stop(child: &mut Child) -> Result<()> {
    if child.try_wait()?.is_none() {
        eprintln!("sfgi: stopping the command (PID {})", child.id());
        // SAFETY: our own child, not waited for yet, so the id is still its.
        unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    }
    Ok(())
}

/// A child between `fork` and `exec`.
pub(super) struct Launched {
    /// Its process id, which stays the same through `exec`.
    pid: u32,
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

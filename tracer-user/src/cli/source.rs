//! The target of a command: a process, an executable file, or a command that sfgi starts.

use super::{args::LayoutArg, user::User};
pub(super) use crate::live::Opened;
use crate::{
    live::{Attach, LiveTarget, Targets},
    output::say,
    probe,
    probe::Calibration,
};
use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use sfgi_core::{
    binary::GoBinary,
    memory::{Core, Live},
    process::Process,
    snapshot::{Clock, View},
};
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
    /// Opens a process and its executable through `/proc/PID/exe`, which also reaches a deleted file and one in a
    /// container.
    pub(super) fn process(pid: u32, layout: &LayoutArg) -> Result<Opened> {
        let process = Process::open(pid.cast_signed())?;
        let (exe, name) = (process.exe()?, process.exe_name()?);
        let binary = GoBinary::read_with(exe.try_clone()?, layout.load()?)
            .with_context(|| format!("PID {pid} ({})", name.display()))?;
        Ok(Opened { process: Some(process), exe, name, binary: Arc::new(binary) })
    }

    /// Opens an executable file: of a command to start, or of a core file.
    pub(super) fn file(path: &Path, layout: &LayoutArg) -> Result<Opened> {
        let exe = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let binary = GoBinary::read_with(exe.try_clone()?, layout.load()?)
            .with_context(|| path.display().to_string())?;
        Ok(Opened { process: None, exe, name: path.to_owned(), binary: Arc::new(binary) })
    }
}

/// The options that say whose memory is read: that of a process, or of a core file.
#[derive(ClapArgs)]
pub(super) struct MemoryArgs {
    /// Process to look at
    #[arg(short, long, value_name = "PID", conflicts_with = "core")]
    pub(super) pid: Option<u32>,
    /// Core file to look at
    #[arg(long, value_name = "FILE", requires = "exe")]
    pub(super) core: Option<PathBuf>,
    /// The executable that the core file is of
    #[arg(long, value_name = "FILE", requires = "core")]
    pub(super) exe: Option<PathBuf>,
    #[command(flatten)]
    pub(super) layout: LayoutArg,
}

impl MemoryArgs {
    pub(super) fn is_none(&self) -> bool {
        self.pid.is_none() && self.core.is_none()
    }

    pub(super) fn pids(&self) -> &[u32] {
        self.pid.as_slice()
    }

    /// Opens the executable of the process, or that of the core file.
    pub(super) fn open(&self) -> Result<Opened> {
        match (self.pid, &self.exe) {
            (Some(pid), _) => Opened::process(pid, &self.layout),
            (None, Some(exe)) => Opened::file(exe, &self.layout),
            (None, None) => {
                bail!("neither a process nor a core file was given: use -p PID, or --core FILE --exe FILE")
            }
        }
    }

    /// Reads the memory; `then` also gets the PID, if one is known.
    pub(super) fn with_view<T>(
        &self,
        opened: &Opened,
        then: impl FnOnce(&View<'_>, Option<u32>) -> Result<T>,
    ) -> Result<T> {
        if let Some(process) = &opened.process {
            let (memory, bias) = (Live::of(process), opened.bias()?);
            let view = View { memory: &memory, binary: &opened.binary, bias, clock: Clock::Live };
            return then(&view, Some(process.pid().cast_unsigned()));
        }
        // clap lets no --exe come without --core, so the empty path is never opened.
        let path = self.core.as_deref().unwrap_or_else(|| Path::new(""));
        let name = path.display();
        let core = Core::open(path, &opened.binary).with_context(|| name.to_string())?;
        if let Some(truncated) = core.truncated() {
            say(format_args!("{name}: {truncated}"));
        }
        // A core file may name no process; PID 0 stands for that.
        let pid = u32::try_from(core.pid()).ok().filter(|pid| *pid != 0);
        let view = View { memory: &core, binary: &opened.binary, bias: core.bias(), clock: Clock::Stopped };
        then(&view, pid)
    }

    /// What messages call the program.
    pub(super) fn name(&self, opened: &Opened, pid: Option<u32>) -> String {
        match (&self.core, pid) {
            (None, Some(pid)) => format!("PID {pid}"),
            (core, _) => core.as_deref().unwrap_or(&opened.name).display().to_string(),
        }
    }
}

/// Whether there is this process and its executable may be opened; without one there is nothing to ask.
pub(super) fn may_be_read(pid: Option<u32>) -> Result<()> {
    if let Some(pid) = pid {
        Process::open(pid.cast_signed())?.exe()?;
    }
    Ok(())
}

/// Opens processes without attaching anything.
pub(super) fn open(pids: &[u32], layout: &LayoutArg) -> Result<Vec<Opened>> {
    pids.iter().map(|pid| Opened::process(*pid, layout)).collect()
}

/// Targets with attached probes.
pub(super) struct Attached {
    pub(super) calibration: Calibration,
    pub(super) targets: Targets,
    /// The launched command, which is the only target then.
    pub(super) launched: Option<Launched>,
}

impl Attached {
    /// Measures what a probe costs on this host, and attaches to processes.
    pub(super) fn processes(pids: &[u32], opened: Vec<Opened>, probes: &Attach) -> Result<Attached> {
        // Calibration places probes on sfgi itself, so it comes after the targets were opened and found good.
        let calibration = calibrate()?;
        let attach_one = |(pid, opened): (&u32, Opened)| LiveTarget::attach(*pid, opened, probes);
        let targets = pids.iter().zip(opened).map(attach_one).collect::<Result<Vec<_>>>()?;
        Ok(Attached { calibration, targets, launched: None })
    }

    /// Forks a command that waits before `exec`, and attaches to it; `silent` as in [`Launched::fork`].
    pub(super) fn command(
        command: &[OsString],
        layout: &LayoutArg,
        probes: &Attach,
        user: Option<User>,
        silent: bool,
    ) -> Result<Attached> {
        let (name, arguments) = command.split_first().context("no command was given")?;
        let path = resolve(name)?;
        let opened = Opened::file(&path, layout)?;
        let calibration = calibrate()?;
        let launched = Launched::fork(&path, arguments, user, silent)?;
        let targets = vec![LiveTarget::attach(launched.pid, opened, probes)?];
        Ok(Attached { calibration, targets, launched: Some(launched) })
    }

    /// Prints one line for each target: its probes and their price.
    pub(super) fn describe(&self) {
        for (live, _) in &self.targets {
            live.describe(&self.calibration).iter().for_each(say);
        }
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.targets.iter().map(|(live, _)| live.pid).collect()
    }

    /// One pidfd for each target, readable when it has ended.
    pub(super) fn pidfds(&self) -> io::Result<Vec<OwnedFd>> {
        self.targets.iter().map(|(live, _)| live.pidfd()).collect()
    }
}

fn calibrate() -> Result<Calibration> {
    probe::calibrate().context("cannot measure what a probe costs here")
}

/// Sends SIGTERM to the launched command, if it still runs.
pub(super) fn stop(child: &mut Child) -> Result<()> {
    if child.try_wait()?.is_none() {
        say(format_args!("stopping the command (PID {})", child.id()));
        // SAFETY: our own child, not waited for yet, so the id is still its.
        unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    }
    Ok(())
}

/// A child between `fork` and `exec`.
pub(super) struct Launched {
    /// The child's process id. `exec` keeps it, so probes can be attached for it before.
    pid: u32,
    /// The write end of the pipe that the child waits at.
    go: File,
    /// The thread that is in `Command::spawn` until the child executes.
    spawner: JoinHandle<io::Result<Child>>,
}

/// The file that `name` would execute: `name` itself if it has a slash, else the first file of that name on the PATH.
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
    /// Forks. The child waits until [`Launched::go`], and ends if sfgi dies before. `silent` gives it no standard
    /// streams, because `sfgi top` draws on the terminal. It belongs to `user` where one is given.
    pub(super) fn fork(
        program: &Path,
        args: &[OsString],
        user: Option<User>,
        silent: bool,
    ) -> Result<Launched> {
        let (pid_read, pid_write) = pipe()?;
        let (go_read, go_write) = pipe()?;
        let mut command = Command::new(program);
        command.args(args);
        if silent {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
        // Raw numbers: the owners of these descriptors go to the thread and to `Launched`.
        if let Some(user) = &user {
            user.tell(&mut command);
        }
        let (pid_fd, go_fd, other_end) = (pid_write.as_raw_fd(), go_read.as_raw_fd(), go_write.as_raw_fd());
        // SAFETY: between fork and exec the closure makes system calls only.
        unsafe {
            command.pre_exec(move || {
                user.as_ref().map_or(Ok(()), User::become_one)?;
                wait_for_go(pid_fd, go_fd, other_end)
            });
        }
        // `Command::spawn` returns after `exec`, so it needs a thread of its own. The child's ends of the pipes stay
        // open in the parent until then.
        let spawner = std::thread::spawn(move || {
            let result = command.spawn();
            drop((pid_write, go_read));
            result
        });
        let mut pid = [0; 4];
        // No PID came: `fork` failed, or the child died before its first write. `spawn` knows which.
        if File::from(pid_read).read_exact(&mut pid).is_err() {
            return match spawner.join() {
                Ok(Err(err)) => Err(err).with_context(|| format!("cannot run {}", program.display())),
                _ => bail!("cannot run {}: it ended before it began", program.display()),
            };
        }
        Ok(Launched { pid: u32::from_ne_bytes(pid), go: File::from(go_write), spawner })
    }

    /// Lets the child execute its program, and waits until `exec` has succeeded or failed.
    pub(super) fn go(mut self) -> Result<Child> {
        self.go.write_all(&[1]).context("the command ended before it began")?;
        match self.spawner.join() {
            Ok(child) => child.context("cannot run the command"),
            Err(_) => bail!("cannot run the command"),
        }
    }
}

/// A pipe that no program inherits.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// In the child, between `fork` and `exec`: writes its PID, then waits for a byte. The end of the pipe instead of a
/// byte means that the parent is gone.
fn wait_for_go(pid_fd: RawFd, go_fd: RawFd, other_end: RawFd) -> io::Result<()> {
    let pid = std::process::id().to_ne_bytes();
    let mut byte = 0u8;
    // SAFETY: plain system calls on descriptors that are open, with buffers of the sizes given.
    let got = unsafe {
        // The child has a copy of the write end; CLOEXEC closes it only at exec. With it the child would never see the
        // parent die.
        libc::close(other_end);
        libc::write(pid_fd, pid.as_ptr().cast(), pid.len());
        libc::read(go_fd, (&raw mut byte).cast(), 1)
    };
    if got == 1 { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
}

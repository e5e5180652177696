//! The first process of the agent. It starts all others and does nothing else: no file of a target, no client, no thread.
//!
//! ```text
//! launcher ──fork──▶ server    decides, talks to clients, writes files; no capabilities
//!          ──fork──▶ sweeper   finds Go processes
//!          ──fork──▶ reader    reads one target at a time            (some)
//!          ──fork──▶ prober    loads programs, reads their events    (some)
//! ```
//!
//! A worker can be ended at any moment together with all CPU time it takes, whatever its target does; so the server never waits
//! for a target. Workers are forked, not executed: the launcher has one thread and little memory, so this is safe and takes a
//! millisecond. The kernel kills every worker when the launcher dies, however it dies (`PR_SET_PDEATHSIG`), and the launcher
//! ends with the server.

use super::watch::{Role, work};
use crate::{
    agent::Config,
    confine::{self, Needs},
    supervise::set_of,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
        socketpair,
    },
    process::{Pid, Signal, WaitOptions, getppid, kill_process, set_parent_process_death_signal, setsid},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    ffi::CStr,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::unix::net::UnixStream,
    process::ExitCode,
};

/// Bytes of an order or a report; the list of skipped processes is short.
const MAX_MESSAGE: usize = 4096;
/// Workers at the same time, whatever is ordered.
const MAX_WORKERS: usize = 32;

/// The exit code for a server that a signal has ended: it could not say why itself.
const KILLED: u8 = 137;

/// What the server orders.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Start(Role),
    Kill(u32),
}

/// What the launcher reports.
#[derive(Debug, Serialize, Deserialize)]
enum Sent {
    /// Comes with a socket to it.
    Started(u32),
    Refused(String),
    Ended(Ended),
}

/// A worker that has ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) pid: u32,
    /// Its exit code; `None`: a signal killed it.
    pub(crate) code: Option<i32>,
    /// The signal that killed it; `None`: it ended by itself.
    pub(crate) signal: Option<i32>,
    /// CPU time that it used, nanoseconds.
    pub(crate) cpu_ns: u64,
}

/// What the server learns of its workers.
#[derive(Debug)]
pub(crate) enum Report {
    Started {
        pid: u32,
        socket: UnixStream,
    },
    /// None could be started, and why.
    Refused(String),
    Ended(Ended),
}

/// The server's end.
#[derive(Debug)]
pub struct Launcher {
    socket: OwnedFd,
}

impl Launcher {
    /// One that starts nothing, and the end that gets its orders.
    #[cfg(test)]
    pub(crate) fn of_a_test() -> io::Result<(Launcher, OwnedFd)> {
        let (socket, orders) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Launcher { socket }, orders))
    }

    /// Orders a worker; [`Report::Started`] says when it is there.
    pub(crate) fn start(&self, role: Role) -> io::Result<()> {
        send(self.socket.as_fd(), &Order::Start(role), None)
    }

    /// Ends a worker at once.
    pub(crate) fn kill(&self, pid: u32) -> io::Result<()> {
        send(self.socket.as_fd(), &Order::Kill(pid), None)
    }

    /// Another end for the thread that waits for reports.
    pub(crate) fn reports(&self) -> io::Result<Reports> {
        Ok(Reports { socket: self.socket.try_clone()? })
    }
}

/// Reports of the launcher, to be waited for.
pub(crate) struct Reports {
    socket: OwnedFd,
}

impl Reports {
    /// Waits for the next report; `None`: the launcher is gone.
    pub(crate) fn next(&mut self) -> Option<Report> {
        loop {
            let (sent, socket) = receive::<Sent>(self.socket.as_fd()).ok()??;
            return Some(match (sent, socket) {
                (Sent::Started(pid), Some(socket)) => Report::Started { pid, socket: socket.into() },
                (Sent::Started(_), None) => continue,
                (Sent::Refused(why), _) => Report::Refused(why),
                (Sent::Ended(ended), _) => Report::Ended(ended),
            });
        }
    }
}

/// Sends a value, with a descriptor where one is given.
fn send(to: BorrowedFd<'_>, value: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = postcard::to_allocvec(value).map_err(io::Error::other)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(to, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives a value; `None`: the other end is closed.
fn receive<T: serde::de::DeserializeOwned>(from: BorrowedFd<'_>) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let (mut bytes, mut space) =
        ([0; MAX_MESSAGE], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        match recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            got => break got?,
        }
    };
    if got.bytes == 0 {
        return Ok(None);
    }
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let whole = !got.flags.contains(ReturnFlags::TRUNC);
    let value = bytes.get(..got.bytes).filter(|_| whole).and_then(|bytes| postcard::from_bytes(bytes).ok());
    Ok(Some((value.ok_or(io::ErrorKind::InvalidData)?, fd)))
}

/// On which side of a fork this is.
enum Child {
    /// In the child.
    Is,
    /// In the launcher: the child's PID.
    Has(Pid),
}

/// Forks. The child dies with this process, has a session of its own, so that a terminal's signals reach the launcher alone, and
/// takes signals as a new process does.
fn fork() -> io::Result<Child> {
    let own = rustix::process::getpid();
    // SAFETY: this process has one thread, so the child may do whatever its parent could.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let begun = (|| -> io::Result<()> {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                setsid()?;
                Signals::restore()?;
                Ok(())
            })();
            if let Err(error) = begun {
                log::error!("a process of the agent cannot begin: {error}");
                exit(ExitCode::FAILURE);
            }
            // The parent may have died before it could be asked to take the child along.
            if getppid() != Some(own) {
                exit(ExitCode::FAILURE);
            }
            Ok(Child::Is)
        }
        pid => Pid::from_raw(pid).map(Child::Has).ok_or_else(|| io::ErrorKind::Other.into()),
    }
}

/// Ends a forked child without running what its parent had registered for its own end.
fn exit(code: ExitCode) -> ! {
    // A pipe that nobody reads any more is no reason not to end.
    let _ = io::Write::flush(&mut io::stdout());
    // SAFETY: takes no pointer.
    unsafe { libc::_exit(if code == ExitCode::SUCCESS { 0 } else { 1 }) }
}

/// Names this process for `ps` and `top`, which would show the same command line for all.
fn name(name: &CStr) {
    // Longer names than 15 bytes are cut; ours are not.
    let _ = rustix::thread::set_name(name);
}

/// The signals that the launcher waits for, as a descriptor.
struct Signals {
    fd: OwnedFd,
}

/// Those that ask the agent to end or to read its configuration again, and the end of a child.
const SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD];

impl Signals {
    /// Blocks them, and has them queue at a descriptor.
    fn block() -> io::Result<Signals> {
        let set = set_of(&SIGNALS);
        // SAFETY: `set` is initialized and outlives both calls; the descriptor is new and owned by nobody else.
        unsafe {
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(Signals { fd: OwnedFd::from_raw_fd(fd) })
            }
        }
    }

    fn restore() -> io::Result<()> {
        let set = set_of(&SIGNALS);
        // SAFETY: `set` is initialized and outlives the call.
        let done = unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
        if done != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next that has come.
    fn next(&self) -> Option<libc::c_int> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        let read = rustix::io::read(&self.fd, &mut info).ok()?;
        // `ssi_signo` is the first field (signalfd(2)).
        let number = info.first_chunk::<4>().filter(|_| read == info.len())?;
        i32::try_from(u32::from_ne_bytes(*number)).ok()
    }
}

/// Starts the server, and then workers as it orders them, until it ends. Returns its exit code.
///
/// `reload` gives the configuration for workers that are started after a SIGHUP; `None`: the old one stays.
///
/// # Errors
/// No process can be started.
pub fn run(
    mut config: std::sync::Arc<Config>,
    reload: impl Fn() -> Option<std::sync::Arc<Config>>,
    server: impl FnOnce(Launcher) -> ExitCode,
) -> io::Result<ExitCode> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let signals = Signals::block()?;
    let server = match fork()? {
        Child::Is => {
            drop((ours, signals));
            name(c"sfgi-server");
            exit(server(Launcher { socket: theirs }))
        }
        Child::Has(pid) => pid,
    };
    drop(theirs);
    // Not within the macro: that evaluates nothing where the level is off.
    let in_force = confine::apply(&Needs::launcher());
    log::debug!("launcher: {in_force}");
    let mut workers = BTreeSet::new();
    loop {
        let mut polled = [PollFd::new(&ours, PollFlags::IN), PollFd::new(&signals.fd, PollFlags::IN)];
        match poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [orders, signalled] = polled.map(|fd| !fd.revents().is_empty());
        if signalled {
            while let Some(signal) = signals.next() {
                match signal {
                    libc::SIGCHLD => {}
                    other => {
                        if other == libc::SIGHUP
                            && let Some(new) = reload()
                        {
                            config = new;
                        }
                        if let Some(other) = Signal::from_named_raw(other) {
                            let _ = kill_process(server, other);
                        }
                    }
                }
            }
            if let Some(code) = reap(server, &mut workers, &ours) {
                return Ok(code);
            }
        }
        if orders && let Ok(Some((order, _))) = receive::<Order>(ours.as_fd()) {
            match order {
                Order::Kill(pid) if workers.contains(&pid) => {
                    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
                Order::Kill(_) => {}
                Order::Start(_) if workers.len() >= MAX_WORKERS => {
                    let why = format!("{MAX_WORKERS} workers run already");
                    let _ = send(ours.as_fd(), &Sent::Refused(why), None);
                }
                Order::Start(role) => {
                    let begun = begin(role, &config, (ours.as_raw_fd(), signals.fd.as_raw_fd()));
                    let told = match begun {
                        Ok((pid, socket)) => {
                            workers.insert(pid);
                            send(ours.as_fd(), &Sent::Started(pid), Some(socket.as_fd()))
                        }
                        Err(error) => send(ours.as_fd(), &Sent::Refused(error.to_string()), None),
                    };
                    if let Err(error) = told {
                        log::error!("the agent does not take its worker: {error}");
                    }
                }
            }
        }
    }
}

/// Starts a worker. Returns its PID and the socket to it.
fn begin(role: Role, config: &std::sync::Arc<Config>, ours: (i32, i32)) -> io::Result<(u32, OwnedFd)> {
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    match fork()? {
        Child::Is => {
            drop(near);
            name(role.name());
            // What the launcher holds is none of the worker's business.
            for fd in [ours.0, ours.1] {
                // SAFETY: this process never uses these two again: it ends in this function.
                unsafe { libc::close(fd) };
            }
            exit(work(role, UnixStream::from(far), config))
        }
        Child::Has(pid) => Ok((pid.as_raw_nonzero().get().unsigned_abs(), near)),
    }
}

/// Takes leave of children that have ended. Returns the server's exit code if it is among them.
fn reap(server: Pid, workers: &mut BTreeSet<u32>, to: &OwnedFd) -> Option<ExitCode> {
    let mut code = None;
    loop {
        let before = children_cpu_ns();
        let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) else { return code };
        let cpu_ns = children_cpu_ns().saturating_sub(before);
        if pid == server {
            if let Some(signal) = status.terminating_signal() {
                log::error!("signal {signal} has ended the process that decides");
            }
            let status = status.exit_status().and_then(|status| u8::try_from(status).ok());
            code = Some(ExitCode::from(status.unwrap_or(KILLED)));
            continue;
        }
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        if workers.remove(&pid) {
            let ended =
                Ended { pid, code: status.exit_status(), signal: status.terminating_signal(), cpu_ns };
            // The server may have ended, too.
            let _ = send(to.as_fd(), &Sent::Ended(ended), None);
        }
    }
}

/// CPU time of all children that were waited for, nanoseconds.
fn children_cpu_ns() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the structure, which is valid with all bits zero, too.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    let ns = |time: libc::timeval| {
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_usec.unsigned_abs() * 1_000
    };
    ns(usage.ru_utime) + ns(usage.ru_stime)
}

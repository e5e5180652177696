//! The hook of an alert: a command of the administrator's, run with no more than it needs, and ended as a whole.
//!
//! Between the agent and the command stands a process of ours. It waits for the command's end or for that of a pipe
//! whose other end only the agent has, and then kills the command's process group. So nothing of a hook is left at its
//! time limit, at its end, or when the agent ends, however that ends; and where the hook runs as another user it can be
//! killed, although the agent may not signal that user's processes.

use super::Alert;
use crate::{
    agent::{Config, config, watch::wire},
    output::clean,
    user,
};
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    ffi::c_int,
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::{net::UnixStream, process::ExitStatusExt as _},
    },
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{process::Command, time};

/// How the names of all variables begin that the server may set.
const PREFIX: &str = "SFGI_ALERT_";

/// Where the hook looks for programs: the environment of the agent is not passed on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long the process in between may take to kill the group.
const KILLED: Duration = Duration::from_secs(5);

/// What the process in between exits with where a signal has ended the command, above the signal's number; as shells do.
const BY_SIGNAL: c_int = 128;

/// A user as whom the hook may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    uid: libc::uid_t,
    /// The user's own group; others that it belongs to are not taken on.
    gid: libc::gid_t,
}

impl User {
    /// The user with this name or number.
    ///
    /// # Errors
    /// There is none, or the user database cannot be read.
    pub(crate) fn find(name: &str) -> Result<User> {
        let entry = user::find(name).with_context(|| format!("cannot look up {name:?}"))?;
        let entry = entry.with_context(|| format!("there is no user {name:?}"))?;
        Ok(User { uid: entry.uid, gid: entry.gid })
    }
}

/// What a hook is told. The server has no right to execute anything, so a worker runs the hook; which command that is, it takes
/// from the configuration and from nobody else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HookJob {
    /// How long it may take.
    pub(in crate::agent) timeout: Duration,
    environment: Vec<(String, String)>,
}

impl HookJob {
    pub(super) fn new(hook: &config::Hook, alert: &Alert) -> HookJob {
        let environment = environment(alert).map(|(name, value)| (name.to_owned(), value)).to_vec();
        HookJob { timeout: hook.timeout, environment }
    }
}

/// The worker: receives a [`HookJob`], runs it, and says how that ended. A server that closes the socket ends the hook.
pub(in crate::agent) fn work(mut socket: UnixStream, config: &Config) -> io::Result<()> {
    let Some(hook) = &config.alerts.hook else { return Ok(()) };
    let Some(job) = wire::receive::<HookJob>(&mut socket)? else { return Ok(()) };
    let alive = socket.try_clone()?;
    alive.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut server = tokio::net::UnixStream::from_std(alive)?;
        let mut nothing = [0];
        tokio::select! {
            ended = run(hook, &job) => Ok(Some(ended)),
            // It says nothing more: this is its end.
            _ = tokio::io::AsyncReadExt::read(&mut server, &mut nothing) => io::Result::Ok(None),
        }
    })?;
    socket.set_nonblocking(false)?;
    match ended {
        Some(ended) => wire::send(&mut socket, &ended.map_err(|error| format!("{error:#}"))),
        None => Ok(()),
    }
}

/// Runs the hook and waits for its end, or kills it after its time limit. It is killed, too, when this is dropped.
async fn run(hook: &config::Hook, job: &HookJob) -> Result<()> {
    let (program, args) = hook.command.split_first().context("the hook has no command")?;
    let user = hook.user.as_deref().map(User::find).transpose().context("alerts.hook.user")?;
    let (watched, alive) = std::io::pipe().context("cannot make a pipe for the hook")?;
    let mut command = Command::new(program);
    // Names come from the target: as the values of variables nothing interprets them.
    command.args(args).env_clear().env("PATH", PATH).envs(
        job.environment
            .iter()
            .filter(|(name, _)| name.starts_with(PREFIX))
            .map(|(name, value)| (name, value)),
    );
    command.current_dir("/").stdin(Stdio::null());
    let watched = OwnedFd::from(watched);
    let raw = watched.as_raw_fd();
    // SAFETY: `prepare` only makes system calls, allocates nothing and takes no lock, as it must be between fork and
    // exec. The descriptor is open until the command was started.
    unsafe {
        command.pre_exec(move || prepare(user, raw));
    }
    let started = command.spawn();
    drop(watched);
    let mut child = match started {
        Err(error) if user.is_some() && error.raw_os_error() == Some(libc::EPERM) => {
            let user = hook.user.as_deref().unwrap_or_default();
            bail!(
                "cannot run the hook {program} as {user}: the agent needs CAP_SETUID and CAP_SETGID for that"
            );
        }
        started => started.with_context(|| format!("cannot start the hook {program}"))?,
    };
    let Ok(status) = time::timeout(hook.timeout, child.wait()).await else {
        // The process in between sees the pipe end.
        drop(alive);
        let killed = time::timeout(KILLED, child.wait()).await;
        ensure!(killed.is_ok(), "the hook {program} cannot be killed");
        bail!("the hook {program} was killed after {:?}: raise alerts.hook.timeout", hook.timeout);
    };
    let status = of_command(status?);
    ensure!(status.success(), "the hook {program} failed: {status}");
    Ok(())
}

/// How the command ended, from how the process in between did.
fn of_command(status: ExitStatus) -> ExitStatus {
    match status.code() {
        Some(code) if code > BY_SIGNAL => ExitStatus::from_raw(code - BY_SIGNAL),
        _ => status,
    }
}

/// What the hook is told. `docs/agent.md` has the list.
fn environment(alert: &Alert) -> [(&'static str, String); 8] {
    [
        ("SFGI_ALERT_LEVEL", alert.level.word().to_owned()),
        ("SFGI_ALERT_PID", alert.pid.to_string()),
        ("SFGI_ALERT_SERVICE", alert.service.clone()),
        ("SFGI_ALERT_SERVICE_FROM", alert.service_from.word().to_owned()),
        ("SFGI_ALERT_GROUP", alert.group.clone().unwrap_or_default()),
        ("SFGI_ALERT_CLASS", alert.class.clone()),
        ("SFGI_ALERT_VERDICT", alert.verdict.unwrap_or_default().to_owned()),
        ("SFGI_ALERT_REASON", alert.reason.clone()),
    ]
    .map(|(name, value)| (name, clean(&value).into_owned()))
}

/// Runs in the new process before it executes the command: gives up all rights, and goes on as two. The child goes on to
/// the command; the parent never returns.
fn prepare(user: Option<User>, watched: RawFd) -> io::Result<()> {
    // A session of its own: signals of the agent's terminal are not for it.
    // SAFETY: takes no pointer.
    check(unsafe { libc::setsid() })?;
    give_up(user)?;
    // SAFETY: a process of one thread forks; what follows makes system calls only.
    match check(unsafe { libc::fork() })? {
        0 => {
            // SAFETY: takes no pointer.
            check(unsafe { libc::setpgid(0, 0) })?;
            keep_to_itself();
            Ok(())
        }
        command => watch(command, watched),
    }
}

/// Becomes the user, without capabilities, and without a way to get any.
fn give_up(user: Option<User>) -> io::Result<()> {
    if let Some(User { uid, gid }) = user {
        // SAFETY: no group is read through the pointer, since there are none.
        check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::setgid(gid) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::setuid(uid) })?;
    }
    // Otherwise a root without capabilities would have them again after `exec`.
    // SAFETY: takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: takes no pointer. Ambient capabilities would outlive the next call.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) })?;
    // `struct __user_cap_header_struct`, then two of `struct __user_cap_data_struct` (`linux/capability.h`).
    const VERSION_3: u32 = 0x2008_0522;
    let (header, none) = ([VERSION_3, 0], [0_u32; 6]);
    // SAFETY: both have the layout and the length that version 3 has, and the kernel only reads them.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Passes no descriptor on but the first three.
fn keep_to_itself() {
    // SAFETY: takes no pointer. Descriptors stay open until `exec`: one of them tells of its failure.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked == 0 {
        return;
    }
    // Before Linux 5.11. What the agent opens by itself is marked; what it was started with is low.
    for fd in 3..256 {
        // SAFETY: takes no pointer; a descriptor that is not open is refused.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Waits until the command has ended or the agent wants it to, kills its process group, and exits as the command did.
fn watch(command: libc::pid_t, watched: RawFd) -> ! {
    // SAFETY: all calls take plain numbers, or pointers to values on this stack.
    unsafe {
        // As the child does: whoever comes first. Its failure means that the child was first and executes already.
        libc::setpgid(command, command);
        // The descriptor that tells of a failed `exec` must not stay open here, nor the agent's own.
        let above = u32::try_from(watched).unwrap_or(u32::MAX);
        if above > 3 {
            libc::syscall(libc::SYS_close_range, 3, above - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, above + 1, u32::MAX, 0);
        let ended = libc::syscall(libc::SYS_pidfd_open, command, 0) as RawFd;
        let mut both = [
            libc::pollfd { fd: watched, events: 0, revents: 0 },
            libc::pollfd { fd: ended, events: libc::POLLIN, revents: 0 },
        ];
        while libc::poll(both.as_mut_ptr(), 2, -1) < 0 && *libc::__errno_location() == libc::EINTR {}
        libc::kill(-command, libc::SIGKILL);
        let mut status = 0;
        while libc::waitpid(command, &raw mut status, 0) < 0 && *libc::__errno_location() == libc::EINTR {}
        let by_signal = libc::WIFSIGNALED(status);
        libc::_exit(if by_signal { BY_SIGNAL + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) })
    }
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{
        config::LevelName,
        picture::{NameFrom, ProcessId},
    };
    use std::{fs, os::fd::IntoRawFd as _, path::Path, thread, time::Instant};

    /// How long anything may take that should happen at once, on the slowest machine.
    const SOON: Duration = Duration::from_secs(20);

    fn alert(service: &str) -> Alert {
        Alert {
            pid: 7,
            process: ProcessId::default(),
            exe: String::new(),
            service: service.to_owned(),
            service_from: NameFrom::Environment,
            group: None,
            class: "signs".to_owned(),
            verdict: None,
            level: LevelName::Isolate,
            reason: "two\nlines".to_owned(),
            since_unix_ns: 0,
        }
    }

    /// Runs a script as the hook, and waits for its end.
    fn run_script(script: &str, timeout: Duration, user: Option<&str>) -> Result<()> {
        let command = vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let hook = config::Hook { command, timeout, user: user.map(str::to_owned) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&hook, &HookJob::new(&hook, &alert("evil\u{1b}[31m\nname"))))
    }

    /// The text of a file, once it is there.
    fn text(file: &Path) -> String {
        let began = Instant::now();
        loop {
            match fs::read_to_string(file) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => assert!(began.elapsed() < SOON, "{} is not there", file.display()),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn ends(pid: &str) {
        let began = Instant::now();
        // A process that was killed may wait for a new parent to take note of it.
        let runs = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        while runs() {
            assert!(began.elapsed() < SOON, "process {pid} runs on");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn it_has_what_is_documented_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        // A descriptor that is not marked, as one that the agent was started with.
        let inherited = unsafe {
            // SAFETY: duplicates a descriptor that is open.
            libc::dup(fs::File::open("/dev/null").unwrap().into_raw_fd())
        };
        let script = format!(
            "tr '\\0' '\\n' < /proc/$$/environ > {}; grep -E 'Cap|NoNewPrivs' /proc/$$/status > {}; ls /proc/$$/fd > {}",
            file("env"),
            file("status"),
            file("fds")
        );
        run_script(&script, SOON, None).unwrap();
        let environment = fs::read_to_string(file("env")).unwrap();
        let mut names: Vec<&str> =
            environment.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.sort_unstable();
        let known = "CLASS GROUP LEVEL PID REASON SERVICE SERVICE_FROM VERDICT".split(' ');
        let mut expected: Vec<String> = known.map(|name| format!("SFGI_ALERT_{name}")).collect();
        expected.insert(0, "PATH".to_owned());
        assert_eq!(names, expected, "{environment}");
        for line in [
            "SFGI_ALERT_SERVICE=evil?[31m?name",
            "SFGI_ALERT_SERVICE_FROM=OTEL_SERVICE_NAME",
            "SFGI_ALERT_REASON=two?lines",
        ] {
            assert!(environment.lines().any(|one| one == line), "no {line} in {environment}");
        }
        let status = fs::read_to_string(file("status")).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        let descriptors = fs::read_to_string(file("fds")).unwrap();
        assert!(!descriptors.lines().any(|fd| fd == inherited.to_string()), "{inherited}: {descriptors}");
    }

    #[test]
    fn its_children_end_with_it_at_its_time_limit() {
        let folder = tempfile::tempdir().unwrap();
        let child = folder.path().join("child");
        let script = format!("(sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait)", child.display());
        let error = run_script(&script, Duration::from_millis(500), None).unwrap_err();
        assert!(error.to_string().contains("was killed after 500ms"), "{error}");
        ends(&text(&child));
    }

    #[test]
    fn what_it_leaves_behind_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let child = folder.path().join("child");
        run_script(&format!("sleep 1000 & echo $! > {}", child.display()), SOON, None).unwrap();
        ends(&text(&child));
    }

    #[test]
    fn it_ends_with_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let child = folder.path().join("child");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let script = format!("(sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; wait)", child.display());
        let command = vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
        let hook = config::Hook { command, timeout: SOON, user: None };
        runtime.spawn(async move { run(&hook, &HookJob::new(&hook, &alert("shop"))).await });
        runtime.block_on(async {
            while !child.exists() {
                time::sleep(Duration::from_millis(5)).await;
            }
        });
        drop(runtime);
        ends(&text(&child));
    }

    #[test]
    fn how_it_ends_and_that_it_cannot_begin_is_told() {
        let told = |script| run_script(script, SOON, None).unwrap_err().to_string();
        assert!(told("exit 3").contains("exit status: 3"));
        assert!(told("kill -9 $$").contains("signal: 9"));
        let command = vec!["/does/not/exist".to_owned()];
        let hook = config::Hook { command, timeout: SOON, user: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(run(&hook, &HookJob::new(&hook, &alert("shop")))).unwrap_err();
        assert!(format!("{error:#}").contains("No such file"), "{error:#}");
    }

    #[test]
    fn it_runs_as_another_user_and_is_killed_all_the_same() {
        let Ok(nobody) = User::find("nobody") else { return };
        if !rustix::process::geteuid().is_root() {
            return;
        }
        assert_eq!(User::find(&nobody.uid.to_string()).unwrap(), nobody);
        assert!(User::find("no such user").unwrap_err().to_string().contains("there is no user"));
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let (status, child) = (folder.path().join("status"), folder.path().join("child"));
        let script = format!(
            "grep -E 'Uid|Gid|Groups' /proc/$$/status > {}; (sleep 1000 & echo $! > {1}.new; mv {1}.new {1}; wait)",
            status.display(),
            child.display()
        );
        run_script(&script, Duration::from_secs(1), Some("nobody")).unwrap_err();
        let (uid, gid) = (nobody.uid, nobody.gid);
        let told = fs::read_to_string(status).unwrap();
        for line in [format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"), format!("Gid:\t{gid}\t{gid}\t{gid}\t{gid}")]
        {
            assert!(told.contains(&line), "{told}");
        }
        assert!(told.contains("Groups:\t \n"), "{told}");
        ends(&text(&child));
    }
}

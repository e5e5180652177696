//! The hook of an alert: a command of the administrator's, run with no more than it needs, and ended as a whole.
//!
//! ```text
//! agent ──fork──▶ runner       knows the command from the configuration; the server only asks for it
//!                   └──fork──▶ keeper     has become the hook's user; waits, and kills the group
//!                                └──exec──▶ the command, in a process group of its own
//! ```
//!
//! The server has no rights to start anything as another user, and what it asks for is only *that* the command runs, with
//! which values. The keeper waits for the end of the command, of its time, or of a socket whose other end only the server
//! has; then it kills the process group. So nothing of a hook is left when the agent ends, however that ends. The keeper
//! is of the hook's user itself, who may kill his own processes where the agent may not.

use super::Alert;
use crate::{
    agent::{
        config,
        launcher::{self, Child},
    },
    output::clean,
};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, set_parent_process_death_signal},
    time::Timespec,
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::{CString, c_int},
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{net::UnixStream as StdStream, process::CommandExt as _},
    },
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, net::UnixStream};

/// Where the hook looks for programs: the environment of the agent is not passed on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables that the hook is given, in the order of [`values`]. `docs/agent.md` says what each is.
const VARIABLES: [&str; 8] = [
    "SFGI_ALERT_LEVEL",
    "SFGI_ALERT_PID",
    "SFGI_ALERT_SERVICE",
    "SFGI_ALERT_SERVICE_FROM",
    "SFGI_ALERT_GROUP",
    "SFGI_ALERT_CLASS",
    "SFGI_ALERT_VERDICT",
    "SFGI_ALERT_REASON",
];

/// The longest value, bytes: all of them are one message to the runner (`MAX_MESSAGE` in `launcher.rs`).
const MAX_VALUE: usize = 400;

/// The longest sentence about how a hook ended, bytes.
const MAX_SENTENCE: usize = 4096;

/// The buffer for what the user database says of one user. Names, home and shell have some hundred bytes.
const USER_BYTES: usize = 16 << 10;

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
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let (mut buffer, mut found) = (vec![0; USER_BYTES], std::ptr::null_mut());
        let result = match name.parse() {
            // SAFETY: all pointers are to memory of ours that outlives the call, and the length is the buffer's.
            Ok(uid) => unsafe {
                libc::getpwuid_r(uid, entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found)
            },
            Err(_) => {
                let name = CString::new(name).context("a user's name has no NUL")?;
                // SAFETY: as above; the name ends with a NUL.
                unsafe {
                    libc::getpwnam_r(
                        name.as_ptr(),
                        entry.as_mut_ptr(),
                        buffer.as_mut_ptr(),
                        buffer.len(),
                        &raw mut found,
                    )
                }
            }
        };
        ensure!(result == 0, "cannot look up {name:?}: {}", io::Error::from_raw_os_error(result));
        ensure!(!found.is_null(), "there is no user {name:?}");
        // SAFETY: `found` is not null, so the entry was filled.
        let entry = unsafe { entry.assume_init() };
        Ok(User { uid: entry.pw_uid, gid: entry.pw_gid })
    }
}

/// What the server asks the runner for.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// Run the command with these values. How it ended is written to the socket that comes along: nothing where it went
    /// well, else a sentence. The command is killed when the other end of that socket is closed.
    Run(Vec<String>),
    /// Read the configuration again.
    Reload,
}

/// The server's end of the runner.
#[derive(Clone, Debug)]
pub struct Runner {
    socket: Arc<OwnedFd>,
}

impl Runner {
    /// Starts the runner. `load` reads the configuration, now and when it is asked to again. This process must have one
    /// thread only.
    ///
    /// # Errors
    /// No process can be started.
    pub fn start(load: impl Fn() -> Option<config::Config>) -> io::Result<Runner> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        match launcher::fork()? {
            Child::Is => {
                drop(ours);
                serve(&theirs, &load);
                // SAFETY: takes no pointer.
                unsafe { libc::_exit(0) }
            }
            Child::Has(_) => Ok(Runner { socket: Arc::new(ours) }),
        }
    }

    /// Has it read the configuration again.
    pub fn reload(&self) {
        if let Err(error) = launcher::send(self.socket.as_fd(), &Order::Reload, None) {
            log::error!("the hook goes on with its old settings: {error}");
        }
    }

    /// Runs the hook and waits for its end, or that of its time. It is killed when this is dropped.
    ///
    /// # Errors
    /// It cannot be started, fails, or takes too long.
    pub(super) async fn run(&self, alert: &Alert) -> Result<()> {
        let (near, far) = StdStream::pair().context("no socket for the hook")?;
        let order = Order::Run(values(alert).into());
        launcher::send(self.socket.as_fd(), &order, Some(far.as_fd())).context("nobody runs the hook")?;
        drop(far);
        near.set_nonblocking(true)?;
        let mut told = String::new();
        UnixStream::from_std(near)?.take(MAX_SENTENCE as u64).read_to_string(&mut told).await?;
        match told.strip_prefix(DONE) {
            Some("") => Ok(()),
            Some(why) => bail!("{}", clean(why)),
            None => bail!("the hook has ended together with who ran it"),
        }
    }
}

/// What the keeper writes first: an end without it is that of the keeper itself.
const DONE: &str = "done:";

/// What the hook is told of an alert. Names come from the target: as the values of variables nothing interprets them.
fn values(alert: &Alert) -> [String; VARIABLES.len()] {
    [
        alert.level.word(),
        &alert.pid.to_string(),
        &alert.service,
        alert.service_from.word(),
        alert.group.as_deref().unwrap_or_default(),
        &alert.class,
        alert.verdict.unwrap_or_default(),
        &alert.reason,
    ]
    .map(|value| {
        let value = clean(value);
        value[..value.floor_char_boundary(MAX_VALUE)].to_owned()
    })
}

/// The runner: starts a keeper for each order, until the server has gone.
fn serve(orders: &OwnedFd, load: &impl Fn() -> Option<config::Config>) {
    let mut hook = load().and_then(|config| config.alerts.hook);
    // SAFETY: takes no pointer but a constant. Keepers are not waited for: the kernel takes leave of them.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
    loop {
        match launcher::receive::<Order>(orders.as_fd()) {
            Ok(None) => return,
            Ok(Some((Order::Run(values), Some(answer)))) => begin(hook.as_ref(), values, answer, orders),
            Ok(Some((Order::Run(_), None))) => {}
            Ok(Some((Order::Reload, _))) => {
                if let Some(config) = load() {
                    hook = config.alerts.hook;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(_) => return,
        }
    }
}

/// Starts a keeper with the command.
fn begin(hook: Option<&config::Hook>, values: Vec<String>, answer: OwnedFd, orders: &OwnedFd) {
    match launcher::fork() {
        Ok(Child::Has(_)) => {}
        Ok(Child::Is) => {
            // SAFETY: this process never uses the descriptor again: it ends in this block.
            unsafe { libc::close(orders.as_raw_fd()) };
            let mut answer = StdStream::from(answer);
            let told = keep(hook, values, &answer);
            let told = told.map_or_else(|error| format!("{DONE}{error:#}"), |()| DONE.to_owned());
            // The server may have gone.
            let _ = answer.write_all(told.as_bytes());
            // SAFETY: takes no pointer.
            unsafe { libc::_exit(0) }
        }
        Err(error) => {
            let _ =
                StdStream::from(answer).write_all(format!("{DONE}cannot run the hook: {error}").as_bytes());
        }
    }
}

/// The keeper: gives up all rights, starts the command, waits for the first end, and kills the process group.
fn keep(hook: Option<&config::Hook>, values: Vec<String>, answer: &StdStream) -> Result<()> {
    let hook = hook.context("there is no hook any more")?;
    let (program, args) = hook.command.split_first().context("the hook has no command")?;
    // It must outlive the agent for as long as it takes to kill the command.
    set_parent_process_death_signal(None)?;
    let user = hook.user.as_deref().map(User::find).transpose().context("alerts.hook.user")?;
    give_up(user).map_err(|error| match (&hook.user, error.raw_os_error()) {
        (Some(user), Some(libc::EPERM)) => anyhow::anyhow!(
            "cannot run the hook {program} as {user}: the agent needs CAP_SETUID and CAP_SETGID for that"
        ),
        _ => anyhow::Error::new(error).context(format!("cannot run the hook {program} without rights")),
    })?;
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", PATH).envs(VARIABLES.into_iter().zip(values));
    command.current_dir("/").stdin(Stdio::null()).process_group(0);
    // SAFETY: the closure only makes system calls, as it must be between fork and exec.
    unsafe {
        command.pre_exec(|| {
            keep_to_itself();
            Ok(())
        });
    }
    let restored = restore_children();
    let mut child = command.spawn().with_context(|| format!("cannot start the hook {program}"))?;
    restored?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process")?;
    let in_time = wait(group, answer, hook.timeout);
    // Also where the command has ended: what it has left behind ends with it.
    let killed = kill_process_group(group, Signal::KILL);
    let status = child.wait()?;
    match in_time? {
        Woken::Ended => ensure!(status.success(), "the hook {program} failed: {status}"),
        Woken::Alone => bail!("the hook {program} was killed, because the agent ends"),
        Woken::Late => {
            killed.with_context(|| format!("cannot kill the hook {program}"))?;
            bail!("the hook {program} was killed after {:?}: raise alerts.hook.timeout", hook.timeout);
        }
    }
    Ok(())
}

/// The runner does not wait for its children, which a child inherits.
fn restore_children() -> io::Result<()> {
    // SAFETY: takes no pointer but a constant.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Why the keeper goes on.
enum Woken {
    Ended,
    /// The server has closed its end.
    Alone,
    Late,
}

fn wait(command: Pid, answer: &StdStream, limit: Duration) -> Result<Woken> {
    let ended = pidfd_open(command, PidfdFlags::empty())?;
    let until = std::time::Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(std::time::Instant::now());
        let mut both =
            [PollFd::new(&ended, PollFlags::IN), PollFd::new(answer, PollFlags::IN | PollFlags::RDHUP)];
        match poll(&mut both, Some(&Timespec::try_from(left)?)) {
            Ok(0) => return Ok(Woken::Late),
            Ok(_) if !both[0].revents().is_empty() => return Ok(Woken::Ended),
            // The server writes nothing.
            Ok(_) => return Ok(Woken::Alone),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
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
        let runner = runner(config::Hook { command, timeout, user: user.map(str::to_owned) });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(runner.run(&alert("evil\u{1b}[31m\nname")))
    }

    fn runner(hook: config::Hook) -> Runner {
        let alerts = config::Alerts { hook: Some(hook), ..config::Alerts::default() };
        let config = config::Config { alerts, ..config::Config::default() };
        Runner::start(|| Some(config.clone())).unwrap()
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
        let runner = runner(config::Hook { command, timeout: SOON, user: None });
        runtime.spawn(async move { runner.run(&alert("shop")).await });
        runtime.block_on(async {
            while !child.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
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
        let runner = runner(config::Hook { command, timeout: SOON, user: None });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(runner.run(&alert("shop"))).unwrap_err();
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

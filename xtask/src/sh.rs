//! Running other programs: where they are found, as which user they run, and what is said of a failure.

use anyhow::{Context as _, Result, bail, ensure};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::Instant,
};

/// Last lines of a failed program that are shown.
const TAIL: usize = 40;

/// The repository's root. Read at run time, because checkouts that share a target directory share this program.
pub(crate) fn root() -> PathBuf {
    let own = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&own).parent().map_or_else(PathBuf::new, PathBuf::from)
}

pub(crate) fn target_dir() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The directory for what outlives a checkout: Go toolchains, tools that were built for the tests.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    Ok(home()?.join(".cache/sfgi"))
}

fn home() -> Result<PathBuf> {
    Ok(env::var_os("HOME").context("HOME is not set: set it to a directory of yours")?.into())
}

/// The directory of rustup's and cargo's own programs.
pub(crate) fn cargo_bin() -> Result<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map_or_else(|| home().map(|home| home.join(".cargo")), |dir| Ok(dir.into()))?;
    Ok(cargo_home.join("bin"))
}

/// The search path of every program that is started from this file. Rustup's directory is first, because a
/// distribution's cargo may be in /usr/bin; the system directories are last, because a user's PATH often lacks sbin.
fn path() -> Result<OsString> {
    let mut dirs = vec![cargo_bin()?];
    dirs.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    dirs.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    Ok(env::join_paths(dirs)?)
}

/// The full path of a program, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&path().ok()?).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A command for `program`, started in the repository's root.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(root()).env("PATH", path()?);
    Ok(command)
}

/// A command that runs as root: as it is for root, else through sudo with this environment.
pub(crate) fn root_command(program: impl AsRef<OsStr>) -> Result<Command> {
    let prefix = root_prefix()?;
    let Some((first, rest)) = prefix.split_first() else { return command(program) };
    let mut command = command(first)?;
    command.args(rest).arg(program);
    Ok(command)
}

/// The words before a command line that make it run as root; none for root. They name PATH and HOME because sudo -E
/// keeps the rest of the environment, but not PATH, and on some systems not HOME.
pub(crate) fn root_prefix() -> Result<Vec<OsString>> {
    if fs::metadata("/proc/self")?.uid() == 0 {
        return Ok(Vec::new());
    }
    ensure!(find("sudo").is_some(), "this step needs root and there is no sudo: run the command as root");
    let mut words = ["sudo", "-E", "env", "PATH=", "HOME="].map(OsString::from);
    words[3].push(path()?);
    words[4].push(home()?);
    Ok(words.into())
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Result<Command> {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

pub(crate) fn rustup() -> Result<Command> {
    ensure!(find("rustup").is_some(), "rustup is not installed: get it from https://rustup.rs");
    command("rustup")
}

/// Runs `command` with its output on the screen; fails if it does.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", line(command)))?;
    ensure!(status.success(), "{} failed: {status}", line(command));
    Ok(())
}

/// Runs `command` and gives what it printed to stdout; fails, with its last lines, if it does.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", line(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let all = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
        bail!("{} failed: {}\n{}", line(command), output.status, tail(&all));
    }
    Ok(stdout)
}

/// Runs `command` with its errors on the screen and gives what it printed to stdout; fails if it does.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    ensure!(output.status.success(), "{} failed: {}", line(command), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The last lines of what a program printed, indented.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("  {line}")).collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// The last line of a failed program's output.
pub(crate) fn last_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

/// Whether `command` can be started and succeeds; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs `work` as a step of the setup and says what it is, how long it took, and whether it failed.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("setup: {what} …");
    let start = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "failed" };
    eprintln!("setup: {what}: {outcome} after {:.1} s", start.elapsed().as_secs_f64());
    result
}

/// A child process that does not outlive its owner.
pub(crate) struct Child(pub(crate) process::Child);

impl Child {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        command.spawn().map(Self).with_context(|| format!("cannot start {}", line(command)))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both fail for a child that has ended, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a thread returned; its panic becomes one of the caller.
pub(crate) fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Removes a file or directory tree that may not be there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let result = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The command as a person would type it.
fn line(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

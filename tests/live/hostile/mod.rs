//! Hostile programs and files: every command stays within its memory and its time, whatever they say of themselves.

mod executables;
mod files;
mod made_up;

use std::{
    env, fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use live_tests::sfgi;

use crate::harness::Test;

pub(crate) fn tests() -> Vec<Test> {
    [executables::tests(), files::tests(), made_up::tests()].into_iter().flatten().collect()
}

const MIB: u64 = 1 << 20;

/// How a command ended, and what it took.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    /// The most memory that it or one of its processes had, bytes.
    peak: u64,
    took: Duration,
}

impl Ended {
    /// Fails if it took more than this.
    fn within(self, bytes: u64, time: Duration) -> Result<Ended> {
        let Ended { code, peak, took, stderr, .. } = &self;
        ensure!(*peak <= bytes, "{} MiB, not {}: {stderr}", peak / MIB, bytes / MIB);
        ensure!(*took <= time, "{took:?}, not {time:?}: {stderr}");
        ensure!(!stderr.contains("panicked"), "{stderr}");
        ensure!(code.is_some(), "a signal ended it: {stderr}");
        Ok(self)
    }

    /// Fails if it did not end with this code, or does not say all of this.
    fn says(self, code: i32, words: &[&str]) -> Result<Ended> {
        ensure!(self.code == Some(code), "{:?}, not {code}: {}", self.code, self.stderr);
        for word in words {
            // `leaks` closes with a sentence on stdout.
            let said = self.stderr.contains(word) || self.stdout.contains(word);
            ensure!(said, "it does not say {word:?}: {}", self.stderr);
        }
        Ok(self)
    }
}

/// Runs `sfgi ARGS…` to its end, below a process of its own: what a child had before its `exec` counts as its peak, too, and
/// this process may have had gigabytes.
fn run(args: &[&str]) -> Result<Ended> {
    let (began, dir) = (Instant::now(), tempfile::tempdir()?);
    let file = dir.path().join("peak");
    let mut command = Command::new(env::current_exe()?);
    command.arg("--peak").arg(&file).arg("--").arg(sfgi::binary()?).args(args);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        peak: fs::read_to_string(file)?.trim().parse()?,
        took: began.elapsed(),
    })
}

/// The process between: runs a command, writes the most memory that it or one of its processes had into a file, bytes, and ends as
/// the command did.
pub(crate) fn measure(file: &Path, command: &[String]) -> Result<ExitCode> {
    let (program, args) = command.split_first().context("no command")?;
    let child = Command::new(program).args(args).spawn()?;
    let pid = i32::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: `rusage` is plain numbers, for which zero bytes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals; `child` is not waited for elsewhere.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    ensure!(waited == pid, "wait4: {}", std::io::Error::last_os_error());
    // Kilobytes, of the largest of it and of the children that it waited for.
    fs::write(file, (usage.ru_maxrss * 1024).to_string())?;
    ensure!(libc::WIFEXITED(status), "signal {} ended it", libc::WTERMSIG(status));
    Ok(ExitCode::from(u8::try_from(libc::WEXITSTATUS(status))?))
}

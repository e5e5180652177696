//! Hostile programs and files: every command stays within its memory and its time, whatever they say of themselves.

mod executables;
mod files;
mod made_up;

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    process::Command,
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
            ensure!(self.stderr.contains(word), "it does not say {word:?}: {}", self.stderr);
        }
        Ok(self)
    }
}

/// Runs `sfgi ARGS…` to its end.
fn run(args: &[&str]) -> Result<Ended> {
    let began = Instant::now();
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut command: Command = sfgi::command(args)?;
    command.stdin(std::process::Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let child = command.spawn().with_context(|| format!("{command:?}"))?;
    let pid = i32::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: `rusage` is plain numbers, for which zero bytes are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals; `child` is not waited for elsewhere.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    ensure!(waited == pid, "wait4: {}", std::io::Error::last_os_error());
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    let text = |file: &mut File| -> Result<String> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(Ended {
        code,
        stdout: text(&mut stdout)?,
        stderr: text(&mut stderr)?,
        // Kilobytes, of the largest of it and of the children that it waited for.
        peak: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        took: began.elapsed(),
    })
}

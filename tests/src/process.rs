//! Processes that do not outlive their test, and their output, line by line with arrival times.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    process::{Pid, Signal, kill_process, set_parent_process_death_signal},
    time::{ClockId, clock_gettime},
};
use tempfile::TempDir;

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// How long a program that a test has just written may be busy (`ETXTBSY`): a child that another test has forked
/// holds the file open until it executes its own program.
const BUSY: Duration = Duration::from_secs(10);

/// A line of output.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it was read, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// The text without its line end.
    pub text: String,
}

/// A running process, killed when this is dropped or the test's thread ends.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    pub stdout: Output,
    pub stderr: Output,
    /// A directory that the process needs; removed after the process was killed.
    keeps: Option<TempDir>,
}

impl Process {
    /// Starts the command with all three standard streams piped.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Process> {
        // The kernel's parent-death signal: the test runner may be killed, and then no destructor runs.
        // SAFETY: the closure only makes one system call, which is allowed between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let deadline = Instant::now() + BUSY;
        let mut child = loop {
            match command.spawn() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                result => break result.with_context(|| format!("cannot start {command:?}"))?,
            }
        };
        let stdout = Output::read(child.stdout.take().context("stdout is piped")?);
        let stderr = Output::read(child.stderr.take().context("stderr is piped")?);
        let stdin = child.stdin.take();
        Ok(Process { child, stdin, stdout, stderr, keeps: None })
    }

    /// Keeps a directory until the process has been killed, and removes it then.
    #[must_use]
    pub fn keeping(mut self, directory: TempDir) -> Process {
        self.keeps = Some(directory);
        self
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes an empty line to its stdin, which a fixture waits for.
    ///
    /// # Errors
    /// It has closed its stdin.
    pub fn say(&mut self) -> Result<()> {
        self.tell("")
    }

    /// Writes a line to its stdin.
    ///
    /// # Errors
    /// As [`say`](Self::say).
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        stdin.write_all(format!("{line}\n").as_bytes()).context("cannot write to the process")
    }

    /// Gives a fixture of `internal/command` a command and returns what it prints until it is done.
    ///
    /// # Errors
    /// It does not do it in time.
    pub fn command(&mut self, command: &str, timeout: Duration) -> Result<Vec<String>> {
        let before = self.stdout.lines().len();
        self.tell(command)?;
        let done = format!("done {command}");
        self.stdout.wait_for_after(before, timeout, |line| line == done)?;
        let lines = self.stdout.lines().into_iter().skip(before).map(|line| line.text);
        Ok(lines.take_while(|line| *line != done).collect())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has gone already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("cannot signal process {pid:?}"))
    }

    /// Waits until it has ended and all its output has been read.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                self.stdout.wait_closed();
                self.stderr.wait_closed();
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(2));
        }
        bail!("process {} did not end within {timeout:?}; its stderr:\n{}", self.pid(), self.stderr.text())
    }

    /// As [`wait`](Self::wait); it must have ended with this exit code.
    ///
    /// # Errors
    /// It does not end in time, or otherwise; the error holds its stderr.
    pub fn wait_code(&mut self, timeout: Duration, code: i32) -> Result<()> {
        let status = self.wait(timeout)?;
        let how = (status.code(), status.signal());
        anyhow::ensure!(
            how == (Some(code), None),
            "{status}, expected exit code {code}:\n{}",
            self.stderr.text()
        );
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a stream as they arrive.
#[derive(Clone, Debug)]
pub struct Output(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    closed: bool,
}

impl Output {
    fn read(stream: impl Read + Send + 'static) -> Output {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut bytes = Vec::new();
            // Not `lines`: it ends at a line that is no UTF-8, and then the pipe of a program that goes on is full.
            while stream.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
                let at_ns = monotonic_ns();
                let text = String::from_utf8_lossy(&bytes);
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text).to_owned();
                bytes.clear();
                writer.lock().lines.push(Line { at_ns, text });
                writer.changed.notify_all();
            }
            writer.lock().closed = true;
            writer.changed.notify_all();
        });
        Output(shared)
    }

    /// The first line for which `wanted` holds, from the beginning of the stream on; waits for it.
    ///
    /// # Errors
    /// The stream ends or the time is over before it comes; the error holds what came instead.
    pub fn wait_for(&self, timeout: Duration, wanted: impl Fn(&str) -> bool) -> Result<Line> {
        self.wait_for_after(0, timeout, wanted)
    }

    /// As [`wait_for`](Self::wait_for), from behind the first `seen` lines on.
    fn wait_for_after(
        &self,
        mut seen: usize,
        timeout: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Line> {
        let deadline = Instant::now() + timeout;
        let mut state = self.0.lock();
        loop {
            if let Some(line) = state.lines[seen..].iter().find(|line| wanted(&line.text)) {
                return Ok(line.clone());
            }
            seen = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed || left.is_zero() {
                drop(state);
                bail!("the expected line did not come within {timeout:?}; what came:\n{}", self.text());
            }
            state = self.0.changed.wait_timeout(state, left).expect("no reader panics").0;
        }
    }

    /// All lines so far.
    pub fn lines(&self) -> Vec<Line> {
        self.0.lock().lines.clone()
    }

    /// All lines so far as one text.
    pub fn text(&self) -> String {
        self.0.lock().lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
    }

    fn wait_closed(&self) {
        let state = self.0.lock();
        // A grandchild may keep the stream open; what the process itself wrote has arrived long before that.
        let _ = self.0.changed.wait_timeout_while(state, Duration::from_secs(5), |state| !state.closed);
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no reader panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_utf_8_ends_nothing() -> Result<()> {
        let mut process = Process::spawn(Command::new("printf").arg(r"a\r\n\377b\n\nc"))?;
        process.wait_code(Duration::from_secs(60), 0)?;
        let lines: Vec<String> = process.stdout.lines().into_iter().map(|line| line.text).collect();
        assert_eq!(lines, ["a", "\u{fffd}b", "", "c"]);
        Ok(())
    }
}

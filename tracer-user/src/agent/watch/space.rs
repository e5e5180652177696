//! Whether a process still has the memory that it had: an `exec` gives it another, also one of the same program.
//!
//! The kernel lets go of an address space when nobody runs in it any more, and says so to whoever has it open: a read of
//! `/proc/PID/mem` that was opened before gives nothing then (`fs/proc/base.c: mem_rw`), and is an error before,
//! because nothing is mapped at address 0. That costs less than a microsecond, and holds no memory but the kernel's record of it.

use std::{fs::File, os::unix::fs::FileExt as _};

/// The memory of a process, as it was when this was made.
#[derive(Debug)]
pub(super) struct Space(Option<File>);

impl Space {
    /// Of this process, now.
    pub(super) fn of(pid: i32) -> Space {
        Space(File::open(format!("/proc/{pid}/mem")).ok())
    }

    /// Whether the process has another one by now, or none; `false` also where that cannot be told.
    pub(super) fn gone(&self) -> bool {
        self.0.as_ref().is_some_and(|memory| matches!(memory.read_at(&mut [0], 0), Ok(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        process::{Command, Stdio},
    };

    #[test]
    fn an_exec_of_the_same_program_is_seen_and_an_end() {
        let script = "echo one; read go; exec sh -c 'echo two; read go'";
        let mut shell = Command::new("sh");
        let mut shell =
            shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(shell.stdout.take().unwrap()).lines();
        let pid = i32::try_from(shell.id()).unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "one");
        let first = Space::of(pid);
        assert!(!first.gone());
        shell.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "two");
        assert!(first.gone());
        let second = Space::of(pid);
        assert!(!second.gone());
        shell.kill().unwrap();
        shell.wait().unwrap();
        assert!(second.gone());
        assert!(!Space::of(pid).gone(), "there is nothing to be told of");
    }
}

//! A filter of system calls (seccomp), as systemd makes one from `SystemCallFilter=` and related settings.

use std::{collections::BTreeMap, fs, io, process::Command};

use anyhow::{Context, Result, bail, ensure};
use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS, sock_filter, sock_fprog,
};

use crate::toolchain;

/// `AUDIT_ARCH_X86_64` (`include/uapi/linux/audit.h`).
const ARCH: u32 = 0xc000_003e;

/// Offsets in `struct seccomp_data`: the number, the architecture, and the low half of the first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// Which system calls are allowed; any other kills the process.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// By number, ascending.
    allowed: Vec<u32>,
    numbers: BTreeMap<String, u32>,
    /// The address families that sockets may have; others fail with EAFNOSUPPORT. `None`: all.
    pub families: Option<Vec<u32>>,
    /// Whether memory that is or was writable may not be made executable.
    pub deny_write_execute: bool,
}

impl Filter {
    /// From all lines `SystemCallFilter=`, in their order: names and groups, which systemd itself resolves; `~` takes
    /// away.
    ///
    /// # Errors
    /// A group is none, or the kernel's headers or systemd are missing.
    pub fn of(lines: &[String]) -> Result<Filter> {
        let numbers = numbers()?;
        let mut names: Vec<String> = Vec::new();
        for line in lines {
            let (takes, line) = line.strip_prefix('~').map_or((false, line.as_str()), |rest| (true, rest));
            for word in line.split_ascii_whitespace() {
                let these = resolved(word)?;
                if takes {
                    names.retain(|name| !these.contains(name));
                } else {
                    names.extend(these);
                }
            }
        }
        // A group also names system calls of other architectures.
        let mut allowed: Vec<u32> = names.iter().filter_map(|name| numbers.get(name).copied()).collect();
        allowed.sort_unstable();
        allowed.dedup();
        ensure!(allowed.len() > 100, "only {} system calls are known of {lines:?}", allowed.len());
        Ok(Filter { allowed, numbers, families: None, deny_write_execute: false })
    }

    /// Installs the filter for this thread and what it starts; `no_new_privs` must be set.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn install(&self) -> Result<()> {
        let mut program = self.program()?;
        let program = sock_fprog { len: program.len().try_into()?, filter: program.as_mut_ptr() };
        // SAFETY: the kernel copies the program, which lives until the call returns.
        let result =
            unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        ensure!(result == 0, "no filter of system calls: {}", io::Error::last_os_error());
        Ok(())
    }

    fn program(&self) -> Result<Vec<sock_filter>> {
        // The numbers are those of x86-64 only.
        let mut program =
            vec![load(ARCHITECTURE), skip_unless(ARCH, 1), skip(1), answer(SECCOMP_RET_KILL_PROCESS)];
        let number = |name: &str| self.numbers.get(name).copied().with_context(|| format!("no {name}"));
        if let Some(families) = &self.families {
            let mut checks = Vec::new();
            for family in families {
                // On a match, jump over the other families and the refusal behind them.
                let left = u8::try_from(families.len() * 2 - checks.len())?;
                checks.extend([skip_unless(*family, 1), skip(u32::from(left) - 1)]);
            }
            checks.push(answer(SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32));
            program.extend(argument(number("socket")?, 0, checks)?);
        }
        if self.deny_write_execute {
            let (execute, both) = (libc::PROT_EXEC as u32, (libc::PROT_EXEC | libc::PROT_WRITE) as u32);
            for (name, wanted) in [("mmap", both), ("mprotect", execute), ("pkey_mprotect", execute)] {
                let refuse = answer(SECCOMP_RET_ERRNO | libc::EPERM as u32);
                let checks =
                    vec![statement(BPF_ALU | BPF_AND | BPF_K, wanted), skip_unless(wanted, 1), refuse];
                program.extend(argument(number(name)?, 2, checks)?);
            }
        }
        program.push(load(NUMBER));
        for number in &self.allowed {
            program.extend([skip_unless(*number, 1), answer(SECCOMP_RET_ALLOW)]);
        }
        program.push(answer(SECCOMP_RET_KILL_PROCESS));
        Ok(program)
    }
}

/// The numbers of address families, as `RestrictAddressFamilies=` names them.
///
/// # Errors
/// One is not known here.
pub fn families<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Vec<u32>> {
    let number = |name| match name {
        "AF_UNIX" => Ok(libc::AF_UNIX as u32),
        "AF_INET" => Ok(libc::AF_INET as u32),
        "AF_INET6" => Ok(libc::AF_INET6 as u32),
        other => bail!("{other}: its number is not known here"),
    };
    names.into_iter().map(number).collect()
}

/// Checks an argument of one system call. `checks` end the program or run off their end, where the next rule begins.
fn argument(number: u32, index: u32, checks: Vec<sock_filter>) -> Result<Vec<sock_filter>> {
    let over = u8::try_from(checks.len() + 1)?;
    let mut all = vec![load(NUMBER), skip_unless(number, over), load(FIRST_ARGUMENT + 8 * index)];
    all.extend(checks);
    Ok(all)
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn answer(action: u32) -> sock_filter {
    statement(BPF_RET | BPF_K, action)
}

fn skip(count: u32) -> sock_filter {
    statement(BPF_JMP, count)
}

/// Goes on if the loaded value is `value`, else skips `count` statements.
fn skip_unless(value: u32, count: u8) -> sock_filter {
    sock_filter { jf: count, ..statement(BPF_JMP | BPF_JEQ | BPF_K, value) }
}

fn statement(code: u32, k: u32) -> sock_filter {
    // Codes have 16 bits.
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// The system calls of a group, or the name itself if it is no group.
fn resolved(word: &str) -> Result<Vec<String>> {
    if !word.starts_with('@') {
        return Ok(vec![word.to_owned()]);
    }
    let text =
        toolchain::output(Command::new("systemd-analyze").args(["syscall-filter", "--no-pager", word]))?;
    let text = String::from_utf8(text)?;
    // The output is the group's name, a comment, and a member a line.
    let members =
        text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut all = Vec::new();
    for member in members {
        all.extend(resolved(member)?);
    }
    Ok(all)
}

/// The numbers of this machine's system calls.
fn numbers() -> Result<BTreeMap<String, u32>> {
    let file = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h";
    let text = fs::read_to_string(file).context(file)?;
    let one = |line: &str| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    Ok(text.lines().filter_map(one).collect())
}

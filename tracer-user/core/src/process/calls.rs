//! The system call that a thread is in, from `/proc/PID/task/TID/syscall` (`fs/proc/base.c: proc_pid_syscall`).

use super::{Process, threads};

/// Threads that are looked through for one by its id in another PID namespace.
const MAX_THREADS: usize = 4096;

/// A system call that has not returned yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number on this architecture.
    pub number: i64,
    /// Its name; `None`: it is none of those that last.
    pub name: Option<&'static str>,
    /// What it is about; `None`: that cannot be told from its arguments.
    pub about: Option<Argument>,
}

/// An argument that says what a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A descriptor of the process.
    Descriptor(u32),
    /// The address of a path in its memory.
    Path(u64),
    /// The PID of a child, in its own PID namespace; `None`: any child.
    Child(Option<u32>),
}

/// Which argument of a call is which.
#[derive(Clone, Copy)]
enum Takes {
    Nothing,
    Descriptor,
    /// The path is the argument with this index.
    Path(usize),
    Child,
}

/// Calls that may last, and what they are about.
const CALLS: &[(i64, &str, Takes)] = &[
    (libc::SYS_read, "read", Takes::Descriptor),
    (libc::SYS_write, "write", Takes::Descriptor),
    (libc::SYS_readv, "readv", Takes::Descriptor),
    (libc::SYS_writev, "writev", Takes::Descriptor),
    (libc::SYS_pread64, "pread64", Takes::Descriptor),
    (libc::SYS_pwrite64, "pwrite64", Takes::Descriptor),
    (libc::SYS_recvfrom, "recvfrom", Takes::Descriptor),
    (libc::SYS_recvmsg, "recvmsg", Takes::Descriptor),
    (libc::SYS_recvmmsg, "recvmmsg", Takes::Descriptor),
    (libc::SYS_sendto, "sendto", Takes::Descriptor),
    (libc::SYS_sendmsg, "sendmsg", Takes::Descriptor),
    (libc::SYS_sendmmsg, "sendmmsg", Takes::Descriptor),
    (libc::SYS_accept, "accept", Takes::Descriptor),
    (libc::SYS_accept4, "accept4", Takes::Descriptor),
    (libc::SYS_connect, "connect", Takes::Descriptor),
    (libc::SYS_close, "close", Takes::Descriptor),
    (libc::SYS_fsync, "fsync", Takes::Descriptor),
    (libc::SYS_fdatasync, "fdatasync", Takes::Descriptor),
    (libc::SYS_syncfs, "syncfs", Takes::Descriptor),
    (libc::SYS_sync, "sync", Takes::Nothing),
    (libc::SYS_flock, "flock", Takes::Descriptor),
    (libc::SYS_fcntl, "fcntl", Takes::Descriptor),
    (libc::SYS_ioctl, "ioctl", Takes::Descriptor),
    (libc::SYS_getdents64, "getdents64", Takes::Descriptor),
    (libc::SYS_ftruncate, "ftruncate", Takes::Descriptor),
    (libc::SYS_fallocate, "fallocate", Takes::Descriptor),
    (libc::SYS_fstat, "fstat", Takes::Descriptor),
    (libc::SYS_fstatfs, "fstatfs", Takes::Descriptor),
    (libc::SYS_splice, "splice", Takes::Descriptor),
    (libc::SYS_sendfile, "sendfile", Takes::Descriptor),
    (libc::SYS_copy_file_range, "copy_file_range", Takes::Descriptor),
    (libc::SYS_epoll_pwait, "epoll_pwait", Takes::Descriptor),
    (libc::SYS_openat, "openat", Takes::Path(1)),
    (libc::SYS_newfstatat, "newfstatat", Takes::Path(1)),
    (libc::SYS_statx, "statx", Takes::Path(1)),
    (libc::SYS_unlinkat, "unlinkat", Takes::Path(1)),
    (libc::SYS_statfs, "statfs", Takes::Path(0)),
    (libc::SYS_umount2, "umount2", Takes::Path(0)),
    (libc::SYS_wait4, "wait4", Takes::Child),
    (libc::SYS_waitid, "waitid", Takes::Nothing),
    (libc::SYS_futex, "futex", Takes::Nothing),
    (libc::SYS_nanosleep, "nanosleep", Takes::Nothing),
    (libc::SYS_clock_nanosleep, "clock_nanosleep", Takes::Nothing),
    (libc::SYS_ppoll, "ppoll", Takes::Nothing),
    (libc::SYS_pselect6, "pselect6", Takes::Nothing),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait", Takes::Nothing),
    (libc::SYS_rt_sigsuspend, "rt_sigsuspend", Takes::Nothing),
    (libc::SYS_semtimedop, "semtimedop", Takes::Nothing),
    (libc::SYS_semop, "semop", Takes::Nothing),
    (libc::SYS_msgrcv, "msgrcv", Takes::Nothing),
    (libc::SYS_msgsnd, "msgsnd", Takes::Nothing),
    (libc::SYS_mq_timedreceive, "mq_timedreceive", Takes::Nothing),
    (libc::SYS_io_getevents, "io_getevents", Takes::Nothing),
    (libc::SYS_io_uring_enter, "io_uring_enter", Takes::Descriptor),
    (libc::SYS_ptrace, "ptrace", Takes::Nothing),
    (libc::SYS_munmap, "munmap", Takes::Nothing),
    (libc::SYS_madvise, "madvise", Takes::Nothing),
];
/// Calls that only this architecture has.
#[cfg(target_arch = "x86_64")]
const MORE: &[(i64, &str, Takes)] = &[
    (libc::SYS_open, "open", Takes::Path(0)),
    (libc::SYS_stat, "stat", Takes::Path(0)),
    (libc::SYS_lstat, "lstat", Takes::Path(0)),
    (libc::SYS_poll, "poll", Takes::Nothing),
    (libc::SYS_select, "select", Takes::Nothing),
    (libc::SYS_epoll_wait, "epoll_wait", Takes::Descriptor),
    (libc::SYS_pause, "pause", Takes::Nothing),
];
#[cfg(not(target_arch = "x86_64"))]
const MORE: &[(i64, &str, Takes)] = &[];

impl Process {
    /// The system call that a thread is in, by its id in the PID namespace of the process. `None`: it is in none, or we may
    /// not look.
    pub fn call(&self, inner: u32) -> Option<Call> {
        let is_it = |tid: &i32| self.thread(*tid).is_some_and(|thread| thread.inner == inner);
        // In most cases it has no PID namespace of its own.
        let same = i32::try_from(inner).ok().filter(is_it);
        let tid = same.or_else(|| threads::list(self.pid).ok()?.into_iter().take(MAX_THREADS).find(is_it))?;
        parse(&self.proc_text(&format!("task/{tid}/syscall")).ok()?)
    }
}

/// Parses `0 0x3 0xc000012000 …`: the number, six arguments, stack pointer and program counter. A thread that runs has
/// `running`, and one that is held up in user space the number -1.
fn parse(text: &str) -> Option<Call> {
    let mut words = text.split_ascii_whitespace();
    let number: i64 = words.next()?.parse().ok().filter(|number| *number >= 0)?;
    let hex = |word: &str| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    let arguments: Vec<u64> = words.take(6).map_while(hex).collect();
    let known = CALLS.iter().chain(MORE).find(|(of, ..)| *of == number);
    let argument = |index: usize| arguments.get(index).copied();
    // The kernel takes the low half for a descriptor or a PID.
    let about = known.and_then(|(.., takes)| match takes {
        Takes::Nothing => None,
        Takes::Descriptor => Some(Argument::Descriptor(argument(0)? as u32)),
        Takes::Path(index) => Some(Argument::Path(argument(*index)?)),
        Takes::Child => {
            let pid = argument(0)? as u32;
            Some(Argument::Child(Some(pid).filter(|pid| pid.cast_signed() > 0)))
        }
    });
    Some(Call { number, name: known.map(|(_, name, _)| *name), about })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_and_what_it_is_about() {
        let rest = "0x0 0x0 0x0 0x0 0x7ffd0000 0x45f000";
        let call = |number: i64, first: &str, second: &str| {
            parse(&format!("{number} {first} {second} {rest}\n")).unwrap()
        };
        let read = call(libc::SYS_read, "0x3", "0xc000012000");
        assert_eq!((read.name, read.about), (Some("read"), Some(Argument::Descriptor(3))));
        let open = call(libc::SYS_openat, "0xffffffffffffff9c", "0xc000012000");
        assert_eq!((open.name, open.about), (Some("openat"), Some(Argument::Path(0xc0_0001_2000))));
        let any = call(libc::SYS_wait4, "0xffffffffffffffff", "0x0");
        assert_eq!(any.about, Some(Argument::Child(None)));
        assert_eq!(call(libc::SYS_wait4, "0x7b", "0x0").about, Some(Argument::Child(Some(123))));
        let other = call(99_999, "0x1", "0x2");
        assert_eq!((other.number, other.name, other.about), (99_999, None, None));
    }

    #[test]
    fn what_is_no_call_is_none() {
        for text in ["", "running\n", "-1 0x7ffd 0x45f0\n", "x 0x1", "99999999999999999999 0x1"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
        let cut = parse(&format!("{} ", libc::SYS_read)).unwrap();
        assert_eq!((cut.name, cut.about), (Some("read"), None));
    }

    #[test]
    fn a_child_sleeps_in_the_kernel() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
        let sleeps = |call: Call| call.name.is_some_and(|name| name.ends_with("nanosleep"));
        let found = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            process.call(child.id()).is_some_and(sleeps)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found, "no call of a sleep");
    }
}

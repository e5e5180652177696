//! The memory of a running process, by `process_vm_readv`: nothing is stopped, nothing is written.

use super::{Fault, Memory, Range};
use crate::target::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// `IOV_MAX` (`include/uapi/linux/uio.h`): stretches that one call takes.
const STRETCHES: usize = 1024;
/// Bytes that one call is asked for. The kernel cuts at `MAX_RW_COUNT`, a page less than 2 GiB.
const BYTES: usize = 1 << 30;

/// The memory of a process while it runs.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    process: &'a Process,
}

impl<'a> Live<'a> {
    /// The memory of this process.
    pub fn of(process: &'a Process) -> Live<'a> {
        Live { process }
    }

    /// Reads stretches into `buffer`, which is as long as all of them. Gives how many bytes were
    /// read, counted from the first stretch: fewer than all where one of them is not mapped.
    fn call(self, remote: &[libc::iovec], buffer: &mut [u8]) -> Result<usize, Fault> {
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let (pid, count) = (self.process.pid(), remote.len() as libc::c_ulong);
        // SAFETY: the local vector is `buffer`, which is ours to write; the kernel checks the
        // remote ones, and only reads there.
        let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), count, 0) };
        if let Ok(read) = usize::try_from(read) {
            return Ok(read);
        }
        match Errno::from_io_error(&std::io::Error::last_os_error()) {
            Some(Errno::SRCH) => Err(Fault::Gone),
            Some(Errno::PERM | Errno::ACCESS) => Err(Fault::Denied),
            _ => Ok(0),
        }
    }

    /// Whether the process has ended, and its number may be another's by now.
    fn gone(self) -> bool {
        let pidfd = self.process.pidfd();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Reads stretches, which one call can take, into `buffer`, which is as long as all of them.
    fn batch(self, ranges: &[Range], mut buffer: &mut [u8], whole: &mut Vec<bool>) -> Result<(), Fault> {
        let remote: Vec<_> = ranges.iter().map(iovec).collect();
        let mut done = 0;
        while done < ranges.len() {
            let mut read = self.call(remote.get(done..).unwrap_or_default(), buffer)?;
            // A call ends at the first stretch that fails, part of which may have been read.
            for range in ranges.get(done..).unwrap_or_default() {
                let (part, behind) = std::mem::take(&mut buffer).split_at_mut(range.len);
                buffer = behind;
                done += 1;
                whole.push(range.len <= read);
                if range.len > read {
                    part.fill(0);
                    break;
                }
                read -= range.len;
            }
        }
        Ok(())
    }
}

fn iovec(range: &Range) -> libc::iovec {
    libc::iovec { iov_base: range.addr as *mut libc::c_void, iov_len: range.len }
}

impl Memory for Live<'_> {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let mut addr = addr;
        for part in buffer.chunks_mut(BYTES) {
            let range = Range { addr, len: part.len() };
            let read = self.call(&[iovec(&range)], part)?;
            if read < range.len {
                let at = addr.wrapping_add(read as u64);
                return Err(if self.gone() { Fault::Gone } else { Fault::Unmapped(at) });
            }
            addr = addr.wrapping_add(range.len as u64);
        }
        Ok(())
    }

    fn scatter(&self, ranges: &[Range], buffer: &mut Vec<u8>, whole: &mut Vec<bool>) -> Result<(), Fault> {
        // What was in it is overwritten or zeroed: only what is new needs to be zeroed before.
        buffer.resize(ranges.iter().map(|range| range.len).sum(), 0);
        whole.clear();
        let (mut rest, mut buffer) = (ranges, &mut buffer[..]);
        while !rest.is_empty() {
            let mut bytes = 0usize;
            let fits = |range: &&Range| {
                bytes = bytes.saturating_add(range.len);
                bytes <= BYTES
            };
            let count = rest.iter().take(STRETCHES).take_while(fits).count();
            // One that alone is more than a call takes is read in parts.
            let (now, later) = rest.split_at(count.max(1));
            let (part, behind) = std::mem::take(&mut buffer).split_at_mut(now.iter().map(|r| r.len).sum());
            match (count, now) {
                (0, [range]) => match self.read(range.addr, part) {
                    Ok(()) => whole.push(true),
                    Err(Fault::Unmapped(_)) => {
                        part.fill(0);
                        whole.push(false);
                    }
                    Err(fault) => return Err(fault),
                },
                _ => self.batch(now, part, whole)?,
            }
            (rest, buffer) = (later, behind);
        }
        if self.gone() { Err(Fault::Gone) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
    use std::process::{Child, Command, Stdio};

    const PAGE: usize = 4096;

    fn ourselves() -> Process {
        Process::open(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    /// Pages of ours, every word holding its own address; those in `holes` are not readable.
    struct Pages {
        start: *mut u8,
        len: usize,
    }

    impl Pages {
        fn new(count: usize, holes: &[usize]) -> Pages {
            let (len, access) = (count * PAGE, ProtFlags::READ | ProtFlags::WRITE);
            // SAFETY: a new mapping, at an address that the kernel chooses; written only within.
            unsafe {
                let start = mmap_anonymous(std::ptr::null_mut(), len, access, MapFlags::PRIVATE).unwrap();
                for at in (0..len).step_by(8) {
                    start.byte_add(at).cast::<u64>().write(start as u64 + at as u64);
                }
                for hole in holes {
                    mprotect(start.byte_add(hole * PAGE), PAGE, MprotectFlags::empty()).unwrap();
                }
                Pages { start: start.cast(), len }
            }
        }

        fn addr(&self) -> u64 {
            self.start as u64
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: our own mapping, to which no reference is left.
            unsafe { munmap(self.start.cast(), self.len).unwrap() };
        }
    }

    #[test]
    fn one_word_and_many_pages() {
        let (process, pages) = (ourselves(), Pages::new(64, &[]));
        let memory = Live::of(&process);
        assert_eq!(memory.word(pages.addr() + 24), Ok(pages.addr() + 24));
        let mut buffer = vec![0; pages.len];
        memory.read(pages.addr(), &mut buffer).unwrap();
        assert_eq!(buffer[pages.len - 8..], (pages.addr() + pages.len as u64 - 8).to_le_bytes());
        assert_eq!(memory.read(0, &mut []), Ok(()));
    }

    #[test]
    fn what_is_not_mapped_is_said() {
        let (process, pages) = (ourselves(), Pages::new(3, &[1]));
        let memory = Live::of(&process);
        assert_eq!(memory.word(8), Err(Fault::Unmapped(8)));
        assert_eq!(memory.word(u64::MAX - 3), Err(Fault::Unmapped(u64::MAX - 3)));
        let hole = pages.addr() + PAGE as u64;
        assert_eq!(memory.word(hole), Err(Fault::Unmapped(hole)));
        // Reaches into the hole.
        assert_eq!(memory.read(hole - 8, &mut [0; 16]), Err(Fault::Unmapped(hole)));
        assert_eq!(memory.read(pages.addr(), &mut vec![0; 3 * PAGE]), Err(Fault::Unmapped(hole)));
    }

    /// Against the trait's own, which reads one stretch after the other.
    #[test]
    fn scattered_stretches_are_what_single_reads_give() {
        struct OneByOne<'a>(Live<'a>);
        impl Memory for OneByOne<'_> {
            fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
                self.0.read(addr, buffer)
            }
        }
        let (process, pages) = (ourselves(), Pages::new(16, &[3, 4, 15]));
        let memory = Live::of(&process);
        // More than three calls' worth, of all lengths and places, in holes and across their ends.
        let ranges: Vec<_> = (0..3 * STRETCHES as u64 + 77)
            .map(|i| Range {
                addr: pages.addr() + i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (16 * PAGE as u64),
                len: (i * 37 % 700) as usize * usize::from(i % 13 != 0),
            })
            .chain([Range { addr: 0, len: 8 }, Range { addr: u64::MAX, len: 8 }, Range { addr: 0, len: 0 }])
            .collect();
        // What is left of an earlier use must not show.
        let (mut many, mut many_whole) = (vec![0xaa; 100_000], vec![true; 9]);
        let (mut single, mut single_whole) = (Vec::new(), Vec::new());
        memory.scatter(&ranges, &mut many, &mut many_whole).unwrap();
        OneByOne(memory).scatter(&ranges, &mut single, &mut single_whole).unwrap();
        assert_eq!(many_whole, single_whole);
        assert!(many == single);
        let failed = many_whole.iter().filter(|whole| !**whole).count();
        assert!(failed > 300 && failed < 2000, "{failed}");
        memory.scatter(&[], &mut many, &mut many_whole).unwrap();
        assert!(many.is_empty() && many_whole.is_empty());
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_process_that_has_ended_is_gone() {
        let mut child = sleeper();
        let process = Process::open(i32::try_from(child.id()).unwrap()).unwrap();
        let memory = Live::of(&process);
        let range = Range { addr: 8, len: 8 };
        let (mut buffer, mut whole) = (Vec::new(), Vec::new());
        assert_eq!(memory.scatter(&[range], &mut buffer, &mut whole), Ok(()));
        assert_eq!((whole.len(), memory.word(8)), (1, Err(Fault::Unmapped(8))));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(memory.scatter(&[range], &mut buffer, &mut whole), Err(Fault::Gone));
        assert_eq!(memory.word(8), Err(Fault::Gone));
    }
}

//! The memory of a running process, read by `process_vm_readv`: the process is not stopped and not written to.

use super::{Fault, Memory, Range, total};
use crate::budget;
use crate::patience::{self, What};
use crate::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The most stretches of one call: `UIO_MAXIOV` (`include/uapi/linux/uio.h`).
const STRETCHES: usize = 1024;
/// Bytes that one call is asked for: one that hangs is noticed by its age, so none may be long for honest reasons.
const BYTES: usize = 64 << 20;
/// Stretches that are at most this far apart are read as one, together with the bytes between. A stretch costs the
/// kernel as much as copying a few KiB. This reads a million `g`s, which lie side by side, in a third of the time,
/// and the ends of a million stacks of 2 KiB in two thirds.
const GAP: u64 = 2 << 10;
/// The most bytes of a run of stretches that are read as one. Longer stretches are read by themselves, straight into
/// their place.
const RUN: usize = 64 << 10;

/// The memory of a process while it runs. It may change between two reads, and during one.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    process: &'a Process,
}

impl<'a> Live<'a> {
    pub fn of(process: &'a Process) -> Live<'a> {
        Live { process }
    }

    /// Makes one call that reads stretches into `buffer`, which is as long as all of them. Returns how many bytes
    /// were read, counted from the first stretch: fewer than all if one of them is not mapped.
    fn call(self, remote: &[libc::iovec], buffer: &mut [u8]) -> Result<usize, Fault> {
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let (pid, count) = (self.process.pid(), remote.len() as libc::c_ulong);
        let _reading = patience::reading(What::Memory);
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

    /// Whether the process has ended, so that its PID may be another process's by now. `process_vm_readv` takes a
    /// PID, not a pidfd.
    fn gone(self) -> bool {
        let pidfd = self.process.pidfd();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Reads up to [`STRETCHES`] stretches into `buffer`, which is as long as all of them. Returns for each whether
    /// it could be read.
    fn stretches(self, ranges: &[Range], mut buffer: &mut [u8]) -> Result<Vec<bool>, Fault> {
        let remote: Vec<_> = ranges.iter().map(iovec).collect();
        let mut whole = Vec::with_capacity(ranges.len());
        while whole.len() < ranges.len() {
            let (from, mut read) =
                (whole.len(), self.call(remote.get(whole.len()..).unwrap_or_default(), buffer)?);
            // A call ends at the first stretch that fails, part of which may have been read; the next call goes on
            // behind it.
            for range in ranges.get(from..).unwrap_or_default() {
                (_, buffer) = std::mem::take(&mut buffer).split_at_mut(range.len);
                whole.push(range.len <= read);
                if range.len > read {
                    break;
                }
                read -= range.len;
            }
        }
        Ok(whole)
    }

    /// Reads up to [`STRETCHES`] stretches, each into its part, and notes in `whole` which could be read.
    fn batch(self, ranges: &[Range], parts: &mut [&mut [u8]], whole: &mut [bool]) -> Result<(), Fault> {
        for ((range, part), whole) in ranges.iter().zip(&mut *parts).zip(&mut *whole) {
            if range.len > RUN {
                *whole = match self.read(range.addr, part) {
                    Ok(()) => true,
                    Err(Fault::Unmapped(_)) => false,
                    Err(fault) => return Err(fault),
                };
            }
        }
        let alone = self.runs(runs(ranges), ranges, parts, whole)?;
        // A run fails as a whole if anything in it is not mapped, be it a gap: its members are tried again, each alone.
        self.runs(alone, ranges, parts, whole)?;
        for (part, _) in parts.iter_mut().zip(whole).filter(|(_, whole)| !**whole) {
            part.fill(0);
        }
        Ok(())
    }

    /// Reads runs and copies each of their stretches into its part. Returns the members of those runs of several that
    /// could not be read, each as a run of its own.
    fn runs(
        self,
        runs: Vec<Run>,
        ranges: &[Range],
        parts: &mut [&mut [u8]],
        whole: &mut [bool],
    ) -> Result<Vec<Run>, Fault> {
        let together: Vec<_> = runs.iter().map(|run| run.range).collect();
        let mut bytes = vec![0; together.iter().map(|range| range.len).sum()];
        let read = self.stretches(&together, &mut bytes)?;
        let (mut rest, mut failed) = (&bytes[..], Vec::new());
        for (run, read) in runs.iter().zip(read) {
            let (bytes, behind) = rest.split_at(run.range.len);
            rest = behind;
            for &index in &run.members {
                let (Some(range), Some(part)) = (ranges.get(index), parts.get_mut(index)) else { continue };
                let into = (range.addr - run.range.addr) as usize;
                match bytes.get(into..into + range.len) {
                    Some(bytes) if read => {
                        part.copy_from_slice(bytes);
                        whole.get_mut(index).into_iter().for_each(|whole| *whole = true);
                    }
                    _ if run.members.len() > 1 => failed.push(Run { range: *range, members: vec![index] }),
                    _ => {}
                }
            }
        }
        Ok(failed)
    }
}

/// A run: stretches that are read as one.
struct Run {
    range: Range,
    /// Indices of the stretches, into the list that was asked for.
    members: Vec<usize>,
}

/// Joins stretches that lie near each other. Those longer than [`RUN`] and those that wrap around are in no run.
fn runs(ranges: &[Range]) -> Vec<Run> {
    let end = |range: &Range| range.addr.checked_add(range.len as u64);
    let mut order: Vec<_> =
        (ranges.iter().enumerate()).filter(|(_, range)| range.len <= RUN && end(range).is_some()).collect();
    order.sort_unstable_by_key(|(_, range)| range.addr);
    let mut runs: Vec<Run> = Vec::new();
    for (index, range) in order {
        if let Some(run) = runs.last_mut() {
            let run_end = run.range.addr + run.range.len as u64;
            let len = run_end.max(range.addr + range.len as u64) - run.range.addr;
            if range.addr <= run_end.saturating_add(GAP) && len <= RUN as u64 {
                run.range.len = len as usize;
                run.members.push(index);
                continue;
            }
        }
        runs.push(Run { range: *range, members: vec![index] });
    }
    runs
}

fn iovec(range: &Range) -> libc::iovec {
    libc::iovec { iov_base: range.addr as *mut libc::c_void, iov_len: range.len }
}

impl Memory for Live<'_> {
    fn resident(&self) -> Option<u64> {
        self.process.resident()
    }

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
        // No `clear`: old content is overwritten or zeroed below, so only what is added needs to be zeroed.
        budget::check(total(ranges).saturating_sub(buffer.len()))?;
        buffer.resize(total(ranges), 0);
        whole.clear();
        whole.resize(ranges.len(), false);
        let mut rest = &mut buffer[..];
        for (ranges, whole) in ranges.chunks(STRETCHES).zip(whole.chunks_mut(STRETCHES)) {
            let mut parts = Vec::with_capacity(ranges.len());
            for range in ranges {
                let (part, behind) = std::mem::take(&mut rest).split_at_mut(range.len);
                parts.push(part);
                rest = behind;
            }
            self.batch(ranges, &mut parts, whole)?;
        }
        // Asked afterwards: if the process lives now, every call read its memory and not that of a later one.
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

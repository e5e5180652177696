//! The memory that an event shares with the kernel: a page that says how far each side is
//! (`struct perf_event_mmap_page`), and behind it a ring of records.

use aya_obj::generated::perf_event_mmap_page;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ptr::{copy_nonoverlapping, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the ring: samples of a third of a second of a thread that runs all the time.
const DATA: usize = 64 << 10;

/// The records of one event.
#[derive(Debug)]
pub(super) struct Ring {
    event: OwnedFd,
    start: *mut perf_event_mmap_page,
    page: usize,
}

impl Ring {
    /// Shares a ring with the kernel.
    pub(super) fn map(event: OwnedFd) -> Result<Ring, Errno> {
        let page = rustix::param::page_size();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { mmap(null_mut(), page + DATA, access, MapFlags::SHARED, &event, 0)? };
        Ok(Ring { event, start: start.cast(), page })
    }

    /// The event whose ring it is.
    pub(super) fn event(&self) -> &OwnedFd {
        &self.event
    }

    /// Hands over the bytes of all whole records that have come since the last time.
    pub(super) fn drain<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> T {
        let head = self.position(|start| {
            // SAFETY: within the mapping, of which `start` is the first page.
            unsafe { &raw mut (*start).data_head }
        });
        let tail = self.position(|start| {
            // SAFETY: as above.
            unsafe { &raw mut (*start).data_tail }
        });
        // Behind this load the records that `head` says are there.
        let (end, begin) = (head.load(Ordering::Acquire), tail.load(Ordering::Relaxed));
        let len = end.wrapping_sub(begin).min(DATA as u64) as usize;
        let from = begin as usize % DATA;
        let until_end = len.min(DATA - from);
        let mut bytes = vec![0; len];
        let (first, rest) = bytes.split_at_mut(until_end);
        // SAFETY: the ring lies behind the first page, both parts lie within it, and the kernel does not
        // write between tail and head.
        unsafe {
            let data = self.start.cast::<u8>().add(self.page);
            copy_nonoverlapping(data.add(from), first.as_mut_ptr(), first.len());
            copy_nonoverlapping(data, rest.as_mut_ptr(), rest.len());
        }
        // Before this store everything was read: the kernel may overwrite it.
        tail.store(end, Ordering::Release);
        read(&bytes)
    }

    /// One of the two positions, which both sides change.
    fn position(&self, of: impl FnOnce(*mut perf_event_mmap_page) -> *mut u64) -> &AtomicU64 {
        // SAFETY: the word is aligned and lives as long as the mapping does.
        unsafe { AtomicU64::from_ptr(of(self.start)) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no reference is left.
        let unmapped = unsafe { munmap(self.start.cast(), self.page + DATA) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

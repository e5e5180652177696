//! One limit for all heap memory of this process.
//!
//! A target says how many goroutines, spans or DWARF units it has; none of these numbers may decide how much memory
//! sfgi takes. [`Counted`] counts every allocation. Loops over what a target supplies call [`check`] before they grow
//! something, and end with [`Exhausted`] while there is still room to say so. What no loop asked for meets the hard
//! limit an eighth above: the process then ends with [`EXIT_CODE`], and the process that started it says why.
//!
//! Memory that is mapped by hand (ring buffers, stacks of threads) is not counted.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// The exit code of a process that met its hard limit. No command uses it otherwise.
pub const EXIT_CODE: i32 = 86;

/// Bytes that are allocated now.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Bytes up to which loops may grow what they hold.
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Bytes at which the process ends.
static HARD: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The budget does not allow what a loop was about to allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it needs more than the {} MiB that --memory allows", limit >> 20)]
pub struct Exhausted {
    /// The budget, bytes.
    pub limit: usize,
}

/// The system's allocator, counting. The binary declares it as `#[global_allocator]`; without that the budget is never
/// exhausted.
pub struct Counted;

/// Sets the budget of this process, bytes; 0 is no limit.
pub fn set_limit(bytes: usize) {
    let limit = if bytes == 0 { usize::MAX } else { bytes };
    LIMIT.store(limit, Ordering::Relaxed);
    HARD.store(limit.saturating_add(limit / 8), Ordering::Relaxed);
}

/// The budget of this process, bytes; `usize::MAX` without one.
pub fn limit() -> usize {
    LIMIT.load(Ordering::Relaxed)
}

/// Bytes of heap memory that this process holds; 0 where [`Counted`] is not the allocator.
pub fn used() -> usize {
    USED.load(Ordering::Relaxed)
}

/// Bytes that may still be allocated.
pub fn left() -> usize {
    limit().saturating_sub(used())
}

/// Asks for `more` bytes before they are allocated. It reserves nothing: two threads may get the same bytes granted,
/// which is what the room up to the hard limit is for.
///
/// # Errors
/// The budget does not allow them.
pub fn check(more: usize) -> Result<(), Exhausted> {
    if more > left() { Err(Exhausted { limit: limit() }) } else { Ok(()) }
}

/// Makes room for `more` elements, as [`Vec::reserve`] does, where the budget allows it. What a vector grows by on its
/// own account doubles it, and may go beyond the hard limit at once.
///
/// # Errors
/// The budget does not allow them.
pub fn reserve<T>(to: &mut Vec<T>, more: usize) -> Result<(), Exhausted> {
    if to.capacity() - to.len() >= more {
        return Ok(());
    }
    let bytes = |count: usize| count.saturating_mul(size_of::<T>());
    let double = to.len().max(more);
    let more = if check(bytes(double)).is_ok() { double } else { more };
    check(bytes(more))?;
    to.reserve_exact(more);
    Ok(())
}

/// Counts an allocation; ends the process where it goes beyond the hard limit.
fn count(bytes: usize) {
    let used = USED.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
    if used > HARD.load(Ordering::Relaxed) {
        // Unwinding or a message would allocate, and an abort would write a core file of all that was read.
        // SAFETY: `_exit` takes no pointer and runs no handler.
        unsafe { libc::_exit(EXIT_CODE) }
    }
}

// SAFETY: every call goes to `System` with the arguments it came with; counting touches no memory but two atomics.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps `alloc`'s contract, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `block` came from `System` with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            count(size - layout.size());
        } else {
            USED.fetch_sub(layout.size() - size, Ordering::Relaxed);
        }
        // SAFETY: `block` came from `System` with this layout; the caller checked `size`.
        unsafe { System.realloc(block, layout, size) }
    }
}

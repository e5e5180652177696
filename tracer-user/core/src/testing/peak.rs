//! How much memory a piece of code takes, told by an allocator that counts for each thread: tests run beside each
//! other.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes that this thread has allocated and not freed, its highest number since [`peak`] began, and the number at
    /// which the process ends.
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static LIMIT: Cell<isize> = const { Cell::new(isize::MAX) };
}

/// The system's allocator, counting. A program that asks for [`peak`] declares it as `#[global_allocator]`.
pub struct PerThread;

/// Runs `run` and gives the most bytes that it had allocated at one time. What other threads allocate does not count.
pub fn peak<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    let outer = PEAK.replace(before);
    let done = run();
    let most = PEAK.get() - before;
    PEAK.set(outer.max(PEAK.get()));
    (done, usize::try_from(most).unwrap_or(0))
}

/// Runs `run`; the process aborts where it has more than `limit` bytes allocated at one time. That is what a fuzzer
/// takes for a crash, and so it keeps the input.
pub fn bounded<T>(limit: usize, run: impl FnOnce() -> T) -> T {
    let most = NOW.get().saturating_add(isize::try_from(limit).unwrap_or(isize::MAX));
    let outer = LIMIT.replace(most);
    let done = run();
    LIMIT.set(outer);
    done
}

fn count(bytes: isize) {
    // A thread that ends frees its variables after these have gone.
    let _ = NOW.try_with(|now| {
        now.set(now.get().wrapping_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
        if LIMIT.try_with(|limit| now.get() > limit.get()).unwrap_or(false) {
            std::process::abort();
        }
    });
}

// SAFETY: every call goes to `System` with the arguments that it came with; counting touches no memory but variables
// of this thread, which need no allocation.
unsafe impl GlobalAlloc for PerThread {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps `alloc`'s contract, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: `block` came from `System` with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: `block` came from `System` with this layout; the caller checked `size`.
        unsafe { System.realloc(block, layout, size) }
    }
}

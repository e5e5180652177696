//! What the agent itself costs.

use std::fs;

/// Memory that this process has, bytes.
pub(super) fn rss_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Gives memory that is not used back to the system: what a large snapshot needed would stay ours for ever.
pub(super) fn trim() {
    // SAFETY: takes no pointer, and may be called at any time.
    unsafe { libc::malloc_trim(0) };
}

/// A few heaps for all threads, in place of one for each: what each keeps free adds up.
pub(super) fn few_heaps() {
    // SAFETY: changes a setting of the allocator.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 2) };
}

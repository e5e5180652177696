//! Which descriptor a goroutine waits for that waits for the network or a pipe (`IO wait`).
//!
//! The runtime's `pollDesc` of the descriptor names the goroutine (`rg`, `wg`), not the other way round
//! (`src/runtime/netpoll.go`). But `poll_runtime_pollWait` keeps the `pollDesc` on its stack for as long as it waits.

use super::{Goroutine, View};
use crate::binary::bytes::u64_at;
use crate::heap::words;
use crate::memory::{Range, read_each};

/// Bytes of the inner end of the stack that are searched: `gopark`, `netpollblock` and `poll_runtime_pollWait` have some
/// hundred.
const DEPTH: u64 = 2 << 10;
/// Largest offset in a `pollDesc` that is believed; one of Go 1.27 has 296 bytes.
const MAX_LEN: usize = 512;
/// Largest descriptor that is believed (`fs.nr_open` is at most 2^30).
const MAX_FD: u64 = 1 << 30;

/// The descriptor that a goroutine waits for. `None`: it waits for none, has moved on, or the layout lacks a field.
pub(crate) fn descriptor(view: &View<'_>, goroutine: &Goroutine) -> Option<u32> {
    let field = |name| view.binary.layout().field("pollDesc", name).map(|at| at as usize);
    let [fd, reads, writes] = [field("fd")?, field("rg")?, field("wg")?];
    let len = fd.max(reads).max(writes) + 8;
    let sp = view.field(goroutine.g, "g", "sched.sp")?;
    let (lo, hi) = goroutine.stack_bounds;
    if len > MAX_LEN || !(lo..hi).contains(&sp) {
        return None;
    }
    let mut stack = vec![0; (hi - sp).min(DEPTH) as usize];
    view.memory.read(sp, &mut stack).ok()?;
    let pointers = words(&stack).filter(|word| *word != 0 && word % 8 == 0 && !(lo..hi).contains(word));
    let ranges: Vec<Range> = pointers.map(|addr| Range { addr, len }).collect();
    let mut found = None;
    read_each(view.memory, &ranges, |_, bytes| {
        if [reads, writes].into_iter().any(|at| u64_at(bytes, at) == Some(goroutine.g)) {
            found = found.or(u64_at(bytes, fd).filter(|fd| *fd < MAX_FD));
        }
    })
    .ok()?;
    u32::try_from(found?).ok()
}

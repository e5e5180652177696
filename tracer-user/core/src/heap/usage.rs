//! How much of the heap is in use, as the runtime itself counts: two words, no walk.
//!
//! `mheap.pagesInUse` counts the pages of spans with objects, so it is `HeapInuse` of `runtime.MemStats`;
//! `mheap.sweepgen` rises by two at the end of each collection's marking, where `NumGC` rises by one
//! (`src/runtime/mheap.go`, `mgc.go: gcMarkTermination`; Go 1.19 to 1.27).

use super::spans::{MAX_PAGES, PAGE_SHIFT};
use crate::snapshot::View;

/// What the runtime counts of its heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of spans in use.
    pub bytes: u64,
    /// Collections whose marking has ended.
    pub cycles: u64,
}

/// Asks it; `None`: the binary does not show where that stands, or what stands there makes no sense.
pub fn usage(view: &View) -> Option<Usage> {
    let heap = view.binary.globals().ok()?.mheap?.wrapping_add(view.bias);
    let pages = view.field(heap, "mheap", "pagesInUse")?;
    let mut sweepgen = [0; 4];
    view.memory.read(view.at(heap, "mheap", "sweepgen")?, &mut sweepgen).ok()?;
    of(pages, u32::from_le_bytes(sweepgen))
}

fn of(pages: u64, sweepgen: u32) -> Option<Usage> {
    let sensible = pages <= MAX_PAGES && sweepgen.is_multiple_of(2);
    sensible.then_some(Usage { bytes: pages << PAGE_SHIFT, cycles: u64::from(sweepgen / 2) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_runtime_counts_is_not_believed() {
        assert_eq!(of(3, 14), Some(Usage { bytes: 24_576, cycles: 7 }));
        assert_eq!(of(MAX_PAGES + 1, 14), None);
        assert_eq!(of(u64::MAX, 14), None);
        assert_eq!(of(3, 15), None, "the runtime adds two at a time");
    }
}

//! `runtime.sudog`: a goroutine in a queue (`src/runtime/runtime2.go`).

use crate::binary::Layout;
use crate::binary::bytes::u64_at;
use crate::memory::Range;

/// Bytes up to which a struct of the runtime is believed.
const MAX_SIZE: u32 = 1 << 10;

/// Where the fields of a `sudog` are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    size: usize,
    g: usize,
    next: usize,
    prev: usize,
    elem: usize,
    waitlink: usize,
    c: usize,
    /// Whether `g.waiting` leads to the `sudog` of every wait (Go 1.26+), not only of channels.
    pub(super) all_from_g: bool,
}

impl Fields {
    pub(super) fn of(layout: &Layout) -> Option<Fields> {
        let field = |name| layout.field("sudog", name).filter(|at| *at < MAX_SIZE).map(|at| at as usize);
        let (elem, c) = (field("elem")?, field("c")?);
        // Since Go 1.26 both are two words (`maybeTraceablePtr`): one that the collector sees,
        // which is nil while it looks for leaks, and one that always holds.
        let always = field("elem.vu");
        let into = always.map_or(0, |always| always.saturating_sub(elem));
        Some(Fields {
            size: field("_size")?,
            g: field("g")?,
            next: field("next")?,
            prev: field("prev")?,
            waitlink: field("waitlink")?,
            elem: elem + into,
            c: c + into,
            all_from_g: always.is_some(),
        })
    }

    /// The bytes of the `sudog` at this address.
    pub(super) fn range(&self, addr: u64) -> Range {
        Range { addr, len: self.size }
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Option<Sudog> {
        let word = |at| u64_at(bytes, at);
        Some(Sudog {
            g: word(self.g)?,
            next: word(self.next)?,
            prev: word(self.prev)?,
            elem: word(self.elem)?,
            waitlink: word(self.waitlink)?,
            c: word(self.c)?,
        })
    }
}

/// The words of a `sudog`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sudog {
    pub(super) g: u64,
    /// Neighbours in the queue of a channel or `sync.Cond`, children in the tree of semaphores.
    pub(super) next: u64,
    pub(super) prev: u64,
    /// What is sent or received; the address of the semaphore.
    pub(super) elem: u64,
    /// The next `sudog` of the goroutine's select, or the next that waits for the semaphore.
    pub(super) waitlink: u64,
    /// The channel.
    pub(super) c: u64,
}

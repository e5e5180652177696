//! Reading along chains of small structs. The runtime takes them from the same few pages, so what
//! lies around one is read with it.

use crate::memory::{Memory, Range};
use hashbrown::HashMap;

/// Bytes read at once: a page of the runtime's heap (`_PageSize` of `src/runtime/sizeclasses.go`).
const BLOCK: u64 = 8 << 10;
/// Blocks that are kept, 32 MiB.
const MAX_BLOCKS: usize = 4 << 10;

/// A memory as it was when a block of it was first asked for.
pub(super) struct Blocks<'a> {
    memory: &'a dyn Memory,
    blocks: HashMap<u64, Option<Box<[u8]>>>,
    /// What did not lie in one block.
    other: Vec<u8>,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(memory: &'a dyn Memory) -> Blocks<'a> {
        Blocks { memory, blocks: HashMap::new(), other: Vec::new() }
    }

    /// The bytes of a stretch that is no longer than a block.
    pub(super) fn read(&mut self, range: Range) -> Option<&[u8]> {
        let start = range.addr - range.addr % BLOCK;
        let into = (range.addr - start) as usize;
        let part = into..into.checked_add(range.len)?;
        if part.end > BLOCK as usize {
            return self.read_alone(range);
        }
        if self.blocks.len() >= MAX_BLOCKS {
            self.blocks.clear();
        }
        let memory = self.memory;
        let there = self.blocks.entry(start).or_insert_with(|| {
            let mut block = vec![0; BLOCK as usize].into_boxed_slice();
            memory.read(start, &mut block).is_ok().then_some(block)
        });
        if there.is_none() {
            // Not all of the block is mapped.
            return self.read_alone(range);
        }
        self.blocks.get(&start)?.as_deref()?.get(part)
    }

    fn read_alone(&mut self, range: Range) -> Option<&[u8]> {
        self.other.resize(range.len.min(BLOCK as usize), 0);
        self.memory.read(range.addr, &mut self.other).ok()?;
        Some(&self.other)
    }
}

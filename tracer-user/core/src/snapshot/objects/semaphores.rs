//! Semaphores (`src/runtime/sema.go`): which goroutine waits at which address.

use super::blocks::Blocks;
use super::sudog::Fields;
use super::sync::At;
use super::{Sort, Waiting, records};
use crate::binary::SemTable;
use crate::binary::bytes::u64_at;
use crate::snapshot::View;
use hashbrown::{HashMap, HashSet};

/// Buckets of the table (`semTabSize`), and bytes between them, up to which it is believed.
const MAX_BUCKETS: u64 = 4096;
const MAX_STRIDE: u64 = 4096;
/// Walks of the table. What changes while it is walked can hide a part of it.
const WALKS: usize = 3;
/// `sudog`s that a walk looks at beyond the goroutines that are known to wait.
const MORE_SUDOGS: usize = 1 << 12;

/// Go 1.26 and later: `g.waiting` has the `sudog` of each wait, and that the address: of the
/// semaphore, or of `Cond.notify`.
pub(super) fn from_g(view: &View, fields: &Fields, waiting: &[Waiting], found: &mut Vec<At>) {
    let waiting: Vec<_> = (waiting.iter())
        .filter(|waiting| matches!(waiting.sort, Sort::Semaphore | Sort::Cond) && waiting.sudog != 0)
        .collect();
    let ranges: Vec<_> = waiting.iter().map(|waiting| fields.range(waiting.sudog)).collect();
    records(view.memory, &ranges, |at, bytes| {
        let (waiting, sudog) = (*waiting.get(at)?, fields.decode(bytes)?);
        let fits = sudog.g == waiting.g && sudog.elem != 0 && sudog.elem % 4 == 0;
        fits.then(|| {
            let Waiting { goroutine, sort, sudog: queued, .. } = *waiting;
            found.push(At { goroutine, sort, addr: sudog.elem, sudog: queued });
        })
    });
}

/// Go up to 1.25: the table has a tree of addresses for each bucket, in which each address has a
/// list of those that wait.
pub(super) fn from_table(
    view: &View,
    fields: &Fields,
    table: SemTable,
    waiting: &[Waiting],
    found: &mut Vec<At>,
) {
    let mut left: HashMap<u64, u32> = (waiting.iter())
        .filter(|waiting| waiting.sort == Sort::Semaphore)
        .map(|waiting| (waiting.g, waiting.goroutine))
        .collect();
    for _ in 0..WALKS {
        let before = left.len();
        walk(view, fields, table, &mut left, found);
        if left.is_empty() || left.len() == before {
            break;
        }
    }
}

/// Walks all trees once. Takes the goroutines it finds out of `left`.
fn walk(
    view: &View,
    fields: &Fields,
    table: SemTable,
    left: &mut HashMap<u64, u32>,
    found: &mut Vec<At>,
) -> Option<()> {
    let treap = view.binary.layout().field("semaRoot", "treap")? as usize;
    let (count, stride) = (table.count.min(MAX_BUCKETS) as usize, table.stride.clamp(8, MAX_STRIDE) as usize);
    let mut roots = vec![0; count * stride];
    view.memory.read(table.addr.wrapping_add(view.bias), &mut roots).ok()?;
    let mut todo: Vec<_> = roots.chunks_exact(stride).filter_map(|root| u64_at(root, treap)).collect();
    let mut blocks = Blocks::new(view.memory);
    let mut seen = HashSet::new();
    let most = left.len().saturating_mul(2).saturating_add(MORE_SUDOGS);
    while let Some(addr) = todo.pop() {
        if addr == 0 || seen.len() >= most || !seen.insert(addr) {
            continue;
        }
        let Some(sudog) = blocks.read(fields.range(addr)).and_then(|bytes| fields.decode(bytes)) else {
            continue;
        };
        if sudog.elem != 0
            && sudog.elem % 4 == 0
            && let Some(goroutine) = left.remove(&sudog.g)
        {
            found.push(At { goroutine, sort: Sort::Semaphore, addr: sudog.elem, sudog: addr });
        }
        todo.extend([sudog.prev, sudog.next, sudog.waitlink]);
    }
    Some(())
}

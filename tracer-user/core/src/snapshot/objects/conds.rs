//! `sync.Cond` up to Go 1.25: the list that a goroutine waits in (`runtime.notifyList`,
//! `src/runtime/sema.go`) can only be found from its stack, where `sync.(*Cond).Wait` and
//! `notifyListWait` keep its address or that of the `Cond`. That a word of the stack is one of
//! these is proven by the list itself: the goroutine is in it.

use super::blocks::Blocks;
use super::sudog::Fields;
use super::sync::{At, COND_NOTIFY};
use super::{Sort, Waiting, records};
use crate::binary::bytes::{u32_at, u64_at};
use crate::memory::Range;
use crate::snapshot::View;
use hashbrown::{HashMap, HashSet};

/// Bytes of the stack, from the innermost frame, that hold the frames of `gopark`,
/// `notifyListWait` and `sync.(*Cond).Wait`: 0xf8 bytes in Go 1.19 to 1.25, more with `-race`.
const WINDOW: u64 = 512;
/// Goroutines whose stacks are looked at together.
const BATCH: usize = 16 << 10;
/// `sudog`s that are looked at beyond the goroutines that are known to wait.
const MORE_SUDOGS: usize = 1 << 12;
/// Lowest address that may be mapped (`vm.mmap_min_addr` is no less on any usual system).
const LOWEST: u64 = 4096;

/// Finds the lists that goroutines wait in.
pub(super) fn from_stacks(view: &View, fields: &Fields, waiting: &[Waiting], found: &mut Vec<At>) {
    let waiting: Vec<_> = waiting.iter().filter(|waiting| waiting.sort == Sort::Cond).collect();
    let mut search = Search {
        fields,
        left: waiting.iter().map(|waiting| (waiting.g, waiting.goroutine)).collect(),
        steps: waiting.len().saturating_mul(2).saturating_add(MORE_SUDOGS),
        blocks: Blocks::new(view.memory),
        found,
    };
    for batch in waiting.chunks(BATCH) {
        // Those that were found with another goroutine's list need no search.
        let batch: Vec<_> = batch.iter().filter(|waiting| search.left.contains_key(&waiting.g)).collect();
        let window = |waiting: &&&&Waiting| {
            let len = waiting.stack_end.saturating_sub(waiting.sp).min(WINDOW);
            Range { addr: waiting.sp, len: len as usize }
        };
        let ranges: Vec<_> = batch.iter().map(|waiting| window(&waiting)).collect();
        let mut candidates = HashSet::new();
        records(view.memory, &ranges, |at, bytes| {
            let waiting = batch.get(at)?;
            let own = waiting.sp..waiting.stack_end;
            let words = bytes.chunks_exact(8).filter_map(|word| u64_at(word, 0));
            for word in words.filter(|word| *word >= LOWEST && word % 8 == 0 && !own.contains(word)) {
                candidates.insert(word);
                candidates.insert(word.saturating_add(COND_NOTIFY));
            }
            Some(())
        });
        let candidates: Vec<_> = candidates.into_iter().collect();
        for (list, head) in lists(view, &candidates) {
            search.follow(list, head);
        }
    }
}

/// Which of these addresses may be lists in which somebody waits, with their first `sudog`.
fn lists(view: &View, candidates: &[u64]) -> Vec<(u64, u64)> {
    let field = |name| view.binary.layout().field("notifyList", name).filter(|at| *at < 1024);
    let mut lists = Vec::new();
    let fields = [field("wait"), field("notify"), field("head"), field("tail"), field("_size")];
    let [Some(wait), Some(notify), Some(head), Some(tail), Some(size)] =
        fields.map(|at| at.map(|at| at as usize))
    else {
        return lists;
    };
    let ranges: Vec<_> = candidates.iter().map(|addr| Range { addr: *addr, len: size }).collect();
    records(view.memory, &ranges, |at, bytes| {
        // Tickets are numbered; `wait` is the next one's, `notify` the next to be woken.
        let waiters = u32_at(bytes, wait)?.wrapping_sub(u32_at(bytes, notify)?);
        let (head, tail) = (u64_at(bytes, head)?, u64_at(bytes, tail)?);
        let pointer = |word: u64| word >= LOWEST && word.is_multiple_of(8);
        if waiters > 0 && waiters < 1 << 31 && pointer(head) && pointer(tail) {
            lists.push((*candidates.get(at)?, head));
        }
        Some(())
    });
    lists
}

struct Search<'a> {
    fields: &'a Fields,
    /// Goroutines whose list was not found yet, by the address of their `g`.
    left: HashMap<u64, u32>,
    /// `sudog`s that may still be looked at.
    steps: usize,
    blocks: Blocks<'a>,
    found: &'a mut Vec<At>,
}

impl Search<'_> {
    /// Goes along a list from its first `sudog`.
    fn follow(&mut self, list: u64, head: u64) {
        let mut next = head;
        while next != 0 && self.steps > 0 {
            self.steps -= 1;
            let bytes = self.blocks.read(self.fields.range(next));
            let Some(sudog) = bytes.and_then(|bytes| self.fields.decode(bytes)) else { break };
            // In this queue it has neither; others are for a channel or a semaphore.
            if sudog.c != 0 || sudog.elem != 0 {
                break;
            }
            if let Some(goroutine) = self.left.remove(&sudog.g) {
                self.found.push(At { goroutine, sort: Sort::Cond, addr: list, sudog: next });
            }
            next = sudog.next;
        }
    }
}

//! What goroutines wait for: channels, and what package `sync` makes of semaphores.
//!
//! A goroutine that waits is in a queue with a `sudog` (`src/runtime/runtime2.go`), which names it
//! and what it waits for. Waits for channels hang off `g.waiting`; since Go 1.26 all do. Before,
//! semaphores are found from `runtime.semtable` only, and the `sync.Cond` from the stack only.
//!
//! The program runs on while this is read. A `sudog` counts only if it names the goroutine that it
//! was found for, or one that waits; what does not fit is left out.

mod blocks;
mod channels;
mod conds;
mod records;
mod semaphores;
mod sudog;
mod sync;
#[cfg(test)]
mod tests;

use super::{Snapshot, View, Wants};
use crate::binary::Globals;
use crate::binary::bytes::u64_at;
use crate::memory::Range;
use records::records;
use sudog::Fields;

/// What sort of thing a goroutine waits for, by its wait reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// A channel; which way, where the reason says it: a select's does not.
    Channel(Wants),
    Semaphore,
    Cond,
}

impl Sort {
    /// By the text of `waitReasonStrings` (`src/runtime/runtime2.go`, 1.19 to 1.27). In synctest
    /// bubbles a suffix follows. Waits for nil channels and for no channel have no object.
    fn of(reason: &str) -> Option<Sort> {
        match reason.split(" (").next()? {
            _ if reason.ends_with("(nil chan)") || reason.ends_with("(no cases)") => None,
            "chan receive" => Some(Sort::Channel(Wants::Receive)),
            "chan send" => Some(Sort::Channel(Wants::Send)),
            "select" => Some(Sort::Channel(Wants::Unknown)),
            "semacquire"
            | "sync.Mutex.Lock"
            | "sync.RWMutex.RLock"
            | "sync.RWMutex.Lock"
            | "sync.WaitGroup.Wait" => Some(Sort::Semaphore),
            "sync.Cond.Wait" => Some(Sort::Cond),
            _ => None,
        }
    }
}

/// A goroutine that waits for something.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// Index into [`Snapshot::goroutines`].
    goroutine: u32,
    /// Address of its `g`.
    g: u64,
    sort: Sort,
    /// `g.waiting`: its first `sudog`; 0: none.
    sudog: u64,
    /// `g.sched.sp`, and `g.stack.hi`.
    sp: u64,
    stack_end: u64,
}

/// Fills [`Snapshot::objects`] and [`Goroutine::waits`](super::Goroutine::waits). Says
/// nothing where the memory makes no sense.
pub(super) fn find(view: &View, globals: &Globals, snapshot: &mut Snapshot) {
    let Some(fields) = Fields::of(view.binary.layout()) else { return };
    let waiting = waiting(view, snapshot).unwrap_or_default();
    channels::find(view, &fields, &waiting, snapshot);
    let mut waits = Vec::new();
    if fields.all_from_g {
        semaphores::from_g(view, &fields, &waiting, &mut waits);
    } else {
        if let Some(semtable) = globals.semtable {
            semaphores::from_table(view, &fields, semtable, &waiting, &mut waits);
        }
        conds::from_stacks(view, &fields, &waiting, &mut waits);
    }
    waits.sort_unstable_by_key(|wait| wait.goroutine);
    sync::find(view, &waits, snapshot);
}

/// The goroutines that wait for something that may have an object.
fn waiting(view: &View, snapshot: &Snapshot) -> Option<Vec<Waiting>> {
    let sorts: Vec<_> = view.binary.wait_reasons().iter().map(|reason| Sort::of(reason)).collect();
    let candidates: Vec<_> = (snapshot.goroutines.iter().zip(0u32..))
        .filter(|(goroutine, _)| goroutine.state.waits())
        .filter_map(|(goroutine, index)| {
            Some((goroutine.g, index, (*sorts.get(usize::from(goroutine.reason))?)?))
        })
        .collect();
    let field = |field| view.binary.layout().field("g", field).map(|at| at as usize);
    let (waiting, sp, stack_end) = (field("waiting")?, field("sched.sp")?, field("stack.hi")?);
    let len = waiting.max(sp).max(stack_end) + 8;
    let ranges: Vec<_> = candidates.iter().map(|(g, ..)| Range { addr: *g, len }).collect();
    let mut found = Vec::with_capacity(candidates.len());
    records(view.memory, &ranges, |at, bytes| {
        let (g, goroutine, sort) = *candidates.get(at)?;
        let word = |at| u64_at(bytes, at);
        let (sudog, sp, stack_end) = (word(waiting)?, word(sp)?, word(stack_end)?);
        found.push(Waiting { goroutine, g, sort, sudog, sp, stack_end });
        Some(())
    });
    Some(found)
}

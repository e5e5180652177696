//! Candidates: goroutines that may never run again, and the objects that must be reached for them to run.
//!
//! The rules are those of the runtime's own leak detection (`src/runtime/mgc.go: isMaybeRunnable`, 1.26), for the same
//! eleven wait reasons (`isChanWait`, `isSyncWait` of `runtime2.go`). Three rules differ: an object on the stack of a
//! goroutine is reached if that goroutine is live. Locks up to Go 1.19 and wait groups up to 1.23 wait as "semacquire",
//! but count as what they are. And a coroutine can only be resumed by whoever has its `coro`, which the runtime's own
//! detection leaves out.

use super::marker::Marker;
use super::references::{Depths, References, Wanted};
use super::spans::{ObjectId, Spans};
use crate::binary::bytes::u64_at;
use crate::goruntime::WaitReason;
use crate::memory::{Range, read_each};
use crate::snapshot::{Goroutine, ObjectKind, Snapshot, Trust, View};
use hashbrown::HashMap;

/// Coroutines that are looked at together, and most bytes of a `coro`.
const COROUTINES: usize = 1 << 10;
const MAX_CORO: u64 = 64;

/// What a goroutine waits for, by its wait reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// Nothing: a nil channel or `select {}`. Such a wait never ends.
    Nothing,
    /// Channels, or an object of package `sync`.
    Object,
    /// An object of package `sync`, or else a semaphore of the runtime, which makes no candidate.
    Semaphore,
    /// To be resumed or stopped by whoever has its coroutine (`iter.Pull`, 1.23).
    Coroutine,
}

fn sort(reason: WaitReason) -> Option<Sort> {
    use WaitReason::*;
    match reason {
        ChanReceiveNilChan | ChanSendNilChan | SelectNoCases => Some(Sort::Nothing),
        ChanReceive | ChanSend | Select | SyncCondWait | SyncMutexLock | SyncRwMutexLock
        | SyncRwMutexRLock | SyncWaitGroupWait => Some(Sort::Object),
        Semacquire => Some(Sort::Semaphore),
        Coroutine => Some(Sort::Coroutine),
        _ => None,
    }
}

/// Whether a goroutine with this wait reason can be a candidate, and so proven to be leaked.
pub fn can_be_leaked(reason: WaitReason) -> bool {
    sort(reason).is_some()
}

/// The candidates of a snapshot, and what makes each live.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// By index into the snapshot's goroutines, whether it is a candidate that nothing has made live.
    dead: Vec<bool>,
    /// By object of the heap, the candidates that wait for it.
    by_object: HashMap<ObjectId, Vec<u32>>,
    /// By goroutine, the candidates that wait for something on its stack.
    by_host: HashMap<u32, Vec<u32>>,
}

impl Candidates {
    /// Finds the candidates of a snapshot, and has `marker` report their awaited objects.
    pub(super) fn of(view: &View<'_>, snapshot: &Snapshot, marker: &mut Marker<'_>) -> Candidates {
        let hosts = Hosts::of(snapshot);
        let mut candidates =
            Candidates { dead: vec![false; snapshot.goroutines.len()], ..Candidates::default() };
        let mut coroutines = Vec::new();
        for (goroutine, index) in snapshot.goroutines.iter().zip(0u32..) {
            let sort = sort(view.binary.wait_reasons().get(goroutine.reason));
            // What moved while it was read may have been woken already. The runtime's own goroutines wait for what
            // cannot be seen here.
            let can = goroutine.trust == Trust::Still && goroutine.state.waits() && !goroutine.system;
            let Some(sort) = sort.filter(|_| can) else { continue };
            if sort == Sort::Coroutine {
                coroutines.push((index, goroutine.g));
            } else if let Some(awaited) = awaited(sort, goroutine, snapshot, marker, &hosts) {
                candidates.add(index, &awaited, marker);
            }
        }
        for (index, coro) in coros(view, &coroutines, marker.spans()) {
            candidates.add(index, &[Awaited::Heap(coro)], marker);
        }
        candidates
    }

    fn add(&mut self, index: u32, awaited: &[Awaited], marker: &mut Marker<'_>) {
        for awaited in awaited {
            match *awaited {
                Awaited::Heap(object) => {
                    marker.watch(object);
                    self.by_object.entry(object).or_default().push(index);
                }
                Awaited::StackOf(host) => self.by_host.entry(host).or_default().push(index),
            }
        }
        if let Some(dead) = self.dead.get_mut(index as usize) {
            *dead = true;
        }
    }

    /// Makes candidates live that wait for something on the stack of a goroutine that is no candidate. The marker knows
    /// only objects of the heap, so it would never report those as reached.
    pub(super) fn hosted_by_live(&mut self, live: &mut Vec<u32>) {
        let hosts: Vec<u32> = self.by_host.keys().copied().collect();
        for host in hosts {
            if self.dead.get(host as usize) != Some(&true) {
                self.revive_hosted(host, live);
            }
        }
    }

    /// Notes that an object was reached, and adds the candidates that this makes live to `live`.
    pub(super) fn reached(&mut self, object: ObjectId, live: &mut Vec<u32>) {
        for index in self.by_object.remove(&object).unwrap_or_default() {
            self.revive(index, live);
        }
    }

    /// Makes a candidate live, and with it those that wait for something on its stack; adds all to `live`.
    pub(super) fn revive(&mut self, index: u32, live: &mut Vec<u32>) {
        // A list and no recursion: hostile waits can form a chain as long as the list of goroutines.
        let mut todo = vec![index];
        while let Some(index) = todo.pop() {
            if let Some(dead) = self.dead.get_mut(index as usize).filter(|dead| **dead) {
                *dead = false;
                live.push(index);
                todo.extend(self.by_host.remove(&index).unwrap_or_default());
            }
        }
    }

    fn revive_hosted(&mut self, host: u32, live: &mut Vec<u32>) {
        for index in self.by_host.remove(&host).unwrap_or_default() {
            self.revive(index, live);
        }
    }

    /// The candidates that nothing has made live.
    pub(super) fn left(&self) -> impl Iterator<Item = u32> {
        self.dead.iter().zip(0u32..).filter(|(dead, _)| **dead).map(|(_, index)| index)
    }

    /// All other goroutines: live candidates, and those that are no candidates.
    pub(super) fn live(&self) -> impl Iterator<Item = u32> {
        self.dead.iter().zip(0u32..).filter(|(dead, _)| !**dead).map(|(_, index)| index)
    }
}

/// Where an awaited object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Heap(ObjectId),
    /// On the stack of the goroutine with this index.
    StackOf(u32),
}

/// The places of all objects that a goroutine waits for. `None`: no candidate, because not all objects are known, or
/// one is a variable (which every goroutine can reach) or a bare semaphore.
fn awaited(
    sort: Sort,
    goroutine: &Goroutine,
    snapshot: &Snapshot,
    marker: &Marker<'_>,
    hosts: &Hosts,
) -> Option<Vec<Awaited>> {
    if sort == Sort::Nothing {
        return Some(Vec::new());
    }
    goroutine.waits_known.then_some(())?;
    (goroutine.waits.iter())
        .map(|wait| {
            let object = snapshot.objects.get(wait.object as usize)?;
            // Outside of package `sync` the runtime and `internal/poll` (`fdMutex`) use semaphores in their own ways.
            if sort == Sort::Semaphore && object.kind == ObjectKind::Semaphore {
                return None;
            }
            let heap = marker.spans().object(object.addr).map(Awaited::Heap);
            heap.or_else(|| hosts.find(object.addr).map(Awaited::StackOf))
        })
        .collect()
}

/// The `coro` of each of these goroutines (index into the snapshot, address of the `g`), as far as one is found.
///
/// `coro { gp guintptr; f *funcval; … }` (`src/runtime/coro.go`, 1.22 to 1.27) has the goroutine that waits in it. That
/// goroutine's own stack refers to it, or `g.coroarg` before it began.
fn coros(view: &View<'_>, goroutines: &[(u32, u64)], spans: &Spans) -> Vec<(u32, ObjectId)> {
    let at = |field| view.binary.layout().field("coro", field).map(u64::from);
    let (Some(gp), Some(mut references)) = (at("gp"), References::new(view, Depths::default())) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for goroutines in goroutines.chunks(COROUTINES) {
        let wanted: Vec<_> =
            goroutines.iter().map(|(index, g)| Wanted { index: *index, g: *g, moved: false }).collect();
        let mut words: Vec<(u32, ObjectId, u64)> = Vec::new();
        let read = references.each(&wanted, &mut |index, word, sure| {
            let object = spans.object(word).filter(|_| sure);
            let small = object.and_then(|object| Some((object, spans.range(object)?)));
            if let Some((object, (addr, _))) = small.filter(|(_, (_, size))| *size <= MAX_CORO) {
                words.push((index, object, addr));
            }
        });
        if read.is_err() {
            break;
        }
        words.sort_unstable();
        words.dedup();
        let ranges: Vec<_> = words.iter().map(|(_, _, addr)| Range { addr: addr + gp, len: 8 }).collect();
        let of: HashMap<u32, u64> = goroutines.iter().copied().collect();
        let read = read_each(view.memory, &ranges, |at, bytes| {
            if let Some((index, object, _)) = words.get(at)
                && u64_at(bytes, 0) == of.get(index).copied()
            {
                found.push((*index, *object));
            }
        });
        if read.is_err() {
            break;
        }
    }
    found
}

/// The stacks of all goroutines as (low, high, index), ascending, for a binary search by address.
struct Hosts(Vec<(u64, u64, u32)>);

impl Hosts {
    fn of(snapshot: &Snapshot) -> Hosts {
        let mut stacks: Vec<_> = (snapshot.goroutines.iter().zip(0u32..))
            .map(|(goroutine, index)| (goroutine.stack_bounds.0, goroutine.stack_bounds.1, index))
            .collect();
        stacks.sort_unstable();
        Hosts(stacks)
    }

    fn find(&self, addr: u64) -> Option<u32> {
        let behind = self.0.partition_point(|(lo, ..)| *lo <= addr);
        let (_, hi, index) = *self.0.get(behind.checked_sub(1)?)?;
        (addr < hi).then_some(index)
    }
}

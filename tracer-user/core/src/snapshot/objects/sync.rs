//! The semaphores and `sync.Cond`s that goroutines wait at (`src/runtime/sema.go`), and the types of package `sync`
//! that they belong to.
//!
//! On 64-bit processors, Go 1.19 to 1.27 (`src/sync`): `Mutex { state, sema int32 }`,
//! `RWMutex { w Mutex; writerSem, readerSem, readerCount, readerWait int32 }`,
//! `WaitGroup { state uint64; sema uint32 }`, `Cond { L Locker; notify notifyList }`.

use super::super::{Object, ObjectKind, Pc, Snapshot, View, Wait, Wants};
use super::{Blocks, Fields, Sort, Waiting, records};
use crate::binary::bytes::{i32_at, u32_at, u64_at};
use crate::binary::{Globals, SemTable};
use crate::goruntime::WaitReason;
use crate::memory::Range;
use hashbrown::{HashMap, HashSet};

const MUTEX_SEMA: u64 = 4;
const RWMUTEX_WRITER_SEM: u64 = 8;
const RWMUTEX_READER_SEM: u64 = 12;
const RWMUTEX_READER_COUNT: usize = 16;
const RWMUTEX_READER_WAIT: usize = 20;
const WAITGROUP_SEMA: u64 = 8;
/// Offset of the counter, the upper half of `WaitGroup.state`.
const WAITGROUP_COUNTER: usize = 4;
/// Offset of `Cond.notify`, behind the two words of the interface `L`.
const COND_NOTIFY: u64 = 16;
/// `mutexLocked`, the lowest bit of `Mutex.state`; the others count waiters and modes.
const LOCKED: i32 = 1;
/// `rwmutexMaxReaders`, which a writer subtracts from `readerCount`: a negative count means a writer.
const MAX_READERS: i32 = 1 << 30;
/// Frames, from the innermost, that are searched for a function of `sync`. It comes behind `gopark`, `semacquire1` and
/// `sync.runtime_Semacquire…`.
const FRAMES: usize = 12;

/// Most buckets of `semtable` (`semTabSize`, 251) and bytes from one to the next that are believed.
const MAX_BUCKETS: u64 = 4096;
const MAX_STRIDE: u64 = 4096;
/// Most walks of `semtable`. A tree that changes during a walk can hide a part of itself.
const WALKS: usize = 3;
/// `sudog`s that may be read beyond twice the number of goroutines that are known to wait.
const MORE_SUDOGS: usize = 1 << 12;
/// Bytes of the stack, from the innermost frame, that are searched for a `sync.Cond`. The frames of `gopark`,
/// `notifyListWait` and `sync.(*Cond).Wait` have 0xf8 bytes in Go 1.19 to 1.25, more with `-race`.
const WINDOW: u64 = 512;
/// Goroutines whose stacks are searched together.
const STACKS: usize = 16 << 10;
/// Lowest address that counts as a pointer: the first page is never mapped (`vm.mmap_min_addr` is at least 4096 on any
/// usual system).
const LOWEST: u64 = 4096;

/// A goroutine that waits at an address.
#[derive(Clone, Copy, Debug)]
struct At {
    /// Index into [`Snapshot::goroutines`].
    goroutine: u32,
    sort: Sort,
    /// Address of the semaphore, or of `Cond.notify`.
    addr: u64,
    /// The `sudog` with which the goroutine is in the queue.
    sudog: u64,
}

/// The type that a semaphore or list belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Mutex,
    RwMutex,
    WaitGroup,
    Cond,
    Semaphore,
}

impl Kind {
    /// Bytes from its start that [`Kind::state`] needs.
    fn len(self) -> usize {
        match self {
            Kind::Mutex => 4,
            Kind::RwMutex => RWMUTEX_READER_WAIT + 4,
            Kind::WaitGroup => WAITGROUP_COUNTER + 4,
            Kind::Cond | Kind::Semaphore => 0,
        }
    }

    /// The state that its bytes say; missing bytes count as 0.
    fn state(self, bytes: &[u8]) -> ObjectKind {
        let number = |at| i32_at(bytes, at).unwrap_or(0);
        match self {
            Kind::Mutex => ObjectKind::Mutex { locked: number(0) & LOCKED != 0 },
            Kind::RwMutex => {
                let count = number(RWMUTEX_READER_COUNT);
                let readers = if count < 0 { count.wrapping_add(MAX_READERS) } else { count };
                // A writer counts down the readers that it waits for, which are those that hold the lock.
                let reading = if count < 0 { number(RWMUTEX_READER_WAIT) } else { count };
                ObjectKind::RwMutex { writer: count < 0, readers, reading }
            }
            Kind::WaitGroup => ObjectKind::WaitGroup { counter: number(WAITGROUP_COUNTER) },
            Kind::Cond => ObjectKind::Cond,
            Kind::Semaphore => ObjectKind::Semaphore,
        }
    }
}

/// A kind, the offset in it of the word that is waited at, and what the goroutine wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    kind: Kind,
    into: u64,
    wants: Wants,
}

const MUTEX: Place = Place { kind: Kind::Mutex, into: MUTEX_SEMA, wants: Wants::Lock };
/// A writer that waits for another writer: it waits for the mutex in the first field of the `RWMutex`.
const WRITER_BEHIND: Place = Place { kind: Kind::RwMutex, into: MUTEX_SEMA, wants: Wants::Lock };
const WRITER: Place = Place { kind: Kind::RwMutex, into: RWMUTEX_WRITER_SEM, wants: Wants::Lock };
const READER: Place = Place { kind: Kind::RwMutex, into: RWMUTEX_READER_SEM, wants: Wants::RLock };
const WAITGROUP: Place = Place { kind: Kind::WaitGroup, into: WAITGROUP_SEMA, wants: Wants::Wake };
const COND: Place = Place { kind: Kind::Cond, into: COND_NOTIFY, wants: Wants::Wake };
const SEMAPHORE: Place = Place { kind: Kind::Semaphore, into: 0, wants: Wants::Wake };

impl Place {
    /// The place by the wait reason, and if that says too little, by the functions on the stack, innermost first. Locks
    /// have reasons of their own since Go 1.20, `WaitGroup` since 1.24. `SyncMutexLock` may be the mutex in an
    /// `RWMutex`.
    fn of<'a>(reason: WaitReason, functions: impl Iterator<Item = &'a str>) -> Place {
        match reason.outside_of_bubbles() {
            WaitReason::SyncRwMutexRLock => READER,
            WaitReason::SyncRwMutexLock => WRITER,
            WaitReason::SyncWaitGroupWait => WAITGROUP,
            WaitReason::SyncCondWait => COND,
            WaitReason::SyncMutexLock => Place::on_stack(functions).unwrap_or(MUTEX),
            _ => Place::on_stack(functions).unwrap_or(SEMAPHORE),
        }
    }

    fn on_stack<'a>(functions: impl Iterator<Item = &'a str>) -> Option<Place> {
        let mut place = None;
        for function in functions {
            // Since Go 1.24 `sync.Mutex` wraps `internal/sync.Mutex`.
            let method = function.strip_prefix("internal/").unwrap_or(function).strip_prefix("sync.");
            match method {
                Some("(*Mutex).lockSlow" | "(*Mutex).Lock") => place = Some(MUTEX),
                Some("(*RWMutex).Lock") if place.is_some() => return Some(WRITER_BEHIND),
                Some("(*RWMutex).Lock") => return Some(WRITER),
                Some("(*RWMutex).RLock") => return Some(READER),
                Some("(*WaitGroup).Wait") => return Some(WAITGROUP),
                Some(other) if other.starts_with("runtime_") => {}
                _ if place.is_none() && function.starts_with("runtime.") => {}
                _ => break,
            }
        }
        place
    }
}

impl Snapshot {
    /// The index (as [`Wait::object`]) of the object at an address: its start, or a word in it that goroutines wait at
    /// (a semaphore, the list of a `sync.Cond`).
    pub fn object_at(&self, addr: u64) -> Option<u32> {
        let is_in = |object: &Object| {
            addr.checked_sub(object.addr).is_some_and(|into| waited_at(&object.kind).contains(&into))
        };
        let start = self.objects.iter().position(|object| object.addr == addr);
        let index = start.or_else(|| self.objects.iter().position(is_in));
        index.and_then(|index| u32::try_from(index).ok())
    }
}

impl Object {
    /// The addresses at which goroutines wait for it: its own, and those of words in it.
    pub fn waited_at(&self) -> impl Iterator<Item = u64> {
        let words = waited_at(&self.kind).iter().map(|into| self.addr.wrapping_add(*into));
        std::iter::once(self.addr).chain(words)
    }
}

/// Offsets of the words in an object that goroutines wait at, without offset 0.
fn waited_at(kind: &ObjectKind) -> &'static [u64] {
    match kind {
        ObjectKind::Mutex { .. } => &[MUTEX_SEMA],
        ObjectKind::RwMutex { .. } => &[MUTEX_SEMA, RWMUTEX_WRITER_SEM, RWMUTEX_READER_SEM],
        ObjectKind::WaitGroup { .. } => &[WAITGROUP_SEMA],
        ObjectKind::Cond => &[COND_NOTIFY],
        ObjectKind::Channel { .. } | ObjectKind::Semaphore => &[],
    }
}

/// The address of what a goroutine waits for, as a snapshot has it ([`Object::addr`]): of the channel, or of the `sync.Mutex` or
/// other type that has the semaphore or list at `addr`. `functions` are those on its stack, innermost first; they are asked where
/// the reason does not say enough.
pub fn waited_for<F: AsRef<str>>(reason: WaitReason, addr: u64, functions: impl FnOnce() -> Vec<F>) -> u64 {
    match Sort::of(reason) {
        Some(Sort::Channel(_)) | None => addr,
        Some(Sort::Cond) => addr.wrapping_sub(COND.into),
        Some(Sort::Semaphore) => {
            let functions = functions();
            let place = Place::of(reason, functions.iter().take(FRAMES).map(AsRef::as_ref));
            addr.wrapping_sub(place.into)
        }
    }
}

/// The place at which goroutines with this wait reason and stack wait.
fn place(view: &View, reason: u8, stack: &[Pc]) -> Place {
    let frames: Vec<_> = (stack.iter().take(FRAMES))
        .flat_map(|pc| view.binary.symbolize(pc.lookup().wrapping_sub(view.bias)))
        .collect();
    Place::of(view.binary.wait_reasons().get(reason), frames.iter().map(|frame| frame.func))
}

/// Adds the objects of package `sync` to the snapshot, and to each goroutine what it waits for.
pub(super) fn find(
    view: &View,
    globals: &Globals,
    fields: &Fields,
    waiting: &[Waiting],
    snapshot: &mut Snapshot,
) {
    let mut waits = Vec::new();
    if fields.all_from_g {
        from_g(view, fields, waiting, &mut waits);
    } else {
        if let Some(semtable) = globals.semtable {
            from_table(view, fields, semtable, waiting, &mut waits);
        }
        from_stacks(view, fields, waiting, &mut waits);
    }
    waits.sort_unstable_by_key(|wait| wait.goroutine);
    add(view, &waits, snapshot);
}

/// Adds the objects that these addresses belong to. `waits` ascend by goroutine.
fn add(view: &View, waits: &[At], snapshot: &mut Snapshot) {
    let mut places = HashMap::new();
    let mut indices: HashMap<(u64, Kind), usize> = HashMap::new();
    let first = snapshot.objects.len();
    let mut kinds = Vec::new();
    for wait in waits {
        let Some(goroutine) = snapshot.goroutines.get_mut(wait.goroutine as usize) else { continue };
        let place = *places
            .entry((goroutine.reason, goroutine.stack))
            .or_insert_with(|| place(view, goroutine.reason, snapshot.stacks.get(goroutine.stack)));
        let place = if wait.sort == Sort::Cond { COND } else { place };
        let Some(addr) = wait.addr.checked_sub(place.into) else { continue };
        let index = *indices.entry((addr, place.kind)).or_insert_with(|| {
            kinds.push((addr, place.kind));
            snapshot.objects.push(Object { addr, kind: place.kind.state(&[]), waiters: Vec::new() });
            snapshot.objects.len() - 1
        });
        goroutine.waits.push(Wait { object: index as u32, wants: place.wants });
        goroutine.waits_known = true;
        snapshot.sudogs.push((wait.goroutine, wait.sudog));
        if let Some(object) = snapshot.objects.get_mut(index) {
            object.waiters.push(wait.goroutine);
        }
    }
    let ranges: Vec<_> = kinds.iter().map(|(addr, kind)| Range { addr: *addr, len: kind.len() }).collect();
    records(view.memory, &ranges, |at, bytes| {
        snapshot.objects.get_mut(first + at)?.kind = kinds.get(at)?.1.state(bytes);
        Some(())
    });
}

/// Go 1.26 and later: `g.waiting` leads to the `sudog` of each wait, and its `elem` is the address of the semaphore or
/// of `Cond.notify`.
fn from_g(view: &View, fields: &Fields, waiting: &[Waiting], found: &mut Vec<At>) {
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

/// Go up to 1.25: each bucket of `semtable` has a tree of semaphore addresses, and each address a list of waiters.
fn from_table(view: &View, fields: &Fields, table: SemTable, waiting: &[Waiting], found: &mut Vec<At>) {
    let mut left: HashMap<u64, u32> = (waiting.iter())
        .filter(|waiting| waiting.sort == Sort::Semaphore)
        .map(|waiting| (waiting.g, waiting.goroutine))
        .collect();
    // The runtime rotates the treaps while goroutines come and go, so a walk may miss a subtree. Repeat while walks
    // find more.
    for _ in 0..WALKS {
        let before = left.len();
        walk(view, fields, table, &mut left, found);
        if left.is_empty() || left.len() == before {
            break;
        }
    }
}

/// Walks all trees once and removes from `left` the goroutines that it finds. `None`: the table cannot be read.
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
        // A semaphore is a uint32: another address is no semaphore, and the `sudog` is stale.
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

/// Go up to 1.25: the list of a `sync.Cond` (`runtime.notifyList`) is found only from the stack of a waiting goroutine,
/// where `sync.(*Cond).Wait` and `notifyListWait` keep the address of the list or of the `Cond`. Every word of the
/// stack is tried; the list itself proves the right one, because the goroutine is in it.
fn from_stacks(view: &View, fields: &Fields, waiting: &[Waiting], found: &mut Vec<At>) {
    let waiting: Vec<_> = waiting.iter().filter(|waiting| waiting.sort == Sort::Cond).collect();
    let mut search = Search {
        fields,
        left: waiting.iter().map(|waiting| (waiting.g, waiting.goroutine)).collect(),
        steps: waiting.len().saturating_mul(2).saturating_add(MORE_SUDOGS),
        blocks: Blocks::new(view.memory),
        found,
    };
    for batch in waiting.chunks(STACKS) {
        // A list that was found for one goroutine has all others that wait at it, so those need no search.
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

/// The addresses among `candidates` that may be `notifyList`s with waiters, each with the first `sudog`.
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
        // Waiters draw tickets: `wait` is the next number to draw, `notify` the next to wake. The difference is the
        // number of waiters, also when the counters wrap around.
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
    /// By address of the `g`, the goroutines whose list was not found yet.
    left: HashMap<u64, u32>,
    /// Number of `sudog`s that may still be read, in all lists together.
    steps: usize,
    blocks: Blocks<'a>,
    found: &'a mut Vec<At>,
}

impl Search<'_> {
    /// Follows a list from its first `sudog` and notes the waiting goroutines in it.
    fn follow(&mut self, list: u64, head: u64) {
        let mut next = head;
        while next != 0 && self.steps > 0 {
            self.steps -= 1;
            let bytes = self.blocks.read(self.fields.range(next));
            let Some(sudog) = bytes.and_then(|bytes| self.fields.decode(bytes)) else { break };
            // A `sudog` in a `notifyList` has neither; one with a channel or a semaphore means that this is no such
            // list.
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

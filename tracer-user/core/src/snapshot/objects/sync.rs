//! Who waits at which semaphore or `sync.Cond` (`src/runtime/sema.go`), and what these belong to: the types of package
//! `sync`.
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
const WAITGROUP_SEMA: u64 = 8;
/// The upper half of `WaitGroup.state`.
const WAITGROUP_COUNTER: usize = 4;
/// Offset of `Cond.notify`.
const COND_NOTIFY: u64 = 16;
/// `mutexLocked`.
const LOCKED: i32 = 1;
/// `rwmutexMaxReaders`: what a writer takes off the count of readers.
const MAX_READERS: i32 = 1 << 30;
/// Frames, from the innermost, among which the functions of `sync` are: `gopark`, `semacquire1`,
/// `sync.runtime_Semacquire…`, then they.
const FRAMES: usize = 12;

/// Buckets of the table (`semTabSize`), and bytes between them, up to which it is believed.
const MAX_BUCKETS: u64 = 4096;
const MAX_STRIDE: u64 = 4096;
/// Walks of the table. What changes while it is walked can hide a part of it.
const WALKS: usize = 3;
/// `sudog`s that are looked at beyond the goroutines that are known to wait.
const MORE_SUDOGS: usize = 1 << 12;
/// Bytes of the stack, from the innermost frame, that hold the frames of `gopark`,
/// `notifyListWait` and `sync.(*Cond).Wait`: 0xf8 bytes in Go 1.19 to 1.25, more with `-race`.
const WINDOW: u64 = 512;
/// Goroutines whose stacks are looked at together.
const STACKS: usize = 16 << 10;
/// Lowest address that may be mapped (`vm.mmap_min_addr` is no less on any usual system).
const LOWEST: u64 = 4096;

/// A goroutine that waits at an address.
#[derive(Clone, Copy, Debug)]
struct At {
    /// Index into [`Snapshot::goroutines`].
    goroutine: u32,
    sort: Sort,
    /// Of the semaphore, or of `Cond.notify`.
    addr: u64,
    /// With which it is in the queue at `addr`.
    sudog: u64,
}

/// What an address that goroutines wait at belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Mutex,
    RwMutex,
    WaitGroup,
    Cond,
    Semaphore,
}

impl Kind {
    /// Bytes of it that tell how it stands.
    fn len(self) -> usize {
        match self {
            Kind::Mutex => 4,
            Kind::RwMutex => RWMUTEX_READER_COUNT + 4,
            Kind::WaitGroup => WAITGROUP_COUNTER + 4,
            Kind::Cond | Kind::Semaphore => 0,
        }
    }

    /// How it stands; what `bytes` do not have counts as 0.
    fn state(self, bytes: &[u8]) -> ObjectKind {
        let number = |at| i32_at(bytes, at).unwrap_or(0);
        match self {
            Kind::Mutex => ObjectKind::Mutex { locked: number(0) & LOCKED != 0 },
            Kind::RwMutex => {
                let count = number(RWMUTEX_READER_COUNT);
                let readers = if count < 0 { count.wrapping_add(MAX_READERS) } else { count };
                ObjectKind::RwMutex { writer: count < 0, readers }
            }
            Kind::WaitGroup => ObjectKind::WaitGroup { counter: number(WAITGROUP_COUNTER) },
            Kind::Cond => ObjectKind::Cond,
            Kind::Semaphore => ObjectKind::Semaphore,
        }
    }
}

/// A kind, how far into it the address is, and what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    kind: Kind,
    into: u64,
    wants: Wants,
}

const MUTEX: Place = Place { kind: Kind::Mutex, into: MUTEX_SEMA, wants: Wants::Lock };
/// A writer that waits for another writer waits for the mutex that is the first field.
const WRITER_BEHIND: Place = Place { kind: Kind::RwMutex, into: MUTEX_SEMA, wants: Wants::Lock };
const WRITER: Place = Place { kind: Kind::RwMutex, into: RWMUTEX_WRITER_SEM, wants: Wants::Lock };
const READER: Place = Place { kind: Kind::RwMutex, into: RWMUTEX_READER_SEM, wants: Wants::RLock };
const WAITGROUP: Place = Place { kind: Kind::WaitGroup, into: WAITGROUP_SEMA, wants: Wants::Wake };
const COND: Place = Place { kind: Kind::Cond, into: COND_NOTIFY, wants: Wants::Wake };
const SEMAPHORE: Place = Place { kind: Kind::Semaphore, into: 0, wants: Wants::Wake };

impl Place {
    /// By the wait reason, and where that does not say enough, by the functions on the stack,
    /// innermost first. Reasons of their own came with Go 1.20 for the locks, 1.24 for `WaitGroup`.
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
            // Until Go 1.23 the mutex is in `sync` itself.
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
    /// The object at an address, by its index for [`Wait::object`]: the address is that of its start,
    /// or of a word in it that goroutines wait at (a semaphore, the list of a `sync.Cond`).
    pub fn object_at(&self, addr: u64) -> Option<u32> {
        let is_in = |object: &Object| {
            addr.checked_sub(object.addr).is_some_and(|into| waited_at(&object.kind).contains(&into))
        };
        let start = self.objects.iter().position(|object| object.addr == addr);
        let index = start.or_else(|| self.objects.iter().position(is_in));
        index.and_then(|index| u32::try_from(index).ok())
    }
}

/// Offsets of the words that goroutines wait at, other than the first.
fn waited_at(kind: &ObjectKind) -> &'static [u64] {
    match kind {
        ObjectKind::Mutex { .. } => &[MUTEX_SEMA],
        ObjectKind::RwMutex { .. } => &[MUTEX_SEMA, RWMUTEX_WRITER_SEM, RWMUTEX_READER_SEM],
        ObjectKind::WaitGroup { .. } => &[WAITGROUP_SEMA],
        ObjectKind::Cond => &[COND_NOTIFY],
        ObjectKind::Channel { .. } | ObjectKind::Semaphore => &[],
    }
}

/// What the address belongs to that goroutines with this reason and stack wait at.
fn place(view: &View, reason: u8, stack: &[Pc]) -> Place {
    let frames: Vec<_> = (stack.iter().take(FRAMES))
        .flat_map(|pc| view.binary.symbolize(pc.lookup().wrapping_sub(view.bias)))
        .collect();
    Place::of(view.binary.wait_reasons().get(reason), frames.iter().map(|frame| frame.func))
}

/// Adds what the goroutines wait for that wait for something of package `sync`.
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

/// Adds the objects that these addresses belong to. `waits` are in the order of goroutines.
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

/// Go 1.26 and later: `g.waiting` has the `sudog` of each wait, and that the address: of the
/// semaphore, or of `Cond.notify`.
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

/// Go up to 1.25: the table has a tree of addresses for each bucket, in which each address has a
/// list of those that wait.
fn from_table(view: &View, fields: &Fields, table: SemTable, waiting: &[Waiting], found: &mut Vec<At>) {
    let mut left: HashMap<u64, u32> = (waiting.iter())
        .filter(|waiting| waiting.sort == Sort::Semaphore)
        .map(|waiting| (waiting.g, waiting.goroutine))
        .collect();
    // A treap is rotated while goroutines come and go: a subtree may be missed. Repeat while it finds more.
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

/// Go up to 1.25: the list of a `sync.Cond` (`runtime.notifyList`) can only be found from the stack of a goroutine that
/// waits, where `sync.(*Cond).Wait` and `notifyListWait` keep its address or that of the `Cond`. That a word of the
/// stack is one of these the list itself proves: the goroutine is in it.
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

/// Which of these addresses may be lists in which goroutines wait, with their first `sudog`.
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

//! What the semaphores belong to: the types of package `sync`.
//!
//! On 64-bit processors, Go 1.19 to 1.27 (`src/sync`): `Mutex { state, sema int32 }`,
//! `RWMutex { w Mutex; writerSem, readerSem, readerCount, readerWait int32 }`,
//! `WaitGroup { state uint64; sema uint32 }`, `Cond { L Locker; notify notifyList }`.

use super::super::{Object, ObjectKind, Pc, Snapshot, View, Wait, Wants};
use super::{Sort, records};
use crate::binary::bytes::i32_at;
use crate::memory::Range;
use hashbrown::HashMap;

/// Offset of a mutex's semaphore.
const MUTEX_SEMA: u64 = 4;
const RWMUTEX_WRITER_SEM: u64 = 8;
const RWMUTEX_READER_SEM: u64 = 12;
const RWMUTEX_READER_COUNT: usize = 16;
const WAITGROUP_SEMA: u64 = 8;
/// The upper half of `WaitGroup.state`.
const WAITGROUP_COUNTER: usize = 4;
/// Offset of `Cond.notify`.
pub(super) const COND_NOTIFY: u64 = 16;
/// `mutexLocked`.
const LOCKED: i32 = 1;
/// `rwmutexMaxReaders`: what a writer takes off the count of readers.
const MAX_READERS: i32 = 1 << 30;
/// Frames, from the innermost, among which the functions of `sync` are: `gopark`, `semacquire1`,
/// `sync.runtime_Semacquire…`, then they.
const FRAMES: usize = 12;

/// A goroutine that waits at an address.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    /// Index into [`Snapshot::goroutines`].
    pub(super) goroutine: u32,
    pub(super) sort: Sort,
    /// Of the semaphore, or of `Cond.notify`.
    pub(super) addr: u64,
    /// With which it is in the queue there.
    pub(super) sudog: u64,
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
    fn of<'a>(reason: &str, functions: impl Iterator<Item = &'a str>) -> Place {
        match reason.split(" (").next() {
            Some("sync.RWMutex.RLock") => READER,
            Some("sync.RWMutex.Lock") => WRITER,
            Some("sync.WaitGroup.Wait") => WAITGROUP,
            Some("sync.Cond.Wait") => COND,
            Some("sync.Mutex.Lock") => Place::on_stack(functions).unwrap_or(MUTEX),
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
    Place::of(view.binary.wait_reason(reason), frames.iter().map(|frame| frame.func))
}

/// Adds the objects that these addresses belong to. `waits` are in the order of goroutines.
pub(super) fn find(view: &View, waits: &[At], snapshot: &mut Snapshot) {
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

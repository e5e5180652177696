//! What the runtime's network poller notes of a descriptor: `runtime.pollDesc` (`src/runtime/netpoll.go`).
//!
//! The runtime gives epoll the address of the `pollDesc` with each descriptor, and `/proc/PID/fdinfo` shows what epoll was
//! given. That finds them in a stripped program, and without the heap.

use crate::binary::bytes::u64_at;
use crate::budget;
use crate::memory::{Fault, Range, read_each};
use crate::process::{EpollEntry, Process};
use crate::snapshot::View;
use hashbrown::{HashMap, HashSet};

/// Records that are read together.
const BATCH: usize = 1024;
/// Largest record that is believed; it has some 300 bytes.
const MAX_RECORD: usize = 4 << 10;
/// `pdNil`, `pdReady` and `pdWait` (`src/runtime/netpoll.go`); another number is the address of a `g`.
const NOBODY: u64 = 0;
const READY: u64 = 1;
const ABOUT_TO_WAIT: u64 = 2;

/// Who waits until a descriptor can be read, or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    Nobody,
    /// An event came, and nobody has taken it: there may be something to read, or the peer has closed.
    Ready,
    /// A goroutine, by the address of its `g`, which is none of the snapshot or does not wait any more.
    Gone(u64),
    /// A goroutine: its index in the snapshot.
    Goroutine(u32),
}

impl Waiter {
    fn of(word: u64) -> Waiter {
        match word {
            NOBODY | ABOUT_TO_WAIT => Waiter::Nobody,
            READY => Waiter::Ready,
            g => Waiter::Gone(g),
        }
    }

    /// Finds the goroutine in a snapshot.
    pub(super) fn find(&mut self, index_of: &impl Fn(u64) -> Option<u32>) {
        if let Waiter::Gone(g) = *self
            && let Some(index) = index_of(g)
        {
            *self = Waiter::Goroutine(index);
        }
    }

    /// The goroutine, by its index in the snapshot.
    pub fn goroutine(self) -> Option<u32> {
        match self {
            Waiter::Goroutine(index) => Some(index),
            _ => None,
        }
    }
}

/// Until when somebody may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// For ever.
    None,
    Passed,
    /// Until this time of the monotonic clock, nanoseconds.
    At(u64),
}

impl Deadline {
    fn of(word: u64) -> Deadline {
        match word.cast_signed() {
            0 => Deadline::None,
            ..0 => Deadline::Passed,
            at => Deadline::At(at.unsigned_abs()),
        }
    }
}

/// What a `pollDesc` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poll {
    pub addr: u64,
    pub reader: Waiter,
    pub writer: Waiter,
    pub read_deadline: Deadline,
    pub write_deadline: Deadline,
}

/// What the epoll instances of a program led to.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) polls: HashMap<u32, Poll>,
    /// Instances that are the runtime's own, and what wakes those.
    pub(super) instances: HashSet<u32>,
    pub(super) wakers: HashSet<u32>,
}

impl Found {
    /// Adds what an epoll instance watches. The error is a clause.
    pub(super) fn add(&mut self, process: &Process, view: &View<'_>, instance: u32) -> Result<(), String> {
        let (mut watched, mut exhausted) = (Vec::new(), None);
        let complete = process.epoll(instance, &mut |entry| match budget::reserve(&mut watched, 1) {
            Ok(()) => watched.push(entry),
            Err(error) => exhausted = Some(error),
        });
        let cannot = |why: &dyn std::fmt::Display| format!("epoll instance {instance} cannot be read: {why}");
        if let Some(error) = exhausted {
            return Err(cannot(&error));
        }
        let complete = complete.map_err(|error| cannot(&error))?;
        let release = view.binary.version().release;
        let pairs: Vec<(u32, u64)> =
            watched.iter().map(|entry| (entry.number, release.poll_of(entry.data))).collect();
        let polls = read(view, &pairs).map_err(|error| cannot(&error))?;
        // What is no `pollDesc` wakes the poller, if the instance is the runtime's.
        let other: Vec<&EpollEntry> =
            watched.iter().filter(|entry| !polls.contains_key(&entry.number)).collect();
        let is_waker = |entry: &EpollEntry| is_waker(view, entry.data);
        if !polls.is_empty() || other.iter().any(|entry| is_waker(entry)) {
            self.instances.insert(instance);
            self.wakers.extend(other.iter().filter(|entry| is_waker(entry)).map(|entry| entry.number));
        }
        self.polls.extend(polls);
        if complete { Ok(()) } else { Err(format!("epoll instance {instance} watches too many descriptors")) }
    }
}

/// Whether the runtime notes this with what wakes its poller: the address of one of its variables, or 0 since 1.27.
fn is_waker(view: &View<'_>, data: u64) -> bool {
    if view.binary.version().release.wakes_its_poller_by_0() {
        return data == 0;
    }
    let module = view.binary.globals().ok().and_then(|globals| globals.first_module);
    let Some(module) = module.map(|module| module.wrapping_add(view.bias)) else { return false };
    let field = |name| view.field(module, "moduledata", name).unwrap_or(0);
    [["noptrdata", "enoptrdata"], ["data", "edata"], ["bss", "ebss"], ["noptrbss", "enoptrbss"]]
        .into_iter()
        .any(|[start, end]| (field(start)..field(end)).contains(&data))
}

/// Reads the `pollDesc`s at these addresses, each of a descriptor. What is none of that descriptor is left out.
pub(super) fn read(view: &View<'_>, pairs: &[(u32, u64)]) -> Result<HashMap<u32, Poll>, Fault> {
    let mut polls = HashMap::new();
    let layout = view.binary.layout();
    let field = |name| layout.field("pollDesc", name).map(|at| at as usize);
    let fields = ["fd", "rg", "wg", "rd", "wd"].map(field);
    let [Some(fd), Some(rg), Some(wg), Some(rd), Some(wd)] = fields else { return Ok(polls) };
    let len = fields.iter().flatten().max().map_or(0, |last| last + 8);
    if len > MAX_RECORD {
        return Ok(polls);
    }
    for pairs in pairs.chunks(BATCH) {
        budget::check(pairs.len() * (len + 2 * size_of::<Poll>()))?;
        let ranges: Vec<_> = pairs.iter().map(|(_, addr)| Range { addr: *addr, len }).collect();
        read_each(view.memory, &ranges, |index, bytes| {
            let Some((number, addr)) = pairs.get(index).copied() else { return };
            let word = |at| u64_at(bytes, at).unwrap_or(0);
            if addr != 0 && word(fd) == u64::from(number) {
                let poll = Poll {
                    addr,
                    reader: Waiter::of(word(rg)),
                    writer: Waiter::of(word(wg)),
                    read_deadline: Deadline::of(word(rd)),
                    write_deadline: Deadline::of(word(wd)),
                };
                polls.insert(number, poll);
            }
        })?;
    }
    Ok(polls)
}

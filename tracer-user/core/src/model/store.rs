//! What the model remembers: goroutines, found by `g` address or goid, and threads; never more than the capacity.
//!
//! Dead goroutines stay for [`RETAIN_NS`], so that their names can still be asked for, and are the first to go when
//! room is needed. When all are alive, a further goroutine is worked on in a scratch place, forgotten at once, and
//! counted.

use super::{Measure, goroutines::Held};
use crate::{
    event::{Birth, Kind, Stack},
    goruntime::State,
};
use hashbrown::HashMap;
use std::collections::VecDeque;

/// One goroutine as its events tell it. Identity is (`g`, `goid`), because the runtime reuses `g` structs.
#[derive(Clone, Debug)]
pub struct Goroutine {
    pub g: u64,
    /// Its id; 0: not known yet.
    pub goid: u64,
    pub state: State,
    /// Since when it is in that state, `CLOCK_MONOTONIC` nanoseconds; 0: not known.
    pub since_ts: u64,
    /// Whether `since_ts` was seen, is a bound, or is the runtime's estimate.
    pub since_is: Measure,
    /// Why it waits, or waited last: an index into the binary's wait reasons.
    pub reason: u8,
    /// Where it comes from, if that was seen.
    pub birth: Option<Birth>,
    /// When it was created; `None`: before the trace.
    pub created_ts: Option<u64>,
    /// The thread of its last event.
    pub tid: u32,
    /// Return addresses of its last wait or system call; empty: none were sent.
    pub site: Stack,
    /// What it waits for, as [`super::Step::object`]; 0: not known, or nothing.
    pub object: u64,
    /// How long it was running, nanoseconds; slices whose beginning was not seen do not count.
    pub running_ns: u64,
    /// How much of that its thread had no CPU.
    pub off_cpu_ns: u64,
    /// Time of its last event, held events included.
    pub(super) last_ts: u64,
    /// When an event last told its state; 0: none did.
    pub(super) told_ts: u64,
    /// Whether its state comes from a snapshot: good to be shown, not to be held against an event.
    pub(super) by_snapshot: bool,
    pub(super) last: Kind,
    /// The event that waits for the goroutine's next one to be reported.
    pub(super) held: Option<Held>,
    /// Changes when the place is given to another goroutine.
    generation: u32,
    used: bool,
    /// Whether the place stands in [`Store::dead`], the queue of goroutines to be forgotten.
    queued: bool,
}

impl Goroutine {
    fn new(g: u64, goid: u64, generation: u32) -> Goroutine {
        Goroutine {
            g,
            goid,
            state: State::Unknown,
            since_ts: 0,
            since_is: Measure::Exact,
            reason: 0,
            birth: None,
            created_ts: None,
            tid: 0,
            site: Stack::default(),
            object: 0,
            running_ns: 0,
            off_cpu_ns: 0,
            last_ts: 0,
            told_ts: 0,
            by_snapshot: false,
            last: Kind::Exec,
            held: None,
            generation,
            used: true,
            queued: false,
        }
    }
}

/// How long a dead goroutine is remembered, nanoseconds of the target's time: its last steps are still being shown.
const RETAIN_NS: u64 = 1_000_000_000;

/// The place of a goroutine that there is no room for. No `g` and no goid leads to it.
const SCRATCH: usize = 0;

/// A goroutine's place; it fails to resolve once the place is given to another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

#[derive(Debug)]
pub(super) struct Store {
    places: Vec<Goroutine>,
    free: Vec<usize>,
    by_g: ByG,
    by_goid: HashMap<u64, usize>,
    dead: VecDeque<(u64, Key)>,
    capacity: usize,
    refused: u64,
}

impl Store {
    pub(super) fn new(capacity: usize) -> Store {
        Store {
            places: vec![Goroutine::new(0, 0, 0)],
            free: Vec::new(),
            by_g: ByG::new(),
            by_goid: HashMap::new(),
            dead: VecDeque::new(),
            // A `Key` has 32 bits for the place.
            capacity: capacity.min(u32::MAX as usize - 1),
            refused: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - 1 - self.free.len()
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Goroutine> {
        // The first place is the scratch place.
        self.places.iter().skip(1).filter(|goroutine| goroutine.used)
    }

    pub(super) fn by_goid(&self, goid: u64) -> Option<&Goroutine> {
        self.by_goid.get(&goid).map(|&at| &self.places[at])
    }

    /// The goroutine at a place that [`Store::resolve`], [`Store::renew`] or [`Store::find`] has given.
    #[inline]
    pub(super) fn at(&mut self, at: usize) -> &mut Goroutine {
        &mut self.places[at]
    }

    pub(super) fn key(&self, at: usize) -> Key {
        Key { index: at as u32, generation: self.places[at].generation }
    }

    /// The place behind a key, unless it was given to another one. The scratch place has none.
    pub(super) fn find(&self, key: Key) -> Option<usize> {
        let at = key.index as usize;
        let place = self.places.get(at)?;
        (at != SCRATCH && place.used && place.generation == key.generation).then_some(at)
    }

    /// The place of whatever goroutine uses this `g` now.
    pub(super) fn peek(&self, g: u64) -> Option<usize> {
        self.by_g.get(g)
    }

    /// The place of goroutine (`g`, `goid`), made if it is not known. A goid of 0 matches any;
    /// another goid means that the `g` was reused.
    #[inline]
    pub(super) fn resolve(&mut self, g: u64, goid: u64) -> usize {
        let Some(at) = self.by_g.find(g) else { return self.insert(g, goid) };
        let known = self.places[at].goid;
        if goid == 0 || known == goid {
            return at;
        }
        // Up to Go 1.23 a new goroutine gets its goid after its first event.
        if known == 0 {
            self.places[at].goid = goid;
            self.by_goid.insert(goid, at);
            return at;
        }
        let last_ts = self.places[at].last_ts;
        self.renew(g, goid, last_ts)
    }

    /// The place of a goroutine that begins on this `g`; the goroutine that used the `g` before is dead.
    #[inline(never)]
    pub(super) fn renew(&mut self, g: u64, goid: u64, ts: u64) -> usize {
        if let Some(at) = self.by_g.remove(g) {
            let old = &mut self.places[at];
            if !old.state.is_dead() {
                old.state = State::Dead;
                old.since_ts = ts;
            }
            self.bury(at);
        }
        self.insert(g, goid)
    }

    #[inline(never)]
    fn insert(&mut self, g: u64, goid: u64) -> usize {
        let Some(at) = self.room() else {
            self.refused += 1;
            self.places[SCRATCH] = Goroutine::new(g, goid, 0);
            return SCRATCH;
        };
        // The generation belongs to the place: keys of the goroutine before must not resolve.
        self.places[at] = Goroutine::new(g, goid, self.places[at].generation);
        self.by_g.insert(g, at);
        if goid != 0 {
            self.by_goid.insert(goid, at);
        }
        at
    }

    fn room(&mut self) -> Option<usize> {
        if let Some(at) = self.free.pop() {
            return Some(at);
        }
        if self.len() < self.capacity {
            self.places.push(Goroutine::new(0, 0, 0));
            return Some(self.places.len() - 1);
        }
        // No room: the dead go before their time.
        while let Some((_, key)) = self.dead.pop_front() {
            self.forget_if_dead(key);
            if let Some(at) = self.free.pop() {
                return Some(at);
            }
        }
        None
    }

    /// Queues a dead goroutine, to be forgotten after [`RETAIN_NS`].
    #[inline(never)]
    pub(super) fn bury(&mut self, at: usize) {
        let place = &mut self.places[at];
        if at != SCRATCH && !place.queued {
            place.queued = true;
            let since = place.since_ts;
            self.dead.push_back((since, self.key(at)));
        }
    }

    /// Forgets the goroutines that have been dead for [`RETAIN_NS`] at `now_ts`; returns whether there were any.
    pub(super) fn forget_dead(&mut self, now_ts: u64) -> bool {
        let mut any = false;
        while let Some(&(since, key)) = self.dead.front() {
            if since.saturating_add(RETAIN_NS) > now_ts {
                break;
            }
            any = true;
            self.dead.pop_front();
            let Some(at) = self.find(key) else { continue };
            let again = self.places[at].since_ts;
            if self.places[at].state.is_dead() && again.saturating_add(RETAIN_NS) > now_ts {
                self.dead.push_back((again, key)); // the goroutine of a C thread, back in between
            } else {
                self.forget_if_dead(key);
            }
        }
        any
    }

    fn forget_if_dead(&mut self, key: Key) {
        let Some(at) = self.find(key) else { return };
        let place = &mut self.places[at];
        place.queued = false;
        // A C thread's goroutine may live again; it is queued anew when it dies.
        if !place.state.is_dead() {
            return;
        }
        place.used = false;
        place.generation = place.generation.wrapping_add(1);
        let (g, goid) = (place.g, place.goid);
        // Another goroutine may use the `g` by now.
        if self.by_g.get(g) == Some(at) {
            self.by_g.remove(g);
        }
        if self.by_goid.get(&goid) == Some(&at) {
            self.by_goid.remove(&goid);
        }
        self.free.push(at);
    }

    /// Forgets all goroutines, after an `exec`; the count of refusals stays.
    pub(super) fn clear(&mut self) {
        *self = Store { refused: self.refused, ..Store::new(self.capacity) };
    }
}

/// Few goroutines make most of the events; their places are found without hashing.
const RECENT: usize = 64;

/// Places in the store by `g`.
#[derive(Debug)]
struct ByG {
    all: HashMap<u64, usize>,
    /// Some of `all`, each at the [`slot`] of its address.
    recent: [Option<(u64, usize)>; RECENT],
}

/// Where a `g` stands in `recent`. A `g` takes some hundred bytes, in pages of its own size class: the low six bits
/// tell nothing.
#[inline]
fn slot(g: u64) -> usize {
    ((g >> 6) ^ (g >> 12)) as usize % RECENT
}

impl ByG {
    fn new() -> ByG {
        ByG { all: HashMap::new(), recent: [None; RECENT] }
    }

    #[inline]
    fn get(&self, g: u64) -> Option<usize> {
        match self.recent[slot(g)] {
            Some((recent, at)) if recent == g => Some(at),
            _ => self.all.get(&g).copied(),
        }
    }

    /// As [`ByG::get`], for an event: remembers the place, because more events of this goroutine are likely to
    /// follow.
    #[inline]
    fn find(&mut self, g: u64) -> Option<usize> {
        let at = self.get(g)?;
        self.recent[slot(g)] = Some((g, at));
        Some(at)
    }

    fn insert(&mut self, g: u64, at: usize) {
        self.recent[slot(g)] = Some((g, at));
        self.all.insert(g, at);
    }

    fn remove(&mut self, g: u64) -> Option<usize> {
        self.recent[slot(g)].take_if(|(recent, _)| *recent == g);
        self.all.remove(&g)
    }
}

/// One thread. All times are `CLOCK_MONOTONIC` nanoseconds, 0: not seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Thread {
    /// The goroutine that runs here, or is in a system call here.
    pub(super) running: Option<Key>,
    pub(super) running_ts: u64,
    /// Since when it has a CPU.
    pub(super) on_ts: u64,
    /// Since when it has no CPU.
    pub(super) off_ts: u64,
    /// The two `g` of the last coroutine switch.
    pub(super) switched: [u64; 2],
    /// When `needm` was called; 0 once the goroutine that it took has shown itself.
    pub(super) needm_ts: u64,
}

#[derive(Debug)]
pub(super) struct Threads {
    places: Vec<Thread>,
    by_tid: HashMap<u32, usize>,
    /// The thread asked for last, and its place: a thread's events come in runs.
    last: Option<(u32, usize)>,
    capacity: usize,
}

impl Threads {
    pub(super) fn new(capacity: usize) -> Threads {
        Threads { places: Vec::new(), by_tid: HashMap::new(), last: None, capacity }
    }

    /// The thread's place, made if it is not known. No event tells of a thread's end: at the capacity, threads that
    /// run nothing are forgotten, and if that frees no room, all.
    #[inline]
    pub(super) fn at(&mut self, tid: u32) -> &mut Thread {
        let at = match self.last {
            Some((last, at)) if last == tid => at,
            _ => self.place_of(tid),
        };
        self.last = Some((tid, at));
        &mut self.places[at]
    }

    fn place_of(&mut self, tid: u32) -> usize {
        if let Some(known) = self.by_tid.get(&tid) {
            return *known;
        }
        if self.by_tid.len() >= self.capacity {
            self.forget_idle();
        }
        self.insert(tid, Thread::default())
    }

    fn insert(&mut self, tid: u32, thread: Thread) -> usize {
        self.places.push(thread);
        self.by_tid.insert(tid, self.places.len() - 1);
        self.places.len() - 1
    }

    fn forget_idle(&mut self) {
        let busy = self.by_tid.iter().map(|(tid, at)| (*tid, self.places[*at]));
        let busy: Vec<(u32, Thread)> = busy.filter(|(_, thread)| thread.running.is_some()).collect();
        self.clear();
        if busy.len() < self.capacity {
            for (tid, thread) in busy {
                self.insert(tid, thread);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Threads::new(self.capacity);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_tid.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_a_map_finds(steps in prop::collection::vec((0u8..4, 0u64..200, 0usize..9), 0..300)) {
            let (mut ours, mut map) = (ByG::new(), HashMap::new());
            for (what, g, at) in steps {
                let g = g * 64;
                match what {
                    0 => {
                        ours.insert(g, at);
                        map.insert(g, at);
                    }
                    1 => prop_assert_eq!(ours.remove(g), map.remove(&g)),
                    2 => prop_assert_eq!(ours.find(g), map.get(&g).copied()),
                    _ => prop_assert_eq!(ours.get(g), map.get(&g).copied()),
                }
            }
        }
    }
}

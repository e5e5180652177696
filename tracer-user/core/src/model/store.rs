//! The goroutines remembered: found by `g` address or goid, never more than the capacity.
//!
//! The dead stay for [`RETAIN_NS`], so that a name can still be asked for, and go first when room
//! is needed. When all remembered are alive, a new one is worked on in a scratch place and
//! forgotten at once, and counted.

use super::Goroutine;
use super::by_g::ByG;
use crate::goruntime::State;
use hashbrown::HashMap;
use std::collections::VecDeque;

/// How long a dead goroutine is remembered, nanoseconds of the target's time.
pub(super) const RETAIN_NS: u64 = 1_000_000_000;

/// The place for a goroutine that there is no room for.
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
        self.places.iter().skip(1).filter(|goroutine| goroutine.used)
    }

    pub(super) fn by_goid(&self, goid: u64) -> Option<&Goroutine> {
        self.by_goid.get(&goid).map(|&at| &self.places[at])
    }

    /// The goroutine at a place that [`Store::resolve`], [`Store::renew`] or [`Store::find`] gave.
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
        if known == 0 {
            self.places[at].goid = goid;
            self.by_goid.insert(goid, at);
            return at;
        }
        let last_ts = self.places[at].last_ts;
        self.renew(g, goid, last_ts)
    }

    /// The place of a goroutine that begins on this `g`; who used it before is dead.
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
        while let Some((_, key)) = self.dead.pop_front() {
            self.forget_if_dead(key);
            if let Some(at) = self.free.pop() {
                return Some(at);
            }
        }
        None
    }

    /// A goroutine died: it is forgotten after a while.
    #[inline(never)]
    pub(super) fn bury(&mut self, at: usize) {
        let place = &mut self.places[at];
        if at != SCRATCH && !place.queued {
            place.queued = true;
            let since = place.since_ts;
            self.dead.push_back((since, self.key(at)));
        }
    }

    /// Forgets those that were dead for [`RETAIN_NS`] at `now_ts`; says whether there were any.
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
        if !place.state.is_dead() {
            return;
        }
        place.used = false;
        place.generation = place.generation.wrapping_add(1);
        let (g, goid) = (place.g, place.goid);
        if self.by_g.get(g) == Some(at) {
            self.by_g.remove(g);
        }
        if self.by_goid.get(&goid) == Some(&at) {
            self.by_goid.remove(&goid);
        }
        self.free.push(at);
    }

    /// Forgets everything but what was counted.
    pub(super) fn clear(&mut self) {
        *self = Store { refused: self.refused, ..Store::new(self.capacity) };
    }
}

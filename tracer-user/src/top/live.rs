//! Makes pictures on the tracing thread for the user's thread.

use super::{Picture, Query, Source, Top};
use crate::probe::Cost;
use sfgi_core::{
    clock,
    session::{End, Input, Observer, Round, Target},
};
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Pictures take at most one part in so many of the time: the thread that makes them also drains the rings, which fill
/// up meanwhile.
const SHARE: u64 = 20;

/// What the tracing thread and the user's thread share. Each mutex is held for a copy only.
#[derive(Default)]
pub struct Shared {
    picture: Mutex<Option<Arc<Picture>>>,
    /// How often the query was changed, and the query. The number tells the tracing thread that it is a new one.
    query: Mutex<(u64, Query)>,
    costs: Mutex<Vec<Cost>>,
}

// A panic of the other thread leaves no half-made value: each is replaced as a whole under its lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn picture(&self) -> Option<Arc<Picture>> {
        lock(&self.picture).clone()
    }

    /// Asks for pictures of this query from now on.
    pub fn ask(&self, query: &Query) {
        let mut asked = lock(&self.query);
        *asked = (asked.0 + 1, query.clone());
    }

    /// Takes what the probes have cost since they stand, one for each target.
    pub fn tell_costs(&self, costs: Vec<Cost>) {
        *lock(&self.costs) = costs;
    }
}

/// The observer that makes a picture for each interval, and another one when the query changes.
pub struct Publisher {
    top: Top,
    shared: Arc<Shared>,
    every_ns: u64,
    asked: u64,
    not_before_ts: u64,
    /// Whether first costs were taken. A cost is a sum since the probes stand, so the first interval subtracts one.
    metered: bool,
}

impl Publisher {
    /// Intervals are at least `every_ns` long: they end with the first round after that.
    pub fn new(source: Source, shared: Arc<Shared>, every_ns: u64) -> Publisher {
        Publisher {
            top: Top::new(source),
            shared,
            every_ns: every_ns.max(1),
            asked: 0,
            not_before_ts: 0,
            metered: false,
        }
    }

    fn take_costs(&mut self) {
        let costs = lock(&self.shared.costs);
        self.metered |= !costs.is_empty();
        for (target, cost) in costs.iter().enumerate() {
            self.top.cost(target, *cost);
        }
    }

    fn publish(&mut self, targets: &mut [Target], ts: u64, over: bool) {
        let began_ns = clock::now();
        if over {
            self.take_costs();
            self.top.tick(targets, ts);
        }
        // Number and query are taken under one lock, so that a change in between is seen at the next round.
        let query;
        (self.asked, query) = lock(&self.shared.query).clone();
        *lock(&self.shared.picture) = Some(Arc::new(self.top.picture(targets, &query)));
        let took_ns = clock::now().saturating_sub(began_ns);
        self.not_before_ts = ts.saturating_add(took_ns.saturating_mul(SHARE));
    }
}

impl Observer for Publisher {
    fn begin(&mut self, targets: &mut [Target]) -> io::Result<()> {
        self.top.begin(targets)
    }

    fn input(&mut self, index: usize, input: &Input, target: &mut Target) -> io::Result<()> {
        self.top.input(index, input, target)
    }

    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()> {
        self.top.round(targets, round)?;
        if !self.metered {
            self.take_costs();
        }
        let ts = round.news.iter().map(|news| news.ts).max().unwrap_or(0);
        let over = ts >= self.top.interval_ts().saturating_add(self.every_ns);
        let asked = lock(&self.shared.query).0 != self.asked;
        // A new query waits, too: many keys in a row must not stop the draining.
        if ts >= self.not_before_ts && (over || asked) {
            self.publish(targets, ts, over);
        }
        Ok(())
    }

    fn end(&mut self, targets: &mut [Target], ends: &[End]) -> io::Result<()> {
        self.top.end(targets, ends)?;
        let ts = ends.iter().map(|end| end.until_ts).max().unwrap_or(0);
        self.take_costs();
        self.top.close(targets, ts.max(self.top.interval_ts()), self.every_ns);
        // `close` has ended the last interval already.
        self.publish(targets, ts, false);
        Ok(())
    }
}

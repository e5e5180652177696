//! Merging a snapshot into the model: goroutines that have not moved since the trace began, and the true states after
//! a loss.

use super::{Goroutine, Measure, machine::Machine};
use crate::event::{Birth, Stack};
use crate::goruntime::State;
use hashbrown::HashSet;

/// A goroutine as a snapshot saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub g: u64,
    pub goid: u64,
    /// Its state; [`State::Unknown`] if it moved while it was read.
    pub state: State,
    /// Why it waits; 0: it does not.
    pub reason: u8,
    /// Since when it is in that state by `g.waitsince`, `CLOCK_MONOTONIC` nanoseconds; too early by up to one garbage
    /// collection cycle; 0: the runtime does not say.
    pub since_ts: u64,
    /// The thread that it runs on or calls from; 0: none.
    pub tid: u32,
    pub birth: Birth,
    /// Return addresses of where it waits or calls; empty: not read.
    pub site: Stack,
}

/// What a snapshot changed in the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    pub seen: u64,
    /// Of these, those the model did not know.
    pub new: u64,
    /// Goroutines whose doubtful state turned out to be another one.
    pub corrected: u64,
    /// Goroutines that the model thought alive and that had ended.
    pub ended: u64,
}

impl Machine {
    pub(super) fn merge(&mut self, all: &[Seen], began_ts: u64, complete: bool) -> Merged {
        let mut merged = Merged { seen: all.len() as u64, ..Merged::default() };
        for seen in all {
            self.merge_one(seen, began_ts, &mut merged);
        }
        if complete {
            let alive: HashSet<u64> = all.iter().map(|seen| seen.goid).collect();
            merged.ended = self.end_all_but(&alive, began_ts);
        }
        merged
    }

    fn merge_one(&mut self, seen: &Seen, began_ts: u64, merged: &mut Merged) {
        let newer = |at: usize, this: &mut Machine| this.store.at(at).last_ts >= began_ts;
        if let Some(at) = self.store.peek(seen.g)
            && newer(at, self)
            && ![0, seen.goid].contains(&self.store.at(at).goid)
        {
            return; // the g has another goroutine since
        }
        let same = |goid: u64| goid == 0 || goid == seen.goid;
        let known = self.store.peek(seen.g).is_some_and(|at| same(self.store.at(at).goid));
        merged.new += u64::from(!known);
        let at = self.store.resolve(seen.g, seen.goid);
        // What an event told is better than what the snapshot saw, unless it is in doubt.
        let told = self.known(at).is_some() || newer(at, self) || self.store.at(at).held.is_some();
        let goroutine = self.store.at(at);
        goroutine.birth.get_or_insert(seen.birth);
        if told || seen.state == State::Unknown {
            return;
        }
        let before = std::mem::replace(&mut goroutine.state, seen.state);
        merged.corrected += u64::from(known && before != seen.state && before != State::Unknown);
        let stays = seen.state.stays();
        (goroutine.since_ts, goroutine.since_is) = match (stays, seen.since_ts) {
            // A state that does not stay began at an unknown time.
            (false, _) => (0, Measure::Exact),
            (true, 0) => (began_ts, Measure::AtLeast),
            (true, since_ts) => (since_ts, Measure::About),
        };
        goroutine.by_snapshot = true;
        (goroutine.reason, goroutine.tid, goroutine.site) = (seen.reason, seen.tid, seen.site);
    }

    /// Buries the goroutines that the model thought alive and a snapshot, begun at `began_ts`, did not find: the
    /// events of their ends were lost.
    fn end_all_but(&mut self, alive: &HashSet<u64>, began_ts: u64) -> u64 {
        let gone = |goroutine: &&Goroutine| {
            goroutine.goid != 0
                && !goroutine.state.is_dead()
                && goroutine.last_ts < began_ts
                && goroutine.held.is_none()
                && !alive.contains(&goroutine.goid)
        };
        let gone: Vec<u64> = self.store.iter().filter(gone).map(|goroutine| goroutine.g).collect();
        for g in &gone {
            let Some(at) = self.store.peek(*g) else { continue };
            let goroutine = self.store.at(at);
            // No event told it (`told_ts` is 0), so it is never held against a later one.
            (goroutine.state, goroutine.since_ts, goroutine.told_ts) = (State::Dead, began_ts, 0);
            self.store.bury(at);
        }
        gone.len() as u64
    }
}

//! The model's face: events in, steps out. What each kind of event means is in `status_events`
//! and `function_events`, how a change is judged in `machine`.

use super::births::Births;
use super::held::Queues;
use super::machine::Accusation;
use super::say::bare;
use super::store::Store;
use super::threads::Threads;
use super::{Goroutine, Setup, Step, What, Whats};
use crate::event::{Event, Kind};
use crate::goruntime::transitions::Graph;
use crate::goruntime::{State, WaitReason};

/// Every goroutine of the target, as the events tell.
#[derive(Debug)]
pub struct Goroutines {
    pub(super) setup: Setup,
    pub(super) graph: Graph,
    /// The number of [`WaitReason::Coroutine`]; 0 where the version has none.
    pub(super) coroutine: u8,
    pub(super) store: Store,
    pub(super) threads: Threads,
    pub(super) births: Births,
    /// Events up to this time may have been lost: what was told before is doubtful.
    pub(super) doubt_until: u64,
    pub(super) held: Queues,
    pub(super) accused: Vec<Accusation>,
    pub(super) wanted: Whats,
    gc_since: u64,
    lost: u64,
}

impl Goroutines {
    /// Knows nothing yet: every goroutine is unknown until an event tells of it.
    pub fn new(setup: Setup) -> Self {
        Goroutines {
            graph: Graph::of_casgstatus(setup.release),
            coroutine: setup.wait_reasons.number(WaitReason::Coroutine).unwrap_or(0),
            store: Store::new(setup.capacity),
            threads: Threads::new(setup.capacity),
            births: Births::new(setup.release.records_parent()),
            doubt_until: 0,
            held: Queues::default(),
            accused: Vec::new(),
            wanted: Whats::ALL,
            gc_since: 0,
            lost: 0,
            setup,
        }
    }

    /// Steps of other kinds may be left out from now on: most of the work is to make steps.
    pub fn want(&mut self, wanted: Whats) {
        self.wanted = wanted;
    }

    /// Takes one event; what it means is appended to `out`. A contradiction is not said here but
    /// by the next [`Goroutines::settle`], because a late event may still explain it.
    pub fn apply(&mut self, event: &Event, out: &mut Vec<Step>) {
        match event.kind {
            Kind::NewProc => self.new_proc(event, out),
            Kind::NeedM => self.threads.at(event.tid).needm_ts = event.ts,
            Kind::GcStart | Kind::GcEnd => self.collection(event, out),
            Kind::ThreadOff | Kind::ThreadOn | Kind::ThreadWake => self.thread(event, out),
            Kind::Exec => self.exec(event, out),
            _ if event.g == 0 => {} // no probe sends this
            Kind::Status | Kind::StatusWake | Kind::StatusPark | Kind::PreemptScan | Kind::FromPreempted => {
                self.status(event, out);
            }
            Kind::StatusCreate => self.status_create(event, out),
            Kind::CoroSwitch => self.coroutine_switch(event, out),
            _ => self.function(event, out),
        }
    }

    /// Events were lost, the last of them not after `until_ts`: nothing told up to then may be
    /// held against what comes, nor what is accused already. Call it before the events of the
    /// drain that found the loss are applied.
    pub fn lost(&mut self, count: u64, until_ts: u64) {
        if count != 0 {
            self.lost = self.lost.saturating_add(count);
            self.doubt_until = self.doubt_until.max(until_ts);
            self.accused.clear();
            self.births.doubt();
        }
    }

    /// Call it after each batch of events, with a time before which every event has been applied;
    /// with `u64::MAX` at the end. Says what was held back for something that did not come:
    /// contradictions, creations without a goid, returns from system calls. Forgets the dead.
    ///
    /// Says whether it changed anything: if not, whoever replays the events may leave the call out.
    pub fn settle(&mut self, up_to_ts: u64, out: &mut Vec<Step>) -> bool {
        let mut changed = self.release_due(up_to_ts, out);
        self.accused.retain(|accusation| {
            let due = accusation.illegal.ts <= up_to_ts;
            if due {
                out.push(accusation.illegal);
                changed = true;
            }
            !due
        });
        self.store.forget_dead(up_to_ts) | changed
    }

    /// The goroutine with this id, if it is remembered.
    pub fn get(&self, goid: u64) -> Option<&Goroutine> {
        self.store.by_goid(goid)
    }

    /// All that are remembered, also those that died a moment ago; in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Goroutine> {
        self.store.iter()
    }

    /// How many are remembered; never more than the capacity.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often an event came for a goroutine that there was no room to remember.
    pub fn refused(&self) -> u64 {
        self.store.refused()
    }

    /// How many lost events [`Goroutines::lost`] was told of.
    pub fn lost_events(&self) -> u64 {
        self.lost
    }

    /// The state of the goroutine at this place, if it can be held against anyone.
    pub(super) fn known(&mut self, at: usize) -> Option<State> {
        let doubt_until = self.doubt_until;
        let goroutine = self.store.at(at);
        (goroutine.told_ts > doubt_until && goroutine.state != State::Unknown).then_some(goroutine.state)
    }

    fn collection(&mut self, event: &Event, out: &mut Vec<Step>) {
        let began = std::mem::take(&mut self.gc_since);
        let (what, duration_ns) = if event.kind == Kind::GcStart {
            self.gc_since = event.ts;
            (What::GcStart, None)
        } else {
            (What::GcEnd, (began != 0).then(|| event.ts.saturating_sub(began)))
        };
        out.push(Step { duration_ns, ..bare(event, what) });
    }

    fn exec(&mut self, event: &Event, out: &mut Vec<Step>) {
        self.store.clear();
        self.threads.clear();
        self.births.clear();
        self.held = Queues::default();
        self.accused.clear();
        self.gc_since = 0;
        out.push(bare(event, What::Exec));
    }
}

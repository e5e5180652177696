//! What each kind of profile by stack counts.

use super::{
    Kind,
    table::{Gap, Key, Label, Table},
};
use hashbrown::HashMap;
use sfgi_core::{
    event::Stack,
    goruntime::State,
    model::{Step, What},
    session::Target,
};

/// Goroutines and threads remembered; others count without a place. A hostile target can invent any number.
const CAPACITY: usize = 1_000_000;

/// Turns steps into rows of a [`Table`].
pub(super) trait Gather {
    fn step(&mut self, target: &mut Target, step: &Step, table: &mut Table);

    /// Events were lost before the next step.
    fn lost(&mut self) {}

    /// Called at the end of the trace, `until_ts`.
    fn end(&mut self, target: &Target, until_ts: u64, table: &mut Table);
}

pub(super) fn of(kind: Kind) -> Box<dyn Gather + Send> {
    match kind {
        Kind::Blocked => Box::new(Blocked),
        Kind::OffCpu => Box::<OffCpu>::default(),
        Kind::Created => Box::new(Created),
        Kind::Goroutines => Box::new(Existing),
    }
}

/// Counts waits when they end, and at the end of the trace those that have not.
struct Blocked;

impl Gather for Blocked {
    fn step(&mut self, target: &mut Target, step: &Step, table: &mut Table) {
        if step.what != What::Unblock {
            return;
        }
        let whole = target.stack_of_step(step);
        let goroutine = target.goroutines().get(step.goid);
        let label = Label { reason: step.reason, ..Label::default() };
        let key = Key { label, ..Key::of(goroutine, whole, step.stack) };
        match step.duration_ns {
            Some(ns) => table.lasted(key, step.ts.saturating_sub(ns), step.ts),
            None => table.ended(key, step.ts),
        }
    }

    fn end(&mut self, target: &Target, until_ts: u64, table: &mut Table) {
        for goroutine in target.goroutines().iter() {
            if goroutine.state.waits() && goroutine.since_ts != 0 {
                let whole = target.stack_of(goroutine.goid);
                let label = Label { reason: goroutine.reason, open: true, ..Label::default() };
                let key = Key { label, ..Key::of(Some(goroutine), whole, Some(goroutine.site)) };
                table.lasted(key, goroutine.since_ts, until_ts);
            }
        }
    }
}

/// Counts the times in which a thread with a goroutine had no CPU.
#[derive(Default)]
struct OffCpu {
    /// The last place of each goroutine. The model cannot be asked: it is one round ahead when a step comes.
    sites: HashMap<u64, Stack>,
    /// Threads without a CPU: since when, and where.
    off: HashMap<u32, (u64, Key)>,
}

impl Gather for OffCpu {
    fn step(&mut self, target: &mut Target, step: &Step, table: &mut Table) {
        match (step.what, step.stack) {
            (What::ThreadOff, _) => self.leave(target, step),
            (What::ThreadOn, _) => {
                if let Some((since_ts, key)) = self.off.remove(&step.tid) {
                    table.lasted(key, since_ts, step.ts);
                }
            }
            (What::Exit, _) => drop(self.sites.remove(&step.goid)),
            (_, Some(stack)) if self.sites.len() < CAPACITY || self.sites.contains_key(&step.goid) => {
                self.sites.insert(step.goid, stack);
            }
            _ => {}
        }
    }

    fn lost(&mut self) {
        // A thread may have had a CPU again meanwhile, so the time without one is not known.
        self.off.clear();
    }

    fn end(&mut self, _: &Target, until_ts: u64, table: &mut Table) {
        for (since_ts, mut key) in self.off.drain().map(|(_, off)| off) {
            key.label.open = true;
            table.lasted(key, since_ts, until_ts);
        }
    }
}

impl OffCpu {
    fn leave(&mut self, target: &Target, step: &Step) {
        // Without a goroutine the thread is idle or the runtime's own. An old entry of it would now be wrong.
        if step.goid == 0 || self.off.len() >= CAPACITY {
            self.off.remove(&step.tid);
            return;
        }
        let goroutine = target.goroutines().get(step.goid);
        let site = self.sites.get(&step.goid).copied();
        let label = Label { state: Some(step.from), ..Label::default() };
        let key = Key { label, ..Key::of(goroutine, None, site) };
        self.off.insert(step.tid, (step.ts, key));
    }
}

/// Counts goroutines by the `go` statement that made them.
struct Created;

impl Gather for Created {
    fn step(&mut self, target: &mut Target, step: &Step, table: &mut Table) {
        if step.what != What::Create {
            return;
        }
        let birth = step.birth.unwrap_or_default();
        let creator = target.goroutines().get(birth.parent_goid).and_then(|goroutine| goroutine.birth);
        let known = birth.gopc != 0;
        let key = Key {
            pcs: known.then(|| birth.gopc.wrapping_sub(1)).into_iter().collect(),
            gap: if known { Gap::None } else { Gap::NoStack },
            startpc: birth.startpc,
            // Goroutine 1 was made by the runtime's start-up code, which is no creator to show.
            gopc: creator.filter(|_| birth.parent_goid != 1).map_or(0, |birth| birth.gopc),
            label: Label::default(),
        };
        table.happened(key, step.ts);
    }

    fn end(&mut self, _: &Target, _: u64, _: &mut Table) {}
}

/// Counts the goroutines that exist at the end of the trace.
struct Existing;

impl Gather for Existing {
    fn step(&mut self, _: &mut Target, _: &Step, _: &mut Table) {}

    fn end(&mut self, target: &Target, _: u64, table: &mut Table) {
        for goroutine in target.goroutines().iter() {
            let state = goroutine.state;
            if goroutine.goid == 0 || state.is_dead() || state == State::Idle {
                continue;
            }
            let reason = if state.waits() { goroutine.reason } else { 0 };
            let label = Label { reason, state: Some(state), ..Label::default() };
            let key = if state.stays() {
                Key::of(Some(goroutine), target.stack_of(goroutine.goid), Some(goroutine.site))
            } else {
                // The model has the place where the goroutine last waited, which is not where it runs.
                Key { gap: Gap::State(state), ..Key::of(Some(goroutine), None, None) }
            };
            table.is(Key { label, ..key });
        }
    }
}

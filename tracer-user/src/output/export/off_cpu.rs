//! Time without a CPU, by where the goroutine last waited or called.

use super::{
    gather::Gather,
    table::{Key, Label, Table},
};
use hashbrown::HashMap;
use sfgi_core::{
    event::Stack,
    model::{Step, What},
    session::Target,
};

/// Goroutines and threads that are remembered; what comes above has no place.
const CAPACITY: usize = 1_000_000;

/// Threads without a CPU that have a goroutine.
#[derive(Default)]
pub(super) struct OffCpu {
    /// By goid. The model has moved on by the time a step is told.
    sites: HashMap<u64, Stack>,
    /// By thread: since when, and where.
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
        // Who had lost its CPU may have had it again since.
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

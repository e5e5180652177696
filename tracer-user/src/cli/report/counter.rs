//! Counts what is in a recording.

use sfgi_core::{
    model::Whats,
    session::{End, Input, Observer, Round, Target},
};
use std::io;

/// How much of what came in.
#[derive(Debug, Default)]
pub(super) struct Counter {
    pub(super) events: u64,
    pub(super) lost: u64,
    pub(super) snapshots: u64,
    pub(super) stacks: u64,
}

impl Observer for Counter {
    fn wants(&self) -> Whats {
        Whats::default()
    }

    fn input(&mut self, _: usize, input: &Input, _: &mut Target) -> io::Result<()> {
        match input {
            Input::Events(batch) => {
                self.events += batch.events.len() as u64;
                self.lost += batch.lost;
            }
            Input::Snapshot(_) => self.snapshots += 1,
            Input::Stacks(stacks) => self.stacks += stacks.len() as u64,
        }
        Ok(())
    }

    fn round(&mut self, _: &mut [Target], _: &Round) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: &mut [Target], _: &[End]) -> io::Result<()> {
        Ok(())
    }
}

//! What `sfgi why` and `sfgi contexts` share: all objects of a program that runs, is stopped, or left a core file.

use super::{
    session::Progress,
    source::{MemoryArgs, Opened},
};
use crate::output::{bytes, duration};
use anyhow::{Context as _, Result};
use hashbrown::HashSet;
use sfgi_core::{
    memory::{Frozen, Sampler, ThreadRegisters},
    objects::{Known, Objects, ObjectsError, Reading},
    snapshot::View,
};
use std::rc::Rc;

/// What was found among all objects, and the stopped program, which goes on when this is dropped.
pub(super) struct Whole<T> {
    pub(super) found: T,
    frozen: Option<Frozen>,
}

/// Reads all objects as often as is asked for.
pub(super) struct Once<'v, 'a> {
    view: &'v View<'a>,
    /// Found before the program was stopped: this reads files.
    known: Rc<Known>,
    registers: Vec<ThreadRegisters>,
    without: HashSet<u64>,
    /// Whether the program stands still.
    pub(super) stopped: bool,
}

impl<'a> Once<'_, 'a> {
    pub(super) fn read(&self) -> Result<Objects<'a>, ObjectsError> {
        let mut line = Progress::new();
        let reading = Reading {
            most: u64::MAX,
            known: Rc::clone(&self.known),
            registers: &self.registers,
            stopped: self.stopped,
            without: &self.without,
            progress: &mut |read, all| {
                line.show(|| format!("read {} of about {} of heap", bytes(read), bytes(all)));
            },
        };
        let objects = Objects::read(*self.view, reading);
        line.clear();
        objects
    }
}

/// Reads all objects once.
pub(super) fn read_once<'a>(once: &Once<'_, 'a>) -> Result<Objects<'a>, ObjectsError> {
    once.read()
}

impl<T> Whole<T> {
    /// Reads what `then` asks for. `without` tells the goroutines that are no roots, after the program was stopped.
    pub(super) fn read<'a>(
        target: &MemoryArgs,
        freeze: bool,
        opened: &Opened,
        view: &View<'a>,
        without: impl FnOnce() -> Result<HashSet<u64>>,
        then: impl FnOnce(&Once<'_, 'a>) -> Result<T, ObjectsError>,
    ) -> Result<Whole<T>> {
        let process = opened.process.as_ref();
        let known = Rc::new(Known::of(view.binary, opened.exe.try_clone().ok()));
        let sampler = process.filter(|_| !freeze).and_then(|process| Sampler::start(process).ok());
        let frozen = process.filter(|_| freeze).map(Frozen::stop).transpose()?;
        let without = without()?;
        let registers: Vec<ThreadRegisters> = match (&frozen, sampler) {
            (Some(frozen), _) => frozen.registers().to_vec(),
            (None, Some(mut sampler)) => sampler.take(),
            (None, None) => Vec::new(),
        };
        let name = target.name(opened, process.map(|process| process.pid().cast_unsigned()));
        let once = Once { view, known, registers, without, stopped: frozen.is_some() };
        let found = then(&once).with_context(|| name)?;
        Ok(Whole { found, frozen })
    }

    /// How long the program has been stopped, nanoseconds; `None`: it runs.
    pub(super) fn frozen_ns(&self) -> Option<u64> {
        let stopped = self.frozen.as_ref()?.stopped_for();
        Some(u64::try_from(stopped.as_nanos()).unwrap_or(u64::MAX))
    }

    /// What limits an answer from these objects, in clauses.
    pub(super) fn notes(&self, objects: &Objects<'_>) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(untyped) = objects.untyped() {
            notes.push(format!("types are not known: {untyped}"));
        }
        if let Some(lacks) = objects.snapshot().lacks() {
            notes.push(format!("goroutines are missing: {lacks}"));
        }
        if objects.unread() > 0 {
            notes.push(format!("{} of its heap could not be read", bytes(objects.unread())));
        }
        if let Some(ns) = self.frozen_ns() {
            notes.push(format!("it was stopped for {}", duration(ns)));
        }
        notes
    }
}

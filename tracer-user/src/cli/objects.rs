//! What `sfgi why` and `sfgi contexts` share: all objects of a program that runs, is stopped, or left a core file.

use super::{
    args::LayoutArg,
    session::Progress,
    source::{self, Opened},
};
use crate::output::{bytes, duration};
use anyhow::{Context as _, Result};
use clap::Args as ClapArgs;
use hashbrown::HashSet;
use sfgi_core::{
    binary::Variables,
    memory::{Frozen, Sampler, ThreadRegisters},
    objects::{Objects, ObjectsError, Reading},
    snapshot::View,
};
use std::{cell::Cell, path::PathBuf};

/// The options that say of which program.
#[derive(ClapArgs)]
pub(super) struct TargetArgs {
    /// Process to look at
    #[arg(short, long, value_name = "PID", conflicts_with = "core")]
    pub(super) pid: Option<u32>,
    /// Core file to look at
    #[arg(long, value_name = "FILE", requires = "exe", conflicts_with = "freeze")]
    pub(super) core: Option<PathBuf>,
    /// The executable that the core file is of
    #[arg(long, value_name = "FILE", requires = "core")]
    pub(super) exe: Option<PathBuf>,
    /// Stop the program while it is read, for one consistent view; how long that took is said
    #[arg(long)]
    pub(super) freeze: bool,
    #[command(flatten)]
    pub(super) layout: LayoutArg,
}

impl TargetArgs {
    pub(super) fn is_none(&self) -> bool {
        self.pid.is_none() && self.core.is_none()
    }

    pub(super) fn pids(&self) -> &[u32] {
        self.pid.as_slice()
    }

    pub(super) fn open(&self) -> Result<Opened> {
        Opened::either(self.pid, self.exe.as_deref(), &self.layout)
    }

    pub(super) fn with_view<T>(
        &self,
        opened: &Opened,
        then: impl FnOnce(&View<'_>, Option<u32>) -> Result<T>,
    ) -> Result<T> {
        source::with_view(opened, self.core.as_deref(), then)
    }

    /// What messages call the program.
    pub(super) fn name(&self, opened: &Opened, pid: Option<u32>) -> String {
        match (&self.core, pid) {
            (None, Some(pid)) => format!("PID {pid}"),
            (core, _) => core.as_deref().unwrap_or(&opened.name).display().to_string(),
        }
    }
}

/// What was found among all objects, and the stopped program, which goes on when this is dropped.
pub(super) struct Whole<T> {
    pub(super) found: T,
    frozen: Option<Frozen>,
}

/// Reads all objects as often as is asked for.
pub(super) struct Once<'v, 'a> {
    view: &'v View<'a>,
    /// Those that were read before the program was stopped; another reading reads them again.
    variables: Cell<Option<Variables>>,
    opened: &'v Opened,
    registers: Vec<ThreadRegisters>,
    without: HashSet<u64>,
    /// Whether the program stands still.
    pub(super) stopped: bool,
}

impl<'a> Once<'_, 'a> {
    pub(super) fn read(&self) -> Result<Objects<'a>, ObjectsError> {
        let again = || self.view.binary.variables(self.opened.exe.try_clone().ok());
        let mut line = Progress::new();
        let reading = Reading {
            variables: self.variables.take().unwrap_or_else(again),
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
        target: &TargetArgs,
        opened: &Opened,
        view: &View<'a>,
        without: impl FnOnce() -> Result<HashSet<u64>>,
        then: impl FnOnce(&Once<'_, 'a>) -> Result<T, ObjectsError>,
    ) -> Result<Whole<T>> {
        let process = opened.process.as_ref();
        // Before the program is stopped: this reads files.
        let variables = view.binary.variables(opened.exe.try_clone().ok());
        let sampler = process.filter(|_| !target.freeze).and_then(|process| Sampler::start(process).ok());
        let frozen = process.filter(|_| target.freeze).map(Frozen::stop).transpose()?;
        let without = without()?;
        let registers: Vec<ThreadRegisters> = match (&frozen, sampler) {
            (Some(frozen), _) => frozen.registers().to_vec(),
            (None, Some(mut sampler)) => sampler.take(),
            (None, None) => Vec::new(),
        };
        let name = target.name(opened, process.map(|process| process.pid().cast_unsigned()));
        let once = Once {
            view,
            variables: Cell::new(Some(variables)),
            opened,
            registers,
            without,
            stopped: frozen.is_some(),
        };
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

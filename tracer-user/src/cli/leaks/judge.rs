//! Looks at a program once, and judges what it sees.

use super::Args;
use crate::{
    cli::{Outcome, session::Progress, source::Opened},
    output::{bytes, count, dump::Names, leaks::Found},
};
use anyhow::{Context as _, Result};
use sfgi_core::{
    detect,
    detect::{Baseline, Group, History, Report, Rules, Scope, Thresholds},
    heap,
    heap::{Observation, Registers},
    memory::Sampler,
    process::Process,
    snapshot::View,
};
use std::{fs, sync::Arc};

/// Where what is only in registers comes from.
pub(super) fn registers(process: &Process, freeze: bool) -> Registers<'_> {
    if freeze {
        return Registers::Frozen(process);
    }
    match Sampler::start(process) {
        Ok(sampler) => Registers::Sampled(sampler),
        Err(err) => {
            eprintln!("sfgi: {err}");
            Registers::Unknown
        }
    }
}

/// What the command looks for, and in what.
pub(super) struct Judge<'a> {
    pub(super) args: &'a Args,
    pub(super) opened: &'a Opened,
    pub(super) rules: Rules,
    pub(super) baseline: Baseline,
    pub(super) scope: Scope,
    pub(super) pid: Option<u32>,
    pub(super) history: History,
}

impl Judge<'_> {
    /// Looks once, and hands on what was found.
    pub(super) fn look(
        &mut self,
        view: &View<'_>,
        registers: &mut Registers<'_>,
        mut then: impl FnMut(&Self, &Found<'_>, &mut Names) -> Result<()>,
    ) -> Result<Outcome> {
        let mut observation = self.observe(view, registers)?;
        if self.args.watch.is_some() {
            self.history.extend(&mut observation.observed);
        }
        let snapshot = &observation.observed.snapshot;
        let mut names = Names::new(Arc::clone(&self.opened.binary), view.bias, snapshot);
        let thresholds = Thresholds {
            min_age_ns: u64::try_from(self.args.min_age.as_nanos()).unwrap_or(u64::MAX),
            min_count: self.args.min_count.get(),
            now_ns: snapshot.taken_ns.1,
        };
        let mut report =
            detect::detect(&observation.observed, &self.rules, &self.scope, &thresholds, &mut names);
        let least = self.args.min_verdict.verdict();
        report.retain(|group| group.verdict >= least);
        self.write_baseline(&report)?;
        let accepted = self.accept(&mut report);
        let members: Vec<Vec<u32>> = report.groups.iter().map(|group| group.members.clone()).collect();
        let pinned = observation.pinned(&members);
        let found = Found {
            pid: self.pid,
            exe: &self.opened.name,
            observed: &observation.observed,
            report: &report,
            pinned: &pinned,
            accepted,
        };
        then(self, &found, &mut names)?;
        Ok(if self.args.fail && !report.groups.is_empty() { Outcome::Found } else { Outcome::Done })
    }

    fn observe<'v>(&self, view: &View<'v>, registers: &mut Registers<'_>) -> Result<Observation<'v>> {
        let mut line = Progress::new();
        let mut progress = |progress| {
            line.show(|| match progress {
                heap::Progress::Looking(look) => format!("looking at the goroutines, {look}"),
                heap::Progress::Scanning(pass, read, all) => {
                    format!("reading the heap, pass {pass}: {} of {}", bytes(read), bytes(all))
                }
            });
        };
        let observation = heap::observe(view, &self.args.options(), registers, &mut progress);
        line.clear();
        observation.with_context(|| self.name())
    }

    fn write_baseline(&self, report: &Report) -> Result<()> {
        let Some(path) = &self.args.write_baseline else { return Ok(()) };
        let name = path.display();
        fs::write(path, Baseline::text(report))
            .with_context(|| format!("cannot write the baseline {name}"))?;
        eprintln!("sfgi: {name} accepts {} groups", count(report.groups.len() as u64));
        Ok(())
    }

    /// Takes out what the baseline accepts, and says how many goroutines and timers that is.
    fn accept(&self, report: &mut Report) -> u64 {
        let mut accepted = 0;
        report.retain(|Group { id, count, .. }| {
            let known = self.baseline.accepts(*id);
            accepted += if known { *count } else { 0 };
            !known
        });
        accepted
    }

    pub(super) fn name(&self) -> String {
        match (&self.args.core, self.pid) {
            (None, Some(pid)) => format!("PID {pid}"),
            (core, _) => core.as_deref().unwrap_or(&self.opened.name).display().to_string(),
        }
    }
}

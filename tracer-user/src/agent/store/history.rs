//! The last hour of each target: one row of steps. Pure: the time comes with the pictures.

use crate::agent::picture::{Picture, ProcessPicture, cut};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const STEP_SECONDS: u64 = 300;

pub const STEPS: usize = 12;

/// Creation sites in a step, the largest of its last scan.
const SITES: usize = 5;

/// Names one program of one process over restarts of the agent: boot id, PID, start time and executable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub(super) String);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub pid: u32,
    pub exe: String,
    pub service: String,
    /// The oldest first. A step without a scan is missing.
    pub steps: VecDeque<Step>,
}

/// The figures of five minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When the step began: seconds since 1970, a multiple of [`STEP_SECONDS`].
    pub start_s: u64,
    /// The most goroutines of a scan, without the runtime's own.
    pub goroutines: u64,
    /// The fewest goroutines of a scan.
    pub fewest: u64,
    /// The most goroutines in findings that are `likely` or `proven`.
    pub leaked: u64,
    /// Goroutines by creating function, in the last scan.
    pub sites: Vec<(String, u64)>,
}

#[derive(Debug, Default)]
pub struct History {
    boot: String,
    max_processes: usize,
    rows: BTreeMap<Key, Row>,
}

#[derive(Debug, Default)]
struct Row {
    series: Series,
    /// [`Scan::unix_ns`](crate::agent::picture::Scan::unix_ns) of the last scan that was taken: most pictures repeat
    /// it.
    scan_unix_ns: u64,
    changed: bool,
}

impl History {
    /// Begins with the rows of this boot; rows of other boots are dropped, their PIDs mean nothing now.
    pub fn new(boot: &str, max_processes: usize, remembered: Vec<(Key, Series)>) -> History {
        let prefix = format!("{boot}/");
        let ours = remembered.into_iter().filter(|(key, _)| key.0.starts_with(&prefix));
        let rows = ours.map(|(key, series)| (key, Row { series, ..Row::default() })).collect();
        History { boot: boot.to_owned(), max_processes, rows }
    }

    /// Takes the scans of a picture that no earlier picture had.
    pub fn take(&mut self, picture: &Picture) {
        for process in &picture.processes {
            let Some(scan) = &process.scan else { continue };
            let key = self.key(process);
            let row = self.rows.entry(key).or_default();
            if scan.unix_ns <= row.scan_unix_ns {
                continue;
            }
            (row.scan_unix_ns, row.changed) = (scan.unix_ns, true);
            row.series.name(process);
            let goroutines = scan.goroutines.saturating_sub(scan.system);
            let certain =
                process.leaks.iter().filter(|group| group.verdict != sfgi_core::detect::Verdict::Suspect);
            let rows = scan.creators.rows.iter().take(SITES);
            let sites = rows.map(|row| (cut(&row.site.func), row.count)).collect();
            // Before the first look at the heap nothing is known of leaks. The last figure stays, so that a restart
            // is no dip.
            let leaked = match process.leaks_unix_ns {
                0 => row.series.steps.back().map_or(0, |step| step.leaked),
                _ => certain.map(|group| group.count).sum(),
            };
            row.series.add(scan.unix_ns / 1_000_000_000, goroutines, leaked, sites);
        }
        self.forget(picture);
    }

    pub fn rows(&self) -> impl Iterator<Item = (&Key, &Series)> {
        self.rows.iter().map(|(key, row)| (key, &row.series))
    }

    pub fn of(&self, process: &ProcessPicture) -> Option<&Series> {
        self.rows.get(&self.key(process)).map(|row| &row.series)
    }

    /// The rows that have changed since the last call.
    pub(super) fn changed(&mut self) -> Vec<(Key, Series)> {
        let take = |(key, row): (&Key, &mut Row)| {
            std::mem::take(&mut row.changed).then(|| (key.clone(), row.series.clone()))
        };
        self.rows.iter_mut().filter_map(take).collect()
    }

    /// Drops ended targets after an hour, and where there are too many rows the ended before the living, the oldest
    /// first.
    fn forget(&mut self, picture: &Picture) {
        let now_s = picture.unix_ns / 1_000_000_000;
        let oldest = now_s.saturating_sub(STEP_SECONDS * STEPS as u64);
        let alive: BTreeSet<Key> = picture.processes.iter().map(|process| self.key(process)).collect();
        self.rows.retain(|key, row| alive.contains(key) || row.series.last_s() > oldest);
        // `max(1)`: a bound of 0 would leave no row for what runs.
        while self.rows.len() > self.max_processes.max(1) {
            let dead = |key: &Key| !alive.contains(key);
            let order = |(key, row): &(&Key, &Row)| (!dead(key), row.series.last_s());
            let Some(key) = self.rows.iter().min_by_key(order).map(|(key, _)| key.clone()) else { return };
            self.rows.remove(&key);
        }
    }

    fn key(&self, process: &ProcessPicture) -> Key {
        let exe = cut(&process.identity.exe_text());
        Key(format!("{}/{}/{}/{exe}", self.boot, process.id.pid, process.id.start_ticks))
    }
}

impl Series {
    /// Names may become better known while a target lives, so each scan sets them anew.
    fn name(&mut self, process: &ProcessPicture) {
        self.pid = process.id.pid;
        self.exe = cut(&process.identity.exe_text());
        self.service = cut(&process.identity.service);
    }

    fn add(&mut self, now_s: u64, goroutines: u64, leaked: u64, sites: Vec<(String, u64)>) {
        let start_s = now_s - now_s % STEP_SECONDS;
        match self.steps.back_mut() {
            // The wall clock may have been set back: a scan before the last step counts for that step.
            Some(last) if last.start_s >= start_s => {
                last.goroutines = last.goroutines.max(goroutines);
                last.fewest = last.fewest.min(goroutines);
                last.leaked = last.leaked.max(leaked);
                last.sites = sites;
            }
            _ => self.steps.push_back(Step { start_s, goroutines, fewest: goroutines, leaked, sites }),
        }
        while self.steps.len() > STEPS {
            self.steps.pop_front();
        }
    }

    fn last_s(&self) -> u64 {
        self.steps.back().map_or(0, |step| step.start_s + STEP_SECONDS)
    }
}

//! What the agent knows at one moment: plain data with names, never changed once it is published.
//!
//! Everything that comes from a target (names, paths, labels) may hold anything: what shows it must escape it.
//! Totals only rise while a process lives. All tables are bounded.

use serde::Serialize;
use sfgi_core::{event::Mode, leaks::LeakView, names::Site};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// What the agent knows at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Picture {
    /// When it was made: nanoseconds since 1970.
    pub unix_ns: u64,
    /// The same on `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// The agent itself, and all processes together.
    pub node: NodePicture,
    /// The processes that are watched, by PID. One that has ended is gone from the next picture.
    pub processes: Vec<Arc<ProcessPicture>>,
}

/// The agent itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodePicture {
    /// When the agent began: nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// CPU time that it has used.
    pub cpu_seconds: f64,
    /// Memory that it has.
    pub rss_bytes: u64,
    /// What its BPF programs have run, in all programs that they watch, as the kernel counts it; `None`: it does not.
    pub bpf_seconds: Option<f64>,
    /// What it may use for all, and for each: cores.
    pub budget_cores: (f64, f64),
    /// What it and its probes use of that now, cores.
    pub used_cores: f64,
    /// Processes of the host, by what became of them.
    pub seen: Seen,
    /// Scans that ended, and those that failed.
    pub scans: u64,
    pub scan_failures: u64,
    /// Scans that should have begun by now and have not, for want of budget.
    pub scans_waiting: u64,
    /// How often processes should be scanned, and how often they are (the mean of their last two scans), seconds; the
    /// latter is 0 before any was scanned twice.
    pub interval_seconds: (f64, f64),
    /// Binaries in memory: processes that run the same share one.
    pub binaries: u64,
    /// Changes of a mode, for the budget or because another was wanted.
    pub mode_changes: u64,
    /// Times that a process was raised to a closer mode for a while, by what asked for it.
    pub raises: Raises,
    /// What is wrong with the agent itself, each in a sentence; the latest few.
    pub errors: Vec<String>,
}

/// What asked for a closer mode, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Raises {
    /// A creation site that grows.
    pub growth: u64,
    /// A finding that is not proven.
    pub finding: u64,
    pub alert: u64,
}

/// Processes of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// That run now, without the kernel's threads.
    pub running: u64,
    /// Go programs that are watched.
    pub tracked: u64,
    /// Go programs that a rule excludes.
    pub excluded: u64,
    /// Go programs that cannot be watched (see [`ProcessPicture::error`] and the log).
    pub unsupported: u64,
    /// That may not be looked at.
    pub unreadable: u64,
    /// Go programs that have come, since the agent began.
    pub started_total: u64,
    /// Go programs that have ended.
    pub ended_total: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct ProcessPicture {
    /// Which one: never the same again.
    pub id: ProcessId,
    pub identity: Arc<Identity>,
    /// How closely it is watched.
    pub mode: Mode,
    /// How closely it should be.
    pub wanted: Mode,
    /// Why those differ, why it is raised for a while, or why the mode was changed last; empty: there is nothing to say.
    pub mode_reason: Arc<str>,
    /// The last scan; `None`: there was none yet.
    pub scan: Option<Arc<Scan>>,
    /// Leaked goroutines, as of the last look for them; the surest first.
    pub leaks: Arc<[LeakView]>,
    /// When that was: nanoseconds since 1970; 0: never.
    pub leaks_unix_ns: u64,
    /// Why nothing counts as proven in `leaks`, or why there was no look at the heap.
    pub leaks_doubt: Option<Arc<str>>,
    /// Goroutines by creation site, where it grows for certain: more a second, and how sure that is (0 to 1).
    pub growth: Vec<SiteGrowth>,
    /// What its own runtime and its control group say of memory.
    pub memory: Memory,
    /// What probes have told; `None`: none ever stood.
    pub events: Option<Arc<Events>>,
    /// Scans of it that ended, and CPU time that they took of us.
    pub scans: u64,
    pub scan_cpu_seconds: f64,
    /// What is wrong, in a sentence; `None`: nothing.
    pub error: Option<Arc<str>>,
    /// What the next agent should know of it, for [`super::start`]: bytes that mean something to the core alone.
    #[serde(skip)]
    pub kept: Option<Arc<[u8]>>,
}

/// Which process: a number may be used again, but not with the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ProcessId {
    /// In our PID namespace.
    pub pid: u32,
    /// When it was made: ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// Counts the programs that it has run since we know it: `exec` makes it another process.
    pub program: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Its executable, as it sees it.
    pub exe: PathBuf,
    /// The import path of its main package; empty where the binary does not say.
    pub package: String,
    /// The path of its main module, and the version of that (`(devel)` for a build out of a work tree).
    pub module: String,
    /// See `module`.
    pub module_version: String,
    /// As `go1.26.6`.
    pub go_version: String,
    /// The linker's build id, in hexadecimal; empty: there is none.
    pub build_id: String,
    /// The name of its service: by a rule, else by `OTEL_SERVICE_NAME`, else by its unit, else by the name of its executable.
    pub service: String,
    pub unit: Option<String>,
    /// The container's id, in full.
    pub container: Option<String>,
    pub pod: Option<Pod>,
    /// Its control group (v2), or that of the memory controller (v1).
    pub cgroup: String,
    /// PID within its innermost PID namespace, where that is another.
    pub inner_pid: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pod {
    /// Its uid, with dashes.
    pub uid: String,
    /// Where the node tells it.
    pub name: Option<String>,
    /// Where the node tells it.
    pub namespace: Option<String>,
    /// Labels given by the downward API (environment variables `POD_LABEL_…`), by their name in small letters.
    pub labels: BTreeMap<String, String>,
}

/// One look at all goroutines of a process.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scan {
    /// When it ended: nanoseconds since 1970.
    pub unix_ns: u64,
    pub wall_seconds: f64,
    /// CPU time of ours that it took.
    pub cpu_seconds: f64,
    /// Goroutines read, the runtime's own included, which no table counts.
    pub goroutines: u64,
    /// The runtime's own of these.
    pub system: u64,
    /// Goroutines that moved while they were read: they count by their last state.
    pub in_motion: u64,
    /// Why goroutines are missing.
    pub incomplete: Option<String>,
    /// By state and wait reason, the most frequent first.
    pub states: Vec<StateCount>,
    /// By the `go` statement that made them.
    pub creators: Top,
    /// By the place where they wait.
    pub waits: Top,
    /// The longest known wait, as the runtime counts it.
    pub oldest_seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateCount {
    /// `waiting`, `running`, …
    pub state: Arc<str>,
    /// Why they wait; empty where they do not.
    pub reason: Arc<str>,
    pub count: u64,
}

/// A table of places, the largest first, with at most [`super::config::Metrics::sites`] rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Top {
    /// The largest.
    pub rows: Vec<SiteCount>,
    /// All others together.
    pub other: u64,
    /// How many places that are.
    pub other_sites: u64,
}

/// A place and a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SiteCount {
    /// Function, file and line; a goroutine without one (the main goroutine has no creator) has the function `-`.
    pub site: Site,
    pub count: u64,
}

/// A creation site that makes goroutines faster than they end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SiteGrowth {
    /// The `go` statement.
    pub site: Site,
    /// Goroutines more, a second.
    pub per_second: f64,
    /// How sure it is that it grows at all, from 0 to 1.
    pub confidence: f64,
}

/// Memory of a process; what is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Heap in use, as the runtime counts it (`HeapInuse` of `runtime.MemStats`).
    pub heap_bytes: Option<u64>,
    /// Collections that have ended (`NumGC` there).
    pub gc_cycles: Option<u64>,
    /// Resident memory of the process.
    pub rss_bytes: Option<u64>,
    /// The limit of its control group; `None` also where there is none.
    pub limit_bytes: Option<u64>,
    /// What all processes of its control group use of that.
    pub cgroup_bytes: Option<u64>,
}

/// What probes have told of a process, in all the time that they stood.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Events {
    /// How long probes stood, all in all.
    pub watched_seconds: f64,
    /// Goroutines made, by the `go` statement.
    pub created: Top,
    /// Goroutines that ended, by the `go` statement that made them.
    pub exited: Top,
    /// How long goroutines were blocked, by wait reason (`wait` and `full` only). At most 64.
    pub blocked: Vec<(Arc<str>, Distribution)>,
    /// How long goroutines were ready and not run (`full` only).
    pub run_queue: Distribution,
    /// Steps that the runtime's own rules do not allow.
    pub illegal: u64,
    /// Hits of the probes, and events that were lost.
    pub hits: u64,
    pub lost: u64,
    /// Hits a second, of late.
    pub hits_per_second: f64,
    /// What a hit costs the program, as measured when the agent began and corrected since, nanoseconds.
    pub hit_ns: f64,
    /// What the probes cost the program now, cores: by hits and their price.
    pub predicted_cores: f64,
    /// What the BPF programs ran in this process, of late, cores, as the kernel counts it: a part of the price.
    /// `None`: it does not.
    pub bpf_cores: Option<f64>,
    /// What our reading of the events costs, of late, cores.
    pub own_cores: f64,
}

/// Upper bounds of [`Distribution`], seconds: powers of four from a microsecond.
pub const BOUNDS_SECONDS: [f64; 16] = [
    1e-6,
    4e-6,
    16e-6,
    64e-6,
    256e-6,
    1.024e-3,
    4.096e-3,
    16.384e-3,
    65.536e-3,
    0.262_144,
    1.048_576,
    4.194_304,
    16.777_216,
    67.108_864,
    268.435_456,
    1_073.741_824,
];

/// Lengths of time, counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Those up to each of [`BOUNDS_SECONDS`] and above the one before; the last are longer than all.
    pub counts: [u64; BOUNDS_SECONDS.len() + 1],
    /// All together, seconds.
    pub sum_seconds: f64,
}

impl Distribution {
    pub fn add(&mut self, ns: u64) {
        let seconds = ns as f64 / 1e9;
        let class = BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(class) {
            *count += 1;
        }
        self.sum_seconds += seconds;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The longest name that is kept beyond a picture, in bytes.
const MAX_NAME: usize = 512;

/// A name, cut to at most 512 bytes, whole characters: names come from targets, and may be as long as these like.
pub(super) fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(MAX_NAME)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_counts_in_the_class_that_it_bounds() {
        let mut distribution = Distribution::default();
        for ns in [0, 1_000, 1_001, 4_000, u64::MAX] {
            distribution.add(ns);
        }
        assert_eq!(distribution.counts[..3], [2, 2, 0]);
        assert_eq!(distribution.counts.last(), Some(&1));
        assert_eq!(distribution.count(), 5);
    }
}

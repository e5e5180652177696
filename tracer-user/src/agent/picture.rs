//! What the agent knows at one moment: plain data with names, never changed once it is published.
//!
//! Names, paths and labels come from targets. In those of an [`Identity`] nothing misleads (`output::clean`), but for the
//! path of the executable, which [`Identity::exe_text`] shows; names of functions and files may hold anything: what shows
//! them must clean them. Totals only rise while a target lives. All tables are bounded.

use crate::output::clean;
use serde::{Deserialize, Serialize, Serializer};
use sfgi_core::{
    event::Mode,
    fds::FdCount,
    leaks::{AsJson, LeakView},
    names::Site,
    snapshot::ThreadCounts,
};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// One moment of the agent. Metrics, the API and alerts read nothing else.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Picture {
    /// When the picture was made: nanoseconds since 1970; 0: none was published yet.
    pub unix_ns: u64,
    /// The same moment on `CLOCK_MONOTONIC`: alerts measure time by it, because the wall clock may be set.
    pub monotonic_ns: u64,
    pub node: NodePicture,
    /// The targets, by PID. A target that has ended is missing from the next picture.
    pub processes: Vec<Arc<ProcessPicture>>,
}

/// The agent itself, and sums over all targets.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodePicture {
    /// When the agent began: nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// CPU time of the agent's process since it began.
    pub cpu_seconds: f64,
    /// Resident memory of the agent (`/proc/self/statm`).
    pub rss_bytes: u64,
    /// Run time of the agent's BPF programs in all targets, as the kernel counts it; `None`: it does not count.
    pub bpf_seconds: Option<f64>,
    /// The budget for all targets together, and for each one: cores.
    pub budget_cores: (f64, f64),
    /// Use of the agent and its probes between the last two pictures, cores.
    pub used_cores: f64,
    pub seen: Seen,
    /// Scans that ended, and scans that failed.
    pub scans: u64,
    pub scan_failures: u64,
    /// Scans that should have begun by now and have not, for want of budget.
    pub scans_waiting: u64,
    /// When the last scan of any target ended well: nanoseconds since 1970; 0: none has.
    pub last_scan_unix_ns: u64,
    /// Workers that scan, and those of them whose target does not answer now; 0 workers: it is not known.
    pub workers: u64,
    pub workers_hanging: u64,
    /// Workers that were ended because their target did not answer.
    pub workers_hung: u64,
    /// The interval that is wanted, and the mean pause between two scans of a target of late, seconds; the
    /// latter is 0 until a target has been scanned twice.
    pub interval_seconds: (f64, f64),
    /// Different programs that the targets execute.
    pub binaries: u64,
    /// Changes of a mode, for the budget or because another was wanted.
    pub mode_changes: u64,
    /// Times that a target was raised to a closer mode for a while, by cause.
    pub raises: Raises,
    /// What is wrong with the agent itself, each in a sentence; the latest 16 (`ERRORS` in `core/mod.rs`).
    pub errors: Vec<String>,
}

/// How often each cause raised a target to a closer mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Raises {
    /// A creation site that grows.
    pub growth: u64,
    /// A finding that is not proven.
    pub finding: u64,
    pub alert: u64,
}

/// Counts of the host's processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Processes that run now, without the kernel's threads.
    pub running: u64,
    /// Go processes that are targets and can be read.
    pub tracked: u64,
    /// Go programs that a rule excludes.
    pub excluded: u64,
    /// Go processes that cannot be read ([`ProcessPicture::error`] says why).
    pub unsupported: u64,
    /// Processes that the agent may not look at: it cannot tell whether they are Go programs.
    pub unreadable: u64,
    /// Go programs that were found since the agent began; an `exec` counts as another one.
    pub started_total: u64,
    /// Those of `started_total` that have ended.
    pub ended_total: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct ProcessPicture {
    pub id: ProcessId,
    pub identity: Arc<Identity>,
    /// The mode that the budget allows now.
    pub mode: Mode,
    /// The mode that a rule, a request or a finding asks for.
    pub wanted: Mode,
    /// Why `mode` is not `wanted`, why it is raised for a while, or why it was changed last; empty: nothing of these.
    pub mode_reason: Arc<str>,
    /// The last scan; `None`: no scan has ended yet.
    pub scan: Option<Arc<Scan>>,
    /// Leaked goroutines, as of the last look for them; the surest first.
    #[serde(serialize_with = "leaks")]
    pub leaks: Arc<[LeakView]>,
    /// When that look ended: nanoseconds since 1970; 0: there was no look yet.
    pub leaks_unix_ns: u64,
    /// How much longer they have been waiting since that look, as far as scans have seen them still wait, nanoseconds.
    pub leaks_aged_ns: u64,
    /// How long a goroutine must have been waiting at that look for scans to see whether it still does, nanoseconds.
    pub leaks_followed_ns: u64,
    /// Why nothing counts as proven in `leaks`, or why there was no look at the heap.
    pub leaks_doubt: Option<Arc<str>>,
    /// Creation sites that grow for certain.
    pub growth: Vec<SiteGrowth>,
    /// What its own runtime and its control group say of memory.
    pub memory: Memory,
    /// What its runtime has to do, and on how many threads.
    pub runtime: Runtime,
    /// Objects in its `sync.Pool`s, as of the last look that read objects; `None`: there was none.
    pub pool_objects: Option<u64>,
    /// What probes have seen; `None`: no probe ever stood.
    pub events: Option<Arc<Events>>,
    /// Scans and looks that ended, and the CPU time that they took of the agent.
    pub scans: u64,
    pub scan_cpu_seconds: f64,
    /// Why the last scan failed, in a sentence; `None`: it did not.
    pub error: Option<Arc<str>>,
    /// What the next agent needs to know of the target, for [`super::start`]: bytes that only the core can read.
    #[serde(skip)]
    pub kept: Option<Arc<[u8]>>,
}

impl ProcessPicture {
    /// The longest time that one of a group is known to have been waiting by now, in seconds; `None`: none is known.
    pub fn waiting_seconds(&self, group: &LeakView) -> Option<f64> {
        let (shortest, longest) = group.age?;
        let since = if shortest.ns >= self.leaks_followed_ns { self.leaks_aged_ns } else { 0 };
        Some(longest.ns.saturating_add(since) as f64 / 1e9)
    }
}

fn leaks<S: Serializer>(leaks: &[LeakView], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(leaks.iter().map(AsJson))
}

/// Names one run of one program: the kernel uses a PID again, but not with the same start time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// In the agent's PID namespace.
    pub pid: u32,
    /// When the process was made: clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// Number of `exec` calls seen since the process was found: `exec` keeps PID and start time, but everything
    /// else that is known of a target is void after it.
    pub program: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The path of the executable in the target's own mount namespace.
    #[serde(with = "any_path")]
    pub exe: PathBuf,
    /// The import path of its main package; empty where the binary does not say.
    pub package: String,
    /// The path of the main module; empty where the binary has no build information.
    pub module: String,
    /// The version of the main module; `(devel)` for a build out of a work tree.
    pub module_version: String,
    /// For instance `go1.26.6`.
    pub go_version: String,
    /// The linker's build id, in hexadecimal; empty where there is none.
    pub build_id: String,
    /// The service's name: from a rule, else from `OTEL_SERVICE_NAME`, else from the systemd unit, else the
    /// executable's file name.
    pub service: String,
    /// Who has given that name.
    pub service_from: NameFrom,
    pub unit: Option<String>,
    /// The container's full id, not the twelve digits that `docker ps` shows.
    pub container: Option<String>,
    pub pod: Option<Pod>,
    /// The control group's path (v2), or that of the memory controller (v1).
    pub cgroup: String,
    /// The PID in the innermost PID namespace; `None`: it is the same as outside.
    pub inner_pid: Option<u32>,
}

impl Identity {
    /// The path of the executable, to be shown.
    pub fn exe_text(&self) -> String {
        clean(&self.exe.to_string_lossy()).into_owned()
    }
}

/// A path of a target may have bytes that are no text: serde would refuse it, and the target would be hidden.
mod any_path {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::{
        ffi::OsString,
        os::unix::ffi::{OsStrExt as _, OsStringExt as _},
        path::{Path, PathBuf},
    };

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() {
            to.serialize_str(&path.to_string_lossy())
        } else {
            to.serialize_bytes(path.as_os_str().as_bytes())
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        if from.is_human_readable() {
            PathBuf::deserialize(from)
        } else {
            // Bytes and a list of bytes are the same to postcard.
            Vec::deserialize(from).map(|bytes| OsString::from_vec(bytes).into())
        }
    }
}

/// Where the name of a service comes from. A name that the target itself has chosen is no fact: any program may call
/// itself `sshd`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NameFrom {
    /// The configuration (`rule.service`).
    #[serde(rename = "rule")]
    Rule,
    /// The target's own environment.
    #[serde(rename = "OTEL_SERVICE_NAME")]
    Environment,
    /// The systemd unit of the control group.
    #[serde(rename = "unit")]
    Unit,
    /// The file name of the executable.
    #[default]
    #[serde(rename = "exe")]
    Exe,
}

impl NameFrom {
    pub fn word(self) -> &'static str {
        match self {
            NameFrom::Rule => "rule",
            NameFrom::Environment => "OTEL_SERVICE_NAME",
            NameFrom::Unit => "unit",
            NameFrom::Exe => "exe",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The pod's uid, with dashes, from the control group's path.
    pub uid: String,
    /// From the kubelet's log directory, else from the variable `POD_NAME`; `None`: neither tells.
    pub name: Option<String>,
    /// As `name`, with the variable `POD_NAMESPACE`.
    pub namespace: Option<String>,
    /// Labels that the downward API gives (environment variables `POD_LABEL_…`), by name in lower case.
    pub labels: BTreeMap<String, String>,
}

/// One reading of all goroutines of a target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// When the scan ended: nanoseconds since 1970.
    pub unix_ns: u64,
    pub wall_seconds: f64,
    /// CPU time that the scan took of the agent.
    pub cpu_seconds: f64,
    /// Goroutines that were read, the runtime's own included; `states`, `creators` and `waits` leave these out.
    pub goroutines: u64,
    /// The runtime's own goroutines among `goroutines`.
    pub system: u64,
    /// Goroutines that moved while they were read; they count by the last state that was read.
    pub in_motion: u64,
    /// Why goroutines are missing; `None`: none is.
    pub incomplete: Option<String>,
    pub states: Vec<StateCount>,
    /// By the `go` statement that created the goroutine.
    pub creators: Top,
    /// By the place where the goroutine waits.
    pub waits: Top,
    /// The longest known wait, as the runtime counts it.
    pub oldest_seconds: f64,
    /// Open descriptors by kind and state.
    pub descriptors: Vec<FdCount>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCount {
    /// In the words of the runtime's tracebacks: `waiting`, `running`, …
    pub state: Arc<str>,
    /// The wait reason in the runtime's words; empty where the state is not a wait.
    pub reason: Arc<str>,
    pub count: u64,
}

/// Goroutines by place, the most frequent first, with at most [`super::config::Metrics::sites`] rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    pub rows: Vec<SiteCount>,
    /// Goroutines of all places without a row.
    pub other: u64,
    /// Number of places without a row; 0: `rows` is complete.
    pub other_sites: u64,
}

impl Top {
    /// Counts all but the first `rows` together.
    pub(super) fn shorten(&mut self, rows: usize) {
        let left_out = self.rows.split_off(rows.min(self.rows.len()));
        self.other += left_out.iter().map(|row| row.count).sum::<u64>();
        self.other_sites += left_out.len() as u64;
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteCount {
    /// Function, file and line. A goroutine without a place has the function `-`: the main goroutine has no creator.
    pub site: Site,
    pub count: u64,
}

/// A creation site whose goroutines become more for certain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteGrowth {
    pub site: Site,
    pub per_second: f64,
    /// How sure it is that the site grows at all, from 0 to 1.
    pub confidence: f64,
}

/// Memory of a target; `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Spans in use (`HeapInuse` of `runtime.MemStats`), read from the target's memory.
    pub heap_bytes: Option<u64>,
    /// Collections that have ended (`NumGC` of `runtime.MemStats`).
    pub gc_cycles: Option<u64>,
    pub rss_bytes: Option<u64>,
    /// The memory limit of the control group; `None` also where no limit is set.
    pub limit_bytes: Option<u64>,
    /// What all processes of the control group use of `limit_bytes`.
    pub cgroup_bytes: Option<u64>,
}

/// What the runtime of a target has to do besides; `None`: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// Finalizers and cleanups that are due.
    pub due: Option<u64>,
    /// Threads of the process, and what those do that run Go.
    pub threads: Option<u64>,
    pub thread_counts: Option<ThreadCounts>,
}

/// What probes have seen of a target, summed over all times that they stood.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Events {
    /// How long probes stood, all times together.
    pub watched_seconds: f64,
    /// By the `go` statement.
    pub created: Top,
    /// By the `go` statement that created the goroutine.
    pub exited: Top,
    /// Time blocked, by wait reason (modes `wait` and `full` only). At most 64 reasons.
    pub blocked: Vec<(Arc<str>, Distribution)>,
    /// Time between ready and running (mode `full` only).
    pub run_queue: Distribution,
    /// Steps that the runtime's own transitions do not allow (`goruntime/transitions.rs`).
    pub illegal: u64,
    /// Hits of the probes, and events that a full ring buffer dropped.
    pub hits: u64,
    pub lost: u64,
    pub hits_per_second: f64,
    /// What one hit costs the target, nanoseconds: the calibration at the agent's start, corrected by the
    /// kernel's count of BPF run time.
    pub hit_ns: f64,
    /// `hits_per_second` times `hit_ns`, as a share of a second: cores.
    pub predicted_cores: f64,
    /// Run time of the BPF programs in this target of late, cores: a part of `predicted_cores`, which has the
    /// trap as well. `None`: the kernel does not count.
    pub bpf_cores: Option<f64>,
    /// What reading the events costs the agent of late, cores.
    pub own_cores: f64,
}

/// Upper bounds of the classes of [`Distribution`], seconds. Powers of four from 1 µs to about 18 minutes.
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

/// A histogram of durations. OTLP takes its classes as they are; the text for Prometheus adds them up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Class `n` counts durations above bound `n - 1` and up to bound `n`; the last one those above all bounds.
    pub counts: [u64; BOUNDS_SECONDS.len() + 1],
    pub sum_seconds: f64,
}

impl Distribution {
    pub fn add(&mut self, ns: u64) {
        let seconds = ns as f64 / 1e9;
        // A duration equal to a bound belongs to its class, as `le` of Prometheus has it.
        let class = BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(class) {
            *count += 1;
        }
        self.sum_seconds += seconds;
    }

    /// Adds all durations of another one.
    pub(super) fn merge(&mut self, other: &Distribution) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_seconds += other.sum_seconds;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The longest name in what outlives a picture (alerts, the store), in bytes: a target chooses its names, and
/// their length.
const MAX_NAME: usize = 512;

/// A name, cut to at most [`MAX_NAME`] bytes, at the boundary of a character.
pub(super) fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(MAX_NAME)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_text_goes_over_to_another_process() {
        use std::os::unix::ffi::OsStrExt as _;
        let exe = std::ffi::OsStr::from_bytes(b"/srv/\xff\n").into();
        let identity = Identity { exe, ..Identity::default() };
        let bytes = postcard::to_allocvec(&identity).unwrap();
        assert_eq!(postcard::from_bytes::<Identity>(&bytes).unwrap(), identity);
        assert!(serde_json::to_string(&identity).unwrap().contains("/srv/\u{fffd}\\n"));
        assert_eq!(identity.exe_text(), "/srv/\u{fffd}?");
    }

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

//! What answers look like. These are the interface: what is inside may change, these may only grow.

use crate::agent::{
    alert::Alert,
    picture::{NodePicture, ProcessPicture, SiteCount, Top},
    store::{STEP_SECONDS, Series},
};
use serde::Serialize;
use sfgi_core::{leaks::LeakView, names::Site};
use utoipa::ToSchema;

/// A place in the source.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Place {
    /// Function.
    func: String,
    /// Its source file.
    file: String,
    /// Line in it.
    line: u32,
}

impl From<&Site> for Place {
    fn from(site: &Site) -> Self {
        Place { func: site.func.to_string(), file: site.file.to_string(), line: site.line }
    }
}

/// Goroutines that are leaked in the same way.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Leak {
    /// The same in another run and another build.
    id: String,
    /// The longest known wait of one of them, seconds.
    duration: Option<f64>,
    /// Where they wait, innermost first.
    stack_trace: Vec<Place>,
    /// `suspect`, `likely` or `proven`.
    verdict: String,
    /// As the catalogue calls it.
    class: String,
    /// What it is, in a line.
    title: String,
    /// `note`, `warning` or `error`.
    severity: String,
    /// What the program seems to be while it fails.
    silent_failure_type: String,
    /// How many goroutines or timers.
    count: u64,
    /// Goroutines that the creation site makes more than end, a second, if it does for certain.
    growth_per_s: Option<f64>,
    /// Heap that only they hold: an estimate; 0: not known.
    pinned_bytes: u64,
    /// Their ids, the first hundred.
    goids: Vec<u64>,
    /// Their state.
    state: String,
    /// Why they wait.
    wait_reason: String,
    /// The `go` statement.
    created_by: Option<Place>,
    /// Why they are thought to be leaked.
    evidence: Vec<String>,
    /// What happens, and why it does not end.
    explanation: String,
    /// What to do about it.
    fix: String,
    /// When it was found first: milliseconds since 1970.
    first_seen_unix_ms: u64,
    /// Whose they are.
    process: Owner,
}

/// Whose something is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Owner {
    /// Process.
    pid: u32,
    /// The name of its service.
    service: String,
    /// Its executable.
    exe: String,
    /// The container's id.
    container: Option<String>,
    /// The pod, as `namespace/name`.
    pod: Option<String>,
}

impl Owner {
    fn of(process: &ProcessPicture) -> Owner {
        let identity = &process.identity;
        Owner {
            pid: process.id.pid,
            service: identity.service.clone(),
            exe: identity.exe.to_string_lossy().into_owned(),
            container: identity.container.clone(),
            pod: pod(process),
        }
    }
}

/// `namespace/name`, or the uid where that is all that is known.
fn pod(process: &ProcessPicture) -> Option<String> {
    let pod = process.identity.pod.as_ref()?;
    Some(match (&pod.namespace, &pod.name) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.clone(),
        _ => pod.uid.clone(),
    })
}

impl Leak {
    pub(super) fn of(process: &ProcessPicture, group: &LeakView) -> Leak {
        let rule = &group.rule;
        Leak {
            id: group.id.to_string(),
            duration: group.oldest_seconds(),
            stack_trace: group.stack.iter().map(Place::from).collect(),
            verdict: group.verdict.to_string(),
            class: rule.class.clone(),
            title: group.title.clone(),
            severity: rule.severity.to_string(),
            silent_failure_type: rule.failure.to_string(),
            count: group.count,
            growth_per_s: group.growth_per_s(),
            pinned_bytes: group.pinned_bytes,
            goids: group.goids.clone(),
            state: group.state.map(|state| state.to_string()).unwrap_or_default(),
            wait_reason: group.reason.clone(),
            created_by: group.created_by.as_ref().map(Place::from),
            evidence: group.evidence.clone(),
            explanation: rule.explanation.clone(),
            fix: rule.fix.clone(),
            first_seen_unix_ms: group.first_seen_unix_ns / 1_000_000,
            process: Owner::of(process),
        }
    }
}

/// A Go process.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Process {
    /// In the agent's PID namespace.
    pid: u32,
    /// The name of its service.
    service: String,
    /// Its executable.
    exe: String,
    /// The path of its main module.
    module: String,
    /// Its version.
    module_version: String,
    /// As `go1.26.6`.
    go_version: String,
    /// The systemd unit.
    unit: Option<String>,
    /// The container's id.
    container: Option<String>,
    /// The pod, as `namespace/name`.
    pod: Option<String>,
    /// How closely it is watched: `poll`, `life`, `wait` or `full`.
    mode: String,
    /// How closely it should be.
    wanted_mode: String,
    /// Why those differ, or why it is, or was, raised for a while; empty: there is nothing to say.
    mode_reason: String,
    /// Goroutines, without the runtime's own.
    goroutines: Option<u64>,
    /// By state and wait reason, the most frequent first.
    states: Vec<States>,
    /// By the `go` statement that made them, the most frequent first.
    creators: Vec<Count>,
    /// By the place where they wait, the most frequent first.
    waits: Vec<Count>,
    /// In findings that are likely or proven.
    leaked: u64,
    /// Findings.
    findings: u64,
    /// Why nothing counts as proven.
    doubt: Option<String>,
    /// Heap in use.
    heap_bytes: Option<u64>,
    /// Memory limit of its control group.
    memory_limit_bytes: Option<u64>,
    /// When it was scanned last: milliseconds since 1970.
    scanned_unix_ms: Option<u64>,
    /// How long that took.
    scan_seconds: Option<f64>,
    /// The last hour, the oldest first.
    history: Vec<HistoryStep>,
    /// What is wrong.
    error: Option<String>,
}

/// Goroutines in a state.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct States {
    /// `waiting`, `running`, …
    state: String,
    /// Why they wait.
    wait_reason: String,
    /// How many.
    count: u64,
}

/// Goroutines of a place.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Count {
    /// The place; a function `other` stands for all that are not listed.
    place: Place,
    /// How many.
    count: u64,
}

/// Five minutes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HistoryStep {
    /// When they began: seconds since 1970.
    start_unix_s: u64,
    /// How long they are, seconds.
    seconds: u64,
    /// The most goroutines.
    goroutines: u64,
    /// The most in findings that are likely or proven.
    leaked: u64,
}

impl Process {
    pub(super) fn of(process: &ProcessPicture, history: Option<&Series>) -> Process {
        let identity = &process.identity;
        let scan = process.scan.as_deref();
        let certain =
            process.leaks.iter().filter(|group| group.verdict != sfgi_core::detect::Verdict::Suspect);
        let step = |step: &crate::agent::store::Step| HistoryStep {
            start_unix_s: step.start_s,
            seconds: STEP_SECONDS,
            goroutines: step.goroutines,
            leaked: step.leaked,
        };
        let states = scan.iter().flat_map(|scan| &scan.states).map(|row| States {
            state: row.state.to_string(),
            wait_reason: row.reason.to_string(),
            count: row.count,
        });
        Process {
            pid: process.id.pid,
            service: identity.service.clone(),
            exe: identity.exe.to_string_lossy().into_owned(),
            module: identity.module.clone(),
            module_version: identity.module_version.clone(),
            go_version: identity.go_version.clone(),
            unit: identity.unit.clone(),
            container: identity.container.clone(),
            pod: pod(process),
            mode: process.mode.word().to_owned(),
            wanted_mode: process.wanted.word().to_owned(),
            mode_reason: process.mode_reason.to_string(),
            goroutines: scan.map(|scan| scan.goroutines.saturating_sub(scan.system)),
            states: states.collect(),
            creators: scan.map(|scan| counts(&scan.creators)).unwrap_or_default(),
            waits: scan.map(|scan| counts(&scan.waits)).unwrap_or_default(),
            leaked: certain.map(|group| group.count).sum(),
            findings: process.leaks.len() as u64,
            doubt: process.leaks_doubt.as_deref().map(str::to_owned),
            heap_bytes: process.memory.heap_bytes,
            memory_limit_bytes: process.memory.limit_bytes,
            scanned_unix_ms: scan.map(|scan| scan.unix_ns / 1_000_000),
            scan_seconds: scan.map(|scan| scan.wall_seconds),
            history: history.iter().flat_map(|series| &series.steps).map(step).collect(),
            error: process.error.as_deref().map(str::to_owned),
        }
    }
}

fn counts(top: &Top) -> Vec<Count> {
    let row = |row: &SiteCount| Count { place: Place::from(&row.site), count: row.count };
    let other = Place { func: "other".into(), file: String::new(), line: 0 };
    let other = (top.other_sites > 0).then_some(Count { place: other, count: top.other });
    top.rows.iter().map(row).chain(other).collect()
}

/// An alert that stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AlertView {
    /// Process.
    pid: u32,
    /// The name of its service.
    service: String,
    /// The group of leaked goroutines; none: the process itself.
    group: Option<String>,
    /// The group's class; `signs` for the process itself.
    class: String,
    /// The group's verdict.
    verdict: Option<String>,
    /// `observe`, `warn`, `intervene` or `isolate`.
    level: String,
    /// Why.
    reason: String,
    /// Since when: milliseconds since 1970.
    since_unix_ms: u64,
}

impl From<&Alert> for AlertView {
    fn from(alert: &Alert) -> Self {
        AlertView {
            pid: alert.pid,
            service: alert.service.clone(),
            group: alert.group.clone(),
            class: alert.class.clone(),
            verdict: alert.verdict.map(str::to_owned),
            level: alert.level.word().to_owned(),
            reason: alert.reason.clone(),
            since_unix_ms: alert.since_unix_ns / 1_000_000,
        }
    }
}

/// What a scan found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Found {
    /// Goroutines that were judged.
    pub(super) scanned: u64,
    /// Those with a verdict of `likely` or `proven`.
    pub(super) leaked: u64,
}

/// How the agent is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`, or what is missing.
    pub(super) status: String,
}

/// What was noted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Noted {
    /// Always true.
    pub(super) noted: bool,
}

/// The agent and its node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Node {
    /// Of the agent.
    version: &'static str,
    /// When the agent began: milliseconds since 1970.
    started_unix_ms: u64,
    /// CPU time that it has used since.
    cpu_seconds: f64,
    /// Memory that it has.
    rss_bytes: u64,
    /// What it and its probes use now, cores.
    used_cores: f64,
    /// What they may use, cores.
    budget_cores: f64,
    /// The same for a single process.
    process_budget_cores: f64,
    /// How often a process should be scanned, seconds.
    interval_seconds: f64,
    /// How often one is; 0: none was scanned twice yet.
    achieved_interval_seconds: f64,
    /// Scans that are late for want of budget.
    scans_waiting: u64,
    /// Processes that run.
    processes: u64,
    /// Go programs that are watched.
    tracked: u64,
    /// Go programs that a rule excludes.
    excluded: u64,
    /// Go programs that cannot be watched.
    unsupported: u64,
    /// Processes that may not be looked at.
    unreadable: u64,
    /// What is wrong with the agent, the latest few.
    errors: Vec<String>,
}

impl From<&NodePicture> for Node {
    fn from(node: &NodePicture) -> Self {
        Node {
            version: env!("CARGO_PKG_VERSION"),
            started_unix_ms: node.started_unix_ns / 1_000_000,
            cpu_seconds: node.cpu_seconds,
            rss_bytes: node.rss_bytes,
            used_cores: node.used_cores,
            budget_cores: node.budget_cores.0,
            process_budget_cores: node.budget_cores.1,
            interval_seconds: node.interval_seconds.0,
            achieved_interval_seconds: node.interval_seconds.1,
            scans_waiting: node.scans_waiting,
            processes: node.seen.running,
            tracked: node.seen.tracked,
            excluded: node.seen.excluded,
            unsupported: node.seen.unsupported,
            unreadable: node.seen.unreadable,
            errors: node.errors.clone(),
        }
    }
}

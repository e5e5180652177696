//! The JSON of the answers. These types are the interface: they may only grow, while what is inside may change.

use crate::agent::{
    alert::Alert,
    picture::{NodePicture, ProcessPicture, SiteCount, Top},
    store::{STEP_SECONDS, Series},
};
use crate::output::clean;
use serde::Serialize;
use sfgi_core::{
    heap::Sign,
    leaks::{LeakView, Turn},
    names::Site,
};
use utoipa::ToSchema;

/// A place in the source code.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Place {
    /// The function with its package.
    func: String,
    /// The path of the source file.
    file: String,
    /// The line in the file.
    line: u32,
}

impl From<&Site> for Place {
    fn from(site: &Site) -> Self {
        Place { func: tame(&site.func), file: tame(&site.file), line: site.line }
    }
}

/// A text that has names of a target in it, without what may mislead.
fn tame(text: &str) -> String {
    clean(text).into_owned()
}

/// A group of goroutines that are leaked in the same way.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Leak {
    /// The fingerprint of the group, which is the same in another run and another build.
    id: String,
    /// How long one of the goroutines is known to have been waiting by now, in seconds, of the longest; null where none is
    /// known.
    duration: Option<f64>,
    /// Where the goroutines wait, the innermost frame first.
    stack_trace: Vec<Place>,
    /// How sure the finding is: `suspect`, `likely` or `proven`.
    verdict: String,
    /// The class of the mistake in the catalogue of rules.
    class: String,
    /// The mistake in one line.
    title: String,
    /// How bad it is: `note`, `warning` or `error`.
    severity: String,
    /// What the program looks like while it fails silently.
    silent_failure_type: String,
    /// The number of goroutines or timers in the group.
    count: u64,
    /// The goroutines that the creation site makes more than end, per second; null where it does not grow for certain.
    growth_per_s: Option<f64>,
    /// The heap that only these goroutines hold, in bytes: an estimate; 0 where it is not known.
    pinned_bytes: u64,
    /// The ids of the goroutines, at most the first hundred.
    goids: Vec<u64>,
    /// The state of the goroutines.
    state: String,
    /// The wait reason of the goroutines, in the runtime's words.
    wait_reason: String,
    /// The `go` statement that created the goroutines.
    created_by: Option<Place>,
    /// The cycle that the first goroutine waits in, from its own wait on; empty where the finding is about something else.
    /// Of a long one only the first waits.
    ring: Vec<Waiting>,
    /// The observations for the verdict, the strongest first.
    evidence: Vec<String>,
    /// What happens, and why it does not end.
    explanation: String,
    /// What to do about it.
    fix: String,
    /// When the group was found first, in milliseconds since 1970.
    first_seen_unix_ms: u64,
    /// The process that the goroutines belong to.
    process: Owner,
}

/// A goroutine that waits for an object, and the one that could let it go on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Waiting {
    /// The id of the goroutine that waits.
    waiter: u64,
    /// What it wants of the object: `to lock`, `to receive from`.
    wants: &'static str,
    /// The object, its address and its state.
    object: String,
    /// Where it waits.
    at: Option<Place>,
    /// The id of the goroutine that could end the wait.
    holder: u64,
    /// How that is known: `unlock` (its Unlock is deferred), `queue` (a writer comes before readers), `code` or `stack`.
    #[schema(value_type = String)]
    by: Sign,
    /// Whether that is inferred.
    inferred: bool,
}

impl Waiting {
    fn of(turn: &Turn) -> Waiting {
        Waiting {
            waiter: turn.waiter,
            wants: turn.wants.verb(),
            object: turn.object.to_string(),
            at: turn.at.as_ref().map(Place::from),
            holder: turn.holder,
            by: turn.sign,
            inferred: turn.sign.is_hint(),
        }
    }
}

/// The process that a finding is about.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Owner {
    /// The PID in the agent's PID namespace.
    pid: u32,
    /// The name of the service.
    service: String,
    /// Who has given that name: `rule`, `OTEL_SERVICE_NAME` (the program itself), `unit` or `exe`.
    service_from: &'static str,
    /// The path of the executable.
    exe: String,
    /// The id of the container.
    container: Option<String>,
    /// The pod as `namespace/name`; where the node tells less, its name or its uid.
    pod: Option<String>,
}

impl Owner {
    fn of(process: &ProcessPicture) -> Owner {
        let identity = &process.identity;
        Owner {
            pid: process.id.pid,
            service: identity.service.clone(),
            service_from: identity.service_from.word(),
            exe: identity.exe_text(),
            container: identity.container.clone(),
            pod: pod(process),
        }
    }
}

/// `namespace/name`, or as much as the node tells: the name alone, or the uid.
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
            duration: process.waiting_seconds(group),
            stack_trace: group.stack.iter().map(Place::from).collect(),
            verdict: group.verdict.to_string(),
            class: rule.class.clone(),
            title: tame(&group.title),
            severity: rule.severity.to_string(),
            silent_failure_type: rule.failure.to_string(),
            count: group.count,
            growth_per_s: group.growth_per_s(),
            pinned_bytes: group.pinned_bytes,
            goids: group.goids.clone(),
            state: group.state.map(|state| state.to_string()).unwrap_or_default(),
            wait_reason: tame(&group.reason),
            created_by: group.created_by.as_ref().map(Place::from),
            ring: group.ring.iter().map(Waiting::of).collect(),
            evidence: group.evidence.iter().map(|sentence| tame(sentence)).collect(),
            explanation: rule.explanation.clone(),
            fix: rule.fix.clone(),
            first_seen_unix_ms: group.first_seen_unix_ns / 1_000_000,
            process: Owner::of(process),
        }
    }
}

/// A Go process that the agent watches.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Process {
    /// The PID in the agent's PID namespace.
    pid: u32,
    /// The name of the service.
    service: String,
    /// Who has given that name: `rule`, `OTEL_SERVICE_NAME` (the program itself), `unit` or `exe`.
    service_from: &'static str,
    /// The path of the executable.
    exe: String,
    /// The path of the main module.
    module: String,
    /// The version of the main module.
    module_version: String,
    /// The version of Go, for instance `go1.26.6`.
    go_version: String,
    /// The systemd unit.
    unit: Option<String>,
    /// The id of the container.
    container: Option<String>,
    /// The pod as `namespace/name`; where the node tells less, its name or its uid.
    pod: Option<String>,
    /// How closely the process is watched: `poll`, `life`, `wait` or `full`.
    mode: String,
    /// How closely the process should be watched.
    wanted_mode: String,
    /// Why the two modes differ, or why the mode is, or was, raised for a while; empty where neither holds.
    mode_reason: String,
    /// The number of goroutines, without the runtime's own.
    goroutines: Option<u64>,
    /// The goroutines by state and wait reason, the most frequent first.
    states: Vec<States>,
    /// The goroutines by the `go` statement that created them, the most frequent first.
    creators: Vec<Count>,
    /// The goroutines by the place where they wait, the most frequent first.
    waits: Vec<Count>,
    /// The number of goroutines in findings that are likely or proven.
    leaked: u64,
    /// The number of findings.
    findings: u64,
    /// Why no finding counts as proven.
    doubt: Option<String>,
    /// The heap in use, in bytes, as the runtime counts it.
    heap_bytes: Option<u64>,
    /// Finalizers and cleanups that are due and have not ended.
    finalizer_queue: Option<u64>,
    /// Objects in its `sync.Pool`s, as of the last look at objects.
    pool_objects: Option<u64>,
    /// Threads of the process.
    threads: Option<u64>,
    /// The memory limit of the control group, in bytes.
    memory_limit_bytes: Option<u64>,
    /// When the last scan ended, in milliseconds since 1970.
    scanned_unix_ms: Option<u64>,
    /// How long the last scan took, in seconds.
    scan_seconds: Option<f64>,
    /// The last hour in steps, the oldest first.
    history: Vec<HistoryStep>,
    /// Why the process could not be scanned last, in a sentence.
    error: Option<String>,
}

/// The number of goroutines with a state and a wait reason.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct States {
    /// The state: `waiting`, `running`, …
    state: String,
    /// The wait reason, in the runtime's words; empty where the state is no wait.
    wait_reason: String,
    /// The number of goroutines.
    count: u64,
}

/// The number of goroutines of a place.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Count {
    /// The place; the function `other` stands for all places that are not listed.
    place: Place,
    /// The number of goroutines.
    count: u64,
}

/// The figures of one process over five minutes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HistoryStep {
    /// When the step began, in seconds since 1970.
    start_unix_s: u64,
    /// The length of the step, in seconds.
    seconds: u64,
    /// The most goroutines in one scan.
    goroutines: u64,
    /// The most goroutines in findings that are likely or proven.
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
            service_from: identity.service_from.word(),
            exe: identity.exe_text(),
            module: identity.module.clone(),
            module_version: identity.module_version.clone(),
            go_version: identity.go_version.clone(),
            unit: identity.unit.clone(),
            container: identity.container.clone(),
            pod: pod(process),
            mode: process.mode.word().to_owned(),
            wanted_mode: process.wanted.word().to_owned(),
            mode_reason: tame(&process.mode_reason),
            goroutines: scan.map(|scan| scan.goroutines.saturating_sub(scan.system)),
            states: states.collect(),
            creators: scan.map(|scan| counts(&scan.creators)).unwrap_or_default(),
            waits: scan.map(|scan| counts(&scan.waits)).unwrap_or_default(),
            leaked: certain.map(|group| group.count).sum(),
            findings: process.leaks.len() as u64,
            doubt: process.leaks_doubt.as_deref().map(tame),
            heap_bytes: process.memory.heap_bytes,
            finalizer_queue: process.runtime.due,
            pool_objects: process.pool_objects,
            threads: process.runtime.threads,
            memory_limit_bytes: process.memory.limit_bytes,
            scanned_unix_ms: scan.map(|scan| scan.unix_ns / 1_000_000),
            scan_seconds: scan.map(|scan| scan.wall_seconds),
            history: history.iter().flat_map(|series| &series.steps).map(step).collect(),
            error: process.error.as_deref().map(tame),
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
    /// The PID of the process.
    pid: u32,
    /// The name of the service.
    service: String,
    /// Who has given that name: `rule`, `OTEL_SERVICE_NAME` (the program itself), `unit` or `exe`.
    service_from: &'static str,
    /// The id of the finding that the alert is about; null where it is about the process itself.
    group: Option<String>,
    /// The class of the finding; `signs` where the alert is about the process itself.
    class: String,
    /// The verdict of the finding.
    verdict: Option<String>,
    /// The level: `observe`, `warn`, `intervene` or `isolate`.
    level: String,
    /// Why the alert has this level, in words.
    reason: String,
    /// Since when the alert has had this level, in milliseconds since 1970.
    since_unix_ms: u64,
}

impl From<&Alert> for AlertView {
    fn from(alert: &Alert) -> Self {
        AlertView {
            pid: alert.pid,
            service: alert.service.clone(),
            service_from: alert.service_from.word(),
            group: alert.group.clone(),
            class: alert.class.clone(),
            verdict: alert.verdict.map(str::to_owned),
            level: alert.level.word().to_owned(),
            reason: alert.reason.clone(),
            since_unix_ms: alert.since_unix_ns / 1_000_000,
        }
    }
}

/// The goroutines that a triggered scan has judged.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Found {
    /// The number of goroutines that were judged.
    pub(super) scanned: u64,
    /// The number of these with a verdict of `likely` or `proven`.
    pub(super) leaked: u64,
}

/// The state of the agent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HealthView {
    /// `ok`, or what is missing.
    pub(super) status: String,
}

/// The answer to a request that takes effect later.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Noted {
    /// Always true.
    pub(super) noted: bool,
}

/// The agent and its node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Node {
    /// The version of the agent.
    version: &'static str,
    /// When the agent began, in milliseconds since 1970.
    started_unix_ms: u64,
    /// The CPU time that the agent has used since it began, in seconds.
    cpu_seconds: f64,
    /// The resident memory of the agent, in bytes.
    rss_bytes: u64,
    /// What the agent and its probes use now, in cores.
    used_cores: f64,
    /// What the agent and its probes may use, in cores.
    budget_cores: f64,
    /// What they may use for a single process, in cores.
    process_budget_cores: f64,
    /// The time between two scans of a process that is wanted, in seconds.
    interval_seconds: f64,
    /// The time between two scans of a process that is reached, in seconds; 0 before any process was scanned twice.
    achieved_interval_seconds: f64,
    /// The number of scans that are late for want of budget.
    scans_waiting: u64,
    /// The number of processes that run on the node, without the kernel's threads.
    processes: u64,
    /// The number of Go processes that are watched.
    tracked: u64,
    /// The number of Go processes that a rule excludes.
    excluded: u64,
    /// The number of Go processes that cannot be watched.
    unsupported: u64,
    /// The number of processes that the agent may not look at.
    unreadable: u64,
    /// What is wrong with the agent, the latest few sentences.
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
            errors: node.errors.iter().map(|error| tame(error)).collect(),
        }
    }
}

//! All metrics, by what they are about: the node, targets, findings, alerts, probes. Each has its name and help here.

use super::{Dropped, Families, Family, Kind, Label, Sink};
use crate::agent::{
    alert::Alert,
    picture::{Events, Picture, ProcessPicture, Scan, SiteCount, Top},
};
use Kind::{Counter, Gauge, Histogram};
use sfgi_core::leaks::LeakView;
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

/// What one document of metrics is made from.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub picture: &'a Picture,
    pub alerts: &'a [Arc<Alert>],
    /// What the documents before this one lack.
    pub dropped: &'a Dropped,
    /// The cap of one metric's series.
    pub max_series: usize,
}

pub fn families<'a>(about: &About<'a>) -> Vec<Family<'a>> {
    let mut out = Families { all: Vec::new(), max_series: about.max_series };
    node(&mut out, about.picture);
    processes(&mut out, about.picture);
    goroutines(&mut out, about.picture);
    descriptors(&mut out, about.picture);
    leaks(&mut out, about.picture);
    alerts(&mut out, about.alerts);
    probes(&mut out, about.picture);
    let mut dropped = out.add(
        Counter,
        "sfgi_series_dropped_total",
        "Series above the cap that were left out, each time they were.",
    );
    for (metric, count) in about.dropped {
        dropped.number(*count as f64, [label("metric", *metric)]);
    }
    out.all
}

fn node<'a>(out: &mut Families<'a>, picture: &'a Picture) {
    let node = &picture.node;
    let version = [label("version", env!("CARGO_PKG_VERSION"))];
    out.add(Gauge, "sfgi_build_info", "The version of the agent.").number(1.0, version);
    let mut one = |kind, name, help, value| out.add(kind, name, help).number(value, []);
    one(
        Gauge,
        "sfgi_agent_start_time_seconds",
        "When the agent began, since 1970.",
        seconds(node.started_unix_ns),
    );
    one(Counter, "sfgi_agent_cpu_seconds_total", "CPU time of the agent itself.", node.cpu_seconds);
    one(Gauge, "sfgi_agent_resident_memory_bytes", "Memory of the agent itself.", node.rss_bytes as f64);
    one(Gauge, "sfgi_agent_used_cores", "What the agent and its probes use now, in cores.", node.used_cores);
    one(Counter, "sfgi_scans_total", "Scans that ended.", node.scans as f64);
    one(Counter, "sfgi_scan_failures_total", "Scans that failed.", node.scan_failures as f64);
    one(Gauge, "sfgi_scans_waiting", "Scans that are late for want of budget.", node.scans_waiting as f64);
    one(Gauge, "sfgi_binaries", "Binaries in memory, which processes share.", node.binaries as f64);
    one(Counter, "sfgi_mode_changes_total", "Changes of a process's mode.", node.mode_changes as f64);
    one(
        Counter,
        "sfgi_processes_started_total",
        "Go processes that have come.",
        node.seen.started_total as f64,
    );
    one(Counter, "sfgi_processes_ended_total", "Go processes that have ended.", node.seen.ended_total as f64);
    let mut raises =
        out.add(Counter, "sfgi_raises_total", "Times that a finding had a process watched more closely.");
    let by_cause =
        [("growth", node.raises.growth), ("finding", node.raises.finding), ("alert", node.raises.alert)];
    for (cause, count) in by_cause {
        raises.number(count as f64, [label("cause", cause)]);
    }
    out.add(
        Counter,
        "sfgi_agent_bpf_seconds_total",
        "CPU time of the agent's BPF programs, in all processes.",
    )
    .maybe(node.bpf_seconds, []);
    let mut budget = out.add(Gauge, "sfgi_budget_cores", "What the agent may use, in cores.");
    budget.number(node.budget_cores.0, [label("scope", "node")]);
    budget.number(node.budget_cores.1, [label("scope", "process")]);
    let mut interval = out.add(Gauge, "sfgi_scan_interval_seconds", "Time between two scans of a process.");
    interval.number(node.interval_seconds.0, [label("kind", "wanted")]);
    interval.number(node.interval_seconds.1, [label("kind", "achieved")]);
    let mut seen = out.add(Gauge, "sfgi_host_processes", "Processes of the host, by what became of them.");
    for (state, count) in [
        ("running", node.seen.running),
        ("tracked", node.seen.tracked),
        ("excluded", node.seen.excluded),
        ("unsupported", node.seen.unsupported),
        ("unreadable", node.seen.unreadable),
    ] {
        seen.number(count as f64, [label("state", state)]);
    }
}

/// One family with series of each target.
fn each<'a>(
    out: &mut Families<'a>,
    picture: &'a Picture,
    (kind, name, help): (Kind, &'static str, &'static str),
    series: impl Fn(&'a ProcessPicture, &mut Sink<'_, 'a>),
) {
    let mut sink = out.add(kind, name, help);
    for process in &picture.processes {
        series(process, sink.of(process));
    }
}

fn processes<'a>(out: &mut Families<'a>, picture: &'a Picture) {
    // The names of a target stand in this series only; the others have `pid` and `service` to join by.
    let about = (Gauge, "sfgi_process_info", "What a process is; always 1.");
    each(out, picture, about, |process, sink| sink.number(1.0, identity(process)));
    let about = (Gauge, "sfgi_process_mode", "How closely a process is watched; always 1.");
    each(out, picture, about, |process, sink| {
        sink.number(1.0, [label("mode", process.mode.word()), label("wanted", process.wanted.word())]);
    });
    let one = |out: &mut Families<'a>, about, value: fn(&ProcessPicture) -> Option<f64>| {
        each(out, picture, about, |process, sink| sink.maybe(value(process), []));
    };
    one(out, (Gauge, "sfgi_heap_bytes", "Heap in use, as the runtime counts it."), |p| {
        p.memory.heap_bytes.map(|bytes| bytes as f64)
    });
    one(out, (Counter, "sfgi_gc_cycles_total", "Garbage collections that have ended."), |p| {
        p.memory.gc_cycles.map(|cycles| cycles as f64)
    });
    one(out, (Gauge, "sfgi_resident_memory_bytes", "Resident memory of the process."), |p| {
        p.memory.rss_bytes.map(|bytes| bytes as f64)
    });
    one(out, (Gauge, "sfgi_memory_limit_bytes", "Memory limit of its control group."), |p| {
        p.memory.limit_bytes.map(|bytes| bytes as f64)
    });
    one(
        out,
        (Gauge, "sfgi_finalizer_queue", "Finalizers and cleanups that are due and have not ended."),
        |p| p.runtime.due.map(|due| due as f64),
    );
    one(out, (Gauge, "sfgi_pool_objects", "Objects in sync.Pools, as of the last look at objects."), |p| {
        p.pool_objects.map(|objects| objects as f64)
    });
    let about = (Gauge, "sfgi_threads", "Threads by what they do; other: those that run no Go.");
    each(out, picture, about, |process, sink| {
        let Some(counts) = process.runtime.thread_counts else { return };
        for (state, count) in counts.by_state() {
            sink.number(count as f64, [label("state", state)]);
        }
        let other = process.runtime.threads.map(|all| all.saturating_sub(counts.all()) as f64);
        sink.maybe(other, [label("state", "other")]);
    });
    one(out, (Gauge, "sfgi_process_failed", "1 where something is wrong with watching the process."), |p| {
        Some(f64::from(u8::from(p.error.is_some())))
    });
    one(out, (Counter, "sfgi_process_scans_total", "Scans of the process that ended."), |p| {
        Some(p.scans as f64)
    });
    one(
        out,
        (Counter, "sfgi_process_scan_cpu_seconds_total", "CPU time that these took of the agent."),
        |p| Some(p.scan_cpu_seconds),
    );
    let scan = |out: &mut Families<'a>, about, value: fn(&Scan) -> f64| {
        each(out, picture, about, |p, sink| sink.maybe(p.scan.as_deref().map(value), []));
    };
    scan(out, (Gauge, "sfgi_last_scan_timestamp_seconds", "When the last scan ended, since 1970."), |scan| {
        seconds(scan.unix_ns)
    });
    scan(out, (Gauge, "sfgi_last_scan_duration_seconds", "How long the last scan took."), |scan| {
        scan.wall_seconds
    });
    scan(out, (Gauge, "sfgi_goroutine_longest_wait_seconds", "The longest known wait."), |scan| {
        scan.oldest_seconds
    });
}

fn identity(process: &ProcessPicture) -> Vec<Label<'_>> {
    let identity = &process.identity;
    let pod = identity.pod.as_ref();
    let of_pod = |part: Option<&'_ String>| part.map_or_else(String::new, String::clone);
    vec![
        label("exe", identity.exe_text()),
        label("service_from", identity.service_from.word()),
        label("module", identity.module.as_str()),
        label("module_version", identity.module_version.as_str()),
        label("go_version", identity.go_version.as_str()),
        label("unit", identity.unit.as_deref().unwrap_or_default()),
        label("container", identity.container.as_deref().unwrap_or_default()),
        label("pod", of_pod(pod.and_then(|pod| pod.name.as_ref()))),
        label("namespace", of_pod(pod.and_then(|pod| pod.namespace.as_ref()))),
    ]
}

fn goroutines<'a>(out: &mut Families<'a>, picture: &'a Picture) {
    let about = (Gauge, "sfgi_goroutines", "Goroutines by state and wait reason, as of the last scan.");
    each(out, picture, about, |process, sink| {
        for row in process.scan.iter().flat_map(|scan| &scan.states) {
            sink.number(row.count as f64, [label("state", &*row.state), label("reason", &*row.reason)]);
        }
    });
    let about = (Gauge, "sfgi_goroutines_by_creator", "Goroutines by the go statement that made them.");
    each(out, picture, about, |process, sink| {
        if let Some(scan) = &process.scan {
            sites(sink, &scan.creators);
        }
    });
    let about = (Gauge, "sfgi_goroutines_by_wait_site", "Goroutines by the place where they wait.");
    each(out, picture, about, |process, sink| {
        if let Some(scan) = &process.scan {
            sites(sink, &scan.waits);
        }
    });
    let about = (
        Gauge,
        "sfgi_creation_site_growth",
        "Goroutines more a second of a creation site that grows for certain.",
    );
    each(out, picture, about, |process, sink| {
        for growth in &process.growth {
            sink.number(growth.per_second, place(&growth.site.func, &growth.site.file, growth.site.line));
        }
    });
}

fn descriptors<'a>(out: &mut Families<'a>, picture: &'a Picture) {
    let about = (Gauge, "sfgi_descriptors", "Open descriptors by kind and TCP state, as of the last scan.");
    each(out, picture, about, |process, sink| {
        for row in process.scan.iter().flat_map(|scan| &scan.descriptors) {
            sink.number(row.count as f64, [label("kind", &*row.kind), label("state", &*row.state)]);
        }
    });
}

fn sites<'a>(sink: &mut Sink<'_, 'a>, top: &'a Top) {
    for SiteCount { site, count } in &top.rows {
        sink.number(*count as f64, place(&site.func, &site.file, site.line));
    }
    if top.other_sites > 0 {
        sink.number(top.other as f64, [label("func", "other"), label("at", "")]);
    }
}

/// The file's name without its directories: the function has the package, and paths are long.
fn place<'a>(func: &'a str, file: &'a str, line: u32) -> [Label<'a>; 2] {
    let name = file.rsplit('/').next().unwrap_or(file);
    let at = if name.is_empty() { String::new() } else { format!("{name}:{line}") };
    [label("func", func), label("at", at)]
}

/// What the findings of a process are added up by.
type Class<'a> = (&'a str, &'static str, &'static str, &'static str);

fn leaks<'a>(out: &mut Families<'a>, picture: &'a Picture) {
    let mut sums = |name, help, add: fn(&mut f64, &ProcessPicture, &LeakView)| {
        each(out, picture, (Gauge, name, help), |process, sink| {
            let mut classes: BTreeMap<Class<'_>, f64> = BTreeMap::new();
            for group in process.leaks.iter() {
                let rule = &group.rule;
                let key = (&*rule.class, group.verdict.word(), rule.failure.word(), rule.severity.word());
                add(classes.entry(key).or_default(), process, group);
            }
            for ((class, verdict, kind, severity), value) in classes {
                let severity = label("severity", severity);
                let labels = [
                    label("class", class),
                    label("verdict", verdict),
                    label("silent_failure_type", kind),
                    severity,
                ];
                sink.number(value, labels);
            }
        });
    };
    sums(
        "sfgi_leaked_goroutines",
        "Goroutines (timers, contexts, descriptors, pooled objects) in findings, by class and verdict.",
        |sum, _, group| {
            *sum += group.count as f64;
        },
    );
    sums("sfgi_findings", "Findings: groups of goroutines that are leaked in the same way.", |sum, _, _| {
        *sum += 1.0;
    });
    sums("sfgi_leak_pinned_bytes", "Heap that only leaked goroutines hold: an estimate.", |sum, _, group| {
        *sum += group.pinned_bytes as f64;
    });
    sums("sfgi_leak_oldest_seconds", "The longest known wait in a finding.", |sum, process, group| {
        *sum = sum.max(process.waiting_seconds(group).unwrap_or(0.0));
    });
}

fn alerts<'a>(out: &mut Families<'a>, alerts: &'a [Arc<Alert>]) {
    let mut sink =
        out.add(Gauge, "sfgi_alert_level", "Alerts that stand, by their level: 1 observe to 4 isolate.");
    for alert in alerts {
        sink.number(
            f64::from(alert.level.number()),
            [
                label("pid", alert.pid.to_string()),
                label("service", alert.service.as_str()),
                label("group", alert.group.as_deref().unwrap_or_default()),
                label("class", alert.class.as_str()),
            ],
        );
    }
}

fn probes<'a>(out: &mut Families<'a>, picture: &'a Picture) {
    let mut events = |about, series: fn(&'a Events, &mut Sink<'_, 'a>)| {
        each(out, picture, about, |process, sink| {
            if let Some(events) = &process.events {
                series(events, sink);
            }
        });
    };
    events(
        (Counter, "sfgi_goroutines_created_total", "Goroutines made while probes stood, by go statement."),
        |events, sink| sites(sink, &events.created),
    );
    events(
        (
            Counter,
            "sfgi_goroutines_exited_total",
            "Goroutines that ended while probes stood, by go statement.",
        ),
        |events, sink| sites(sink, &events.exited),
    );
    events(
        (Histogram, "sfgi_goroutine_blocked_seconds", "How long goroutines were blocked, by wait reason."),
        |events, sink| {
            for (reason, distribution) in &events.blocked {
                sink.distribution(distribution, [label("reason", &**reason)]);
            }
        },
    );
    events(
        (Histogram, "sfgi_run_queue_delay_seconds", "How long goroutines were ready and not run."),
        |events, sink| {
            // Only mode `full` measures this; a series of zeros would say that nothing waits.
            if events.run_queue.count() > 0 {
                sink.distribution(&events.run_queue, []);
            }
        },
    );
    events((Counter, "sfgi_probe_hits_total", "Hits of probes."), |events, sink| {
        sink.number(events.hits as f64, []);
    });
    events((Counter, "sfgi_events_lost_total", "Events of probes that were lost."), |events, sink| {
        sink.number(events.lost as f64, []);
    });
    events(
        (Counter, "sfgi_illegal_transitions_total", "Steps that the runtime's rules forbid."),
        |events, sink| {
            sink.number(events.illegal as f64, []);
        },
    );
    events((Counter, "sfgi_probe_watched_seconds_total", "How long probes stood."), |events, sink| {
        sink.number(events.watched_seconds, []);
    });
    events((Gauge, "sfgi_probe_hit_seconds", "What a hit costs the program."), |events, sink| {
        sink.number(events.hit_ns / 1e9, []);
    });
    events((Gauge, "sfgi_probe_cost_cores", "What probes cost now, in cores."), |events, sink| {
        sink.number(events.predicted_cores, [label("kind", "predicted")]);
        sink.maybe(events.bpf_cores, [label("kind", "bpf")]);
        sink.number(events.own_cores, [label("kind", "own")]);
    });
}

fn label<'a>(name: &'static str, value: impl Into<Cow<'a, str>>) -> Label<'a> {
    (name, value.into())
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

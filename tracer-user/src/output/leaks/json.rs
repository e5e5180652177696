//! JSON: one document, schema `sfgi.leaks/1`, written as it is made.
//!
//! ```json
//! {"schema":"sfgi.leaks/1","pid":4711,"exe":"/usr/bin/shop","go_version":"go1.26.6","scanned":812,"scan_ms":1.5,"passes":4,
//!  "heap_bytes":52428800,"heap_ms":41.0,"frozen_ms":12.0,"lost_events":0,"gc_cycles":7,"doubt":"…","incomplete":"…","objects_doubt":"…","pools_doubt":"…","accepted":3,
//!  "summary":{"proven":1,"likely":0,"suspect":0},
//!  "leaks":[
//!  {"goid":7,"verdict":"proven","class":"send-without-receiver","rule":"send-without-receiver","severity":"error",
//!   "status":"waiting","wait_reason":"chan send","waiting_ms":180000,"waiting_is":"about","object":"0xc000012120",
//!   "object_kind":"chan","group":0,"set":0,"stack":[{"func":"main.work","file":"/src/main.go","line":33}],
//!   "created_by":{"func":"main.main","file":"/src/main.go","line":12,"goid":1},"labels":{"user":"7"},"evidence":["…"],
//!   "waits_for":[{"kind":"chan","address":"0xc000012120","wants":"send","len":0,"cap":0,"closed":false,"element_size":8,
//!   "receivers":0,"senders":1}]}],
//!  "groups":[
//!  {"id":"0f3c…","verdict":"proven","class":"…","rule":"…","title":"…","severity":"error","count":1,"age_ms":[180000,180000],
//!   "growth_per_s":0.5,"growth_confidence":0.999,"pinned_bytes":4096,"created_by":{…},"wait_site":{…},"goids":[7],
//!   "object":"0xc000012120","evidence":["…"],"explanation":"…","fix":"…",
//!   "formal":{"context":"…","precondition":"…","change":"…","label":"…"}}],
//!  "sets":[
//!  {"members":[7,8],"cycle":[7,8],"edges":[{"waiter":7,"object":"0xc000012120","kind":"chan","holder":8,"by":"stack","inferred":true}]}]}
//! ```
//!
//! What does not apply or is not known is left out. `scanned` are the goroutines that were judged, without the runtime's own;
//! `scan_ms` is how long the whole observation took, `heap_ms` the last pass over the heap, which read
//! `heap_bytes`. `doubt` says why nothing counts as proven. `accepted` are goroutines that the baseline accepts: they are
//! in no list. `summary` counts goroutines. `waiting_is` is `about` (the runtime's own count, too long by up to the time
//! between two garbage collections) or `at_least` (watched for so long). `object` is the first thing that a goroutine
//! waits for, `waits_for` are all, as in `sfgi.dump/1`; `group` and `set` are indices into the lists. The id of a group is the same
//! in another run. A group of timers has a `timers` (`func`, `kind`) and no goids, one of a pool's objects a `pool`. `pinned_bytes` is an estimate of the heap that only its
//! goroutines reach. In a set, `holder` has the object on its stack: that it could end the wait is inferred.

use super::{Document, LEAKS_SCHEMA};
use crate::output::dump::pieces::{Creator, Labels, Stacks, Waited, is_zero, kind, labels};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use sfgi_core::{
    detect::{Age, Measure, Severity, Verdict, shortest_cycle},
    heap::{DeadSet, Edge, Sign},
    leaks::{AsJson, LeakView},
    names::Names,
    snapshot::{Goroutine, Wait},
};
use std::{
    io::{self, Write},
    path::Path,
};

#[derive(Serialize)]
struct Head<'a> {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    exe: &'a Path,
    go_version: &'a str,
    scanned: u64,
    scan_ms: f64,
    passes: u32,
    heap_bytes: u64,
    heap_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_ms: Option<f64>,
    /// Always 0, since a snapshot loses no events; readers of other documents expect the field.
    lost_events: u64,
    /// Garbage collections that the program has ended; before the first one it knows no ages.
    #[serde(skip_serializing_if = "Option::is_none")]
    gc_cycles: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    doubt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects_doubt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pools_doubt: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    accepted: u64,
    summary: Summary,
}

#[derive(Serialize)]
struct Summary {
    proven: u64,
    likely: u64,
    suspect: u64,
}

#[derive(Serialize)]
struct Leak<'a> {
    goid: u64,
    verdict: Verdict,
    class: &'a str,
    rule: &'a str,
    severity: Severity,
    status: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    wait_reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_is: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_kind: Option<&'static str>,
    group: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<u32>,
    stack: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<Creator>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Labels<'a>>,
    evidence: &'a RawValue,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waits_for: Vec<Waited<'a>>,
}

#[derive(Serialize)]
struct SetEntry {
    members: Vec<u64>,
    cycle: Vec<u64>,
    edges: Vec<EdgeEntry>,
}

#[derive(Serialize)]
struct EdgeEntry {
    waiter: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    holder: u64,
    /// How it is known that the holder could end the wait.
    by: Sign,
    inferred: bool,
}

/// Writes the document; `one_line`: on a single line, for the stream of `--watch`.
pub fn write_json(
    mut out: impl Write,
    document: &Document<'_>,
    names: &mut Names,
    one_line: bool,
) -> io::Result<()> {
    let leaks = document.leaks;
    let mut entries = Entries { document, names, stacks: Stacks::default() };
    let head = serde_json::to_string(&entries.head())?;
    write!(out, "{}", head.strip_suffix('}').unwrap_or(&head))?;
    let between = if one_line { "" } else { "\n" };
    list(&mut out, "leaks", between, |out, separator| {
        let mut groups = leaks.groups.iter().enumerate();
        groups.try_for_each(|(index, group)| entries.leaks(out, separator, index, group))
    })?;
    list(&mut out, "groups", between, |out, separator| {
        leaks.groups.iter().try_for_each(|group| {
            separator.write(out)?;
            Ok(serde_json::to_writer(&mut *out, &AsJson(group))?)
        })
    })?;
    list(&mut out, "sets", between, |out, separator| {
        leaks.observed.sets.iter().try_for_each(|set| {
            separator.write(out)?;
            Ok(serde_json::to_writer(&mut *out, &entries.set(set))?)
        })
    })?;
    out.write_all(b"}\n")?;
    out.flush()
}

/// Writes what comes before an element of a list: a comma, and a line break.
struct Separator {
    between: &'static str,
    first: bool,
}

impl Separator {
    fn write(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let comma = if std::mem::take(&mut self.first) { "" } else { "," };
        write!(out, "{comma}{}", self.between)
    }
}

fn list<W: Write>(
    out: &mut W,
    name: &str,
    between: &'static str,
    elements: impl FnOnce(&mut W, &mut Separator) -> io::Result<()>,
) -> io::Result<()> {
    write!(out, ",{between}\"{name}\":[")?;
    elements(out, &mut Separator { between, first: true })?;
    out.write_all(b"]")
}

/// Makes the entries of the lists one by one.
struct Entries<'a> {
    document: &'a Document<'a>,
    names: &'a mut Names,
    stacks: Stacks,
}

impl Entries<'_> {
    fn head(&self) -> Head<'_> {
        let (document, leaks) = (self.document, self.document.leaks);
        let observed = &leaks.observed;
        let ms = |ns: u64| ns as f64 / 1e6;
        Head {
            schema: LEAKS_SCHEMA,
            pid: document.pid,
            exe: document.exe,
            go_version: document.go_version,
            scanned: leaks.scanned,
            scan_ms: ms(observed.took_ns),
            passes: observed.passes,
            heap_bytes: observed.scanned.0,
            heap_ms: ms(observed.scanned.1),
            frozen_ms: observed.frozen_ns.map(ms),
            lost_events: 0,
            gc_cycles: observed.collections,
            doubt: observed.doubt.as_deref(),
            incomplete: leaks.incomplete(),
            objects_doubt: leaks.objects_doubt.as_deref(),
            pools_doubt: leaks.pools_doubt.as_deref(),
            accepted: leaks.accepted_count(),
            summary: Summary {
                proven: leaks.goroutines_of(Verdict::Proven),
                likely: leaks.goroutines_of(Verdict::Likely),
                suspect: leaks.goroutines_of(Verdict::Suspect),
            },
        }
    }

    /// Writes the goroutines of a group. They share the evidence, which is serialised once.
    fn leaks(
        &mut self,
        out: &mut dyn Write,
        separator: &mut Separator,
        index: usize,
        group: &LeakView,
    ) -> io::Result<()> {
        let evidence = to_raw_value(&group.evidence)?;
        for member in &group.members {
            let Some(goroutine) = self.document.leaks.observed.snapshot.goroutines.get(*member as usize)
            else {
                continue;
            };
            separator.write(out)?;
            self.leak(out, (index, group), *member, goroutine, &evidence)?;
        }
        Ok(())
    }

    fn leak(
        &mut self,
        out: &mut dyn Write,
        (index, group): (usize, &LeakView),
        member: u32,
        goroutine: &Goroutine,
        evidence: &RawValue,
    ) -> io::Result<()> {
        let observed = &self.document.leaks.observed;
        let snapshot = &observed.snapshot;
        let facts = observed.facts.get(member as usize);
        let age = Age::of(goroutine, &facts.cloned().unwrap_or_default(), snapshot.taken_ns.1);
        let object = goroutine.waits.first().and_then(|wait| snapshot.objects.get(wait.object as usize));
        let waited = |wait: &Wait| {
            let object = snapshot.objects.get(wait.object as usize)?;
            Some(Waited { object, wants: Some(wait.wants), count: 0 })
        };
        let created_by = Names::creator(self.names, goroutine)
            .map(|site| Creator { goid: goroutine.parent_goid, ..Creator::new(site) });
        let stack = self.stacks.get(goroutine.stack, snapshot, self.names)?;
        let leak = Leak {
            goid: goroutine.goid,
            verdict: group.verdict,
            class: &group.rule.class,
            rule: &group.rule.id,
            severity: group.rule.severity,
            status: goroutine.state.to_string(),
            wait_reason: Names::reason(self.names, goroutine),
            waiting_ms: age.map(|age| age.ns / 1_000_000),
            waiting_is: age.map(|age| match age.measure {
                Measure::AtLeast => "at_least",
                Measure::About => "about",
            }),
            object: object.map(|object| format!("{:#x}", object.addr)),
            object_kind: object.map(|object| kind(&object.kind)),
            group: index,
            set: facts.and_then(|facts| facts.set),
            stack,
            created_by,
            labels: labels(snapshot, goroutine.labels),
            evidence,
            waits_for: goroutine.waits.iter().filter_map(waited).collect(),
        };
        Ok(serde_json::to_writer(out, &leak)?)
    }

    fn set(&self, set: &DeadSet) -> SetEntry {
        let snapshot = &self.document.leaks.observed.snapshot;
        let goid = |index: u32| snapshot.goroutines.get(index as usize).map_or(0, |one| one.goid);
        let edge = |edge: &Edge| {
            let object = snapshot.objects.get(edge.object as usize);
            EdgeEntry {
                waiter: goid(edge.waiter),
                object: object.map(|object| format!("{:#x}", object.addr)),
                kind: object.map(|object| kind(&object.kind)),
                holder: goid(edge.holder),
                by: edge.sign,
                inferred: edge.sign.is_hint(),
            }
        };
        SetEntry {
            members: set.members.iter().map(|index| goid(*index)).collect(),
            cycle: shortest_cycle(set).into_iter().map(goid).collect(),
            edges: set.edges.iter().map(edge).collect(),
        }
    }
}

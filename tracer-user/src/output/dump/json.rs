//! JSON: one document, schema `sfgi.dump/1`, written as it is made: a million goroutines are never
//! in memory as text.
//!
//! ```json
//! {"schema":"sfgi.dump/1","pid":4711,"exe":"/usr/bin/shop","go_version":"go1.26.6","taken_ns":…,"scan_ms":12.5,
//!  "layout":"DWARF","unreadable":0,"goroutines":[
//! {"goid":7,"status":"waiting","wait_reason":"chan receive","waiting_ms":180000,"trust":"still",
//!  "locked_to_thread":true,"tid":4712,"system":true,"labels":{"user":"7"},
//!  "stack":[{"func":"main.work","file":"/src/main.go","line":33,"inlined":true}],
//!  "created_by":{"func":"main.main","file":"/src/main.go","line":12,"goid":1},"start_func":"main.work",
//!  "waits_for":[{"kind":"chan","address":"0xc000012120","wants":"receive","len":0,"cap":8,"closed":false,
//!  "element_size":8,"receivers":1,"senders":0}]}
//! ]}
//! ```
//!
//! Every goroutine has `goid`, `status`, `trust` and `stack`; all else is left out where it does not apply, is not
//! known, or is false. `taken_ns` is `CLOCK_MONOTONIC` of the target, when the reading ended. `waiting_ms` is the
//! runtime's own count, from the collection before the one that found it waiting. `trust` is `still`, `in motion` (it moved while it
//! was read: no stack), `running` (its stack is a best effort) or `broken` (it makes no sense). `kind` is `chan`,
//! `mutex`, `rwmutex`, `waitgroup`, `cond` or `semaphore`; `wants` is `receive`, `send`, `lock`, `rlock`, `wake` or
//! `unknown`. With `--group` there is `groups` in place of `goroutines`: see [`JsonDump::groups`]. With `--object`
//! there is also `object`, as in `waits_for` without `wants`. `incomplete` says why goroutines are missing; where only an
//! even sample was read, `sampled_of` is the number that there are.

use super::{
    DUMP_SCHEMA, Group,
    pieces::{Creator, Labels, Stacks, Waited, is_zero, labels},
};
use crate::output::is_false;
use serde::Serialize;
use serde_json::value::RawValue;
use sfgi_core::{
    names::Names,
    snapshot::{Goroutine, Snapshot, Trust, Wait},
};
use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
};

/// Writes the document to `out` as it is made.
pub struct JsonDump<'a, W> {
    out: W,
    snapshot: &'a Snapshot,
    names: &'a mut Names,
    stacks: Stacks,
}

/// The members of the document before the list.
#[derive(Serialize)]
struct Head<'a> {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    exe: &'a Path,
    go_version: &'a str,
    taken_ns: u64,
    scan_ms: f64,
    layout: String,
    unreadable: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<&'a str>,
    /// Goroutines that there are, where only a sample of them is in the document.
    #[serde(skip_serializing_if = "Option::is_none")]
    sampled_of: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<Waited<'a>>,
}

/// What the document says about the target.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The process in sfgi's PID namespace; `None`: a core file that names none.
    pub pid: Option<u32>,
    /// Path of the executable as the target sees it.
    pub exe: &'a Path,
    /// Why goroutines are missing; `None`: the list is whole.
    pub incomplete: Option<&'a str>,
    /// The object of `--object`, an index into [`Snapshot::objects`].
    pub object: Option<u32>,
}

#[derive(Serialize)]
struct Entry<'a> {
    goid: u64,
    status: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    wait_reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_ms: Option<u64>,
    trust: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    tid: u32,
    #[serde(skip_serializing_if = "is_false")]
    locked_to_thread: bool,
    #[serde(skip_serializing_if = "is_false")]
    system: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Labels<'a>>,
    stack: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<Creator>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_func: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waits_for: Vec<Waited<'a>>,
}

fn trust(trust: Trust) -> &'static str {
    match trust {
        Trust::Still => "still",
        Trust::InMotion => "in motion",
        Trust::Running => "running",
        Trust::Broken => "broken",
    }
}

#[derive(Serialize)]
struct GroupEntry<'a> {
    count: u64,
    status: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    wait_reason: &'a str,
    trust: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_ms_min: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_ms_max: Option<u64>,
    waiting_unknown: u64,
    goids: &'a [u64],
    stack: &'a RawValue,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    created_by: Vec<Creator>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<LabelCount<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    objects: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waits_for: Vec<Waited<'a>>,
}

#[derive(Serialize)]
struct LabelCount<'a> {
    count: u64,
    labels: Labels<'a>,
}

impl<'a, W: Write> JsonDump<'a, W> {
    /// `out` should be buffered: it gets many small pieces.
    pub fn new(out: W, snapshot: &'a Snapshot, names: &'a mut Names) -> Self {
        JsonDump { out, snapshot, names, stacks: Stacks::default() }
    }

    /// Writes the document with these goroutines, one object a line.
    pub fn goroutines(mut self, about: &About<'_>, chosen: &[u32]) -> io::Result<()> {
        self.begin(about, "goroutines")?;
        let mut separator = "\n";
        let snapshot = self.snapshot;
        for goroutine in chosen.iter().filter_map(|index| snapshot.goroutines.get(*index as usize)) {
            self.out.write_all(separator.as_bytes())?;
            self.goroutine(goroutine)?;
            separator = ",\n";
        }
        self.end()
    }

    /// Writes the document with these groups, one object a line. `count`, `status`, `wait_reason`, `trust` and `stack`
    /// hold for all goroutines of a group. `waiting_ms_min` and `waiting_ms_max` are of those whose age is known: all
    /// but `waiting_unknown`. `goids` are a few. `created_by` (without goid), `labels` and `waits_for` have a `count`
    /// each, the most frequent first, cut at the same number. `objects` is the number of different objects.
    pub fn groups(mut self, about: &About<'_>, groups: &[Group]) -> io::Result<()> {
        self.begin(about, "groups")?;
        let mut separator = "\n";
        for group in groups {
            self.out.write_all(separator.as_bytes())?;
            self.group(group)?;
            separator = ",\n";
        }
        self.end()
    }

    /// Writes the head without its closing brace, and the beginning of the list.
    fn begin(&mut self, about: &About<'_>, list: &str) -> io::Result<()> {
        let (began, ended) = self.snapshot.taken_ns;
        let object = about.object.and_then(|object| self.snapshot.objects.get(object as usize));
        let head = Head {
            schema: DUMP_SCHEMA,
            pid: about.pid,
            exe: about.exe,
            go_version: &self.names.binary().version().raw,
            taken_ns: ended,
            scan_ms: ended.saturating_sub(began) as f64 / 1e6,
            layout: self.names.binary().layout().source().to_string(),
            unreadable: self.snapshot.unreadable,
            incomplete: about.incomplete,
            sampled_of: self.snapshot.sampled.map(|sampled| sampled.total),
            object: object.map(|object| Waited { object, wants: None, count: 0 }),
        };
        let head = serde_json::to_string(&head)?;
        write!(self.out, "{},\"{list}\":[", head.strip_suffix('}').unwrap_or(&head))
    }

    fn end(mut self) -> io::Result<()> {
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()
    }

    fn goroutine(&mut self, goroutine: &Goroutine) -> io::Result<()> {
        let snapshot = self.snapshot;
        let waited = |wait: &Wait| {
            let object = snapshot.objects.get(wait.object as usize)?;
            Some(Waited { object, wants: Some(wait.wants), count: 0 })
        };
        let created_by = self
            .names
            .creator(goroutine)
            .map(|site| Creator { goid: goroutine.parent_goid, ..Creator::new(site) });
        let start_func = self.names.start(goroutine).map(|site| site.func);
        let stack = self.stacks.get(goroutine.stack, snapshot, self.names)?;
        let entry = Entry {
            goid: goroutine.goid,
            status: goroutine.state.to_string(),
            wait_reason: self.names.reason(goroutine),
            waiting_ms: self.names.waiting_ns(goroutine).map(|ns| ns / 1_000_000),
            trust: trust(goroutine.trust),
            tid: goroutine.tid,
            locked_to_thread: goroutine.locked,
            system: goroutine.system,
            labels: labels(snapshot, goroutine.labels),
            stack,
            created_by,
            start_func,
            waits_for: goroutine.waits.iter().filter_map(waited).collect(),
        };
        Ok(serde_json::to_writer(&mut self.out, &entry)?)
    }

    fn group(&mut self, group: &Group) -> io::Result<()> {
        let snapshot = self.snapshot;
        let Some(first) = snapshot.goroutines.get(group.first as usize) else { return Ok(()) };
        let mut created_by = Vec::new();
        for (creator, count) in &group.creators {
            let site = snapshot.goroutines.get(*creator as usize).and_then(|one| self.names.creator(one));
            created_by.extend(site.map(|site| Creator { count: *count, ..Creator::new(site) }));
        }
        let counted =
            |(set, count): &(u32, u64)| Some(LabelCount { count: *count, labels: labels(snapshot, *set)? });
        let waited = |(wait, count): &(Wait, u64)| {
            let object = snapshot.objects.get(wait.object as usize)?;
            Some(Waited { object, wants: Some(wait.wants), count: *count })
        };
        let stack = self.stacks.get(first.stack, snapshot, self.names)?;
        let entry = GroupEntry {
            count: group.count,
            status: first.state.to_string(),
            wait_reason: self.names.reason(first),
            trust: trust(first.trust),
            waiting_ms_min: group.age_ns.map(|(min, _)| min / 1_000_000),
            waiting_ms_max: group.age_ns.map(|(_, max)| max / 1_000_000),
            waiting_unknown: group.age_unknown,
            goids: &group.goids,
            stack,
            created_by,
            labels: group.labels.iter().filter_map(counted).collect(),
            objects: group.objects,
            waits_for: group.waits.iter().filter_map(waited).collect(),
        };
        Ok(serde_json::to_writer(&mut self.out, &entry)?)
    }
}

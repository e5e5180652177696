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
//! there is also `object`, as in `waits_for` without `wants`.

use super::{DUMP_SCHEMA, Group, Names, names::Line};
use crate::{
    present::{Site, is_false},
    snapshot::{Goroutine, Object, ObjectKind, Snapshot, StackId, Trust, Wait, Wants},
};
use serde::{Serialize, ser::SerializeMap};
use serde_json::value::{RawValue, to_raw_value};
use std::{
    collections::HashMap,
    io::{self, Write},
    path::Path,
    sync::Arc,
};

/// Stacks kept as JSON, in bytes; a hostile target can have any number of different ones.
const STACKS_KEPT: usize = 64 << 20;

/// Writes the document.
pub struct JsonDump<'a, W> {
    out: W,
    snapshot: &'a Snapshot,
    names: &'a mut Names,
    stacks: Stacks,
}

/// What stands before the goroutines.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<Waited<'a>>,
}

/// What the document says about itself.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The process, in our PID namespace.
    pub pid: Option<u32>,
    /// Its executable, as it sees it.
    pub exe: &'a Path,
    /// Why goroutines are missing.
    pub incomplete: Option<&'a str>,
    /// The object that `--object` asked for.
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

#[derive(Serialize)]
struct LineEntry<'a> {
    func: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    file: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    line: u32,
    #[serde(skip_serializing_if = "is_false")]
    inlined: bool,
}

#[derive(Serialize)]
struct Creator {
    func: Arc<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    file: Arc<str>,
    #[serde(skip_serializing_if = "is_zero")]
    line: u32,
    #[serde(skip_serializing_if = "is_zero")]
    goid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    count: u64,
}

impl Creator {
    fn new(site: Site) -> Creator {
        Creator { func: site.func, file: site.file, line: site.line, goid: 0, count: 0 }
    }
}

/// Pairs as an object.
struct Labels<'a>(&'a [(String, String)]);

impl Serialize for Labels<'_> {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// An object, and what is wanted of it.
struct Waited<'a> {
    object: &'a Object,
    wants: Option<Wants>,
    /// How many goroutines of a group want that.
    count: u64,
}

impl Serialize for Waited<'_> {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        map.serialize_entry("kind", kind(&self.object.kind))?;
        map.serialize_entry("address", &format_args!("{:#x}", self.object.addr))?;
        if let Some(wants) = self.wants {
            map.serialize_entry("wants", word(wants))?;
        }
        if self.count > 0 {
            map.serialize_entry("count", &self.count)?;
        }
        match &self.object.kind {
            ObjectKind::Channel { len, cap, closed, timer, element_size, receivers, senders } => {
                map.serialize_entry("len", len)?;
                map.serialize_entry("cap", cap)?;
                map.serialize_entry("closed", closed)?;
                if *timer {
                    map.serialize_entry("timer", timer)?;
                }
                map.serialize_entry("element_size", element_size)?;
                map.serialize_entry("receivers", receivers)?;
                map.serialize_entry("senders", senders)?;
                return map.end();
            }
            ObjectKind::Mutex { locked } => map.serialize_entry("locked", locked)?,
            ObjectKind::RwMutex { writer, readers } => {
                map.serialize_entry("writer", writer)?;
                map.serialize_entry("readers", readers)?;
            }
            ObjectKind::WaitGroup { counter } => map.serialize_entry("counter", counter)?,
            ObjectKind::Cond | ObjectKind::Semaphore => {}
        }
        map.serialize_entry("waiters", &self.object.waiters.len())?;
        map.end()
    }
}

fn kind(kind: &ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Channel { .. } => "chan",
        ObjectKind::Mutex { .. } => "mutex",
        ObjectKind::RwMutex { .. } => "rwmutex",
        ObjectKind::WaitGroup { .. } => "waitgroup",
        ObjectKind::Cond => "cond",
        ObjectKind::Semaphore => "semaphore",
    }
}

fn word(wants: Wants) -> &'static str {
    match wants {
        Wants::Receive => "receive",
        Wants::Send => "send",
        Wants::Lock => "lock",
        Wants::RLock => "rlock",
        Wants::Wake => "wake",
        Wants::Unknown => "unknown",
    }
}

fn trust(trust: Trust) -> &'static str {
    match trust {
        Trust::Still => "still",
        Trust::InMotion => "in motion",
        Trust::Running => "running",
        Trust::Broken => "broken",
    }
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
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
    /// Into `out`, best a buffered one.
    pub fn new(out: W, snapshot: &'a Snapshot, names: &'a mut Names) -> Self {
        JsonDump { out, snapshot, names, stacks: Stacks::default() }
    }

    /// The document with these goroutines, an object a line.
    ///
    /// # Errors
    /// Those of the writer.
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

    /// The document with these groups, an object a line: `count`, `status`, `wait_reason`, `trust` and `stack` hold for
    /// all goroutines of a group; `waiting_ms_min` and `waiting_ms_max` for those whose age is known, all but
    /// `waiting_unknown`; `goids` are a few of theirs; `created_by` (without goid), `labels` and `waits_for` have a
    /// `count` each, the most frequent first, and are cut short at the same number; `objects` says how many different ones there are.
    ///
    /// # Errors
    /// Those of the writer.
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

    /// The head without its closing brace, and the beginning of the list.
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

fn labels(snapshot: &Snapshot, set: u32) -> Option<Labels<'_>> {
    snapshot.labels.get(set.checked_sub(1)? as usize).map(|labels| Labels(labels))
}

/// Stacks as JSON, each made once.
#[derive(Default)]
struct Stacks {
    kept: HashMap<StackId, Box<RawValue>>,
    bytes: usize,
}

impl Stacks {
    fn get(&mut self, id: StackId, snapshot: &Snapshot, names: &mut Names) -> io::Result<&RawValue> {
        if self.bytes > STACKS_KEPT {
            *self = Stacks::default();
        }
        match self.kept.entry(id) {
            std::collections::hash_map::Entry::Occupied(known) => Ok(known.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let shown = names.stack(snapshot.stacks.get(id));
                let lines: Vec<LineEntry<'_>> = shown.iter().map(entry).collect();
                let made = to_raw_value(&lines)?;
                self.bytes += made.get().len();
                Ok(place.insert(made))
            }
        }
    }
}

fn entry(line: &Line) -> LineEntry<'_> {
    let Site { func, file, line: number } = &line.site;
    LineEntry { func, file, line: *number, inlined: line.inlined }
}

//! Parts that JSON documents share: places in the source, stacks, objects, labels.

use crate::output::is_false;
use serde::{Serialize, ser::SerializeMap};
use serde_json::value::{RawValue, to_raw_value};
use sfgi_core::{
    names::{Names, Site, StackLine},
    snapshot::{Object, ObjectKind, Snapshot, StackId, Wants},
};
use std::{collections::HashMap, io, sync::Arc};

/// Bytes of stacks kept as JSON; above that all are made anew. A hostile target can have any number of stacks.
const STACKS_KEPT: usize = 64 << 20;

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
pub(in crate::output) struct Creator {
    pub(in crate::output) func: Arc<str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(in crate::output) file: Arc<str>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(in crate::output) line: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub(in crate::output) goid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(in crate::output) count: u64,
}

impl Creator {
    pub(in crate::output) fn new(site: Site) -> Creator {
        Creator { func: site.func, file: site.file, line: site.line, goid: 0, count: 0 }
    }
}

/// Labels as a JSON object.
pub(in crate::output) struct Labels<'a>(pub(in crate::output) &'a [(String, String)]);

impl Serialize for Labels<'_> {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// An object as JSON, with what a goroutine wants of it.
pub(in crate::output) struct Waited<'a> {
    pub(in crate::output) object: &'a Object,
    pub(in crate::output) wants: Option<Wants>,
    /// Goroutines of a group that want this; 0: not a group.
    pub(in crate::output) count: u64,
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
            ObjectKind::RwMutex { writer, readers, reading } => {
                map.serialize_entry("writer", writer)?;
                map.serialize_entry("readers", readers)?;
                map.serialize_entry("reading", reading)?;
            }
            ObjectKind::WaitGroup { counter } => map.serialize_entry("counter", counter)?,
            ObjectKind::Cond | ObjectKind::Semaphore => {}
        }
        map.serialize_entry("waiters", &self.object.waiters.len())?;
        map.end()
    }
}

pub(in crate::output) fn kind(kind: &ObjectKind) -> &'static str {
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

pub(in crate::output) fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

pub(in crate::output) fn labels(snapshot: &Snapshot, set: u32) -> Option<Labels<'_>> {
    snapshot.labels.get(set.checked_sub(1)? as usize).map(|labels| Labels(labels))
}

/// Stacks as JSON, made once each: many goroutines share a stack.
#[derive(Default)]
pub(in crate::output) struct Stacks {
    kept: HashMap<StackId, Box<RawValue>>,
    bytes: usize,
}

impl Stacks {
    pub(in crate::output) fn get(
        &mut self,
        id: StackId,
        snapshot: &Snapshot,
        names: &mut Names,
    ) -> io::Result<&RawValue> {
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

fn entry(line: &StackLine) -> LineEntry<'_> {
    let Site { func, file, line: number } = &line.site;
    LineEntry { func, file, line: *number, inlined: line.inlined }
}

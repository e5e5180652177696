//! JSON lines, schema `sfgi.trace/1`: one object for each event.

use super::{DeadlockLine, Did, SCHEMA, Sink, is_false};
use serde::{Serialize, Serializer};
use sfgi_core::leaks::TurnJson;
use sfgi_core::names::{Line, Report, Site};
use sfgi_core::{
    goruntime::State,
    model::{Measure, Merged},
};
use std::io::{self, Write};

/// The [`Sink`] of `--format json`.
pub struct Json<W> {
    out: W,
}

impl<W: Write> Json<W> {
    pub fn new(out: W) -> Self {
        Json { out }
    }

    fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, object).map_err(io::Error::from)?;
        self.out.write_all(b"\n")
    }
}

/// The summary as one more object of the stream.
#[derive(Serialize)]
struct Summed<'a> {
    schema: &'static str,
    event: &'static str,
    #[serde(flatten)]
    report: &'a Report,
}

#[derive(Serialize)]
struct Object<'a> {
    schema: &'static str,
    ts_ns: u64,
    pid: u32,
    goid: Option<u64>,
    event: &'static str,
    tid: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "state")]
    from: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "state")]
    to: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_goid: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ns: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    at_least: bool,
    #[serde(skip_serializing_if = "is_false")]
    about: bool,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "address")]
    object: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    func: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_func: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<&'a Site>,
    #[serde(skip_serializing_if = "<[Site]>::is_empty")]
    stack: &'a [Site],
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

fn state<S: Serializer>(state: &Option<State>, out: S) -> Result<S::Ok, S::Error> {
    match state {
        Some(state) => out.collect_str(state),
        None => out.serialize_none(),
    }
}

/// An address as all documents have it.
fn address<S: Serializer>(addr: &Option<u64>, out: S) -> Result<S::Ok, S::Error> {
    match addr {
        Some(addr) => out.collect_str(&format_args!("{addr:#x}")),
        None => out.serialize_none(),
    }
}

#[derive(Serialize)]
struct Lost {
    schema: &'static str,
    event: &'static str,
    ts_ns: u64,
    pid: u32,
    count: u64,
}

#[derive(Serialize)]
struct Resync {
    schema: &'static str,
    event: &'static str,
    ts_ns: u64,
    pid: u32,
    seen: u64,
    new: u64,
    corrected: u64,
    ended: u64,
}

#[derive(Serialize)]
struct DeadlockObject<'a> {
    schema: &'static str,
    event: &'static str,
    ts_ns: u64,
    pid: u32,
    /// When the last member began to wait; absent: before the trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ts_ns: Option<u64>,
    class: &'a str,
    title: &'a str,
    /// Not every wait is known for certain.
    inferred: bool,
    members: Vec<MemberObject<'a>>,
}

#[derive(Serialize)]
struct MemberObject<'a> {
    #[serde(flatten)]
    wait: TurnJson<'a>,
    evidence: String,
    /// What it did last, the oldest first.
    last: Vec<Doing>,
}

#[derive(Serialize)]
struct Doing {
    ts_ns: u64,
    event: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Site>,
}

impl<W: Write> Sink for Json<W> {
    fn begin(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        let step = line.step;
        let (from, to) = line.states();
        let site = line.site.as_ref();
        self.object(&Object {
            schema: SCHEMA,
            ts_ns: step.ts,
            pid: line.pid,
            // 0 is no goroutine: a context switch or a collection. JSON says null.
            goid: (step.goid != 0).then_some(step.goid),
            event: step.what.name(),
            tid: step.tid,
            reason: line.reason,
            from,
            to,
            by_goid: (step.by_goid != 0).then_some(step.by_goid),
            duration_ns: step.duration_ns,
            at_least: step.measure == Measure::AtLeast,
            about: step.measure == Measure::About,
            object: line.object,
            func: site.map(|site| &*site.func),
            file: site.map(|site| &*site.file),
            line: site.map(|site| site.line),
            start_func: line.function.as_ref().map(|site| &*site.func),
            created_by: line.creator.as_ref(),
            stack: &line.stack,
            note: step.note.to_string(),
        })
    }

    fn lost(&mut self, pid: u32, count: u64, ts: u64) -> io::Result<()> {
        self.object(&Lost { schema: SCHEMA, event: "lost", ts_ns: ts, pid, count })
    }

    fn resync(&mut self, pid: u32, merged: &Merged, ts: u64) -> io::Result<()> {
        let &Merged { seen, new, corrected, ended } = merged;
        self.object(&Resync { schema: SCHEMA, event: "resync", ts_ns: ts, pid, seen, new, corrected, ended })
    }

    fn deadlock(&mut self, line: &DeadlockLine<'_>) -> io::Result<()> {
        let did = |did: &'_ Did| Doing {
            ts_ns: did.step.ts,
            event: did.step.what.name(),
            reason: did.reason.clone(),
            duration_ns: did.step.duration_ns,
            at: did.site.clone(),
        };
        let members = line.deadlock.members.iter().zip(&line.last);
        self.object(&DeadlockObject {
            schema: SCHEMA,
            event: "deadlock",
            ts_ns: line.deadlock.found_ts,
            pid: line.pid,
            since_ts_ns: line.deadlock.since_ts,
            class: &line.deadlock.class,
            title: &line.deadlock.title,
            inferred: line.deadlock.members.iter().any(|member| member.turn.sign.is_hint()),
            members: members
                .map(|(member, last)| MemberObject {
                    wait: TurnJson::of(&member.turn),
                    evidence: member.turn.sentence(),
                    last: last.iter().map(did).collect(),
                })
                .collect(),
        })
    }

    fn summary(&mut self, report: &Report) -> io::Result<()> {
        self.object(&Summed { schema: SCHEMA, event: "summary", report })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

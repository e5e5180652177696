//! The summary of a trace: the model's tables with their names, largest first.

use super::{Site, Symbols};
use crate::goruntime::WaitReasons;
use crate::model::{Creation, Summary, Table, Times};
use serde::Serialize;
use std::{collections::HashMap, hash::Hash};

/// A summary with its names, ready to be written.
#[derive(Serialize)]
pub struct Report {
    pub pid: u32,
    pub illegal: u64,
    pub lost_events: u64,
    pub wait_reasons: Vec<WaitRow>,
    pub wait_sites: Vec<WaitRow>,
    pub syscall_sites: Vec<WaitRow>,
    pub creation_sites: Vec<CreationRow>,
}

/// Waits of one kind or at one place.
#[derive(Serialize)]
pub struct WaitRow {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub func: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Ended, with a known beginning: what the times are made of.
    pub count: u64,
    pub total_ns: u64,
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub max_ns: u64,
    /// Ended, with an unknown beginning.
    pub unmeasured: u64,
    /// Not ended when the trace did.
    pub open: u64,
    pub open_longest_ns: u64,
}

#[derive(Serialize)]
pub struct CreationRow {
    pub func: String,
    pub file: String,
    pub line: u32,
    pub start_func: String,
    pub created: u64,
    pub exited: u64,
    pub alive: u64,
}

impl Report {
    /// Resolves the names of a closed [`Summary`]. Stacks that wait at the same place become one row.
    pub fn new(
        pid: u32,
        summary: &Summary,
        lost_events: u64,
        reasons: &WaitReasons,
        symbols: &mut Symbols,
    ) -> Report {
        let reason = |number: u8| match reasons.text(number) {
            "" => format!("wait reason {number}"),
            text => text.to_owned(),
        };
        let by_reason = gather(&summary.reasons, |index| (reason(*index), None));
        let by_site =
            gather(&summary.wait_sites, |site| (reason(site.reason), symbols.wait_site(site.stack)));
        let by_syscall = gather(&summary.syscall_sites, |stack| (String::new(), symbols.wait_site(*stack)));
        Report {
            pid,
            illegal: summary.illegal,
            lost_events,
            wait_reasons: wait_rows(by_reason, &summary.reasons),
            wait_sites: wait_rows(by_site, &summary.wait_sites),
            syscall_sites: wait_rows(by_syscall, &summary.syscall_sites),
            creation_sites: creation_rows(&summary.creations, symbols),
        }
    }
}

/// Adds up the rows whose keys have the same name.
fn gather<K: Eq + Hash, N: Eq + Hash>(
    table: &Table<K, Times>,
    mut name: impl FnMut(&K) -> N,
) -> HashMap<N, Times> {
    let mut named: HashMap<N, Times> = HashMap::new();
    for (key, times) in table.iter() {
        named.entry(name(key)).or_default().merge(times);
    }
    named
}

fn wait_rows<K: Eq + Hash>(
    named: HashMap<(String, Option<Site>), Times>,
    table: &Table<K, Times>,
) -> Vec<WaitRow> {
    let mut rows: Vec<WaitRow> =
        named.iter().map(|((reason, site), times)| wait_row(reason.clone(), site.as_ref(), times)).collect();
    if table.merged > 0 {
        rows.push(wait_row("(everything else)".into(), None, &table.other));
    }
    rows.sort_by(|a, b| {
        (b.total_ns, b.open_longest_ns, &a.reason, &a.func).cmp(&(
            a.total_ns,
            a.open_longest_ns,
            &b.reason,
            &b.func,
        ))
    });
    rows
}

fn wait_row(reason: String, site: Option<&Site>, times: &Times) -> WaitRow {
    WaitRow {
        reason,
        func: site.map(|site| site.func.to_string()),
        file: site.map(|site| site.file.to_string()),
        line: site.map(|site| site.line),
        count: times.ended.count(),
        total_ns: times.ended.total(),
        p50_ns: times.ended.quantile(500),
        p99_ns: times.ended.quantile(990),
        max_ns: times.ended.max(),
        unmeasured: times.unmeasured,
        open: times.open,
        open_longest_ns: times.open_longest_ns,
    }
}

fn creation_rows(table: &Table<u64, Creation>, symbols: &mut Symbols) -> Vec<CreationRow> {
    let mut row = |gopc: u64, creation: &Creation| {
        let (site, start) = (symbols.go_statement(gopc), symbols.function(creation.startpc));
        let unknown = || Site { func: format!("{gopc:#x}").into(), file: "".into(), line: 0 };
        let site = site.unwrap_or_else(unknown);
        CreationRow {
            func: site.func.to_string(),
            file: site.file.to_string(),
            line: site.line,
            start_func: start
                .map_or_else(|| format!("{:#x}", creation.startpc), |start| start.func.to_string()),
            created: creation.created,
            exited: creation.exited,
            alive: creation.alive(),
        }
    };
    let mut rows: Vec<CreationRow> = table.iter().map(|(gopc, creation)| row(*gopc, creation)).collect();
    rows.sort_by(|a, b| (b.alive, b.created, &a.func, a.line).cmp(&(a.alive, a.created, &b.func, b.line)));
    if table.merged > 0 {
        let mut other = row(0, &table.other);
        other.func = "(everything else)".into();
        rows.push(other);
    }
    rows
}

//! The summary of a trace (`-c`): the model's tables with their names, largest first.

use super::{SCHEMA, Site, Symbols, duration};
use crate::model::{Creation, Summary, Table, Times};
use serde::Serialize;
use std::{
    collections::HashMap,
    hash::Hash,
    io::{self, Write},
};

/// A summary with its names, ready to be written.
#[derive(Serialize)]
pub struct Report {
    schema: &'static str,
    event: &'static str,
    pid: u32,
    illegal: u64,
    lost_events: u64,
    wait_reasons: Vec<WaitRow>,
    wait_sites: Vec<WaitRow>,
    syscall_sites: Vec<WaitRow>,
    creation_sites: Vec<CreationRow>,
}

/// Waits of one kind or at one place.
#[derive(Serialize)]
struct WaitRow {
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    func: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    /// Ended, with a known beginning: what the times are made of.
    count: u64,
    total_ns: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
    /// Ended, with an unknown beginning.
    unmeasured: u64,
    /// Not ended when the trace did.
    open: u64,
    open_longest_ns: u64,
}

#[derive(Serialize)]
struct CreationRow {
    func: String,
    file: String,
    line: u32,
    start_func: String,
    created: u64,
    exited: u64,
    alive: u64,
}

/// Rows of each table in text; JSON has all.
const TEXT_ROWS: usize = 40;

impl Report {
    /// Resolves the names of a closed [`Summary`]. Stacks that come to the same place are one row.
    pub fn new(
        pid: u32,
        summary: &Summary,
        lost_events: u64,
        reasons: &[String],
        symbols: &mut Symbols,
    ) -> Report {
        let reason = |index: u8| reasons.get(usize::from(index)).filter(|name| !name.is_empty());
        let reason = |index: u8| reason(index).cloned().unwrap_or_else(|| format!("wait reason {index}"));
        let by_reason = gather(&summary.reasons, |index| (reason(*index), None));
        let by_site =
            gather(&summary.wait_sites, |site| (reason(site.reason), symbols.wait_site(site.stack)));
        let by_syscall = gather(&summary.syscall_sites, |stack| (String::new(), symbols.wait_site(*stack)));
        Report {
            schema: SCHEMA,
            event: "summary",
            pid,
            illegal: summary.illegal,
            lost_events,
            wait_reasons: wait_rows(by_reason, &summary.reasons),
            wait_sites: wait_rows(by_site, &summary.wait_sites),
            syscall_sites: wait_rows(by_syscall, &summary.syscall_sites),
            creation_sites: creation_rows(&summary.creations, symbols),
        }
    }

    /// As tables.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "PID {}: {} illegal transitions, {} events lost",
            self.pid, self.illegal, self.lost_events
        )?;
        write_waits(out, "WAITS BY REASON", &self.wait_reasons)?;
        write_waits(out, "WAITS BY SITE", &self.wait_sites)?;
        write_waits(out, "SYSTEM AND C CALLS BY SITE", &self.syscall_sites)?;
        if self.creation_sites.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n{:>9} {:>9} {:>9}  GO STATEMENTS", "CREATED", "EXITED", "ALIVE")?;
        for row in self.creation_sites.iter().take(TEXT_ROWS) {
            let CreationRow { func, file, line, start_func, created, exited, alive } = row;
            let file = file.rsplit('/').next().unwrap_or_default();
            writeln!(out, "{created:>9} {exited:>9} {alive:>9}  {func}  {file}:{line}  go {start_func}")?;
        }
        more(out, self.creation_sites.len())
    }
}

fn write_waits(out: &mut impl Write, title: &str, rows: &[WaitRow]) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n{:>9} {:>9} {:>9} {:>9} {:>9} {:>7} {:>9}  {title}",
        "COUNT", "TOTAL", "P50", "P99", "MAX", "OPEN", "LONGEST"
    )?;
    for row in rows.iter().take(TEXT_ROWS) {
        let time = |ns| if row.count == 0 { "-".to_owned() } else { duration(ns) };
        let longest = if row.open == 0 { "-".to_owned() } else { duration(row.open_longest_ns) };
        let (total, p50, p99, max) =
            (time(row.total_ns), time(row.p50_ns), time(row.p99_ns), time(row.max_ns));
        let place = match (&row.func, &row.file, row.line) {
            (Some(func), Some(file), Some(line)) => {
                format!("{func}  {}:{line}", file.rsplit('/').next().unwrap_or_default())
            }
            _ => String::new(),
        };
        let reason = if place.is_empty() { row.reason.clone() } else { format!("{:<22}", row.reason) };
        let (count, open) = (row.count, row.open);
        write!(
            out,
            "{count:>9} {total:>9} {p50:>9} {p99:>9} {max:>9} {open:>7} {longest:>9}  {reason} {place}"
        )?;
        if row.unmeasured > 0 {
            write!(out, "  (+{} whose beginning was not seen)", row.unmeasured)?;
        }
        writeln!(out)?;
    }
    more(out, rows.len())
}

fn more(out: &mut impl Write, rows: usize) -> io::Result<()> {
    match rows.saturating_sub(TEXT_ROWS) {
        0 => Ok(()),
        more => writeln!(out, "          … and {more} rows more (--format json has them)"),
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

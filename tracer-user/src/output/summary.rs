//! The summary of a trace (`-c`) as tables of text.

use super::{clean, duration};
use sfgi_core::names::{CreationRow, Report, WaitRow};
use std::io::{self, Write};

/// Rows of each table in text. JSON has all.
const TEXT_ROWS: usize = 40;

pub(super) fn write_text(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "PID {}: {} illegal transitions, {} events lost",
        report.pid, report.illegal, report.lost_events
    )?;
    write_waits(out, "WAITS BY REASON", &report.wait_reasons)?;
    write_waits(out, "WAITS BY SITE", &report.wait_sites)?;
    write_waits(out, "SYSTEM AND C CALLS BY SITE", &report.syscall_sites)?;
    if report.creation_sites.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n{:>9} {:>9} {:>9}  GO STATEMENTS", "CREATED", "EXITED", "ALIVE")?;
    for row in report.creation_sites.iter().take(TEXT_ROWS) {
        let CreationRow { func, file, line, start_func, created, exited, alive } = row;
        let (func, file) = (clean(func), clean(file.rsplit('/').next().unwrap_or_default()));
        let start_func = clean(start_func);
        writeln!(out, "{created:>9} {exited:>9} {alive:>9}  {func}  {file}:{line}  go {start_func}")?;
    }
    more(out, report.creation_sites.len())
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
                format!("{}  {}:{line}", clean(func), clean(file.rsplit('/').next().unwrap_or_default()))
            }
            _ => String::new(),
        };
        let reason = clean(&row.reason);
        let reason = if place.is_empty() { reason.into_owned() } else { format!("{reason:<22}") };
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

//! Events as text, one aligned line for each.

use super::{DeadlockLine, Sink, clean, cleaned, duration, summary};
use sfgi_core::model::{Measure, Merged, What};
use sfgi_core::names::{Line, Report, Site};
use std::io::{self, Write};

/// The [`Sink`] of `--format text`.
pub struct Text<W> {
    out: W,
    start_ts: u64,
    colour: bool,
    several: bool,
}

impl<W: Write> Text<W> {
    /// `start_ts` is the zero of the TIME column, `CLOCK_MONOTONIC` nanoseconds. With `several` processes each line
    /// names its own. `colour` is for a terminal only.
    pub fn new(out: W, start_ts: u64, several: bool, colour: bool) -> Self {
        Text { out, start_ts, colour, several }
    }

    fn pid_column(&self, pid: u32) -> String {
        if self.several { format!("{pid:>8} ") } else { String::new() }
    }

    /// SGR codes around a line. Illegal transitions stand out; births and deaths are easy to find.
    fn paint(&self, what: What) -> (&'static str, &'static str) {
        match what {
            What::Illegal if self.colour => ("\x1b[1;31m", "\x1b[0m"),
            What::Create | What::Exit if self.colour => ("\x1b[32m", "\x1b[0m"),
            _ => ("", ""),
        }
    }
}

impl<W: Write> Sink for Text<W> {
    fn begin(&mut self) -> io::Result<()> {
        let pid = if self.several { format!("{:>8} ", "PID") } else { String::new() };
        writeln!(
            self.out,
            "{:>12} {pid}{:>8} {:>8}  {:<9} {:>9}  {:<28} WHERE",
            "TIME", "THREAD", "GOROUTINE", "EVENT", "DURATION", "REASON"
        )
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        let step = line.step;
        let seconds = step.ts.saturating_sub(self.start_ts) as f64 / 1e9;
        let pid = self.pid_column(line.pid);
        let goroutine = match step.goid {
            0 => "-".to_owned(),
            goid => format!("g{goid}"),
        };
        let sign = match step.measure {
            Measure::Exact => "",
            Measure::AtLeast => "≥",
            Measure::About => "~",
        };
        let took = step.duration_ns.map(|ns| format!("{sign}{}", duration(ns))).unwrap_or_default();
        let (on, off) = self.paint(step.what);
        let (event, detail) = (word(step.what), cleaned(detail(line)));
        let mut site = line.site.as_ref().map(place).unwrap_or_default();
        if let Some(creator) = &line.creator {
            site += &format!(", made by {}{}", place(creator), by(step.by_goid));
        }
        writeln!(
            self.out,
            "{on}{seconds:>12.6} {pid}{:>8} {goroutine:>9}  {event:<9} {took:>9}  {detail:<28} {site}{off}",
            step.tid
        )?;
        line.stack.iter().try_for_each(|site| writeln!(self.out, "{:>33}{}", "", place(site)))
    }

    fn lost(&mut self, pid: u32, count: u64, ts: u64) -> io::Result<()> {
        let seconds = ts.saturating_sub(self.start_ts) as f64 / 1e9;
        let pid = self.pid_column(pid);
        writeln!(self.out, "{seconds:>12.6} {pid}{:>8} {:>9}  LOST {count} events", "-", "-")
    }

    fn resync(&mut self, pid: u32, merged: &Merged, ts: u64) -> io::Result<()> {
        let seconds = ts.saturating_sub(self.start_ts) as f64 / 1e9;
        let pid = self.pid_column(pid);
        let Merged { seen, corrected, new, ended } = merged;
        writeln!(
            self.out,
            "{seconds:>12.6} {pid}{:>8} {:>9}  RESYNC from a snapshot of {seen} goroutines: {new} were not \
             known, {corrected} in another state, {ended} had ended",
            "-", "-"
        )
    }

    fn deadlock(&mut self, line: &DeadlockLine<'_>) -> io::Result<()> {
        let DeadlockLine { pid, deadlock, last } = line;
        let since = |ts: u64| ts.saturating_sub(self.start_ts) as f64 / 1e9;
        let pid = self.pid_column(*pid);
        let (on, off) = self.paint(What::Illegal);
        let known = deadlock.since_ts.map_or_else(
            || "from before the trace".to_owned(),
            |ts| format!("told {} after its last step", duration(deadlock.found_ts.saturating_sub(ts))),
        );
        let sure = deadlock.members.iter().all(|member| !member.turn.sign.is_hint());
        writeln!(
            self.out,
            "{on}{:>12.6} {pid}{:>8} {:>9}  DEADLOCK {}: {}{} ({known}){off}",
            since(deadlock.since_ts.unwrap_or(deadlock.found_ts)),
            "-",
            "-",
            deadlock.class,
            if sure { "" } else { "perhaps: " },
            cleaned(deadlock.title.trim_start_matches("deadlock: ").to_owned())
        )?;
        for (member, last) in deadlock.members.iter().zip(last) {
            writeln!(self.out, "{:>33}{}", "", cleaned(member.turn.sentence()))?;
            for did in last {
                let site = did.site.as_ref().map(place).unwrap_or_default();
                let (at, event, reason) = (since(did.step.ts), word(did.step.what), clean(&did.reason));
                writeln!(self.out, "{:>35}{at:>12.6}  {event:<9}  {reason:<20} {site}", "")?;
            }
        }
        Ok(())
    }

    fn summary(&mut self, report: &Report) -> io::Result<()> {
        summary::write_text(report, &mut self.out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The event column. The arrow says whether a system call begins or ends.
fn word(what: What) -> &'static str {
    match what {
        What::SyscallEnter => "syscall →",
        What::SyscallExit => "syscall ←",
        What::GcStart => "gc start",
        What::GcEnd => "gc end",
        What::ThreadOff => "off cpu",
        What::ThreadOn => "on cpu",
        What::ThreadWake => "cpu wake",
        What::Illegal => "ILLEGAL",
        other => other.name(),
    }
}

/// The reason column: why the goroutine waits, who woke it, what it runs, or what is illegal.
fn detail(line: &Line<'_>) -> String {
    let step = line.step;
    match step.what {
        What::Create => {
            let function = line.function.as_ref().map_or("?", |site| &*site.func);
            format!("{function}{}", by(step.by_goid))
        }
        What::Unblock => format!("{}{}", line.reason, by(step.by_goid)),
        What::Found => format!("{} {}", step.to, line.reason),
        What::Illegal => {
            format!("{} → {}: {}", step.from, step.to, step.note)
        }
        _ => line.reason.to_owned(),
    }
}

fn by(goid: u64) -> String {
    if goid == 0 { String::new() } else { format!(" by g{goid}") }
}

/// A place without the file's directory: `main.worker  worker.go:33`.
fn place(site: &Site) -> String {
    let (func, file) = (clean(&site.func), clean(site.file.rsplit('/').next().unwrap_or_default()));
    if file.is_empty() { func.into_owned() } else { format!("{func}  {file}:{}", site.line) }
}

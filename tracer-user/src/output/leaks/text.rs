//! Text: a heading a group, what is known of it, one of its stacks as a traceback has it; a summary at the end.

use super::{Found, changes::Difference, objects::awaited};
use crate::output::{
    Traceback, bytes, count,
    dump::{
        Names,
        object::{in_words, verb},
    },
    traceback::{clean, printed},
};
use sfgi_core::{
    clock::duration,
    detect::{Group, Lookup as _, Verdict},
    heap::{DeadSet, Edge},
    snapshot::{Goroutine, Snapshot},
};
use std::io::{self, Write};

/// Goroutines of a group that are named, and edges of a set.
const NAMED: usize = 10;

/// Writes reports.
pub struct LeakText<'a, W> {
    out: W,
    found: &'a Found<'a>,
    names: &'a mut Names,
    colour: bool,
}

impl<'a, W: Write> LeakText<'a, W> {
    /// Into `out`; `colour` only for a terminal.
    pub fn new(out: W, found: &'a Found<'a>, names: &'a mut Names, colour: bool) -> Self {
        LeakText { out, found, names, colour }
    }

    /// All groups and the summary.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(mut self) -> io::Result<()> {
        for (index, group) in self.found.report.groups.iter().enumerate() {
            self.group(index, group)?;
        }
        writeln!(self.out, "{}", summary(self.found))?;
        self.out.flush()
    }

    /// The groups that are new, what else has changed since the last report, and the summary.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_changes(mut self, difference: &Difference) -> io::Result<()> {
        let groups = self.found.report.groups.iter().enumerate().zip(&difference.new);
        for ((index, group), _) in groups.filter(|(_, new)| **new) {
            self.group(index, group)?;
        }
        for line in &difference.lines {
            writeln!(self.out, "{line}")?;
        }
        writeln!(self.out, "{}\n", summary(self.found))?;
        self.out.flush()
    }

    fn group(&mut self, index: usize, group: &Group) -> io::Result<()> {
        let snapshot = &self.found.observed.snapshot;
        let first = group.members.first().and_then(|first| snapshot.goroutines.get(*first as usize));
        self.heading(group, first)?;
        let pinned = match self.found.pinned_by(index) {
            0 => String::new(),
            pinned => format!(" · pins about {} of heap", bytes(pinned)),
        };
        writeln!(self.out, "  {}{pinned}", group.title())?;
        self.goids(group)?;
        self.object(group)?;
        for sentence in &group.evidence {
            writeln!(self.out, "  - {}", clean(sentence))?;
        }
        self.set(group)?;
        writeln!(self.out, "  fix: {}", clean(&group.rule.fix))?;
        if let Some(first) = first {
            self.stack(snapshot, first)?;
        }
        writeln!(self.out)
    }

    fn heading(&mut self, group: &Group, first: Option<&Goroutine>) -> io::Result<()> {
        let (on, off) = match group.verdict {
            _ if !self.colour => ("", ""),
            Verdict::Proven => ("\x1b[1;31m", "\x1b[0m"),
            Verdict::Likely => ("\x1b[1;33m", "\x1b[0m"),
            Verdict::Suspect => ("\x1b[1m", "\x1b[0m"),
        };
        write!(self.out, "{on}{} × {} {}{off}", count(group.count), group.verdict, group.rule.class)?;
        let release = self.names.binary().version().release;
        let snapshot = &self.found.observed.snapshot;
        let site = first.and_then(|first| Names::wait_site(self.names, snapshot.stacks.get(first.stack)));
        if let Some(site) = site {
            write!(self.out, "  {}", printed(&site.func, release))?;
        }
        if let Some(timers) = group.timers.and_then(|timers| self.found.observed.timers.get(timers as usize))
        {
            let function = self.names.function(timers.func);
            write!(
                self.out,
                "  {}",
                function.map_or_else(|| "?".to_owned(), |name| printed(&name, release))
            )?;
        }
        if let Some(creator) = first.and_then(|first| self.creator(first)) {
            write!(self.out, "  created by {creator}")?;
        }
        writeln!(self.out)
    }

    /// `main.serve+0x1c`.
    fn creator(&mut self, goroutine: &Goroutine) -> Option<String> {
        if goroutine.goid == 1 || goroutine.gopc == 0 {
            return None;
        }
        let binary = self.names.binary();
        let pc = goroutine.gopc.wrapping_sub(self.names.bias());
        let function = binary.functions().function_at(pc)?;
        Some(format!("{}+{:#x}", printed(function.name, binary.version().release), pc - function.entry))
    }

    fn goids(&mut self, group: &Group) -> io::Result<()> {
        let snapshot = &self.found.observed.snapshot;
        let goroutine = |index: &u32| snapshot.goroutines.get(*index as usize);
        let named: Vec<String> =
            group.members.iter().take(NAMED).filter_map(goroutine).map(|one| one.goid.to_string()).collect();
        let more = match group.members.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {} more", count(more as u64)),
        };
        match named.len() {
            0 => Ok(()),
            1 => writeln!(self.out, "  goroutine {}", named.join("")),
            _ => writeln!(self.out, "  goroutines {}{more}", named.join(", ")),
        }
    }

    fn object(&mut self, group: &Group) -> io::Result<()> {
        let Some(awaited) = awaited(&self.found.observed.snapshot, group) else { return Ok(()) };
        let more = match (awaited.different, awaited.cases) {
            (1, _) => String::new(),
            (_, 1) => format!("; they wait for {} of that kind", count(awaited.different as u64)),
            (different, cases) => format!("; {cases} cases, {} objects in all", count(different as u64)),
        };
        writeln!(self.out, "  waits {} {}{more}", verb(awaited.wait.wants), in_words(awaited.object))
    }

    /// Who waits for whom.
    fn set(&mut self, group: &Group) -> io::Result<()> {
        let observed = self.found.observed;
        let first = group.members.first().and_then(|first| observed.facts.get(*first as usize));
        let Some(set) = first.and_then(|facts| observed.sets.get(facts.set? as usize)) else { return Ok(()) };
        for edge in set.edges.iter().take(NAMED) {
            if let Some(sentence) = edge_in_words(&observed.snapshot, edge) {
                writeln!(self.out, "    {sentence}")?;
            }
        }
        let DeadSet { edges, .. } = set;
        match edges.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => writeln!(self.out, "    and {} more waits", count(more as u64)),
        }
    }

    /// One stack, indented.
    fn stack(&mut self, snapshot: &Snapshot, first: &Goroutine) -> io::Result<()> {
        let binary = self.names.shared_binary();
        let mut text = Vec::new();
        Traceback::new(&binary, self.names.bias(), snapshot, snapshot.taken_ns.1).write(&mut text, first)?;
        for line in String::from_utf8_lossy(&text).lines() {
            writeln!(self.out, "    {line}")?;
        }
        Ok(())
    }
}

fn edge_in_words(snapshot: &Snapshot, edge: &Edge) -> Option<String> {
    let goroutine = |index: u32| snapshot.goroutines.get(index as usize);
    let (waiter, holder) = (goroutine(edge.waiter)?, goroutine(edge.holder)?);
    let wants = waiter.waits.iter().find(|wait| wait.object == edge.object)?.wants;
    let object = in_words(snapshot.objects.get(edge.object as usize)?);
    Some(format!(
        "goroutine {} waits {} {object}, which goroutine {} has on its stack (inferred: it could end the wait)",
        waiter.goid,
        verb(wants),
        holder.goid
    ))
}

/// What was looked at and what was found, in a line; without a full stop.
pub fn summary(found: &Found<'_>) -> String {
    let (report, observed) = (found.report, found.observed);
    let looked = match (report.scanned, observed.passes) {
        (scanned, 0) => format!("{} goroutines, the heap was not read", count(scanned)),
        (scanned, passes) => {
            let passes = if passes == 1 { "1 pass".to_owned() } else { format!("{passes} passes") };
            format!("{} goroutines, {} of heap, {passes}", count(scanned), bytes(observed.scanned.0))
        }
    };
    let mut text = if report.groups.is_empty() {
        format!("nothing found: {looked}")
    } else {
        let of = |verdict| format!("{} {verdict}", count(report.count_of(verdict)));
        let verdicts = [Verdict::Proven, Verdict::Likely, Verdict::Suspect].map(of).join(", ");
        let groups = match report.groups.len() {
            1 => "1 group".to_owned(),
            groups => format!("{} groups", count(groups as u64)),
        };
        format!("found: {verdicts} in {groups}; {looked}")
    };
    if found.accepted > 0 {
        text += &format!("; {} accepted by the baseline", count(found.accepted));
    }
    if let Some(frozen) = observed.frozen_ns {
        text += &format!("; the program stood still for {}", duration(frozen));
    }
    if let Some(doubt) = &observed.doubt {
        text += &format!("; nothing counts as proven: {doubt}");
    }
    if let Some(incomplete) = found.incomplete() {
        text += &format!("; incomplete: {incomplete}");
    }
    text
}

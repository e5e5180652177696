//! Leaks as text: for each group a heading, what is known, and one stack as a traceback has it; a summary at the end.
//! With `--watch`: what is new and what is gone since the last report.

use crate::output::{
    Traceback, bytes, count,
    traceback::{clean, printed},
};
use sfgi_core::{
    clock::duration,
    detect::{Fingerprint, Verdict},
    heap::Progress,
    leaks::{LeakView, Leaks, Turn},
    names::Names,
};
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// Goroutines named of a group, and edges of a set.
const NAMED: usize = 10;
/// Stacks that are shown of the members of a ring.
const STACKS: usize = 4;

/// Writes one report.
pub struct LeakText<'a, W> {
    out: W,
    leaks: &'a Leaks,
    names: &'a mut Names,
    colour: bool,
}

impl<'a, W: Write> LeakText<'a, W> {
    /// `colour` is for a terminal only.
    pub fn new(out: W, leaks: &'a Leaks, names: &'a mut Names, colour: bool) -> Self {
        LeakText { out, leaks, names, colour }
    }

    /// Writes all groups and the summary.
    pub fn write(mut self) -> io::Result<()> {
        for group in &self.leaks.groups {
            self.group(group)?;
        }
        writeln!(self.out, "{}", summary(self.leaks))?;
        self.out.flush()
    }

    /// Writes the groups that are new, what else has changed since the last report, and the summary.
    pub fn write_changes(mut self, difference: &Difference) -> io::Result<()> {
        for (group, _) in self.leaks.groups.iter().zip(&difference.new).filter(|(_, new)| **new) {
            self.group(group)?;
        }
        for line in &difference.lines {
            writeln!(self.out, "{line}")?;
        }
        writeln!(self.out, "{}\n", summary(self.leaks))?;
        self.out.flush()
    }

    fn group(&mut self, group: &LeakView) -> io::Result<()> {
        self.heading(group)?;
        let pinned = match group.pinned_bytes {
            0 => String::new(),
            pinned => format!(" · pins about {} of heap", bytes(pinned)),
        };
        writeln!(self.out, "  {}{pinned}", group.title)?;
        self.goids(group)?;
        self.awaited(group)?;
        for sentence in &group.evidence {
            writeln!(self.out, "  - {}", clean(sentence))?;
        }
        self.set(group)?;
        writeln!(self.out, "  fix: {}", clean(&group.rule.fix))?;
        self.stack(group)?;
        if group.awaited.is_some() || group.contexts.is_some() || group.pools.is_some() {
            writeln!(self.out, "  why: sfgi why --finding {}", group.id)?;
        }
        if group.fds.is_some() {
            writeln!(self.out, "  see: sfgi fds")?;
        }
        writeln!(self.out)
    }

    fn heading(&mut self, group: &LeakView) -> io::Result<()> {
        let (on, off) = match group.verdict {
            _ if !self.colour => ("", ""),
            Verdict::Proven => ("\x1b[1;31m", "\x1b[0m"),
            Verdict::Likely => ("\x1b[1;33m", "\x1b[0m"),
            Verdict::Suspect => ("\x1b[1m", "\x1b[0m"),
        };
        write!(self.out, "{on}{} × {} {}{off}", count(group.count), group.verdict, group.rule.class)?;
        let release = self.names.binary().version().release;
        if let Some(site) = &group.wait_site {
            write!(self.out, "  {}", printed(&site.func, release))?;
        }
        if let Some(timers) = &group.timers {
            write!(self.out, "  {}", printed(&timers.func, release))?;
        }
        if let Some(contexts) = &group.contexts {
            write!(self.out, "  {}", clean(&contexts.of))?;
        }
        if let Some(pool) = &group.pools {
            let names = [&pool.name, &pool.new, &pool.of];
            let name = names.into_iter().find(|name| !name.is_empty()).map_or("", String::as_str);
            write!(self.out, "  {}", clean(name))?;
        }
        if let Some(fds) = &group.fds {
            let what = [&*fds.kind, &fds.origin, &fds.of].into_iter().find(|text| !text.is_empty());
            write!(self.out, "  {}", clean(what.unwrap_or_default()))?;
        }
        if let Some((func, offset)) = &group.created_at {
            write!(self.out, "  created by {}+{offset:#x}", printed(func, release))?;
        }
        writeln!(self.out)
    }

    fn goids(&mut self, group: &LeakView) -> io::Result<()> {
        let named: Vec<String> = group.goids.iter().take(NAMED).map(u64::to_string).collect();
        let more = match group.goids.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {} more", count(more as u64)),
        };
        match named.len() {
            0 => Ok(()),
            1 => writeln!(self.out, "  goroutine {}", named.join("")),
            _ => writeln!(self.out, "  goroutines {}{more}", named.join(", ")),
        }
    }

    fn awaited(&mut self, group: &LeakView) -> io::Result<()> {
        let Some(awaited) = &group.awaited else { return Ok(()) };
        let more = match (awaited.different, awaited.cases) {
            (1, _) => String::new(),
            (_, 1) => format!("; they wait for {} of that kind", count(awaited.different as u64)),
            (different, cases) => format!("; {cases} cases, {} objects in all", count(different as u64)),
        };
        writeln!(self.out, "  waits {} {}{more}", awaited.wants.verb(), awaited.object)
    }

    /// Writes the edges of the set that the group belongs to: who waits for whom.
    fn set(&mut self, group: &LeakView) -> io::Result<()> {
        let observed = &self.leaks.observed;
        // Of a cycle the evidence has each wait.
        if !group.ring.is_empty() {
            return Ok(());
        }
        let Some(set) = group.set.and_then(|set| observed.sets.get(set as usize)) else { return Ok(()) };
        for edge in set.edges.iter().take(NAMED) {
            if let Some(turn) = Turn::of(edge, &observed.snapshot, self.names) {
                writeln!(self.out, "    {}", clean(&turn.sentence()))?;
            }
        }
        match set.edges.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => writeln!(self.out, "    and {} more waits", count(more as u64)),
        }
    }

    /// Writes the stack of the first goroutine, indented: all of a group have the same. Of a ring each has its own.
    fn stack(&mut self, group: &LeakView) -> io::Result<()> {
        let snapshot = &self.leaks.observed.snapshot;
        let first = group.goids.first().copied();
        let ring = group.ring.iter().map(|turn| turn.waiter).take(STACKS);
        let shown: Vec<u64> =
            if group.ring.is_empty() { first.into_iter().collect() } else { ring.collect() };
        // Tracebacks have one writer for all commands, so the stack is rendered into memory and indented here.
        let binary = self.names.shared_binary();
        let mut text = Vec::new();
        let mut traceback = Traceback::new(&binary, self.names.bias(), snapshot, snapshot.taken_ns.1);
        for goid in shown {
            let of = group.members.iter().filter_map(|member| snapshot.goroutines.get(*member as usize));
            // Who is in a ring may be in a group of its own: by another verdict.
            let of = of.chain(&snapshot.goroutines).find(|one| one.goid == goid);
            if let Some(goroutine) = of {
                traceback.write(&mut text, goroutine)?;
            }
        }
        for line in String::from_utf8_lossy(&text).lines() {
            writeln!(self.out, "    {line}")?;
        }
        Ok(())
    }
}

/// What was searched and what was found, in one line without a full stop.
pub fn summary(leaks: &Leaks) -> String {
    let observed = &leaks.observed;
    let looked = match (leaks.scanned, observed.passes) {
        (scanned, 0) => format!("{} goroutines, the heap was not read", count(scanned)),
        (scanned, passes) => {
            let passes = if passes == 1 { "1 pass".to_owned() } else { format!("{passes} passes") };
            format!("{} goroutines, {} of heap, {passes}", count(scanned), bytes(observed.scanned.0))
        }
    };
    let mut text = if leaks.groups.is_empty() {
        format!("nothing found: {looked}")
    } else {
        let of = |verdict| format!("{} {verdict}", count(leaks.count_of(verdict)));
        let verdicts = [Verdict::Proven, Verdict::Likely, Verdict::Suspect].map(of).join(", ");
        let groups = match leaks.groups.len() {
            1 => "1 group".to_owned(),
            groups => format!("{} groups", count(groups as u64)),
        };
        format!("found: {verdicts} in {groups}; {looked}")
    };
    for things in ["contexts", "descriptors", "pooled objects"] {
        let of_these = leaks.groups.iter().filter(|group| group.things() == things);
        match of_these.map(|group| group.count).sum() {
            0 => {}
            number => text += &format!("; {} of these are {things}", count(number)),
        }
    }
    match leaks.accepted_count() {
        0 => {}
        accepted => text += &format!("; {} accepted by the baseline", count(accepted)),
    }
    if observed.collections == Some(0) {
        text += "; no collection yet: waits are only known since this search began (--observe, --watch)";
    }
    if let Some(frozen) = observed.frozen_ns {
        text += &format!("; the program stood still for {}", duration(frozen));
    }
    if let Some(doubt) = &observed.doubt {
        text += &format!("; nothing counts as proven: {doubt}");
    }
    if let Some(incomplete) = leaks.incomplete() {
        text += &format!("; incomplete: {incomplete}");
    }
    text.extend(leaks.objects_doubt.as_ref().map(|doubt| format!("; {}", unlooked(doubt))));
    text.extend(leaks.pools_doubt.as_ref().map(|doubt| format!("; {}", unlooked_pools(doubt))));
    text
}

/// Why contexts are missing, in words.
pub(super) fn unlooked(doubt: &str) -> String {
    format!(
        "contexts and what keeps objects alive were not looked at: {doubt}; sfgi contexts and sfgi why do it"
    )
}

/// Why pools are missing, in words.
pub(super) fn unlooked_pools(doubt: &str) -> String {
    format!("pools were not looked at: {doubt}; sfgi pools does it")
}

/// The progress of a search, in words.
pub fn progress(progress: Progress) -> String {
    match progress {
        Progress::Looking(look) => format!("looking at the goroutines, {look}"),
        Progress::Scanning(pass, read, all) => {
            format!("reading the heap, pass {pass}: {} of {}", bytes(read), bytes(all))
        }
    }
}

/// Compares each report of `--watch` with the last one.
#[derive(Debug, Default)]
pub struct Changes {
    last: BTreeMap<(Fingerprint, Verdict), Before>,
}

#[derive(Debug, Default)]
struct Before {
    count: u64,
    class: String,
}

/// What a report has that the last one had not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// For each group, whether it is shown in full: it is new, or has another verdict.
    pub new: Vec<bool>,
    /// A line for each group whose number has changed, and for each that is gone.
    pub lines: Vec<String>,
}

impl Changes {
    /// Compares groups with those of the last call, and keeps them for the next one.
    pub fn since(&mut self, groups: &[LeakView]) -> Difference {
        let mut now: BTreeMap<(Fingerprint, Verdict), Before> = BTreeMap::new();
        for LeakView { id, verdict, rule, count, .. } in groups {
            let entry = now.entry((*id, *verdict)).or_default();
            entry.count += count;
            entry.class.clone_from(&rule.class);
        }
        let is_new = |group: &LeakView| !self.last.contains_key(&(group.id, group.verdict));
        let new = groups.iter().map(is_new).collect();
        let mut lines = Vec::new();
        for ((id, verdict), Before { count, class }) in &now {
            if let Some(before) = self.last.get(&(*id, *verdict)).filter(|before| before.count != *count) {
                lines.push(format!("{count} × {verdict} {class}, were {} (id {id})", before.count));
            }
        }
        for ((id, verdict), Before { count, class }) in &self.last {
            if !now.contains_key(&(*id, *verdict)) {
                lines.push(format!("gone: {count} × {verdict} {class} (id {id})"));
            }
        }
        self.last = now;
        Difference { new, lines }
    }
}

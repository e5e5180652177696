//! Goroutines with the same stack, state and wait reason as one entry. As text: a heading, the stack once, and what is
//! known of the members.

use crate::output::{
    duration,
    traceback::{clean, printed},
};
use sfgi_core::{
    goruntime::State,
    names::{Names, Site},
    snapshot::{Goroutine, Object, Snapshot, StackId, Trust, Wait, Wants},
};
use std::{
    cmp::Reverse,
    collections::HashMap,
    io::{self, Write},
};

/// Goids, creators, sets of labels and objects that are named of a group: the most frequent ones.
const NAMED: usize = 5;

/// Goroutines with the same stack, state, wait reason and trust.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The first member, an index into [`Snapshot::goroutines`]; its stack, state, reason and trust are those of all.
    pub first: u32,
    /// The number of members.
    pub count: u64,
    /// The shortest and longest known wait of a member, nanoseconds; `None`: none is known.
    pub age_ns: Option<(u64, u64)>,
    /// Members whose wait has no known length.
    pub age_unknown: u64,
    /// The first goids, at most `NAMED`.
    pub goids: Vec<u64>,
    /// The most frequent `go` statements: the index of one goroutine that each made, and the number.
    pub creators: Vec<(u32, u64)>,
    /// The most frequent sets of labels, as [`Goroutine::labels`] has them, and the number.
    pub labels: Vec<(u32, u64)>,
    /// The most frequent objects that members wait for, and the number.
    pub waits: Vec<(Wait, u64)>,
    /// The number of different objects that members wait for.
    pub objects: usize,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    stack: StackId,
    state: State,
    reason: u8,
    trust: u8,
}

/// A group while it is counted: with every creator, set of labels and object.
#[derive(Default)]
struct Open {
    group: Group,
    /// By `g.gopc`: one goroutine of it, and the number.
    creators: HashMap<u64, (u32, u64)>,
    labels: HashMap<u32, u64>,
    waits: HashMap<Wait, u64>,
}

impl Group {
    /// The groups of the goroutines with the indices `chosen`, the largest first.
    pub fn all(snapshot: &Snapshot, names: &Names, chosen: &[u32]) -> Vec<Group> {
        let mut places = HashMap::new();
        let mut open: Vec<Open> = Vec::new();
        for &index in chosen {
            let Some(goroutine) = snapshot.goroutines.get(index as usize) else { continue };
            let place = *places.entry(Key::of(goroutine)).or_insert_with(|| {
                open.push(Open { group: Group { first: index, ..Group::default() }, ..Open::default() });
                open.len() - 1
            });
            if let Some(open) = open.get_mut(place) {
                open.add(index, goroutine, names);
            }
        }
        let mut groups: Vec<Group> = open.into_iter().map(Open::close).collect();
        groups.sort_by_key(|group| Reverse(group.count));
        groups
    }
}

impl Key {
    fn of(goroutine: &Goroutine) -> Key {
        // The runtime does not clear the wait reason on a wake-up. What is left of an earlier wait must split no group.
        Key {
            stack: goroutine.stack,
            state: goroutine.state,
            reason: if goroutine.state.waits() { goroutine.reason } else { 0 },
            trust: match goroutine.trust {
                Trust::Still => 0,
                Trust::InMotion => 1,
                Trust::Running => 2,
                Trust::Broken => 3,
            },
        }
    }
}

impl Open {
    fn add(&mut self, index: u32, goroutine: &Goroutine, names: &Names) {
        let group = &mut self.group;
        group.count += 1;
        match (names.waiting_ns(goroutine), group.age_ns) {
            (None, _) => group.age_unknown += 1,
            (Some(age), None) => group.age_ns = Some((age, age)),
            (Some(age), Some((min, max))) => group.age_ns = Some((min.min(age), max.max(age))),
        }
        if group.goids.len() < NAMED {
            group.goids.push(goroutine.goid);
        }
        // Goroutine 1 was made by the runtime's start-up code, which is no creator to show.
        if goroutine.gopc != 0 && goroutine.goid != 1 {
            self.creators.entry(goroutine.gopc).or_insert((index, 0)).1 += 1;
        }
        if goroutine.labels != 0 {
            *self.labels.entry(goroutine.labels).or_default() += 1;
        }
        for wait in &goroutine.waits {
            *self.waits.entry(*wait).or_default() += 1;
        }
    }

    fn close(self) -> Group {
        let mut objects: Vec<u32> = self.waits.keys().map(|wait| wait.object).collect();
        objects.sort_unstable();
        objects.dedup();
        Group {
            creators: most_frequent(self.creators.into_values()),
            labels: most_frequent(self.labels),
            waits: most_frequent(self.waits),
            objects: objects.len(),
            ..self.group
        }
    }
}

/// The [`NAMED`] most frequent. Equal counts go by value, since the order of a hash map changes from run to run.
fn most_frequent<T: Ord + Copy>(counted: impl IntoIterator<Item = (T, u64)>) -> Vec<(T, u64)> {
    let mut counted: Vec<(T, u64)> = counted.into_iter().collect();
    counted.sort_unstable_by_key(|(what, count)| (Reverse(*count), *what));
    counted.truncate(NAMED);
    counted
}

/// Widest column of functions. A longer name pushes its file to the right.
const FUNCTIONS: usize = 60;

/// Objects named of a group in which each goroutine has its own.
const ALIKE: usize = 2;

/// Writes groups as text.
pub struct GroupText<'a, W> {
    out: W,
    snapshot: &'a Snapshot,
    names: &'a mut Names,
    colour: bool,
}

impl<'a, W: Write> GroupText<'a, W> {
    /// `colour` is for a terminal only.
    pub fn new(out: W, snapshot: &'a Snapshot, names: &'a mut Names, colour: bool) -> Self {
        GroupText { out, snapshot, names, colour }
    }

    /// Writes the groups with an empty line between two.
    pub fn write(mut self, groups: &[Group]) -> io::Result<()> {
        let snapshot = self.snapshot;
        for (index, group) in groups.iter().enumerate() {
            if index > 0 {
                writeln!(self.out)?;
            }
            let Some(first) = snapshot.goroutines.get(group.first as usize) else { continue };
            self.heading(group, first)?;
            self.stack(first)?;
            self.creators(group)?;
            self.waits(group)?;
            self.labels(group)?;
            self.goids(group)?;
        }
        self.out.flush()
    }

    fn heading(&mut self, group: &Group, first: &Goroutine) -> io::Result<()> {
        let (on, off) = if self.colour { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let goroutines = if group.count == 1 { "goroutine" } else { "goroutines" };
        let reason = self.names.reason(first);
        let state = if reason.is_empty() { first.state.to_string().into() } else { clean(reason) };
        let age = match group.age_ns {
            None => String::new(),
            Some((min, max)) if min == max => format!(", {}", duration(min)),
            Some((min, max)) => format!(", {} to {}", duration(min), duration(max)),
        };
        let unknown = match (group.age_ns, group.age_unknown) {
            (None, _) | (_, 0) => String::new(),
            (_, unknown) => format!(", {unknown} of unknown age"),
        };
        writeln!(self.out, "{on}{} {goroutines} [{state}{age}{unknown}]{off}", group.count)
    }

    fn stack(&mut self, first: &Goroutine) -> io::Result<()> {
        let release = self.names.binary().version().release;
        let lines = self.names.stack(self.snapshot.stacks.get(first.stack));
        let lines: Vec<(String, &Site)> =
            lines.iter().map(|line| (printed(&line.site.func, release), &line.site)).collect();
        let width = lines.iter().map(|(func, _)| func.len()).max().unwrap_or(0).min(FUNCTIONS);
        let note = match (first.trust, lines.is_empty()) {
            (Trust::Still, false) => None,
            (Trust::Still, true) => Some("no stack"),
            (Trust::InMotion, _) => Some("in motion while they were read: no stack"),
            (Trust::Running, true) => Some("running: no stack"),
            (Trust::Running, false) => Some("running: the stack is a best effort"),
            (Trust::Broken, _) => Some("their memory makes no sense, this is as much as could be read"),
        };
        for (func, Site { file, line, .. }) in &lines {
            writeln!(self.out, "    {func:<width$}  {}:{line}", clean(file))?;
        }
        note.map_or(Ok(()), |note| writeln!(self.out, "    ({note})"))
    }

    fn creators(&mut self, group: &Group) -> io::Result<()> {
        let release = self.names.binary().version().release;
        for (creator, count) in &group.creators {
            let site =
                self.snapshot.goroutines.get(*creator as usize).and_then(|one| self.names.creator(one));
            let Some(Site { func, file, line }) = site else { continue };
            let (func, file) = (printed(&func, release), clean(&file));
            let share = if *count == group.count { String::new() } else { format!("  ({count})") };
            writeln!(self.out, "  created by {func}  {file}:{line}{share}")?;
        }
        Ok(())
    }

    fn waits(&mut self, group: &Group) -> io::Result<()> {
        let snapshot = self.snapshot;
        let object = |wait: &Wait| snapshot.objects.get(wait.object as usize).map(Object::to_string);
        if group.objects > 1
            && let Some((Wait { wants, .. }, 1)) = group.waits.first()
        {
            // The most frequent object has one waiter: each goroutine has its own, and a few stand for all.
            let same = group.waits.iter().all(|(wait, _)| wait.wants == *wants);
            let some: Vec<String> =
                group.waits.iter().filter_map(|(wait, _)| object(wait)).take(ALIKE).collect();
            let more = if group.objects > ALIKE { ", …" } else { "" };
            let verb = if same { *wants } else { Wants::Unknown }.verb();
            return writeln!(self.out, "  wait {verb} {} objects: {}{more}", group.objects, some.join(", "));
        }
        for (wait, count) in &group.waits {
            let Some(object) = object(wait) else { continue };
            let waits = if *count == 1 { "waits" } else { "wait" };
            writeln!(self.out, "  {count} {waits} {} {object}", wait.wants.verb())?;
        }
        if group.objects > NAMED {
            writeln!(self.out, "  … {} objects in all", group.objects)?;
        }
        Ok(())
    }

    fn labels(&mut self, group: &Group) -> io::Result<()> {
        for (set, count) in &group.labels {
            let Some(labels) = set.checked_sub(1).and_then(|set| self.snapshot.labels.get(set as usize))
            else {
                continue;
            };
            let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key:?}:{value:?}")).collect();
            let share = if *count == group.count { String::new() } else { format!("  ({count})") };
            writeln!(self.out, "  labels {{{}}}{share}", pairs.join(", "))?;
        }
        Ok(())
    }

    fn goids(&mut self, group: &Group) -> io::Result<()> {
        let goids: Vec<String> = group.goids.iter().map(u64::to_string).collect();
        let more = group.count.saturating_sub(goids.len() as u64);
        let goroutines = if group.count == 1 { "goroutine" } else { "goroutines" };
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        writeln!(self.out, "  {goroutines} {}{more}", goids.join(", "))
    }
}

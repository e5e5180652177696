//! What detection says: groups of leaked goroutines, each with its evidence in words.

use super::{
    baseline::Fingerprint,
    condition::Need,
    contexts::ContextSite,
    fds::FdSite,
    growth::Growth,
    history::{Age, Measure},
    known::Known,
    pools::PoolSite,
    rules::{Rule, Verdict},
};
use crate::{
    clock::duration,
    goruntime::WaitReason,
    heap::{Edge, Facts, Holders},
    snapshot::{Object, ObjectKind},
};
use std::cmp::Reverse;
use std::sync::Arc;

/// Goroutines that a sentence names at most.
const NAMED: usize = 5;

/// What was found in one observation.
#[derive(Debug, Default)]
pub struct Report {
    /// The surest first, of those the most severe, of those the largest.
    pub groups: Vec<Group>,
    /// Goroutines in scope that could be judged, leaked or not.
    pub scanned: u64,
}

impl Report {
    /// Adds groups, in the order of a report.
    pub fn add(&mut self, groups: Vec<Group>) {
        self.groups.extend(groups);
        self.groups.sort_by_key(|group| {
            // A ring before those who wait behind it, who may be more.
            let ring = group.ring.is_empty();
            (Reverse(group.verdict), group.rule.severity, ring, Reverse(group.count), group.id)
        });
    }
}

/// Goroutines with the same creation site, wait site and stack, of the same class and verdict; all that wait in the same
/// rings; or timers that do the same.
#[derive(Debug)]
pub struct Group {
    /// The same for the same leak in another run and another build, as long as its functions keep their names.
    pub id: Fingerprint,
    pub verdict: Verdict,
    /// The rule that says so.
    pub rule: Arc<Rule>,
    /// The goroutines, by index into [`Snapshot::goroutines`](crate::snapshot::Snapshot::goroutines), in the
    /// order of their goids; none for timers.
    pub members: Vec<u32>,
    /// How many goroutines, or timers.
    pub count: u64,
    /// The shortest and the longest time that one of them is known to have been waiting.
    pub age: Option<(Age, Age)>,
    /// How fast their creation site grows.
    pub growth: Option<Growth>,
    /// For timers: index into [`Observed::timers`](crate::heap::Observed::timers).
    pub timers: Option<u32>,
    /// For contexts that nobody can cancel.
    pub contexts: Option<ContextSite>,
    /// For a pool that something is wrong with.
    pub pools: Option<PoolSite>,
    /// For descriptors.
    pub fds: Option<FdSite>,
    /// The cycle that the first one waits in, from its own wait on; empty: it waits in none, or the rule is about
    /// something else.
    pub ring: Vec<Edge>,
    /// Why, in sentences without a full stop.
    pub evidence: Vec<String>,
}

impl Group {
    /// What it is, in a line. A rule that needs the proof says more than is known of a suspect.
    pub fn title(&self) -> String {
        let title = &self.rule.title;
        let perhaps = self.verdict == Verdict::Suspect && self.rule.condition.verdict == Need::Proven;
        if perhaps { format!("perhaps: {title}") } else { title.clone() }
    }
}

/// Sentences without a full stop, the strongest first. `reason` is the wait reason of all of them.
pub(super) fn evidence(known: &Known<'_>, group: &Group, reason: &str) -> Vec<String> {
    // Members share stack, state and wait reason: the first speaks for all.
    let Some(first) = group.members.first().copied() else { return Vec::new() };
    let mut said = Vec::new();
    said.push(proof(known, first, reason));
    said.extend(lasts(known, group, first));
    said.extend(dead_set(known, first));
    said.extend(age(known, group));
    said.extend(wakes(known, group));
    said.extend(group.growth.map(|growth| growing(growth, "come from the same go statement than end")));
    said.extend(watched(known, group));
    said.extend(orphans(known, group));
    said.extend(known.goroutine(first).and_then(|one| known.objects(one).find_map(queue)));
    // `proof` is empty where the heap was read and nothing was found to lead to the object.
    said.retain(|sentence| !sentence.is_empty());
    said
}

/// Whether anything can still end the wait, as far as the heap tells.
fn proof(known: &Known<'_>, first: u32, reason: &str) -> String {
    let observed = known.observed;
    let passes = match observed.passes {
        1 => "1 pass".to_owned(),
        passes => format!("{passes} passes"),
    };
    if known.unreachable(first) {
        let what = match WaitReason::parse(reason) {
            WaitReason::ChanReceiveNilChan | WaitReason::ChanSendNilChan => {
                "it waits for a nil channel, which nothing can wake".to_owned()
            }
            WaitReason::SelectNoCases => {
                "it waits in a select without cases, which nothing can wake".to_owned()
            }
            _ => format!(
                "no variable, no timer and no goroutine that can still run leads to what it waits for, in {passes} over the heap"
            ),
        };
        return match &observed.doubt {
            None => what,
            Some(doubt) => format!("{what}; not proven: {doubt}"),
        };
    }
    match (observed.passes, holders(known, first)) {
        (0, _) => "not proven: the heap was not read".to_owned(),
        (_, Some(holders)) => format!("not proven: {holders}"),
        (_, None) => String::new(),
    }
}

/// What still leads to the object that the goroutine waits for.
fn holders(known: &Known<'_>, first: u32) -> Option<String> {
    let wait = known.goroutine(first)?.waits.first()?;
    let Holders { goroutines, global, heap } = known.observed.holders.get(wait.object as usize)?;
    let goids: Vec<String> = goroutines
        .iter()
        .filter_map(|index| known.goroutine(*index))
        .take(NAMED)
        .map(|goroutine| goroutine.goid.to_string())
        .collect();
    let mut parts = Vec::new();
    if !goids.is_empty() {
        parts.push(format!("the stack of goroutine {}", goids.join(", ")));
    }
    if let Some(addr) = global {
        parts.push(format!("a variable at {addr:#x}"));
    }
    match heap {
        0 => {}
        1 => parts.push("an object of the heap".to_owned()),
        heap => parts.push(format!("{heap} objects of the heap")),
    }
    (!parts.is_empty()).then(|| format!("{} leads to what it waits for", parts.join(", ")))
}

/// Why a suspect may be meant to last as long as the program.
fn lasts(known: &Known<'_>, group: &Group, first: u32) -> Option<String> {
    if group.verdict != Verdict::Suspect {
        return None;
    }
    if known.facts(first).until_signal {
        return Some(
            "it waits for a context of signal.NotifyContext, which ends with the program".to_owned(),
        );
    }
    let goroutine = known.goroutine(first)?;
    let early = known.made_at_start((goroutine.gopc, goroutine.startpc));
    early.then(|| "all of this go statement were made when the program started".to_owned())
}

fn dead_set(known: &Known<'_>, first: u32) -> Option<String> {
    let set = known.observed.sets.get(known.facts(first).set? as usize)?;
    let size = set.members.len();
    // Of a cycle each wait is told.
    let told = known.cycles.kind(first).is_some();
    (!told).then(|| format!("it is one of {size} goroutines that only wait for each other"))
}

fn age(known: &Known<'_>, group: &Group) -> Option<String> {
    let (min, max) = group.age?;
    let old = group.members.iter().filter_map(|index| known.age(*index));
    let old = old.filter(|age| age.ns >= known.thresholds.min_age_ns()).count() as u64;
    let waiting = if min.ns == max.ns { words(max) } else { format!("{} to {}", words(min), words(max)) };
    let aged = match (group.verdict, old) {
        (Verdict::Proven, _) | (_, 0) => String::new(),
        _ if old == group.count => format!(", all for {} or more", duration(known.thresholds.min_age_ns())),
        _ => format!(", {old} of {} for {} or more", group.count, duration(known.thresholds.min_age_ns())),
    };
    Some(format!("waiting {waiting}{aged}"))
}

/// When they wake, of goroutines that sleep.
fn wakes(known: &Known<'_>, group: &Group) -> Option<String> {
    let now_ns = known.observed.snapshot.taken_ns.1;
    let wakes = group.members.iter().map(|index| known.facts(*index).wakes_ns).filter(|wakes| *wakes != 0);
    let wakes = wakes.map(|wakes| wakes.saturating_sub(now_ns));
    let range = wakes.map(|ns| (ns, ns)).reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)));
    let (first, last) = range.map(|(first, last)| (duration(first), duration(last)))?;
    Some(match group.members.len() {
        1 => format!("it sleeps, and wakes in {first}"),
        _ if first == last => format!("they sleep, and wake in {first}"),
        _ => format!("they sleep, and wake in {first} to {last}"),
    })
}

/// `about 5m00s`, `at least 3.10s`.
fn words(age: Age) -> String {
    let how = match age.measure {
        Measure::AtLeast => "at least",
        Measure::About => "about",
    };
    format!("{how} {}", duration(age.ns))
}

/// How often the looks found them running or moved; `None` after a single look.
fn watched(known: &Known<'_>, group: &Group) -> Option<String> {
    let (mut sum, mut longest) = (Facts::default(), 0);
    for index in &group.members {
        let facts = known.facts(*index);
        longest = longest.max(facts.looks);
        sum.looks = sum.looks.saturating_add(facts.looks);
        sum.moved = sum.moved.saturating_add(facts.moved);
        sum.busy = sum.busy.saturating_add(facts.busy);
        sum.yielding = sum.yielding.saturating_add(facts.yielding);
    }
    let Facts { looks, moved, busy, yielding, .. } = sum;
    if longest < 2 {
        return None;
    }
    if busy == 0 && moved == 0 {
        return Some(format!("none of them had run in {longest} looks"));
    }
    let part = |number: u32| format!("{:.0} %", f64::from(number) / f64::from(looks) * 100.0);
    let yielding = match yielding {
        0 => String::new(),
        yielding => format!(", in {} in a function that only yields", part(yielding)),
    };
    Some(format!(
        "running or runnable in {} of {longest} looks, in {} it had run since the last{yielding}",
        part(busy),
        part(moved)
    ))
}

fn orphans(known: &Known<'_>, group: &Group) -> Option<String> {
    group.rule.condition.orphans?;
    let number = known.orphans(&group.members);
    Some(format!("started {number} times, by goroutines that have ended or long before one another"))
}

/// How many senders and receivers wait at the channel.
fn queue(object: &Object) -> Option<String> {
    let ObjectKind::Channel { receivers, senders, closed, .. } = object.kind else { return None };
    let who = |number: u32, what: &str| match number {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    };
    let closed = if closed { ", and it is closed" } else { "" };
    Some(format!("{} and {} wait at the channel{closed}", who(senders, "sender"), who(receivers, "receiver")))
}

/// `what`: how they come and end, behind "more a second".
pub(super) fn growing(growth: Growth, what: &str) -> String {
    let Growth { per_s, confidence, looks } = growth;
    // Rounded down: only a line without any error is certain.
    let sure = (confidence * 1000.0).floor() / 10.0;
    format!("{per_s:.2} more a second {what} ({sure:.1} % sure, from {looks} looks)")
}

//! From what was observed to groups of leaked goroutines and timers.

use super::{
    baseline::Fingerprint,
    condition::Need,
    growth::{self, Growth},
    history::Age,
    known::{Known, Lookup, Scope, Shape, Thresholds, shapes},
    report::{Group, Report, evidence},
    rules::{Rule, Rules, Verdict},
};
use crate::{
    clock::duration,
    heap::{Observed, TimerKind, TimerSite},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Judges the goroutines and timers in scope. The groups come the surest first, of those the most severe, of those
/// the largest.
pub fn detect(
    observed: &Observed,
    rules: &Rules,
    scope: &Scope,
    thresholds: &Thresholds,
    lookup: &mut dyn Lookup,
) -> Report {
    let (shapes, scanned) = shapes(observed, scope, lookup);
    let known = Known::new(observed, thresholds);
    let mut judge =
        Judge { known, rules, growth: growth::find(observed), groups: HashMap::new(), order: Vec::new() };
    for shape in &shapes {
        judge.shape(shape);
    }
    let mut report = Report { groups: Vec::new(), scanned };
    report.add(judge.close());
    // A question for certain goroutines is none for timers.
    if scope.goids.is_empty() {
        report.add(timers(observed, rules, scope, thresholds, lookup));
    }
    report
}

/// What makes a group: its id, its verdict, its rule, its `go` statement and the line that it waits in.
type Key = (Fingerprint, Verdict, String, u64, u32);

struct Judge<'a> {
    known: Known<'a>,
    rules: &'a Rules,
    growth: HashMap<growth::Site, Growth>,
    groups: HashMap<Key, (Group, String)>,
    /// The keys of `groups` in the order of their discovery: a report must not depend on hashing.
    order: Vec<Key>,
}

impl Judge<'_> {
    fn shape(&mut self, shape: &Shape) {
        let (unreachable, reachable): (Vec<u32>, Vec<u32>) =
            shape.members.iter().partition(|index| self.known.unreachable(**index));
        let sure = if self.known.observed.doubt.is_none() { Verdict::Proven } else { Verdict::Likely };
        self.by_rules(shape, unreachable, Some(sure));
        // A service that can still be woken is no leak; an unreachable one has been added.
        if shape.serves() {
            return;
        }
        let rest = self.by_rules(shape, reachable, None);
        // An idle pool is old and many by design.
        if !shape.pools() {
            self.suspects(shape, rest);
        }
    }

    /// Takes out the goroutines that a rule fits and returns the others. `sure`: the verdict of goroutines with a
    /// proof; `None`: they have none.
    fn by_rules(&mut self, shape: &Shape, mut rest: Vec<u32>, sure: Option<Verdict>) -> Vec<u32> {
        let rules = self.rules;
        let grows = self.growth_of(shape).is_some();
        for rule in rules.iter() {
            if rest.is_empty() {
                break;
            }
            let condition = &rule.condition;
            let suits = sure.is_some() || rule.gives > Verdict::Suspect;
            let siblings = || sure.is_some() || condition.holds_of_siblings(&self.known, shape);
            if !suits || !condition.holds_of_shape(shape) || !siblings() {
                continue;
            }
            // What is proven needs neither age nor number.
            let (chosen, others): (Vec<u32>, Vec<u32>) = rest.iter().partition(|index| {
                condition.holds_of_one(&self.known, shape, **index, false)
                    // Who waits for the end of the program may wait for it as long as it runs.
                    && (sure.is_some() || condition.is_about_cycles() || !self.known.facts(**index).until_signal)
                    && (sure.is_some()
                        || condition.old_enough(&self.known, **index)
                        || condition.is_about_cycles() && self.known.cycles.is_sure(**index))
            });
            // A rule that goes by growth does not say why a goroutine is unreachable.
            let enough = if sure.is_some() {
                !condition.growth && !chosen.is_empty()
            } else {
                condition.holds_of_all(&self.known, &chosen, grows)
            };
            if enough {
                self.add(shape, rule, sure.unwrap_or(rule.gives), chosen);
                rest = others;
            }
        }
        rest
    }

    /// Adds suspects: goroutines that fit a rule which gives no more than suspicion, and goroutines that fit a rule
    /// which needs the proof, if they are old and many or their creation site grows.
    fn suspects(&mut self, shape: &Shape, mut rest: Vec<u32>) {
        let (min_age_ns, min_count) = (self.known.thresholds.min_age_ns(), self.known.thresholds.min_count);
        let grows = self.growth_of(shape).is_some();
        let old = |known: &Known<'_>, index: u32| known.age(index).is_some_and(|age| age.ns >= min_age_ns);
        // So is one that is in use: those that work wait in the same place when they have nothing to do.
        let in_use = !grows && self.known.is_in_use(shape);
        let many = rest.iter().filter(|index| old(&self.known, **index)).count() as u64 >= min_count;
        let rules = self.rules;
        for rule in rules.iter() {
            let condition = &rule.condition;
            let waived = condition.verdict == Need::Proven;
            // "Nothing can reach it" is not to be said of what something reaches.
            let suits = if waived {
                (many || grows) && !condition.only_proves()
            } else {
                rule.gives == Verdict::Suspect
            };
            let spared = in_use && !condition.is_about_running();
            if rest.is_empty() || !suits || spared || !condition.holds_of_shape(shape) {
                continue;
            }
            let (chosen, others): (Vec<u32>, Vec<u32>) = rest.iter().partition(|index| {
                (!waived || grows || old(&self.known, **index))
                    && condition.holds_of_one(&self.known, shape, **index, true)
                    && condition.old_enough(&self.known, **index)
            });
            if condition.holds_of_all(&self.known, &chosen, grows) {
                self.add(shape, rule, Verdict::Suspect, chosen);
                rest = others;
            }
        }
    }

    /// How the creation site grows, where these are at least half of what the site has now: a smaller part need not
    /// be what grows.
    fn growth_of(&self, shape: &Shape) -> Option<Growth> {
        let growth = self.growth.get(&shape.site)?;
        let last = self.known.observed.looks.last()?;
        let all = last.counts.get(&shape.site).copied().unwrap_or(0);
        (shape.state.stays() && shape.members.len() as u64 * 2 >= all).then_some(*growth)
    }

    fn add(&mut self, shape: &Shape, rule: &Arc<Rule>, verdict: Verdict, members: Vec<u32>) {
        if members.is_empty() {
            return;
        }
        let id = Fingerprint::of(&rule.class, shape.creator.as_deref(), &shape.functions);
        let line = shape.wait_site.as_ref().map_or(0, |(_, line)| *line);
        let key = (id, verdict, rule.id.clone(), shape.site.0, line);
        let growth = self.growth_of(shape);
        let behind = rule.condition.finalizers.then(|| behind(self.known.observed, shape));
        let (group, _) = self.groups.entry(key.clone()).or_insert_with(|| {
            self.order.push(key);
            let group = Group {
                id,
                verdict,
                rule: Arc::clone(rule),
                members: Vec::new(),
                count: 0,
                age: None,
                growth: None,
                timers: None,
                contexts: None,
                pools: None,
                fds: None,
                ring: Vec::new(),
                evidence: behind.into_iter().collect(),
            };
            (group, shape.reason.clone())
        });
        group.growth = group.growth.or(growth);
        group.members.extend(members);
    }

    /// Groups with the same functions in different lines: the later ones, in the order of the code, get ids of their
    /// own.
    fn ids(&self) -> HashMap<(Fingerprint, u64, u32), Fingerprint> {
        let mut places: Vec<_> =
            self.order.iter().map(|(id, _, _, site, line)| (*id, *site, *line)).collect();
        places.sort_unstable();
        places.dedup();
        let mut ids = HashMap::new();
        for same in places.chunk_by(|one, next| one.0 == next.0) {
            ids.extend(same.iter().zip(0u64..).map(|(place, number)| (*place, place.0.numbered(number))));
        }
        ids
    }

    fn close(mut self) -> Vec<Group> {
        let ids = self.ids();
        let mut found = Vec::with_capacity(self.order.len());
        for key in &self.order {
            let Some((mut group, reason)) = self.groups.remove(key) else { continue };
            let (id, _, _, site, line) = key;
            group.id = ids.get(&(*id, *site, *line)).copied().unwrap_or(*id);
            found.push((group, reason));
        }
        let known = &self.known;
        let close = |(mut group, reason): (Group, String)| {
            group.members.sort_by_key(|index| known.goroutine(*index).map(|one| one.goid));
            group.count = group.members.len() as u64;
            group.age = range(group.members.iter().filter_map(|index| known.age(*index)));
            let mut said = evidence(known, &group, &reason);
            let at = said.len().min(1);
            said.splice(at..at, std::mem::take(&mut group.evidence));
            group.evidence = said;
            if group.rule.condition.is_about_cycles()
                && let Some(first) = group.members.first()
            {
                group.ring = known.cycles.round(*first);
            }
            group
        };
        whole_rings(known, found).into_iter().map(close).collect()
    }
}

/// What a goroutine that calls finalizers or cleanups runs, and what waits behind that.
fn behind(observed: &Observed, shape: &Shape) -> String {
    let own = shape.functions.iter().rev().find(|name| !name.starts_with("runtime."));
    let runs = own.map_or_else(|| "it runs one".to_owned(), |own| format!("it runs {own}"));
    let cleanups = shape.functions.iter().any(|name| &**name == "runtime.runCleanups");
    let (waiting, what) = match observed.due {
        None => return runs,
        Some(due) if cleanups => (due.cleanups, "cleanups"),
        Some(due) => (due.finalizers.saturating_sub(1), "finalizers"),
    };
    format!("{runs}, and {waiting} {what} are due that have not begun")
}

/// Puts groups together that are parts of the same rings: the members of a ring wait in different places, and it is one
/// finding all the same.
fn whole_rings(known: &Known<'_>, found: Vec<(Group, String)>) -> Vec<(Group, String)> {
    // By rule, verdict and part, the place of the finding.
    let mut places: HashMap<(String, Verdict, usize), usize> = HashMap::new();
    let mut whole: Vec<Option<(Group, String, Vec<Fingerprint>)>> = Vec::with_capacity(found.len());
    for (mut group, reason) in found {
        let mut ids = vec![group.id];
        let parts: HashSet<usize> = match group.rule.condition.is_about_cycles() {
            true => group.members.iter().filter_map(|index| known.cycles.part(*index)).collect(),
            false => HashSet::new(),
        };
        let key = |part: usize| (group.rule.id.clone(), group.verdict, part);
        let keys: Vec<_> = parts.into_iter().map(key).collect();
        let mut at: Vec<usize> = keys.iter().filter_map(|key| places.get(key).copied()).collect();
        at.sort_unstable();
        at.dedup();
        // What this group holds together joins the first.
        let mut reason = reason;
        for (mut other, of_other, other_ids) in
            at.iter().rev().filter_map(|at| whole.get_mut(*at).and_then(Option::take))
        {
            other.members.append(&mut group.members);
            other.growth = other.growth.or(group.growth);
            (group, reason) = (other, of_other);
            ids.extend(other_ids);
        }
        let place = at.first().copied().unwrap_or(whole.len());
        if at.len() > 1 {
            for to in places.values_mut().filter(|to| at.contains(to)) {
                *to = place;
            }
        }
        places.extend(keys.into_iter().map(|key| (key, place)));
        match whole.get_mut(place) {
            Some(empty) => *empty = Some((group, reason, ids)),
            None => whole.push(Some((group, reason, ids))),
        }
    }
    let close = |(mut group, reason, ids): (Group, String, Vec<Fingerprint>)| {
        group.id = Fingerprint::of_parts(&group.rule.class, ids);
        (group, reason)
    };
    whole.into_iter().flatten().map(close).collect()
}

fn range(ages: impl Iterator<Item = Age>) -> Option<(Age, Age)> {
    ages.fold(None, |range, age| match range {
        None => Some((age, age)),
        Some((min, max)) => Some((min.min(age), max.max(age))),
    })
}

/// The groups of timers for which a rule holds.
fn timers(
    observed: &Observed,
    rules: &Rules,
    scope: &Scope,
    thresholds: &Thresholds,
    lookup: &mut dyn Lookup,
) -> Vec<Group> {
    let mut found = Vec::new();
    for (index, site) in (0..).zip(&observed.timers) {
        let function = lookup.function(site.func).unwrap_or_else(|| "?".into());
        if scope.ignores_function(&function) {
            continue;
        }
        let holds = |rule: &&Arc<Rule>| {
            let condition = &rule.condition;
            condition.timer.as_ref().is_some_and(|timer| timer.holds(site, &function, thresholds))
                && site.count >= condition.count.of(thresholds.min_count)
        };
        if let Some(rule) = rules.iter().find(holds) {
            found.push(timer_group(index, site, &function, rule));
        }
    }
    found
}

/// Timers that were set and forgotten: a group without goroutines.
fn timer_group(index: u32, site: &TimerSite, function: &str, rule: &Arc<Rule>) -> Group {
    let (next, last) = site.fires_in_ns;
    let what = match site.kind {
        TimerKind::Ticker => "tickers",
        TimerKind::Timer => "timers",
        TimerKind::AfterFunc => "functions of time.AfterFunc",
    };
    let mut evidence = vec![format!(
        "{} {what} are set, {function}; the next fires in {}, the last in {}",
        site.count,
        duration(next),
        duration(last)
    )];
    if site.unreachable {
        evidence.push("nothing leads to the channel that they send to, so nobody can receive".to_owned());
    }
    Group {
        id: Fingerprint::of_timers(&rule.class, function),
        // What proves goroutines dead says nothing of timers.
        verdict: rule.gives.min(Verdict::Likely),
        rule: Arc::clone(rule),
        members: Vec::new(),
        count: site.count,
        age: None,
        growth: None,
        timers: Some(index),
        contexts: None,
        pools: None,
        fds: None,
        ring: Vec::new(),
        evidence,
    }
}

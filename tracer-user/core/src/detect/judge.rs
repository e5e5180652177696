//! From what was observed to what is said of it.

use super::{
    Age, Fingerprint, Group, Growth, Lookup, Report, Rule, Rules, Verdict,
    condition::Need,
    cycles, evidence, exclusions, growth,
    matching::Known,
    shapes::{self, Shape},
    timers,
};
use crate::heap::{Facts, Observed};
use regex::Regex;
use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// From when on age and number count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// How long one must have been waiting, nanoseconds.
    pub min_age_ns: u64,
    /// How many must be alike.
    pub min_count: u64,
    /// What time it is: `CLOCK_MONOTONIC`, nanoseconds.
    pub now_ns: u64,
}

/// Which goroutines are judged.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// These only; empty: all.
    pub goids: HashSet<u64>,
    /// None with such a function on its stack.
    pub ignore_func: Vec<Regex>,
    /// None that such a function made.
    pub ignore_created_by: Vec<Regex>,
}

impl Scope {
    pub(super) fn holds_goid(&self, goid: u64) -> bool {
        self.goids.is_empty() || self.goids.contains(&goid)
    }

    pub(super) fn ignores(&self, shape: &Shape) -> bool {
        let on_stack = |regex: &Regex| shape.functions.iter().any(|name| regex.is_match(name));
        let creator = |regex: &Regex| shape.creator.as_ref().is_some_and(|name| regex.is_match(name));
        self.ignore_func.iter().any(on_stack) || self.ignore_created_by.iter().any(creator)
    }
}

/// Judges what was observed.
pub fn detect(
    observed: &Observed,
    rules: &Rules,
    scope: &Scope,
    thresholds: &Thresholds,
    lookup: &mut dyn Lookup,
) -> Report {
    let (shapes, scanned) = shapes::find(observed, scope, lookup);
    let known = Known {
        observed,
        thresholds,
        cycles: cycles::find(observed),
        goids: observed.snapshot.goroutines.iter().map(|goroutine| goroutine.goid).collect(),
        release: lookup.release(),
        unknown: Facts::default(),
    };
    let mut judge =
        Judge { known, rules, growth: growth::find(observed), groups: HashMap::new(), order: Vec::new() };
    for shape in &shapes {
        judge.shape(shape);
    }
    let mut groups = judge.close();
    groups.extend(timers::find(observed, rules, scope, thresholds, lookup));
    groups
        .sort_by_key(|group| (Reverse(group.verdict), severity(&group.rule), Reverse(group.count), group.id));
    Report { groups, scanned }
}

fn severity(rule: &Rule) -> usize {
    rule.severity as usize
}

/// What makes a group: its id, its verdict, its rule, the `go` statement and the line it waits in.
type Key = (Fingerprint, Verdict, String, u64, u32);

struct Judge<'a> {
    known: Known<'a>,
    rules: &'a Rules,
    growth: HashMap<growth::Site, Growth>,
    groups: HashMap<Key, (Group, String)>,
    order: Vec<Key>,
}

impl Judge<'_> {
    fn shape(&mut self, shape: &Shape) {
        let (unreachable, reachable): (Vec<u32>, Vec<u32>) =
            shape.members.iter().partition(|index| self.known.unreachable(**index));
        let sure = if self.known.observed.doubt.is_none() { Verdict::Proven } else { Verdict::Likely };
        self.by_rules(shape, unreachable, Some(sure));
        if exclusions::service(&shape.functions) {
            return;
        }
        let rest = self.by_rules(shape, reachable, None);
        if !exclusions::pool(&shape.functions) {
            self.suspects(shape, rest);
        }
    }

    /// Takes those out that a rule holds for; `sure`: the verdict where the proof has been made. Returns the
    /// others.
    fn by_rules(&mut self, shape: &Shape, mut rest: Vec<u32>, sure: Option<Verdict>) -> Vec<u32> {
        let rules = self.rules;
        let grows = self.growth_of(shape).is_some();
        for rule in rules.iter() {
            if rest.is_empty() {
                break;
            }
            let condition = &rule.condition;
            let suits = sure.is_some() || rule.gives > Verdict::Suspect;
            if !suits || !condition.holds_of_shape(shape) {
                continue;
            }
            // What is proven needs neither age nor number.
            let (chosen, others): (Vec<u32>, Vec<u32>) = rest.iter().partition(|index| {
                condition.holds_of_one(&self.known, shape, **index, false)
                    && (sure.is_some() || condition.old_enough(&self.known, **index))
            });
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

    /// Those for which a rule asks for no more than suspicion; and those that wait like what is a class where
    /// it is proven, if they are old and many, or their creation site grows.
    fn suspects(&mut self, shape: &Shape, mut rest: Vec<u32>) {
        let Thresholds { min_age_ns, min_count, .. } = *self.known.thresholds;
        let grows = self.growth_of(shape).is_some();
        let old = |known: &Known<'_>, index: u32| known.age(index).is_some_and(|age| age.ns >= min_age_ns);
        let many = rest.iter().filter(|index| old(&self.known, **index)).count() as u64 >= min_count;
        let rules = self.rules;
        for rule in rules.iter() {
            let condition = &rule.condition;
            let waived = condition.verdict == Need::Proven;
            let suits = if waived { many || grows } else { rule.gives == Verdict::Suspect };
            if rest.is_empty() || !suits || !condition.holds_of_shape(shape) {
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

    /// How its creation site grows, where these are most of what the site has made.
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
                evidence: Vec::new(),
            };
            (group, shape.reason.clone())
        });
        group.growth = group.growth.or(growth);
        group.members.extend(members);
    }

    /// Several groups whose functions are the same, in different lines: the later ones in the code get ids of
    /// their own.
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
        let mut closed = Vec::with_capacity(self.order.len());
        for key in &self.order {
            let Some((mut group, reason)) = self.groups.remove(key) else { continue };
            let (id, _, _, site, line) = key;
            group.id = ids.get(&(*id, *site, *line)).copied().unwrap_or(*id);
            group.members.sort_by_key(|index| self.known.goroutine(*index).map(|one| one.goid));
            group.count = group.members.len() as u64;
            group.age = range(group.members.iter().filter_map(|index| self.known.age(*index)));
            group.evidence = evidence::of(&self.known, &group, &reason);
            closed.push(group);
        }
        closed
    }
}

fn range(ages: impl Iterator<Item = Age>) -> Option<(Age, Age)> {
    ages.fold(None, |range, age| match range {
        None => Some((age, age)),
        Some((min, max)) => Some((min.min(age), max.max(age))),
    })
}

//! Whether a condition holds: of what goroutines have in common, of one of them, and of those that are left.

use super::{
    Cycle,
    age::Age,
    condition::{Condition, Kind, Need, StateName},
    judge::Thresholds,
    shapes::Shape,
};
use crate::goruntime::{Release, WaitReason};
use crate::{
    heap::{Facts, Observed},
    snapshot::{Goroutine, Object},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// What is known of all goroutines together.
pub(super) struct Known<'a> {
    pub(super) observed: &'a Observed,
    pub(super) thresholds: &'a Thresholds,
    pub(super) cycles: HashMap<u32, Cycle>,
    /// All that there are.
    pub(super) goids: HashSet<u64>,
    /// The N of the program's Go 1.N.
    pub(super) release: Release,
    /// Of a goroutine of which nothing is known.
    pub(super) unknown: Facts,
}

/// Gaps between goids from which on two goroutines were not made by one loop: a P takes 16 ids at a time
/// (`runtime.newproc1`, `_GoidCacheBatch`).
const GOID_GAP: u64 = 32;

impl<'a> Known<'a> {
    pub(super) fn goroutine(&self, index: u32) -> Option<&'a Goroutine> {
        self.observed.snapshot.goroutines.get(index as usize)
    }

    pub(super) fn facts(&self, index: u32) -> &Facts {
        self.observed.facts.get(index as usize).unwrap_or(&self.unknown)
    }

    pub(super) fn unreachable(&self, index: u32) -> bool {
        self.facts(index).unreachable
    }

    pub(super) fn age(&self, index: u32) -> Option<Age> {
        Age::of(self.goroutine(index)?, self.facts(index), self.thresholds.now_ns)
    }

    pub(super) fn objects(&self, goroutine: &Goroutine) -> impl Iterator<Item = &'a Object> {
        let objects = &self.observed.snapshot.objects;
        goroutine.waits.iter().filter_map(|wait| objects.get(wait.object as usize))
    }

    /// How many different objects these wait for, counting the first of each.
    fn different(&self, members: &[u32]) -> usize {
        let first = |index: &u32| self.goroutine(*index)?.waits.first().map(|wait| wait.object);
        members.iter().filter_map(first).collect::<HashSet<u32>>().len()
    }

    /// How many different goroutines, which have ended, made these; where the program does not say who made
    /// them (up to Go 1.20), in how many different goes they were made.
    pub(super) fn orphans(&self, members: &[u32]) -> u64 {
        let of = |index: &u32| self.goroutine(*index);
        let parents: HashSet<u64> = members.iter().filter_map(of).map(|one| one.parent_goid).collect();
        if !parents.contains(&0) {
            return parents.iter().filter(|parent| !self.goids.contains(parent)).count() as u64;
        }
        let mut goids: Vec<u64> = members.iter().filter_map(of).map(|one| one.goid).collect();
        goids.sort_unstable();
        let gaps = goids.windows(2).filter(|pair| matches!(pair, [one, next] if next - one >= GOID_GAP));
        gaps.count() as u64 + u64::from(!goids.is_empty())
    }
}

impl Condition {
    /// What all goroutines of a shape have in common.
    pub(super) fn holds_of_shape(&self, shape: &Shape) -> bool {
        let state = match &*self.state {
            [] => StateName::Waiting.holds(shape.state),
            states => states.iter().any(|state| state.holds(shape.state)),
        };
        state
            && self.timer.is_none()
            && self.wait_reason.as_ref().is_none_or(|words| words.hold(&shape.reason))
            && self.main.is_none_or(|main| main == shape.main)
            && self.creator.as_ref().is_none_or(|pattern| {
                shape.creator.as_ref().is_some_and(|creator| pattern.0.is_match(creator))
            })
            && self.holds_of_stack(&shape.functions)
    }

    fn holds_of_stack(&self, functions: &[Arc<str>]) -> bool {
        if self.not_frames.iter().any(|pattern| functions.iter().any(|name| pattern.0.is_match(name))) {
            return false;
        }
        let mut from = 0;
        self.frames.iter().all(|pattern| {
            let rest = functions.get(from..).unwrap_or_default();
            let found = rest.iter().position(|name| pattern.0.is_match(name));
            if let (true, Some(at)) = (self.in_order, found) {
                from += at + 1;
            }
            found.is_some()
        })
    }

    /// What must hold of each goroutine, but for its age; `waived`: the proof is not asked for.
    pub(super) fn holds_of_one(&self, known: &Known<'_>, shape: &Shape, index: u32, waived: bool) -> bool {
        let Some(goroutine) = known.goroutine(index) else { return false };
        let facts = known.facts(index);
        let part = |wanted: Option<f64>, looks: u32| {
            wanted.is_none_or(|wanted| facts.looks > 0 && f64::from(looks) / f64::from(facts.looks) >= wanted)
        };
        (waived || self.verdict == Need::Any || facts.unreachable)
            && self.set.is_none_or(|set| set == facts.set.is_some())
            && self.cycle.is_none_or(|cycles| cycles.hold(known.cycles.get(&index).copied()))
            && self.holds_of_objects(known, shape, goroutine, facts)
            && (!self.stable || (facts.looks > 1 && facts.moved == 0))
            && (!self.lived || (facts.looks > 1 && facts.looks as usize >= known.observed.looks.len()))
            && self.looks.is_none_or(|looks| facts.looks >= looks)
            && part(self.busy, facts.busy)
            && part(self.yielding, facts.yielding)
            && part(self.moved, facts.moved)
    }

    fn holds_of_objects(
        &self,
        known: &Known<'_>,
        shape: &Shape,
        goroutine: &Goroutine,
        facts: &Facts,
    ) -> bool {
        let kind = |kind: &Kind| match kind {
            Kind::Context => facts.context,
            Kind::Nil => matches!(
                WaitReason::parse(&shape.reason),
                WaitReason::ChanReceiveNilChan | WaitReason::ChanSendNilChan
            ),
            Kind::None => goroutine.waits.is_empty(),
            kind => known.objects(goroutine).any(|object| kind.is(object, known.release)),
        };
        let channel = |channel: &super::condition::Channel| {
            known.objects(goroutine).any(|object| channel.holds(object))
        };
        (self.object.is_empty() || self.object.iter().any(kind)) && self.channel.as_ref().is_none_or(channel)
    }

    /// Whether one has been waiting long enough.
    pub(super) fn old_enough(&self, known: &Known<'_>, index: u32) -> bool {
        let Some(age) = self.age else { return true };
        known.age(index).is_some_and(|one| one.ns >= age.of(known.thresholds.min_age_ns))
    }

    /// What must hold of those that are left. (Of what is proven it is not asked: that needs no second sign.)
    pub(super) fn holds_of_all(&self, known: &Known<'_>, members: &[u32], grows: bool) -> bool {
        let min_count = known.thresholds.min_count;
        !members.is_empty()
            && members.len() as u64 >= self.count.of(min_count)
            && (grows || !self.growth)
            && (!self.own || known.different(members) == members.len())
            && self.orphans.is_none_or(|count| known.orphans(members) >= count.of(min_count))
    }
}

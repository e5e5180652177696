//! What detection says of a process, with names in place of addresses.

use super::silent::silent_failure_type;
use crate::{
    agent::picture::{LeakGroup, MAX_GOIDS},
    output::dump::Names,
};
use sfgi_core::{detect::Group, heap::Observed};

/// Groups of one process that are kept: the surest and the most severe come first.
pub(super) const MAX_GROUPS: usize = 200;
/// Lines of a stack that are kept: a recursion may have a million.
const MAX_STACK: usize = 64;

/// A group of a report, as it is published.
pub(super) fn leak(group: &Group, observed: &Observed, pinned_bytes: u64, names: &mut Names) -> LeakGroup {
    let snapshot = &observed.snapshot;
    let goroutine = |index: &u32| snapshot.goroutines.get(*index as usize);
    let first = group.members.first().and_then(goroutine);
    let stack = match (first, group.timers.and_then(|timers| observed.timers.get(timers as usize))) {
        (Some(first), _) => names.sites(snapshot.stacks.get(first.stack), MAX_STACK),
        (None, Some(timers)) => names.function_at(timers.func).into_iter().collect(),
        (None, None) => Vec::new(),
    };
    LeakGroup {
        id: group.id.to_string(),
        verdict: group.verdict,
        class: group.rule.class.clone(),
        rule: group.rule.id.clone(),
        title: group.title(),
        severity: group.rule.severity,
        silent_failure_type: silent_failure_type(&group.rule.class),
        count: group.count,
        growth_per_second: group.growth.map(|growth| growth.per_s),
        age_seconds: group.age.map(|(min, max)| (min.ns as f64 / 1e9, max.ns as f64 / 1e9)),
        pinned_bytes,
        goids: group.members.iter().filter_map(goroutine).map(|one| one.goid).take(MAX_GOIDS).collect(),
        state: first.map(|first| first.state.to_string()).unwrap_or_default(),
        reason: first.map(|first| names.reason(first).to_owned()).unwrap_or_default(),
        stack,
        created_by: first.and_then(|first| names.creator(first)),
        evidence: group.evidence.clone(),
        explanation: group.rule.explanation.clone(),
        fix: group.rule.fix.clone(),
        first_seen_unix_ns: 0,
    }
}

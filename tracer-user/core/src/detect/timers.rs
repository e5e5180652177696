//! Timers that were set and forgotten: groups without goroutines.

use super::{Fingerprint, Group, Lookup, Rule, Rules, Scope, Thresholds, Verdict, condition::Timer};
use crate::{
    clock::duration,
    heap::{Observed, TimerKind, TimerSite},
};
use std::sync::Arc;

/// The groups of timers for which a rule holds.
pub(super) fn find(
    observed: &Observed,
    rules: &Rules,
    scope: &Scope,
    thresholds: &Thresholds,
    lookup: &mut dyn Lookup,
) -> Vec<Group> {
    // Who asks for goroutines gets none.
    if !scope.goids.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, site) in (0..).zip(&observed.timers) {
        let function = lookup.function(site.func).unwrap_or_else(|| "?".into());
        if scope.ignore_func.iter().any(|regex| regex.is_match(&function)) {
            continue;
        }
        let holds = |rule: &&Arc<Rule>| {
            let condition = &rule.condition;
            condition.timer.as_ref().is_some_and(|timer| timer.holds(site, &function, thresholds))
                && site.count >= condition.count.of(thresholds.min_count)
        };
        if let Some(rule) = rules.iter().find(holds) {
            found.push(group(index, site, &function, rule));
        }
    }
    found
}

impl Timer {
    fn holds(&self, site: &TimerSite, function: &str, thresholds: &Thresholds) -> bool {
        let (_, last) = site.fires_in_ns;
        self.kind.is(site.kind)
            && self.func.as_ref().is_none_or(|pattern| pattern.0.is_match(function))
            && self.not_func.as_ref().is_none_or(|pattern| !pattern.0.is_match(function))
            && self.unreachable.is_none_or(|unreachable| unreachable == site.unreachable)
            && self.fires_in.is_none_or(|age| last >= age.of(thresholds.min_age_ns))
    }
}

fn group(index: u32, site: &TimerSite, function: &str, rule: &Arc<Rule>) -> Group {
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
        evidence,
    }
}

//! A snapshot in numbers: how many goroutines do what, and where.

use crate::{
    agent::picture::{Scan, SiteCount, StateCount, Top},
    output::dump::Names,
};
use sfgi_core::{
    names::Site,
    snapshot::{Snapshot, StackId, Trust},
};
use std::{cmp::Reverse, collections::HashMap, hash::Hash, sync::Arc};

/// States and wait reasons that are told: the runtime has about forty reasons.
const MAX_STATES: usize = 128;

/// Counts; `waits`: where goroutines wait, and how many.
pub(super) fn count(snapshot: &Snapshot, names: &mut Names, waits: Vec<(Site, u64)>, top: usize) -> Scan {
    let mut scan = Scan {
        goroutines: snapshot.goroutines.len() as u64,
        incomplete: incomplete(snapshot),
        ..Scan::default()
    };
    let (mut states, mut creators) = (HashMap::new(), HashMap::new());
    let mut oldest_ns = 0;
    for (goroutine, index) in snapshot.goroutines.iter().zip(0u32..) {
        if goroutine.system {
            scan.system += 1;
            continue;
        }
        scan.in_motion += u64::from(goroutine.trust == Trust::InMotion);
        let reason = if goroutine.state.waits() { goroutine.reason } else { 0 };
        add(&mut states, (goroutine.state, reason), index);
        // The main goroutine was made by the runtime, whatever it says.
        let gopc = if goroutine.goid == 1 { 0 } else { goroutine.gopc };
        add(&mut creators, gopc, index);
        oldest_ns = oldest_ns.max(names.waiting_ns(goroutine).unwrap_or(0));
    }
    scan.oldest_seconds = oldest_ns as f64 / 1e9;
    let goroutine = |index: u32| snapshot.goroutines.get(index as usize);
    for (first, count) in states.into_values() {
        let Some(first) = goroutine(first) else { continue };
        let (state, reason) = (first.state.to_string().into(), Arc::from(names.reason(first)));
        scan.states.push(StateCount { state, reason, count });
    }
    scan.states.sort_by(|one, other| {
        (Reverse(one.count), &one.state, &one.reason).cmp(&(
            Reverse(other.count),
            &other.state,
            &other.reason,
        ))
    });
    scan.states.truncate(MAX_STATES);
    let created = creators.into_values().map(|(first, count)| {
        let site = goroutine(first).and_then(|first| names.creator(first));
        (site.unwrap_or_else(nowhere), count)
    });
    scan.creators = table(created.collect(), top);
    scan.waits = table(waits, top);
    scan
}

/// Where the goroutines of a snapshot with stacks wait.
pub(super) fn waits(snapshot: &Snapshot, names: &mut Names) -> Vec<(Site, u64)> {
    let mut stacks = HashMap::new();
    for (goroutine, index) in snapshot.goroutines.iter().zip(0u32..) {
        if !goroutine.system && goroutine.state.waits() && goroutine.stack != StackId::default() {
            add(&mut stacks, goroutine.stack, index);
        }
    }
    let named = stacks.into_iter().map(|(stack, (_, count))| {
        let site = names.wait_site(snapshot.stacks.get(stack));
        (site.unwrap_or_else(nowhere), count)
    });
    named.collect()
}

/// Counts one more; of the first it is remembered which that was.
fn add<K: Eq + Hash>(table: &mut HashMap<K, (u32, u64)>, key: K, index: u32) {
    table.entry(key).or_insert((index, 0)).1 += 1;
}

/// The place of what has none.
pub(in crate::agent) fn nowhere() -> Site {
    Site { func: "-".into(), file: "".into(), line: 0 }
}

/// The largest places; several addresses may be one line.
pub(in crate::agent) fn table(counts: Vec<(Site, u64)>, top: usize) -> Top {
    let mut sites: HashMap<Site, u64> = HashMap::new();
    for (site, count) in counts {
        *sites.entry(site).or_default() += count;
    }
    let mut rows: Vec<SiteCount> = sites.into_iter().map(|(site, count)| SiteCount { site, count }).collect();
    rows.sort_by(|one, other| (Reverse(one.count), &one.site).cmp(&(Reverse(other.count), &other.site)));
    let rest = rows.split_off(top.min(rows.len()));
    Top { rows, other: rest.iter().map(|row| row.count).sum(), other_sites: rest.len() as u64 }
}

fn incomplete(snapshot: &Snapshot) -> Option<String> {
    let unreadable = || format!("{} goroutines could not be read", snapshot.unreadable);
    let fault = snapshot.incomplete.map(|fault| fault.to_string());
    fault.or_else(|| (snapshot.unreadable > 0).then(unreadable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_a_table_is_counted_together() {
        let site = |line: u32| Site { func: "main.f".into(), file: "f.go".into(), line };
        let top =
            table((1..=5).map(|line| (site(line), u64::from(line))).chain([(site(1), 10)]).collect(), 2);
        let rows: Vec<_> = top.rows.iter().map(|row| (row.site.line, row.count)).collect();
        assert_eq!(rows, [(1, 11), (5, 5)]);
        assert_eq!((top.other, top.other_sites), (9, 3));
    }
}

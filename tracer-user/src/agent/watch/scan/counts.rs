//! A target in numbers: goroutines by state, by creation site and by place of waiting; and its memory.

use crate::agent::{
    config::Host,
    picture::{Memory, Runtime, Scan, SiteCount, StateCount, Top},
    watch::target::Target,
};
use sfgi_core::{
    heap,
    names::{Names, Site},
    process::rss_bytes,
    snapshot,
    snapshot::{Snapshot, StackId, Trust, View},
};
use std::{cmp::Reverse, collections::HashMap, fs, hash::Hash, path::Path, sync::Arc};

/// The most pairs of state and wait reason in a picture; the runtime has about forty reasons.
const MAX_STATES: usize = 128;

/// Counts the goroutines of a snapshot. `waits` are the places where they wait, with numbers; tables have `top` rows.
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
        // In other states the reason is that of the last wait.
        let reason = if goroutine.state.waits() { goroutine.reason } else { 0 };
        // Counted by number; names are made once a row, not once a goroutine.
        add(&mut states, (goroutine.state, reason), index);
        // The runtime made the main goroutine; its `gopc` is no `go` statement of the program.
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

/// The places where the goroutines of a snapshot with stacks wait, with numbers.
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

/// Counts one more under `key`, and remembers the index of the first one, from which names are made.
fn add<K: Eq + Hash>(table: &mut HashMap<K, (u32, u64)>, key: K, index: u32) {
    table.entry(key).or_insert((index, 0)).1 += 1;
}

/// The site that stands for an unknown place.
pub(crate) fn nowhere() -> Site {
    Site { func: "-".into(), file: "".into(), line: 0 }
}

/// The `top` largest places and the sum of the others. Several addresses may be one place: their counts are added.
pub(crate) fn table(counts: Vec<(Site, u64)>, top: usize) -> Top {
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
    snapshot.lacks().or_else(|| (snapshot.unreadable > 0).then(unreadable))
}

/// A limit of control groups v1 from here on means none: without a limit the file has the largest number of pages, as
/// bytes.
const NO_LIMIT: u64 = 1 << 60;

/// The memory of a target, by its own runtime and by the host; what cannot be told is `None`.
pub(super) fn memory(target: &Target, view: &View, host: &Host) -> Memory {
    let (limit_bytes, cgroup_bytes) = control_group(&host.cgroup, &target.identity().cgroup);
    let usage = heap::usage(view);
    Memory {
        heap_bytes: usage.map(|usage| usage.bytes),
        gc_cycles: usage.map(|usage| usage.cycles),
        rss_bytes: rss_bytes(target.pid()),
        limit_bytes,
        cgroup_bytes,
    }
}

/// What its runtime has to do, and its threads.
pub(super) fn runtime(target: &Target, view: &View) -> Runtime {
    let status = fs::read(format!("/proc/{}/status", target.pid()));
    let threads = status.ok().and_then(|status| {
        // As bytes: the name, in the first line, may be no UTF-8.
        let status = String::from_utf8_lossy(&status);
        status.lines().find_map(|line| line.strip_prefix("Threads:"))?.trim().parse().ok()
    });
    Runtime { due: heap::due(view).map(heap::Due::all), threads, thread_counts: snapshot::threads(view) }
}

/// The lowest memory limit from the group up to the root, and the usage of the group that has it: the one that kills
/// first. Without a limit the usage of the group itself. Bytes.
fn control_group(root: &Path, path: &str) -> (Option<u64>, Option<u64>) {
    let relative = Path::new(path.trim_start_matches('/'));
    // A group outside of our own namespace of control groups: we cannot see its files, and must not follow `..`.
    if path.is_empty() || relative.components().any(|part| part.as_os_str() == "..") {
        return (None, None);
    }
    let number = |file: &Path| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok();
    let v1 = root.join("memory");
    let (root, limit, usage) = if v1.is_dir() {
        (v1, "memory.limit_in_bytes", "memory.usage_in_bytes")
    } else {
        (root.to_owned(), "memory.max", "memory.current")
    };
    let limits = relative.ancestors().filter_map(|group| {
        let directory = root.join(group);
        let limit = number(&directory.join(limit)).filter(|limit| *limit < NO_LIMIT)?;
        Some((limit, number(&directory.join(usage))))
    });
    match limits.min_by_key(|(limit, _)| *limit) {
        Some((limit, used)) => (Some(limit), used),
        None => (None, number(&root.join(relative).join(usage))),
    }
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

    #[test]
    fn the_lowest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("a.slice/b.service");
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("memory.max"), "max\n").unwrap();
        fs::write(group.join("memory.current"), "7\n").unwrap();
        assert_eq!(control_group(root.path(), "/a.slice/b.service"), (None, Some(7)));
        fs::write(root.path().join("a.slice/memory.max"), "100\n").unwrap();
        fs::write(root.path().join("a.slice/memory.current"), "50\n").unwrap();
        assert_eq!(control_group(root.path(), "/a.slice/b.service"), (Some(100), Some(50)));
        fs::write(group.join("memory.max"), "30\n").unwrap();
        assert_eq!(control_group(root.path(), "/a.slice/b.service"), (Some(30), Some(7)));
        assert_eq!(control_group(root.path(), "/../a.slice"), (None, None));
    }

    #[test]
    fn version_1_has_a_directory_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("memory/docker/x");
        fs::create_dir_all(&group).unwrap();
        fs::write(root.path().join("memory/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        fs::write(group.join("memory.limit_in_bytes"), "4096\n").unwrap();
        fs::write(group.join("memory.usage_in_bytes"), "1024\n").unwrap();
        assert_eq!(control_group(root.path(), "/docker/x"), (Some(4096), Some(1024)));
    }
}

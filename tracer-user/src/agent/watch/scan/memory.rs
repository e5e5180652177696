//! Memory of a process, as its own runtime and the host tell it.

use super::Target;
use crate::agent::{picture::Memory, settings::Host};
use sfgi_core::{heap, snapshot::View};
use std::{fs, path::Path};

/// From here on a limit of control groups v1 means that there is none.
const NO_LIMIT: u64 = 1 << 60;

/// Asks both.
pub(super) fn of(target: &Target, view: &View, host: &Host) -> Memory {
    let statm = fs::read_to_string(format!("/proc/{}/statm", target.pid())).unwrap_or_default();
    let pages: Option<u64> = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    let (limit_bytes, cgroup_bytes) = control_group(&host.cgroup, &target.identity.cgroup);
    let usage = heap::usage(view);
    Memory {
        heap_bytes: usage.map(|usage| usage.bytes),
        gc_cycles: usage.map(|usage| usage.cycles),
        rss_bytes: pages.map(|pages| pages * rustix::param::page_size() as u64),
        limit_bytes,
        cgroup_bytes,
    }
}

/// The lowest limit on the way to the root, and what is used of that.
fn control_group(root: &Path, path: &str) -> (Option<u64>, Option<u64>) {
    let relative = Path::new(path.trim_start_matches('/'));
    // Of another namespace of control groups: it lies outside of what we see.
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

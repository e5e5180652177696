//! A process with all that it has started: what they hold together.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};

/// A process and its descendants, by who is whose parent.
///
/// # Errors
/// `/proc` cannot be read.
pub fn of(pid: u32) -> Result<Vec<u32>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        if let Ok(parent) = number(child, "status", "PPid:") {
            children.entry(u32::try_from(parent)?).or_default().push(child);
        }
    }
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at) {
        all.extend(children.remove(parent).unwrap_or_default());
        at += 1;
    }
    Ok(all)
}

/// The most memory that the processes of a tree have had at any time, each by itself, added up: bytes. A page of a file that
/// several processes map counts once: each of them has its part of it.
///
/// # Errors
/// The first process has ended.
pub fn peak_bytes(pid: u32) -> Result<u64> {
    let own = peak_kib(pid)?;
    let others = of(pid)?.into_iter().skip(1);
    Ok((own + others.filter_map(|child| peak_kib(child).ok()).sum::<u64>()) * 1024)
}

/// The peak of one process, with its part of the pages of files (`Pss_File`) in place of all of them. The kernel keeps a peak of
/// the sum only; what a process has mapped of its program grows and hardly shrinks, so the pages of now are those of the peak.
fn peak_kib(pid: u32) -> Result<u64> {
    let part = number(pid, "smaps_rollup", "Pss_File:")?;
    let (peak, files) = (number(pid, "status", "VmHWM:")?, number(pid, "status", "RssFile:")?);
    Ok(peak.saturating_sub(files) + part)
}

/// A number that a file of `/proc/PID` has behind a word; 0 where it has none, as of a process without memory.
fn number(pid: u32, file: &str, word: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("PID {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(word)).unwrap_or("0");
    let first = line.split_ascii_whitespace().next().unwrap_or("0");
    first.parse().with_context(|| format!("{word} {line}"))
}

//! What is new and what is gone since the last report: `--watch`.

use sfgi_core::detect::{Fingerprint, Group, Report, Verdict};
use std::collections::BTreeMap;

/// What the last report held.
#[derive(Debug, Default)]
pub struct Changes {
    last: BTreeMap<(Fingerprint, Verdict), Before>,
}

#[derive(Debug, Default)]
struct Before {
    count: u64,
    class: String,
}

/// How a report differs from the last one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Whether each group is to be shown in full: it was not there, or with another verdict.
    pub new: Vec<bool>,
    /// Groups in a line: those whose number has changed, and those that are gone.
    pub lines: Vec<String>,
}

impl Changes {
    /// Compares a report with the last one, and keeps it for the next.
    pub fn since(&mut self, report: &Report) -> Difference {
        let mut now: BTreeMap<(Fingerprint, Verdict), Before> = BTreeMap::new();
        for Group { id, verdict, rule, count, .. } in &report.groups {
            let entry = now.entry((*id, *verdict)).or_default();
            entry.count += count;
            entry.class.clone_from(&rule.class);
        }
        let is_new = |group: &Group| !self.last.contains_key(&(group.id, group.verdict));
        let new = report.groups.iter().map(is_new).collect();
        let mut lines = Vec::new();
        for ((id, verdict), Before { count, class }) in &now {
            if let Some(before) = self.last.get(&(*id, *verdict)).filter(|before| before.count != *count) {
                lines.push(format!("{count} × {verdict} {class}, were {} (id {id})", before.count));
            }
        }
        for ((id, verdict), Before { count, class }) in &self.last {
            if !now.contains_key(&(*id, *verdict)) {
                lines.push(format!("gone: {count} × {verdict} {class} (id {id})"));
            }
        }
        self.last = now;
        Difference { new, lines }
    }
}

//! What was found leaked: as text, JSON (`sfgi.leaks/1`) and SARIF. (As a profile:
//! [`super::dump::write_profile`].)

mod changes;
mod json;
mod lookup;
mod objects;
mod sarif;
#[cfg(test)]
mod tests;
mod text;

pub use changes::Changes;
pub use json::write_json;
pub use sarif::write_sarif;
pub use text::{LeakText, summary};

use sfgi_core::{
    detect::{Report, Verdict},
    heap::Observed,
};
use std::path::Path;

/// The schema name in every JSON document of `sfgi leaks`.
pub const LEAKS_SCHEMA: &str = "sfgi.leaks/1";

/// All that a document says.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// The process, in our PID namespace.
    pub pid: Option<u32>,
    /// Its executable, as it sees it.
    pub exe: &'a Path,
    /// What was observed.
    pub observed: &'a Observed,
    /// What was detected in that.
    pub report: &'a Report,
    /// Bytes of the heap that only the goroutines of a group reach, in the order of the groups.
    pub pinned: &'a [u64],
    /// Goroutines of groups that the baseline accepts, and which are left out.
    pub accepted: u64,
}

impl Found<'_> {
    fn pinned_by(&self, group: usize) -> u64 {
        self.pinned.get(group).copied().unwrap_or(0)
    }

    /// Goroutines with a verdict; timers are none.
    fn goroutines(&self, verdict: Verdict) -> u64 {
        let groups = self.report.groups.iter().filter(|group| group.verdict == verdict);
        groups.map(|group| group.members.len() as u64).sum()
    }

    fn incomplete(&self) -> Option<String> {
        self.observed.snapshot.incomplete.map(|fault| fault.to_string())
    }
}

//! Verdicts: which goroutines are leaked, of which class, and on what evidence.
//!
//! What was observed goes in ([`Observed`], with names for its addresses), a [`Report`] comes out. No clock,
//! no memory of a target, no terminal. What belongs to a class is said by rules ([`Rules`]), which are data.
//!
//! A goroutine that no root can reach is `proven`. Of the others, the first rule in the order of priorities
//! that asks for no proof makes it `likely`; age and repetition, or a creation site that grows, make it
//! `suspect`.

mod baseline;
mod condition;
mod contexts;
mod cycles;
mod fds;
mod growth;
mod history;
mod judge;
mod known;
mod pools;
mod report;
mod rules;
#[cfg(test)]
mod tests;

pub use baseline::{Baseline, BaselineError, Fingerprint};
pub use contexts::{ContextSite, ContextTrouble, troubled_contexts};
pub use cycles::{Cycle, Ring, rings, shortest as shortest_cycle};
pub use fds::{FdFinding, FdSite, FdTrouble, troubled_fds};
pub use growth::Growth;
pub use history::{Age, Counts, History, Measure};
pub use judge::detect;
pub use known::{Lookup, Scope, Thresholds};
pub use pools::{PoolSite, PoolTrouble, troubled_pools};
pub use report::{Group, Report};
pub(crate) use rules::parse_alone;
pub use rules::{Failure, Formal, Rule, Rules, RulesError, Severity, Verdict};

#[cfg(doc)]
use crate::heap::Observed;

//! Verdicts: which goroutines are leaked, of which class, and on what evidence.
//!
//! What was observed goes in ([`Observed`], with names for its addresses), a [`Report`] comes out. No clock,
//! no memory of a target, no terminal. What belongs to a class is said by rules ([`Rules`]), which are data.
//!
//! A goroutine that no root can reach is `proven`. Of the others, the first rule in the order of priorities
//! that asks for no proof makes it `likely`; age and repetition, or a creation site that grows, make it
//! `suspect`.

mod age;
mod baseline;
mod condition;
mod cycles;
mod evidence;
mod exclusions;
mod fingerprint;
mod group;
mod growth;
mod history;
mod judge;
mod lookup;
mod matching;
mod rule;
mod rules;
mod shapes;
mod student;
#[cfg(test)]
mod tests;
mod timers;

pub use age::{Age, Measure};
pub use baseline::{Baseline, BaselineError};
pub use cycles::{Cycle, shortest as shortest_cycle};
pub use fingerprint::Fingerprint;
pub use group::{Group, Report, Verdict};
pub use growth::Growth;
pub use history::{Counts, History};
pub use judge::{Scope, Thresholds, detect};
pub use lookup::Lookup;
pub use rule::{Formal, Rule, Severity};
pub use rules::{Rules, RulesError};

#[cfg(doc)]
use crate::heap::Observed;

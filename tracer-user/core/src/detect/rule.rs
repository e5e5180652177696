//! A rule: what must hold of a goroutine, and what is said of it then.

use super::{condition::Condition, group::Verdict};
use serde::{Deserialize, Serialize};

/// A rule of the catalogue.
#[derive(Debug)]
pub struct Rule {
    /// Its name, unique among the rules.
    pub id: String,
    /// The class of what it finds.
    pub class: String,
    /// What that is, in a line.
    pub title: String,
    /// The rule with the highest one is asked first.
    pub priority: i32,
    /// How bad it is.
    pub severity: Severity,
    /// The verdict where nothing is proven.
    pub gives: Verdict,
    /// What happens, and why it does not end.
    pub explanation: String,
    /// What to do about it.
    pub fix: String,
    /// The same, formally.
    pub formal: Formal,
    /// What must hold.
    pub(super) condition: Condition,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The program does not do what it should.
    Error,
    /// It holds on to more than it needs.
    Warning,
    /// Worth a look.
    Note,
}

impl Severity {
    /// The word for it, as in a rule.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

/// A class as a transition that cannot happen.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Formal {
    /// The types of what takes part.
    pub context: String,
    /// What holds when the goroutine begins to wait.
    pub precondition: String,
    /// The change of state that it waits for.
    pub change: String,
    /// What can be observed.
    pub label: String,
}

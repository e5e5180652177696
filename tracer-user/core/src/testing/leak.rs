//! A leak for tests of outputs.

use crate::{
    detect::{Rule, Verdict},
    leaks::LeakView,
};

/// A leak of a rule with this class. All other fields are empty, so that a test sets only what it is about.
pub fn leak(class: &str, title: &str, fix: &str) -> LeakView {
    LeakView {
        id: Default::default(),
        verdict: Verdict::Suspect,
        rule: Rule::testing(class, title, fix).into(),
        title: title.to_owned(),
        count: 0,
        age: None,
        growth: None,
        pinned_bytes: 0,
        members: Vec::new(),
        goids: Vec::new(),
        state: None,
        reason: String::new(),
        stack: Vec::new(),
        wait_site: None,
        created_by: None,
        created_at: None,
        awaited: None,
        set: None,
        timers: None,
        contexts: None,
        pools: None,
        fds: None,
        ring: Vec::new(),
        kept_by: None,
        evidence: Vec::new(),
        first_seen_unix_ns: 0,
    }
}

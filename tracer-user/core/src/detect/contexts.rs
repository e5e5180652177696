//! Contexts that nobody can cancel: a finding without goroutines.

use super::{
    baseline::Fingerprint,
    growth::Growth,
    report::{Group, growing},
    rules::{Rules, Verdict},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// What there is to say of contexts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContextTrouble {
    /// Nobody can cancel them.
    Lost,
    /// Somebody may be able to, but they become ever more, and no goroutine has them.
    Growing,
    /// They end by themselves, but late.
    Far,
}

/// Contexts of one type that one context keeps, and that nobody can cancel or that end late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextSite {
    /// Their type: `context.cancelCtx`.
    pub trouble: ContextTrouble,
    #[serde(rename = "type")]
    pub of: String,
    pub count: u64,
    /// Address of one of them.
    pub address: u64,
    /// Type and address of the context that keeps them; empty and 0: none does, or each another.
    pub parent: String,
    pub parent_address: u64,
    /// What keeps that alive, as a way on one line; empty: not known.
    pub kept_by: String,
}

/// A group for each of these sites, which were read so long ago; of those that grow with how. `sure`: that those are
/// lost which seem so is proven.
pub fn troubled_contexts(
    sites: &[(ContextSite, Option<Growth>)],
    sure: bool,
    age: Duration,
    rules: &Rules,
) -> Vec<Group> {
    let group = |(site, growth): &(ContextSite, Option<Growth>)| {
        let rule = rules.iter().find(|rule| match site.trouble {
            ContextTrouble::Lost => rule.condition.lost_context,
            ContextTrouble::Growing => rule.condition.growing_children,
            ContextTrouble::Far => rule.condition.far_deadline,
        })?;
        let (verdict, what) = match site.trouble {
            ContextTrouble::Lost => {
                // Contexts that were made while the objects were read seem lost, too.
                let verdict = if sure { Verdict::Proven } else { Verdict::Suspect };
                (verdict, "no closure that anything leads to and no stack has them")
            }
            ContextTrouble::Growing => (rule.gives.min(Verdict::Likely), "no goroutine has them"),
            ContextTrouble::Far => (rule.gives.min(Verdict::Likely), "each ends in an hour or later"),
        };
        let below = match site.parent_address {
            // Each is below another one.
            0 => String::new(),
            addr => format!(" below the {} at {addr:#x}", site.parent),
        };
        let mut evidence = vec![format!("{} of type {}{below}; {what}", site.count, site.of)];
        if age.as_secs() > 0 {
            evidence.push(format!("they were counted {} s ago", age.as_secs()));
        }
        evidence.extend(growth.map(|growth| growing(growth, "come than end")));
        if !site.kept_by.is_empty() {
            evidence.push(format!("kept alive by {}", site.kept_by));
        }
        Some(Group {
            id: Fingerprint::of_contexts(&rule.class, &site.of, root(&site.kept_by)),
            verdict,
            rule: Arc::clone(rule),
            members: Vec::new(),
            count: site.count,
            age: None,
            growth: *growth,
            timers: None,
            contexts: Some(site.clone()),
            pools: None,
            fds: None,
            ring: Vec::new(),
            evidence,
        })
    };
    sites.iter().filter_map(group).collect()
}

/// What stays the same of a way in another run: its root without the goroutine's number, and no addresses.
fn root(way: &str) -> &str {
    let root = way.split(" → ").next().unwrap_or_default();
    match root.strip_prefix("goroutine ") {
        Some(rest) => rest.split_once(' ').map_or("", |(_, function)| function),
        None if root.contains("0x") => "",
        None => root,
    }
}

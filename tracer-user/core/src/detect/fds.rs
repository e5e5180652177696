//! Descriptors that are open and should not be: a finding without goroutines.

use super::{
    baseline::Fingerprint,
    growth::Growth,
    history::{Age, Measure},
    known::Thresholds,
    report::{Group, growing},
    rules::{Rules, Verdict},
};
use crate::clock::duration;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What there is to say of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FdTrouble {
    /// The peer of a connection has closed it, and no goroutine waits to read it or to write to it.
    PeerClosed,
    /// Nothing leads to the object that has it, so that only a finalizer would close it.
    Unreachable,
    /// There are ever more of one origin.
    Growing,
    /// Nearly as many are open as may be.
    NearLimit,
}

/// Descriptors of one kind and origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdSite {
    pub trouble: FdTrouble,
    /// What they are: `tcp`, `file`. Empty: of several kinds.
    pub kind: String,
    /// Where they come from, behind a noun: `accepted at port 8080`. Empty: from anywhere.
    pub origin: String,
    pub count: u64,
    /// One of them, and its addresses or path.
    pub number: u32,
    pub name: String,
    /// Type and address of the object that has it; empty and 0: not known.
    #[serde(rename = "type")]
    pub of: String,
    pub address: u64,
    /// What keeps that alive, as a way on one line; empty: nothing does, or it is not known.
    pub kept_by: String,
    /// Bytes that came and that nobody has read, of all.
    pub unread: u64,
    /// How many of the connections that the peer has closed were read to that end.
    pub read_to_end: u64,
    /// Of those near the limit: how many there may be; 0 of others.
    pub limit: u64,
}

/// What was found of some descriptors.
#[derive(Clone, Debug)]
pub struct FdFinding {
    pub site: FdSite,
    /// How long the youngest and the oldest of them are known to have been so, nanoseconds, and at how many looks all were.
    pub age_ns: Option<(u64, u64)>,
    pub looks: u32,
    pub growth: Option<Growth>,
    /// Whether it is proven that nothing leads to them.
    pub sure: bool,
    /// No search was made before this one, so that their age cannot be known.
    pub first: bool,
}

/// A group for each of these findings that a rule asks for.
pub fn troubled_fds(findings: &[FdFinding], thresholds: &Thresholds, rules: &Rules) -> Vec<Group> {
    let group = |finding: &FdFinding| {
        let FdFinding { site, age_ns, looks, growth, sure, first } = finding;
        let rule = rules.iter().find(|rule| rule.condition.descriptor == Some(site.trouble))?;
        let holds = |age_ns| rule.condition.holds_of_fds(thresholds, site.count, age_ns);
        let verdict = match site.trouble {
            FdTrouble::Unreachable if *sure => Verdict::Proven,
            FdTrouble::Unreachable => Verdict::Likely,
            _ if holds(age_ns.map_or(u64::MAX, |(youngest, _)| youngest)) => rule.gives,
            // What is not known to be old may be.
            _ if *first && holds(u64::MAX) => Verdict::Suspect,
            _ => return None,
        };
        let mut evidence = vec![said(site)];
        if let Some((youngest, oldest)) = age_ns {
            let between = match (duration(*youngest), duration(*oldest)) {
                (youngest, oldest) if youngest == oldest => youngest,
                (youngest, oldest) => format!("{youngest} to {oldest}"),
            };
            evidence.push(format!("so at every one of {looks} looks, for at least {between}"));
        }
        evidence.extend(growth.map(|growth| growing(growth, "are opened than closed")));
        if site.trouble == FdTrouble::PeerClosed {
            evidence.push(match site.read_to_end {
                0 => "none of them was read to its end".to_owned(),
                all if all == site.count => "they were read to their end, and not closed".to_owned(),
                some => format!("{some} of them were read to their end, and not closed"),
            });
        }
        if site.unread > 0 {
            evidence.push(format!("{} bytes of them were never read", site.unread));
        }
        if !site.kept_by.is_empty() {
            evidence.push(format!("descriptor {} is kept alive by {}", site.number, site.kept_by));
        }
        let age = |ns: u64| Age { ns, measure: Measure::AtLeast };
        Some(Group {
            // The object is known only of some looks, but where it is what it is about.
            id: Fingerprint::of_fds(
                &rule.class,
                &site.kind,
                &site.origin,
                if site.trouble == FdTrouble::Unreachable { &site.of } else { "" },
            ),
            verdict,
            rule: Arc::clone(rule),
            members: Vec::new(),
            count: site.count,
            age: age_ns.map(|(youngest, oldest)| (age(youngest), age(oldest))),
            growth: *growth,
            timers: None,
            contexts: None,
            pools: None,
            fds: Some(site.clone()),
            ring: Vec::new(),
            evidence,
        })
    };
    findings.iter().filter_map(group).collect()
}

/// What they are, in a sentence without a full stop.
fn said(site: &FdSite) -> String {
    let FdSite { trouble, kind, origin, count, number, name, of, address, limit, .. } = site;
    let space = |text: &str| if text.is_empty() { String::new() } else { format!(" {text}") };
    let one = match (&**of, &**name) {
        ("", "") => format!("one is {number}"),
        ("", name) => format!("one is {number}, {name}"),
        (of, "") => format!("one is {number}, the {of} at {address:#x}"),
        (of, name) => format!("one is {number}, {name}, the {of} at {address:#x}"),
    };
    let (one_noun, several) =
        if *kind == "tcp" { ("connection", "connections") } else { ("descriptor", "descriptors") };
    let noun = if *count == 1 { one_noun } else { several };
    let kind = if *kind == "tcp" { "" } else { kind };
    let them = if *count == 1 { "it" } else { "them" };
    let what = format!("{count}{} {noun}{}", space(kind), space(origin));
    match trouble {
        FdTrouble::PeerClosed => {
            format!(
                "{what}: the peer has closed (CLOSE_WAIT), and no goroutine waits to read or to write; {one}"
            )
        }
        FdTrouble::Unreachable => {
            format!(
                "{what}: no variable, no goroutine and no object that these lead to refers to {them}, so only a finalizer would close {them}, after a collection; {one}"
            )
        }
        FdTrouble::Growing => format!("{what} are open; {one}"),
        FdTrouble::NearLimit => format!("{count} descriptors are open, and {limit} may be (RLIMIT_NOFILE)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(trouble: FdTrouble, count: u64, age_s: Option<u64>) -> FdFinding {
        let site = FdSite {
            trouble,
            kind: "tcp".to_owned(),
            origin: "accepted at port 8080".to_owned(),
            count,
            number: 7,
            name: "a → b".to_owned(),
            of: "net.TCPConn".to_owned(),
            address: 0xc000,
            kept_by: "main.conns → []".to_owned(),
            unread: 12,
            read_to_end: 1,
            limit: 0,
        };
        let age_ns = age_s.map(|s| (s * 1_000_000_000, s * 1_000_000_000));
        FdFinding { site, age_ns, looks: 2, growth: None, sure: false, first: false }
    }

    fn verdict(finding: FdFinding) -> Option<Verdict> {
        let rules = Rules::built_in().unwrap();
        let groups = troubled_fds(&[finding], &Thresholds::default(), &rules);
        groups.first().map(|group| group.verdict)
    }

    #[test]
    fn a_connection_is_left_for_as_long_as_is_asked_for() {
        use FdTrouble::PeerClosed;
        assert_eq!(verdict(finding(PeerClosed, 3, Some(300))), Some(Verdict::Likely));
        assert_eq!(verdict(finding(PeerClosed, 3, Some(299))), None);
        assert_eq!(verdict(finding(PeerClosed, 2, Some(300))), None);
        let first = FdFinding { first: true, ..finding(PeerClosed, 3, Some(1)) };
        assert_eq!(verdict(first), Some(Verdict::Suspect), "its age cannot be known");
    }

    #[test]
    fn what_nothing_leads_to_needs_neither_age_nor_number() {
        use FdTrouble::Unreachable;
        assert_eq!(verdict(finding(Unreachable, 1, None)), Some(Verdict::Likely));
        let sure = FdFinding { sure: true, ..finding(Unreachable, 1, None) };
        assert_eq!(verdict(sure), Some(Verdict::Proven));
    }

    #[test]
    fn evidence_says_what_was_seen() {
        let rules = Rules::built_in().unwrap();
        let groups =
            troubled_fds(&[finding(FdTrouble::PeerClosed, 3, Some(400))], &Thresholds::default(), &rules);
        assert_eq!(
            groups.first().unwrap().evidence,
            [
                "3 connections accepted at port 8080: the peer has closed (CLOSE_WAIT), and no goroutine waits to read or to write; one is 7, a → b, the net.TCPConn at 0xc000",
                "so at every one of 2 looks, for at least 6m40s",
                "1 of them were read to their end, and not closed",
                "12 bytes of them were never read",
                "descriptor 7 is kept alive by main.conns → []",
            ]
        );
    }
}

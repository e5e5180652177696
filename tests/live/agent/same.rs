//! The same finding is told the same by everything that tells of it: text, JSON, SARIF, the agent's API and metrics; and
//! its age goes on while it stands.

use std::{thread, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::Agent,
    fixture::{self, Variant},
    leaks::{self, Group, Verdict},
    process::Process,
    toolchain::Go,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![live(all_say_the_same_of_a_finding), live(a_wait_that_goes_on_becomes_longer)]
}

/// A ring of goroutines in different places, one that nothing can wake, and a thread that is stuck.
const FINDINGS: [(&str, &[&str]); 3] = [
    ("rings", &["-way", "order-deferred"]),
    ("leaks", &["-class", "send-without-receiver"]),
    ("leaks", &["-class", "stuck-syscall"]),
];

/// A verdict as all of them write it.
fn word(verdict: Verdict) -> String {
    format!("{verdict:?}").to_lowercase()
}

fn started(fixture: &str, args: &[&str]) -> Result<Process> {
    fixture::start_own(fixture, &Go::newest(), Variant::Plain, args)
}

fn all_say_the_same_of_a_finding() -> Result<()> {
    for (fixture, args) in FINDINGS {
        let target = started(fixture, args)?;
        let young = ["--min-age", "1s"];
        let report = leaks::json(target.pid(), &young)?;
        let sarif: Value = serde_json::from_str(&leaks::text(
            target.pid(),
            &[&young[..], &["--format", "sarif"]].concat(),
        )?)?;
        let text = leaks::text(target.pid(), &young)?;
        let agent = Agent::watching(&target, &[])?;
        let told = agent.until("/sfgi/leaks", |told| {
            told.as_array().is_some_and(|told| told.len() >= report.groups.len())
        })?;
        let metrics = agent.get("/metrics")?.text();
        ensure!(!report.groups.is_empty(), "nothing is found of {args:?}");
        for group in &report.groups {
            let is_one = |value: &&Value| value["id"] == group.id.as_str();
            let one = told.as_array().into_iter().flatten().find(is_one);
            let one = one.with_context(|| format!("the agent has no {group:?}: {told:#}"))?;
            same_of_agent(group, one)?;
            same_of_sarif(group, &sarif)?;
            same_of_text(group, &text)?;
            let all: u64 = (report.groups.iter())
                .filter(|other| (other.verdict, &other.class) == (group.verdict, &group.class))
                .map(|group| group.count)
                .sum();
            let is_series = |line: &&str| {
                line.starts_with("sfgi_leaked_goroutines{")
                    && line.contains(&format!("class=\"{}\"", group.class))
                    && line.contains(&format!("verdict=\"{}\"", word(group.verdict)))
            };
            let series = metrics.lines().find(is_series).with_context(|| metrics.clone())?;
            ensure!(series.ends_with(&format!("}} {all}")), "{series}: {group:?}");
        }
    }
    Ok(())
}

fn same_of_agent(group: &Group, one: &Value) -> Result<()> {
    let same = |name: &str, value: &str| ensure_same(group, name, &one[name], value);
    same("verdict", &word(group.verdict))?;
    same("class", &group.class)?;
    same("fix", &group.fix)?;
    same("explanation", &group.explanation)?;
    ensure!(one["count"] == group.count, "{group:?}: {one:#}");
    let waits = |ring: &Value| ring.as_array().map_or(0, Vec::len);
    ensure!(waits(&one["ring"]) == group.ring.len(), "{group:?}: {one:#}");
    // Ages, numbers of looks and addresses of a later search differ; how often it says what does not.
    ensure!(one["evidence"].as_array().is_some_and(|said| !said.is_empty()), "{one:#}");
    Ok(())
}

fn ensure_same(group: &Group, name: &str, value: &Value, expected: &str) -> Result<()> {
    ensure!(value == expected, "{name} is {value}, not {expected:?}: {group:?}");
    Ok(())
}

fn same_of_sarif(group: &Group, sarif: &Value) -> Result<()> {
    let results = sarif["runs"][0]["results"].as_array().context("no results")?;
    let is_one = |result: &&Value| {
        let prints = result["partialFingerprints"].as_object();
        prints.is_some_and(|prints| prints.values().any(|print| print == group.id.as_str()))
    };
    let one = results.iter().find(is_one).with_context(|| format!("no {}: {sarif:#}", group.id))?;
    let text = one["message"]["text"].as_str().context("no text")?;
    let words = [word(group.verdict), group.count.to_string()];
    ensure!(words.iter().all(|word| text.contains(word.as_str())), "{text}: {group:?}");
    Ok(())
}

fn same_of_text(group: &Group, text: &str) -> Result<()> {
    let heading = format!("{} × {} {}", group.count, word(group.verdict), group.class);
    ensure!(text.contains(&heading), "no {heading:?} in\n{text}");
    ensure!(text.contains(&format!("fix: {}", group.fix)), "{text}");
    Ok(())
}

/// The agent looks at the heap again only where something has changed: nothing does.
fn a_wait_that_goes_on_becomes_longer() -> Result<()> {
    let target = started("leaks", &["-class", "send-without-receiver"])?;
    // An interval so long that no second look comes meanwhile; polls do.
    let agent = Agent::watching(&target, &[])?;
    let duration = || -> Result<f64> {
        let told = agent.until("/sfgi/leaks", |told| told[0]["duration"].is_f64())?;
        told[0]["duration"].as_f64().context("no duration")
    };
    let first = duration()?;
    thread::sleep(Duration::from_secs(4));
    let later = duration()?;
    ensure!(later >= first + 2.0, "{first} s, and four seconds later {later} s");
    Ok(())
}

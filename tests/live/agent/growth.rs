//! `sfgi agent` and a program whose goroutines become ever more: it is watched more closely for a while, and what was seen of
//! it outlives the agent.

use std::{fs, path::PathBuf, time::Instant};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent::{Agent, SOON, of, sum},
    fixture::{Own, Variant, line_of},
    process::Process,
    toolchain::Go,
};
use rustix::process::Signal;
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(what_grows_is_raised_for_a_while_and_lowered_again),
        live(an_alert_raises_and_nothing_does_where_that_is_switched_off),
        live(what_was_seen_of_growth_outlives_the_agent),
    ]
}

/// A program that grows, in a directory of its own.
struct Growing {
    own: Own,
    target: Process,
}

impl Growing {
    fn new() -> Result<Growing> {
        let own = Own::new("growth", &Go::newest(), Variant::Stripped)?;
        let mut target = own.start(&[])?;
        target.command("grow", SOON)?;
        Ok(Growing { own, target })
    }

    /// The configuration with this in it.
    fn config(&self, text: &str) -> Result<PathBuf> {
        let file = self.own.dir.path().join("sfgi.toml");
        let text = format!(
            "scan.interval = \"1s\"\nbudget.node = \"50%\"\nstore.file = {:?}\n{text}\n[[include]]\nexe = \"^{}$\"\n",
            self.own.dir.path().join("history"),
            self.own.exe.display()
        );
        fs::write(&file, text)?;
        Ok(file)
    }

    fn agent(&self, text: &str) -> Result<Agent> {
        let file = self.config(text)?;
        Agent::start(&["--config", file.to_str().context("path")?])
    }
}

fn grows(process: &Value) -> bool {
    process["growth"]
        .as_array()
        .is_some_and(|sites| sites.iter().any(|site| site["site"]["func"] == "main.grow"))
}

fn what_grows_is_raised_for_a_while_and_lowered_again() -> Result<()> {
    let growing = Growing::new()?;
    let pid = growing.target.pid();
    let agent = growing.agent("raise.for = \"12s\"\nraise.cool_down = \"1h\"")?;
    let says =
        |process: &Value, text: &str| process["mode_reason"].as_str().is_some_and(|why| why.contains(text));
    // By the growth itself, or by a search for leaks that has seen it, too: whichever comes first.
    agent.process.stderr.wait_for(SOON, |line| {
        line.contains("is raised to life for 12 s: goroutines of main.grow grow by")
            || line.contains("is raised to wait for 12 s: ")
    })?;
    agent.wait_for(pid, |process| process["mode"] != "poll" && says(process, "is raised to "))?;
    let made = line_of("growth", "go stay()")?;
    let process = agent.wait_for(pid, |process| sum(&process["events"]["created"]) >= 20)?;
    ensure!(process["events"]["created"]["rows"][0]["site"]["line"] == made, "{}", process["events"]);
    agent.wait_for(pid, |process| {
        process["mode"] == "poll" && process["wanted"] == "poll" && says(process, "was raised to ")
    })?;
    for text in ["poll → ", "was raised to "] {
        agent.process.stderr.wait_for(SOON, |line| line.contains(text))?;
    }
    // It still grows, and is left alone.
    let scans = agent.wait(|_| true)?["node"]["scans"].as_u64().unwrap_or(0);
    let picture = agent.wait(|picture| picture["node"]["scans"].as_u64() > Some(scans + 10))?;
    let raises = |cause: &str| picture["node"]["raises"][cause].as_u64().unwrap_or(u64::MAX);
    let once = raises("growth") <= 1 && raises("finding") <= 1 && raises("alert") == 0;
    ensure!(once && raises("growth") + raises("finding") > 0, "{}", picture["node"]);
    let process = of(&picture, pid).context("it has ended")?;
    ensure!(process["mode"] == "poll" && grows(process), "{process}");
    Ok(())
}

fn an_alert_raises_and_nothing_does_where_that_is_switched_off() -> Result<()> {
    let growing = Growing::new()?;
    let pid = growing.target.pid();
    let alerts = "leaks.min_age = \"1s\"\nalerts.for = \"1s\"\nalerts.suspect_limit = \"warn\"\n\
                  alerts.warn.count = 5\nalerts.intervene = {}\n";
    let agent = growing.agent(&format!("{alerts}raise.for = \"12s\""))?;
    let raised = |process: &Value| {
        let reason = process["mode_reason"].as_str().unwrap_or_default();
        process["mode"] == "wait" && reason.contains("is raised to wait for 12 s: alert warn of ")
    };
    agent.wait_for(pid, raised)?;
    agent.wait_for(pid, |process| process["mode"] == "poll")?;
    drop(agent);

    let agent = growing.agent(&format!("{alerts}[[rule]]\nmatch.exe = \"/growth$\"\nraise = false"))?;
    agent.process.stderr.wait_for(SOON, |line| line.contains("alert growth (PID"))?;
    agent.wait_for(pid, grows)?;
    let picture = agent.wait(|picture| picture["node"]["scans"].as_u64() > Some(12))?;
    let node = &picture["node"];
    ensure!(node["raises"] == serde_json::json!({"growth": 0, "finding": 0, "alert": 0}), "{node}");
    ensure!(node["mode_changes"] == 0, "{node}");
    Ok(())
}

fn what_was_seen_of_growth_outlives_the_agent() -> Result<()> {
    let growing = Growing::new()?;
    let pid = growing.target.pid();
    let off = "raise.on_finding = false";
    let mut agent = growing.agent(off)?;
    // It takes four looks at least to tell growth: those of scans, or of a search for leaks.
    let fresh = agent.wait_for(pid, grows)?;
    ensure!(fresh["scans"].as_u64() >= Some(4) || fresh["leaks_unix_ns"] != 0, "{fresh}");
    agent.wait_for(pid, |process| grows(process) && process["leaks_unix_ns"] != 0)?;
    // More than the time between two commits, so that what was seen so far is on the disk.
    let until = Instant::now() + std::time::Duration::from_secs(20);
    agent.wait(|_| Instant::now() >= until)?;
    agent.process.signal(Signal::KILL)?;
    agent.process.wait(SOON)?;

    let agent = growing.agent(off)?;
    let first = agent.wait_for(pid, |process| process["scans"].as_u64() > Some(0))?;
    ensure!(grows(&first) && first["scans"].as_u64() < Some(4), "{first}");
    Ok(())
}

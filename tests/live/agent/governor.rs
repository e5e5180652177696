//! `sfgi agent`: probes are raised and lowered as the budget has it.

use std::{fs, path::Path, time::Duration};

use crate::harness::{Test, live};
use anyhow::{Context, Result};
use live_tests::{
    agent::{Agent, SOON, sum},
    fixture::{self, Own, Variant},
    toolchain::Go,
    tree,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(what_probes_tell_is_counted),
        live(what_would_be_too_dear_is_not_done),
        live(what_becomes_too_dear_ends_within_two_seconds).alone(),
        live(the_run_time_of_programs_is_told_and_counted_only_while_they_stand),
    ]
}

fn own(name: &str) -> Result<Own> {
    Own::new(name, &Go::newest(), Variant::Plain)
}

/// An agent for that only.
fn watching(own: &Own, args: &[&str]) -> Result<Agent> {
    Agent::start(&[&["--interval", "1s", "--include", &own.include()], args].concat())
}

fn what_probes_tell_is_counted() -> Result<()> {
    let own = own("idle")?;
    let mut target = own.start(&["-n", "40"])?;
    let agent = watching(&own, &["--budget", "50%", "--mode", "full"])?;
    agent.wait_for(target.pid(), |process| process["mode"] == "full")?;
    target.command("leak", SOON)?;
    let process = agent.wait_for(target.pid(), |process| sum(&process["events"]["created"]) >= 10)?;
    let events = &process["events"];
    let leaky = fixture::line_of("idle", "go forgotten(")?;
    let rows = events["created"]["rows"].as_array().context("rows")?;
    let row = rows.iter().find(|row| row["site"]["line"] == leaky).with_context(|| events.to_string())?;
    assert_eq!(row["count"], 10);
    assert!(events["hits"].as_u64() >= Some(20), "{events}");
    assert_eq!((&events["lost"], &events["illegal"]), (&0.into(), &0.into()));
    assert!(events["predicted_cores"].as_f64().is_some_and(|cores| cores < 0.5), "{events}");
    Ok(())
}

/// A program that does nothing but switch: no mode that sees switches fits into the budget, and the log says so.
fn what_would_be_too_dear_is_not_done() -> Result<()> {
    let own = own("pingpong")?;
    let mut target = own.start(&["-d", "60s"])?;
    target.say()?;
    let agent = watching(&own, &["--budget", "2%", "--mode", "full"])?;
    let said = agent.process.stderr.wait_for(SOON, |line| line.contains("full would cost"))?;
    assert!(said.text.contains("hits/s") && said.text.contains("% that it may"), "{}", said.text);
    let process = agent.wait_for(target.pid(), |process| process["mode_reason"] != "")?;
    assert_eq!(process["wanted"], "full");
    assert!(process["mode"] == "poll" || process["mode"] == "life", "{process}");
    Ok(())
}

/// It begins to switch when its probes stand: they go within two seconds, and the log says why.
fn what_becomes_too_dear_ends_within_two_seconds() -> Result<()> {
    let own = own("pingpong")?;
    let mut target = own.start(&["-d", "60s"])?;
    let agent = watching(&own, &["--budget", "2%", "--mode", "full"])?;
    agent.wait_for(target.pid(), |process| process["mode"] == "full")?;
    let began_ns = live_tests::process::monotonic_ns();
    target.say()?;
    let said = agent.process.stderr.wait_for(SOON, |line| line.contains("full →"))?;
    assert!(said.text.contains("hits/s at"), "{}", said.text);
    let took = Duration::from_nanos(said.at_ns.saturating_sub(began_ns));
    assert!(took <= Duration::from_secs(2), "it took {took:?}: {}", said.text);
    let process = agent.wait_for(target.pid(), |process| process["mode"] != "full")?;
    assert!(process["mode_reason"].as_str().is_some_and(|why| why.contains("full")), "{process}");
    Ok(())
}

/// Whether a process has the kernel count the runs of eBPF programs: that belongs to a file descriptor.
fn counts_runs(pid: u32) -> Result<bool> {
    let counts = |pid: u32| {
        // A worker may have ended meanwhile.
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        let mut links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.any(|link| link == Path::new("anon_inode:bpf-stats"))
    };
    Ok(tree::of(pid)?.into_iter().any(counts))
}

/// What the programs run is added up, also of sessions that are over, and the kernel counts only while one stands.
fn the_run_time_of_programs_is_told_and_counted_only_while_they_stand() -> Result<()> {
    let own = own("idle")?;
    let mut target = own.start(&["-n", "40"])?;
    let agent = watching(&own, &["--budget", "50%"])?;
    agent.wait_for(target.pid(), |process| process["scan"].is_object())?;
    assert!(!counts_runs(agent.process.pid())?);
    let picture = agent.wait(|_| true)?;
    assert!(picture["node"]["bpf_seconds"].is_null(), "{}", picture["node"]);
    drop(agent);

    let config = own.dir.path().join("sfgi.toml");
    let write = |mode: &str| -> Result<()> {
        let exe = &own.exe;
        let text = format!(
            "scan = {{ interval = \"1s\", mode = \"{mode}\" }}\nbudget.node = \"50%\"\n[[include]]\nexe = \"^{}$\"\n",
            exe.display()
        );
        Ok(fs::write(&config, text)?)
    };
    write("full")?;
    let agent = Agent::start(&["--config", config.to_str().context("path")?])?;
    let pid = agent.process.pid();
    agent.wait_for(target.pid(), |process| process["mode"] == "full")?;
    assert!(counts_runs(pid)?);
    for _ in 0..20 {
        target.command("leak", SOON)?;
    }
    let seconds = |picture: &serde_json::Value| picture["node"]["bpf_seconds"].as_f64().unwrap_or(0.0);
    let hits = |picture: &serde_json::Value| {
        let process = live_tests::agent::of(picture, target.pid())?;
        process["events"]["hits"].as_u64()
    };
    let picture = agent.wait(|picture| hits(picture) >= Some(400) && seconds(picture) > 0.0)?;
    let (told, hits) = (seconds(&picture), hits(&picture).unwrap_or(0));
    let each_ns = told * 1e9 / hits as f64;
    assert!((50.0..100_000.0).contains(&each_ns), "{told} s for {hits} hits");

    write("poll")?;
    agent.process.signal(rustix::process::Signal::HUP)?;
    let picture = agent.wait(|picture| {
        live_tests::agent::of(picture, target.pid()).is_some_and(|process| process["mode"] == "poll")
    })?;
    assert!(seconds(&picture) >= told);
    // The thread that removes the probes may need a moment more.
    agent.wait(|_| !counts_runs(pid).unwrap_or(true))?;
    Ok(())
}

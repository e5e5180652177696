//! `sfgi agent`: which programs it finds, and that it says of them what `sfgi dump` and `sfgi leaks` say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent::{Agent, SOON, of, sum},
    fixture::{self, Own, Variant},
    leaks, sfgi,
    toolchain::Go,
    tree,
};
use rustix::process::Signal;
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(old_and_new_programs_are_found_named_and_counted),
        live(what_leaks_is_told_as_sfgi_leaks_tells_it).quick(),
        live(a_leak_that_begins_later_is_found),
        live(in_namespaces_and_control_groups_of_its_own),
        live(a_program_that_executes_itself_is_another_one),
        live(an_old_program_that_executes_itself_is_noticed_without_a_scan),
        live(programs_that_live_for_a_moment),
        live(what_is_excluded_is_not_read),
        live(it_ends_when_it_is_asked_to_and_leaves_the_programs_alone),
    ]
}

fn own(name: &str) -> Result<Own> {
    Own::new(name, &Go::newest(), Variant::Stripped)
}

/// An agent for that only.
fn watching(own: &Own, args: &[&str]) -> Result<Agent> {
    Agent::start(&[&["--interval", "1s", "--budget", "30%", "--include", &own.include()], args].concat())
}

fn scanned(process: &Value) -> bool {
    process["scan"].is_object()
}

/// Goroutines by state and reason, as `sfgi dump --group` has them.
fn dumped(pid: u32) -> Result<BTreeMap<(String, String), u64>> {
    let output = sfgi::command(&["dump", "--group", "--format", "json", "-p", &pid.to_string()])?.output()?;
    let document: Value = serde_json::from_slice(&output.stdout).context("sfgi dump")?;
    let mut counts = BTreeMap::new();
    for group in document["groups"].as_array().context("groups")? {
        let text = |name: &str| group[name].as_str().unwrap_or_default().to_owned();
        *counts.entry((text("status"), text("wait_reason"))).or_default() +=
            group["count"].as_u64().unwrap_or(0);
    }
    Ok(counts)
}

fn old_and_new_programs_are_found_named_and_counted() -> Result<()> {
    let own = own("idle")?;
    let mut old = own.start(&["-n", "400"])?;
    let agent = watching(&own, &[])?;
    let process = agent.wait_for(old.pid(), scanned)?;
    let identity = &process["identity"];
    assert_eq!(identity["exe"], own.exe.to_str().context("path")?);
    assert_eq!(identity["package"], "fixtures/idle");
    assert_eq!(identity["module"], "fixtures");
    assert_eq!(identity["service"], "idle");
    assert_eq!(identity["go_version"], format!("go{}", Go::newest().version));
    assert_eq!(process["mode"], "poll");

    let told = |process: &Value| -> BTreeMap<(String, String), u64> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rows = process["scan"]["states"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .map(|row| ((text(&row["state"]), text(&row["reason"])), row["count"].as_u64().unwrap_or(0)))
            .collect()
    };
    let dumped = dumped(old.pid())?;
    let process = agent.wait_for(old.pid(), |process| told(process) == dumped)?;
    let all: u64 = dumped.values().sum();
    assert!(all >= 400, "{dumped:?}");
    assert_eq!(sum(&process["scan"]["creators"]), all);
    assert_eq!(
        process["scan"]["goroutines"].as_u64().unwrap_or(0) - process["scan"]["system"].as_u64().unwrap_or(0),
        all
    );
    let workers = fixture::line_of("idle", "for range work {")?;
    let waits = process["scan"]["waits"]["rows"].as_array().context("rows")?;
    let at_work = waits.iter().find(|row| row["site"]["func"] == "main.worker").context("main.worker")?;
    assert_eq!(
        (at_work["count"].as_u64(), at_work["site"]["line"].as_u64()),
        (Some(100), Some(workers.into()))
    );

    // Only what is new is read with its stack.
    old.command("leak", SOON)?;
    let waits = |process: &Value, func: &str| {
        let rows = process["scan"]["waits"]["rows"].as_array().cloned().unwrap_or_default();
        rows.iter().find(|row| row["site"]["func"] == func).and_then(|row| row["count"].as_u64())
    };
    let process = agent.wait_for(old.pid(), |process| waits(process, "main.forgotten") == Some(10))?;
    assert_eq!(waits(&process, "main.worker"), Some(100));
    assert_eq!(sum(&process["scan"]["creators"]), all + 10);

    let new = own.start(&["-n", "40"])?;
    agent.wait_for(new.pid(), scanned)?;
    let picture = agent.wait(|picture| picture["node"]["seen"]["tracked"] == 2)?;
    assert_eq!(picture["node"]["binaries"], 1, "both run the same file");
    let gone = new.pid();
    drop(new);
    agent.wait(|picture| of(picture, gone).is_none() && of(picture, old.pid()).is_some())?;
    Ok(())
}

fn what_leaks_is_told_as_sfgi_leaks_tells_it() -> Result<()> {
    let own = own("leaks")?;
    let target = own.start(&["-class", "send-without-receiver"])?;
    let healthy = own.start(&["-class", "send-without-receiver", "-fixed"])?;
    let agent = watching(&own, &[])?;
    let process = agent
        .wait_for(target.pid(), |process| process["leaks"].as_array().is_some_and(|all| !all.is_empty()))?;
    let output = leaks::run(target.pid(), &["--observe", "300ms", "--format", "json"])?;
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let groups = |all: &Value, goids: &str| -> Result<BTreeSet<String>> {
        let all = all.as_array().context("groups")?;
        let row = |group: &Value| {
            let fields = ["id", "verdict", "class", "severity", "count", goids];
            fields.map(|field| group[field].to_string()).join(" ")
        };
        Ok(all.iter().map(row).collect())
    };
    assert_eq!(groups(&process["leaks"], "goids")?, groups(&document["groups"], "goids")?);
    let first = &process["leaks"][0];
    ensure!(first["verdict"] == "proven", "{first}");
    let path = format!("/sfgi/leaks?pid={}", target.pid());
    let shown = agent.ask("GET", &path)?.json()?;
    ensure!(
        shown[0]["verdict"] == "proven" && shown[0]["silent_failure_type"] == "blocked_forever",
        "{shown:#}"
    );
    assert!(shown[0]["stack_trace"].as_array().is_some_and(|stack| !stack.is_empty()), "{shown:#}");
    assert!(first["pinned_bytes"].as_u64().is_some(), "{first}");
    let process = agent.wait_for(healthy.pid(), |process| process["leaks_unix_ns"] != 0)?;
    assert_eq!(process["leaks"], Value::Array(Vec::new()));
    Ok(())
}

fn a_leak_that_begins_later_is_found() -> Result<()> {
    let own = own("idle")?;
    let mut target = own.start(&["-n", "40"])?;
    let agent = watching(&own, &[])?;
    let clean = agent.wait_for(target.pid(), |process| process["leaks_unix_ns"] != 0)?;
    assert_eq!(clean["leaks"], Value::Array(Vec::new()));
    target.command("leak", SOON)?;
    let process = agent.wait_for(target.pid(), |process| process["leaks"][0]["count"] == 10)?;
    assert_eq!(process["leaks"][0]["class"], "send-without-receiver");
    assert_eq!(process["leaks"][0]["created_by"]["func"], "main.main.func1");
    Ok(())
}

fn in_namespaces_and_control_groups_of_its_own() -> Result<()> {
    let own = own("idle")?;
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "-p", "--fork", "--kill-child", "--mount-proc"]).arg(&own.exe).args(["-n", "4"]);
    unshare.env("OTEL_SERVICE_NAME", "cart").env("SECRET", "not to be told");
    let target = fixture::start_command(&mut unshare)?;
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", target.pid()))?;
    let pid: u32 = children.trim().parse()?;
    let agent = watching(&own, &[])?;
    let process = agent.wait_for(pid, scanned)?;
    assert_eq!(process["identity"]["inner_pid"], 1);
    assert_eq!(process["identity"]["service"], "cart");
    assert!(!process.to_string().contains("not to be told"));

    // Where we may make control groups: one named as a container's.
    let id = "0123456789abcdef".repeat(4);
    let group = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].iter().find_map(|root| {
        let group = PathBuf::from(root).join(format!("docker-{id}.scope"));
        fs::create_dir(&group).ok()?;
        // In a directory that is none of the kernel's this file is not made.
        if group.join("cgroup.procs").exists() {
            return Some(group);
        }
        fs::remove_dir(&group).ok()?;
        None
    });
    let Some(group) = group else {
        eprintln!("no control group can be made here: the unit tests read the lines of all engines");
        return Ok(());
    };
    let procs = group.join("cgroup.procs");
    let mut inside = Command::new(&own.exe);
    // SAFETY: one write between fork and exec.
    unsafe {
        inside.pre_exec(move || fs::write(&procs, "0"));
    }
    let result = fixture::start_command(inside.args(["-n", "4"])).and_then(|target| {
        let process = agent.wait_for(target.pid(), scanned)?;
        ensure!(process["identity"]["container"] == id.as_str(), "{}", process["identity"]);
        Ok(())
    });
    // The last process has ended by now; the kernel may need a moment.
    for _ in 0..100 {
        if fs::remove_dir(&group).is_ok() {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    result
}

fn a_program_that_executes_itself_is_another_one() -> Result<()> {
    let own = own("idle")?;
    let mut target = own.start(&["-n", "40"])?;
    let agent = watching(&own, &[])?;
    let before = agent.wait_for(target.pid(), scanned)?;
    target.tell("again")?;
    let after = agent.wait_for(target.pid(), |process| scanned(process) && process["id"] != before["id"])?;
    assert_eq!(after["id"]["start_ticks"], before["id"]["start_ticks"]);
    assert!(after["error"].is_null(), "{after}");
    Ok(())
}

/// By the sweep alone: it is not scanned again.
fn an_old_program_that_executes_itself_is_noticed_without_a_scan() -> Result<()> {
    let own = own("idle")?;
    let mut target = own.start(&["-n", "40"])?;
    let agent = Agent::start(&["--interval", "1h", "--budget", "30%", "--include", &own.include()])?;
    let before = agent.wait_for(target.pid(), scanned)?;
    // Until it is an old one.
    let from = before["id"].clone();
    agent.wait(|picture| {
        picture["unix_ns"].as_u64() > before["scan"]["unix_ns"].as_u64().map(|ns| ns + 6_000_000_000)
    })?;
    target.tell("again")?;
    let after = agent.wait_for(target.pid(), |process| scanned(process) && process["id"] != from)?;
    assert_eq!(after["id"]["program"], 1);
    assert!(after["error"].is_null(), "{after}");
    Ok(())
}

/// Many programs that live for a moment: each comes and goes, and nothing of them stays.
fn programs_that_live_for_a_moment() -> Result<()> {
    let own = own("idle")?;
    let lasting = own.start(&["-n", "4"])?;
    let agent = watching(&own, &[])?;
    agent.wait_for(lasting.pid(), scanned)?;
    // Of all processes of the agent; a worker may come or go meanwhile.
    let descriptors = || -> Result<usize> {
        let open = |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        Ok(tree::of(agent.process.pid())?.iter().map(open).sum())
    };
    let before = descriptors()?;
    for _ in 0..10 {
        let mut all = Vec::new();
        for _ in 0..20 {
            let mut command = Command::new(&own.exe);
            command.args(["-n", "4"]).stdin(Stdio::piped()).stdout(Stdio::null());
            all.push(command.spawn()?);
        }
        thread::sleep(Duration::from_millis(500));
        for mut child in all {
            child.kill()?;
            child.wait()?;
        }
    }
    let picture = agent.wait(|picture| picture["processes"].as_array().is_some_and(|all| all.len() == 1))?;
    let seen = &picture["node"]["seen"];
    assert!(seen["started_total"].as_u64() > Some(20), "{seen}");
    let after = descriptors()?;
    assert!(after <= before + 40, "{before} descriptors became {after}");
    Ok(())
}

fn what_is_excluded_is_not_read() -> Result<()> {
    let own = own("idle")?;
    let target = own.start(&["-n", "4"])?;
    let agent = watching(&own, &["--exclude", "^fixtures/idle$"])?;
    let picture = agent.wait(|picture| picture["node"]["seen"]["excluded"].as_u64() > Some(0))?;
    assert!(of(&picture, target.pid()).is_none());
    assert_eq!(picture["node"]["scans"], 0);
    Ok(())
}

fn it_ends_when_it_is_asked_to_and_leaves_the_programs_alone() -> Result<()> {
    let own = own("idle")?;
    let mut target = own.start(&["-n", "40"])?;
    for signal in [Signal::TERM, Signal::INT] {
        let mut agent = watching(&own, &["--mode", "full"])?;
        agent.wait_for(target.pid(), |process| process["mode"] == "full")?;
        agent.process.signal(signal)?;
        agent.process.wait_code(SOON, 0)?;
    }
    let mut agent = watching(&own, &["--mode", "full"])?;
    agent.wait_for(target.pid(), |process| process["mode"] == "full")?;
    agent.process.signal(Signal::HUP)?;
    agent.process.stderr.wait_for(SOON, |line| line.contains("goes on with other settings"))?;
    agent.wait_for(target.pid(), scanned)?;
    agent.process.signal(Signal::KILL)?;
    agent.process.wait(SOON)?;
    target.command("gc", SOON)?;
    assert!(!target.stdout.text().contains("signal"), "{}", target.stdout.text());
    Ok(())
}

//! Alert levels of `sfgi agent`: evidence that is kept, and the hook.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::{Agent, LONGEST},
    fixture::{self, Own, Variant},
    machine,
    process::Process,
    sfgi,
    toolchain::Go,
};
use rustix::process::Signal;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(a_leak_rises_to_the_top_and_leaves_evidence),
        live(an_alert_goes_on_after_a_restart_and_does_nothing_twice),
    ]
}

fn a_leak_rises_to_the_top_and_leaves_evidence() -> Result<()> {
    let target =
        fixture::start_own("leaks", &Go::newest(), Variant::Plain, &["-class", "send-without-receiver"])?;
    let directory = tempfile::tempdir()?;
    let (evidence, said) = (directory.path().join("evidence"), directory.path().join("said"));
    let hook = directory.path().join("hook");
    fs::write(
        &hook,
        format!("#!/bin/sh\nenv | grep '^SFGI_ALERT_' > '{0}.new' && mv '{0}.new' '{0}'\n", said.display()),
    )?;
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let exe = fs::read_link(format!("/proc/{}/exe", target.pid()))?;
    let config = directory.path().join("sfgi.toml");
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[leaks]\nmin_age = \"1s\"\n[[include]]\nexe = '^{}$'\n\
         [alerts]\nfor = \"2s\"\nclear_after = \"1s\"\nintervene = {{ count = 3 }}\nisolate = {{ count = 5 }}\nwarn = {{ count = 2 }}\n\
         [alerts.hook]\ncommand = [\"{}\"]\n[evidence]\ndirectory = \"{}\"\nrecord = \"1s\"\n",
        exe.display(),
        hook.display(),
        evidence.display()
    );
    fs::write(&config, text)?;
    let agent = Agent::start(&["--config", &config.to_string_lossy()])?;
    let alerts = agent.until("/sfgi/alerts", |document| document[0]["level"] == "isolate")?;
    ensure!(alerts[0]["class"] == "send-without-receiver" && alerts[0]["pid"] == target.pid(), "{alerts:#}");

    agent.process.stderr.wait_for(LONGEST, |line| line.contains("the hook has run"))?;
    let said = fs::read_to_string(&said)?;
    for line in [
        "SFGI_ALERT_LEVEL=isolate",
        &format!("SFGI_ALERT_PID={}", target.pid()),
        "SFGI_ALERT_CLASS=send-without-receiver",
    ] {
        ensure!(said.lines().any(|one| one == line), "no {line} in\n{said}");
    }

    agent.process.stderr.wait_for(LONGEST, |line| line.contains(": kept "))?;
    let files: Vec<_> = fs::read_dir(&evidence)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    let with =
        |extension: &str| files.iter().find(|file| file.extension().is_some_and(|one| one == extension));
    let dump = fs::read_to_string(with("txt").context("no dump")?)?;
    ensure!(dump.contains("[chan send"), "{dump}");
    let recording = with("sfgi").context("no recording")?.to_string_lossy().into_owned();
    let mut report = Process::spawn(&mut sfgi::command(&["report", &recording])?)?;
    report.wait_code(LONGEST, 0)?;

    // What has ended is no alert.
    let ended = Instant::now();
    drop(target);
    agent.until("/sfgi/alerts", |document| document.as_array().is_some_and(Vec::is_empty))?;
    machine::report(&format!("an alert ends {:.1} s after its process", ended.elapsed().as_secs_f64()));
    Ok(())
}

/// An alert that has had its recording and its hook has them once, however the agent ends and begins again.
fn an_alert_goes_on_after_a_restart_and_does_nothing_twice() -> Result<()> {
    let own = Own::new("leaks", &Go::newest(), Variant::Plain)?;
    let target = own.start(&["-class", "send-without-receiver"])?;
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);
    let hook = path("hook");
    fs::write(&hook, format!("#!/bin/sh\necho ran >> '{}'\n", path("ran").display()))?;
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[leaks]\nmin_age = \"1s\"\n[[include]]\nexe = '^{}$'\n\
         [alerts]\nfor = \"2s\"\nclear_after = \"1s\"\nintervene = {{ count = 3 }}\nisolate = {{ count = 5 }}\nwarn = {{ count = 2 }}\n\
         [alerts.hook]\ncommand = [\"{}\"]\n[evidence]\ndirectory = \"{}\"\nrecord = \"1s\"\n[store]\nfile = \"{}\"\n",
        own.exe.display(),
        hook.display(),
        path("evidence").display(),
        path("history").display()
    );
    fs::write(path("sfgi.toml"), text)?;
    let config = path("sfgi.toml").to_string_lossy().into_owned();
    let done = || -> Result<(usize, usize)> {
        let ran = fs::read_to_string(path("ran"))?.lines().count();
        Ok((ran, fs::read_dir(path("evidence"))?.count()))
    };
    let agent = Agent::start(&["--config", &config])?;
    let before = agent.until("/sfgi/alerts", |document| document[0]["level"] == "isolate")?;
    agent.process.stderr.wait_for(LONGEST, |line| line.contains("the hook has run"))?;
    agent.process.stderr.wait_for(LONGEST, |line| line.contains(": kept "))?;
    ensure!(done()? == (1, 2), "{:?}", done()?);

    let mut agent = agent;
    for end in [Signal::KILL, Signal::TERM, Signal::KILL] {
        agent.process.signal(end)?;
        agent.process.wait(LONGEST)?;
        agent = Agent::start(&["--config", &config])?;
        agent.process.stderr.wait_for(LONGEST, |line| line.contains(": still isolate: "))?;
        let after = agent.json("/sfgi/alerts")?;
        ensure!(after == before, "{before:#} became {after:#}");
        // It is found again, and all the time in which it might rise or fall is over.
        agent.until("/sfgi/leaks", |document| document[0]["count"].as_u64() >= Some(5))?;
        thread::sleep(Duration::from_secs(5));
        let after = agent.json("/sfgi/alerts")?;
        ensure!(after == before, "{before:#} became {after:#}");
        ensure!(done()? == (1, 2), "it was done again: {:?}\n{}", done()?, agent.process.stderr.text());
    }

    // What ends while nobody looks is an alert no more.
    agent.process.signal(Signal::KILL)?;
    agent.process.wait(LONGEST)?;
    drop(target);
    let again = own.start(&["-class", "send-without-receiver", "-fixed"])?;
    let agent = Agent::start(&["--config", &config])?;
    agent.until(&format!("/sfgi/processes?pid={}", again.pid()), |document| {
        document[0]["findings"].is_u64()
    })?;
    ensure!(agent.json("/sfgi/alerts")?.as_array().is_some_and(Vec::is_empty));
    Ok(())
}

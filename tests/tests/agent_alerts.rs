//! Alert levels of `sfgi agent`: evidence that is kept, and the hook.

use std::{fs, time::Instant};

use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::{Agent, LONGEST},
    fixture::{self, Variant},
    machine,
    process::Process,
    sfgi,
    toolchain::Go,
};

#[test]
fn a_leak_rises_to_the_top_and_leaves_evidence() -> Result<()> {
    if !machine::can_trace() {
        return Ok(());
    }
    let target =
        fixture::start("leaks", &Go::newest(), Variant::Plain, &["-class", "send-without-receiver"])?;
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

//! Alert levels of `sfgi agent`: evidence that is kept, and the hook.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    thread,
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
        live(a_hook_knows_what_it_may_and_ends_as_a_whole),
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
    for file in files.iter().chain([&evidence]) {
        let mode = fs::metadata(file)?.permissions().mode() & 0o777;
        ensure!(mode == if file.is_dir() { 0o700 } else { 0o600 }, "{}: {mode:o}", file.display());
    }
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

/// A name that would be another line of the log, and colours on a terminal.
const HOSTILE: &str = "sshd\n[ERROR] all is lost\u{1b}[31m";

/// The hook is told who has chosen the name of a program, has nothing of the agent's, and its children end with the agent.
fn a_hook_knows_what_it_may_and_ends_as_a_whole() -> Result<()> {
    let own = Own::new("leaks", &Go::newest(), Variant::Plain)?;
    let mut command = Command::new(&own.exe);
    command.args(["-class", "send-without-receiver"]).env("OTEL_SERVICE_NAME", HOSTILE);
    let target = fixture::start_command(&mut command)?;
    let directory = tempfile::tempdir()?;
    // The hook's user writes here.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777))?;
    let path = |name: &str| directory.path().join(name);
    let hook = path("hook");
    let text = format!(
        "#!/bin/sh\nsleep 1000 & echo $! > {0}\nid -u > {1}\ngrep -E 'CapEff|NoNewPrivs' /proc/$$/status > {2}\n\
         tr '\\0' '\\n' < /proc/$$/environ > {3}.new\nmv {3}.new {3}\nwait\n",
        path("child").display(),
        path("user").display(),
        path("status").display(),
        path("env").display()
    );
    fs::write(&hook, text)?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[leaks]\nmin_age = \"1s\"\n[[include]]\nexe = '^{}$'\n\
         [alerts]\nfor = \"1s\"\nisolate = {{ count = 5 }}\nintervene = {{ count = 3 }}\nwarn = {{ count = 2 }}\n\
         [alerts.hook]\ncommand = [\"{}\"]\nuser = \"nobody\"\ntimeout = \"10m\"\n",
        own.exe.display(),
        hook.display()
    );
    fs::write(path("sfgi.toml"), text)?;
    let mut agent = Agent::start(&["--config", &path("sfgi.toml").to_string_lossy()])?;
    let deadline = Instant::now() + LONGEST;
    while !path("env").exists() {
        ensure!(Instant::now() < deadline, "the hook does not run:\n{}", agent.process.stderr.text());
        thread::sleep(Duration::from_millis(100));
    }
    let environment = fs::read_to_string(path("env"))?;
    for line in
        ["SFGI_ALERT_SERVICE=sshd?[ERROR] all is lost?[31m", "SFGI_ALERT_SERVICE_FROM=OTEL_SERVICE_NAME"]
    {
        ensure!(environment.lines().any(|one| one == line), "no {line} in\n{environment}");
    }
    let known =
        |line: &str| line.starts_with("SFGI_ALERT_") || line.starts_with("PATH=") || line.starts_with("PWD=");
    ensure!(environment.lines().all(known), "{environment}");
    ensure!(!fs::read_to_string(path("user"))?.starts_with("0"), "it runs as root");
    let status = fs::read_to_string(path("status"))?;
    ensure!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");

    let log = agent.process.stderr.text();
    ensure!(!log.contains('\u{1b}') && !log.lines().any(|line| line.starts_with("[ERROR]")), "{log}");
    ensure!(log.contains("as it calls itself"), "{log}");
    let shown = agent.json(&format!("/sfgi/processes?pid={}", target.pid()))?;
    ensure!(shown[0]["service_from"] == "OTEL_SERVICE_NAME", "{shown:#}");
    let metrics = agent.get("/metrics")?.text();
    ensure!(
        metrics.contains("service_from=\"OTEL_SERVICE_NAME\"") && !metrics.contains('\u{1b}'),
        "{metrics}"
    );

    let child = fs::read_to_string(path("child"))?.trim().to_owned();
    ensure!(fs::exists(format!("/proc/{child}"))?, "the hook's child has ended by itself");
    agent.process.signal(Signal::KILL)?;
    agent.process.wait(LONGEST)?;
    let deadline = Instant::now() + LONGEST;
    let runs = || {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while runs() {
        ensure!(Instant::now() < deadline, "the hook's child outlives the agent");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

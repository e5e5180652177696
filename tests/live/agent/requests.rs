//! What may be asked of the agent, as a library: scans, documents, profiles, streams, recordings.

use std::{
    fs,
    io::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent::SOON,
    fixture::{Own, Variant},
    process::Process,
    toolchain::Go,
};
use serde_json::Value;
use sfgi::agent::{
    self, Config, Handle, Refusal, Request,
    config::{Budget, Matching},
    request::{Filter, Form, Profile},
};
use sfgi_core::event::Mode;
use tokio::sync::oneshot;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(a_scan_is_triggered_and_says_what_it_found),
        live(goroutines_and_profiles),
        live(streams_and_recordings_end_when_they_should),
        live(a_mode_is_asked_for_and_given_up),
    ]
}

/// An agent in this process that watches one program only.
struct Watching {
    handle: Handle,
    target: Process,
    own: Own,
}

impl Watching {
    fn new(name: &str, args: &[&str], budget: f64) -> Result<Watching> {
        let own = Own::new(name, &Go::newest(), Variant::Plain)?;
        let target = own.start(args)?;
        let mut config = Config::default();
        config.scan.interval = Duration::from_secs(3600);
        config.budget = Budget { node: budget, process: None };
        config.include = vec![Matching { exe: Some(own.include().parse()?), ..Matching::default() }];
        let handle = agent::start(Arc::new(config), agent::Earlier::default())?;
        let watching = Watching { handle, target, own };
        let deadline = Instant::now() + SOON;
        while watching.handle.pictures.borrow().processes.is_empty() {
            ensure!(Instant::now() < deadline, "the program is not found");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(watching)
    }

    fn pid(&self) -> u32 {
        self.target.pid()
    }

    /// Asks, and waits for the answer.
    fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Request,
    ) -> Result<Result<T, Refusal>> {
        let (sender, receiver) = oneshot::channel();
        self.handle.requests.blocking_send(make(sender))?;
        Ok(receiver.blocking_recv()?)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.handle.requests.blocking_send(Request::Stop);
    }
}

fn a_scan_is_triggered_and_says_what_it_found() -> Result<()> {
    let mut watching = Watching::new("idle", &["-n", "40"], 0.02)?;
    let pid = Some(watching.pid());
    let before = watching.ask(|answer| Request::TriggerScan { pid, answer })??;
    assert_eq!(before.leaked, 0);
    assert!(before.scanned >= 40, "{before:?}");
    watching.target.command("leak", SOON)?;
    let after = watching.ask(|answer| Request::TriggerScan { pid: None, answer })??;
    assert_eq!(after.leaked, 10);
    assert!(after.scanned >= 50, "{after:?}");
    let unknown = watching.ask(|answer| Request::TriggerScan { pid: Some(1), answer })?;
    assert_eq!(unknown.err(), Some(Refusal::Unknown(1)));
    Ok(())
}

fn goroutines_and_profiles() -> Result<()> {
    let mut watching = Watching::new("idle", &["-n", "40"], 0.02)?;
    watching.target.command("leak", SOON)?;
    let pid = watching.pid();
    let document =
        |filter: Filter, form| watching.ask(|answer| Request::Goroutines { pid, filter, form, answer });
    let func = Some(regex::Regex::new(r"^main\.forgotten$")?);
    let json: Value =
        serde_json::from_slice(&document(Filter { func: func.clone(), ..Filter::default() }, Form::Json)??)?;
    assert_eq!(json["schema"], "sfgi.dump/1");
    assert_eq!(json["goroutines"].as_array().map(Vec::len), Some(10));
    let page = Filter { func: func.clone(), skip: 8, limit: 5, ..Filter::default() };
    let page: Value = serde_json::from_slice(&document(page, Form::Json)??)?;
    assert_eq!(page["goroutines"].as_array().map(Vec::len), Some(2));
    let groups: Value = serde_json::from_slice(&document(
        Filter { func: func.clone(), ..Filter::default() },
        Form::JsonGroups,
    )??)?;
    assert_eq!(groups["groups"][0]["count"], 10);
    let text = document(Filter { func, ..Filter::default() }, Form::Text)??;
    let text = String::from_utf8(text.to_vec())?;
    assert_eq!(text.matches("[chan send").count(), 10, "{text}");

    for (kind, name, count) in [(Profile::Leaks, "goroutineleak", 10), (Profile::Goroutines, "goroutine", 50)]
    {
        let profile = watching.ask(|answer| Request::Profile { pid, kind, answer })??;
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(&profile)?;
        let mut go = Go::newest().command();
        let output = go.args(["tool", "pprof", "-raw"]).arg(file.path()).output()?;
        let raw = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(raw.contains(&format!("{name}/count")), "{raw}");
        let samples = raw.lines().skip_while(|line| !line.ends_with("/count")).skip(1);
        let counts = samples.map_while(|line| line.split_once(':')?.0.trim().parse::<u64>().ok());
        let sum: u64 = counts.sum();
        assert!(sum >= count, "{sum} of {count}: {raw}");
        assert!(kind != Profile::Leaks || sum == count, "{sum}: {raw}");
    }
    Ok(())
}

fn streams_and_recordings_end_when_they_should() -> Result<()> {
    let mut watching = Watching::new("idle", &["-n", "40"], 0.5)?;
    let pid = watching.pid();
    let seconds = Duration::from_secs(300);
    let mut stream = watching.ask(|answer| Request::Trace { pid, seconds, answer })??;
    watching.target.command("leak", SOON)?;
    let mut text = String::new();
    while text.matches("\"event\":\"create\"").count() < 10 {
        text += std::str::from_utf8(&stream.blocking_recv().context("the stream ended")?)?;
    }
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        assert_eq!(event["schema"], "sfgi.trace/1");
    }
    // The client goes away.
    drop(stream);

    let file = watching.own.dir.path().join("a.sfgi");
    let record =
        |seconds| watching.ask(|answer| Request::Record { pid, seconds, file: file.clone(), answer });
    let bytes = record(Duration::from_millis(300))??;
    assert_eq!(fs::metadata(&file)?.len(), bytes);
    let output = live_tests::sfgi::command(&["report"])?.arg(&file).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again = record(Duration::from_millis(300))?;
    assert!(matches!(again, Err(Refusal::Failed(_))), "a recording was overwritten");

    let kind = Profile::Block(Duration::from_millis(300));
    let profile = watching.ask(|answer| Request::Profile { pid, kind, answer })??;
    assert!(profile.starts_with(&[0x1f, 0x8b]), "it is not compressed");
    Ok(())
}

fn a_mode_is_asked_for_and_given_up() -> Result<()> {
    let watching = Watching::new("idle", &["-n", "40"], 0.5)?;
    let pid = watching.pid();
    let wait = |wanted: Mode| -> Result<()> {
        let deadline = Instant::now() + SOON;
        while watching.handle.pictures.borrow().processes.first().map(|process| process.mode) != Some(wanted)
        {
            ensure!(Instant::now() < deadline, "{:?}", watching.handle.pictures.borrow().processes);
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    for mode in [Mode::Life, Mode::Full, Mode::Wait] {
        watching.ask(|answer| Request::SetMode { pid, mode: Some(mode), answer })??;
        wait(mode)?;
    }
    watching.ask(|answer| Request::SetMode { pid, mode: None, answer })??;
    wait(Mode::Poll)?;
    let picture = watching.handle.pictures.borrow().clone();
    let events =
        picture.processes.first().and_then(|process| process.events.clone()).context("no figures")?;
    assert!(events.watched_seconds > 0.0);
    assert!(picture.node.mode_changes >= 4, "{}", picture.node.mode_changes);
    let unknown = watching.ask(|answer| Request::SetMode { pid: 1, mode: None, answer })?;
    assert_eq!(unknown, Err(Refusal::Unknown(1)));
    Ok(())
}

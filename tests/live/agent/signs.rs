//! Several signs of one process: an alert only where all that are asked for rise, for the whole time.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::Agent,
    fixture::{self, Variant},
    process::Process,
    toolchain::Go,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![live(signs_raise_a_process_only_where_all_of_them_rise)]
}

/// How long the signs must agree.
const AGREE: Duration = Duration::from_secs(15);

/// An agent that asks for these signs.
fn asking(signs: &str, directory: &std::path::Path) -> Result<Agent> {
    let file = directory.join(format!("{}.toml", signs.len()));
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[[include]]\nexe = '/growing-[^/]*$'\n\
         [alerts.signs]\n{signs}\nfor = \"{}s\"\nlevel = \"warn\"\n",
        AGREE.as_secs()
    );
    fs::write(&file, text)?;
    Agent::start(&["--config", &file.to_string_lossy()])
}

/// The alert about the signs of a process.
fn of(alerts: &Value, target: &Process) -> Option<Value> {
    let signs = |alert: &&Value| alert["class"] == "signs" && alert["pid"] == target.pid();
    alerts.as_array()?.iter().find(signs).cloned()
}

/// Heap in use and goroutines of a process, as of its last scan.
fn counts(agent: &Agent, target: &Process) -> Result<(u64, u64)> {
    let path = format!("/sfgi/processes?pid={}", target.pid());
    let process = agent.until(&path, |document| document[0]["heap_bytes"].is_u64())?[0].clone();
    let number = |key: &str| process[key].as_u64().with_context(|| format!("no {key}: {process:#}"));
    Ok((number("heap_bytes")?, number("goroutines")?))
}

fn signs_raise_a_process_only_where_all_of_them_rise() -> Result<()> {
    let start = |args: &[&str]| fixture::start("growing", &Go::newest(), Variant::Plain, args);
    let thin = start(&[])?;
    let fat = start(&["-holds", "100000"])?;
    let locked = start(&["-holds", "100000", "-locks"])?;
    let directory = tempfile::tempdir()?;
    let began = Instant::now();
    let two = asking("heap = \"20%\"\ngoroutines = \"20%\"", directory.path())?;
    let three = asking("heap = \"20%\"\ngoroutines = \"20%\"\nmutex_wait = \"20%\"", directory.path())?;
    let before = counts(&two, &thin)?;

    let alerts =
        two.until("/sfgi/alerts", |alerts| of(alerts, &fat).is_some() && of(alerts, &locked).is_some())?;
    ensure!(began.elapsed() >= AGREE, "after {:?} already: {alerts:#}", began.elapsed());
    for target in [&fat, &locked] {
        let alert = of(&alerts, target).context("it was there")?;
        let reason = alert["reason"].as_str().unwrap_or_default();
        ensure!(alert["level"] == "warn" && alert["group"].is_null(), "{alert:#}");
        ensure!(reason.contains("heap in use from ") && reason.contains("goroutines from "), "{reason}");
    }
    let alerts = three.until("/sfgi/alerts", |alerts| of(alerts, &locked).is_some())?;
    let reason = of(&alerts, &locked).context("it was there")?["reason"].to_string();
    ensure!(reason.contains("goroutines that wait for a mutex from "), "{reason}");

    // The others have had the same time, and more; what was asked of them has risen in part only.
    thread::sleep(AGREE);
    let after = counts(&two, &thin)?;
    ensure!(after.1 > before.1 * 2 && after.0 < before.0 * 6 / 5, "{before:?} became {after:?}");
    let (two, three) = (two.json("/sfgi/alerts")?, three.json("/sfgi/alerts")?);
    ensure!(of(&two, &thin).is_none(), "goroutines alone: {two:#}");
    ensure!(of(&three, &thin).is_none() && of(&three, &fat).is_none(), "no mutex: {three:#}");
    Ok(())
}

//! The page of `sfgi agent` in a real browser.

use std::{fs, path::Path, process::Command};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::{Agent, LONGEST, TOKEN},
    fixture::{self, Variant},
    machine,
    process::Process,
    toolchain::Go,
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![live(the_page_shows_processes_and_leaks_and_runs_nothing_of_theirs).needs(Need::Program("chromium"))]
}

/// A name that would be markup, if it ever got there as such.
const HOSTILE: &str = "<img src=x onerror=document.title='owned'>";

fn browser(profile: &Path, more: &[&str]) -> Command {
    let mut chromium = Command::new("chromium");
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1280,900",
    ]);
    // Long enough for the page to have asked once; virtual, so that a slow machine has it, too.
    chromium.args(["--virtual-time-budget=4000", "--run-all-compositor-stages-before-draw"]);
    chromium.arg(format!("--user-data-dir={}", profile.display())).args(more);
    chromium
}

fn the_page_shows_processes_and_leaks_and_runs_nothing_of_theirs() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let built = fixture::build("leaks", &Go::newest(), Variant::Plain)?;
    let hostile = directory.path().join(HOSTILE);
    fs::copy(built, &hostile)?;
    let target = fixture::start_command(Command::new(&hostile).args(["-class", "send-without-receiver"]))?;
    let deadlocked = directory.path().join("onerror-rings");
    fs::copy(fixture::build("rings", &Go::newest(), Variant::Plain)?, &deadlocked)?;
    let _ring = fixture::start_command(Command::new(&deadlocked).args(["-way", "order-deferred"]))?;
    let agent = Agent::start(&["--include", "onerror", "--min-age", "1s"])?;
    agent.until("/sfgi/leaks", |document| {
        let leaks = document.as_array().map_or(&[][..], |leaks| leaks);
        let ring = |leak: &Value| leak["ring"].as_array().is_some_and(|ring| ring.len() == 2);
        leaks.iter().any(|leak| leak["count"].as_u64() >= Some(5)) && leaks.iter().any(ring)
    })?;

    let (url, profile) =
        (format!("http://{}/?token={TOKEN}", agent.address), directory.path().join("profile"));
    let mut shown = Process::spawn(&mut browser(&profile, &["--dump-dom", &url]))?;
    shown.wait_code(LONGEST, 0)?;
    let page = shown.stdout.text();
    let pid = format!("<small class=\"word\">PID {}</small>", target.pid());
    ensure!(page.contains(&pid), "the process is not shown:\n{page}");
    ensure!(page.contains("<span class=\"badge proven\">proven</span>"), "the leak is not shown:\n{page}");
    ensure!(page.contains("of a core <small>budget 50 %, "), "what the agent costs is not shown:\n{page}");
    let arrows = page.matches("class=\"wait\"").count();
    ensure!(page.contains("class=\"ring\"") && arrows >= 2, "{arrows} arrows of the ring:\n{page}");
    ensure!(page.contains("main.") && page.contains("<polyline"), "no stack or no trend:\n{page}");
    ensure!(page.contains("&lt;img src=x"), "the hostile name is not shown as text:\n{page}");
    ensure!(!page.contains(TOKEN), "the token is in the page:\n{page}");
    ensure!(!page.contains("<img") && !page.contains("<title>owned"), "the hostile name is markup:\n{page}");

    let picture = machine::target_dir().join("agent-page.png");
    let screenshot = format!("--screenshot={}", picture.display());
    let mut shot = Process::spawn(&mut browser(&profile, &[&screenshot, &url]))?;
    shot.wait_code(LONGEST, 0)?;
    let bytes = fs::read(&picture).context("no screenshot")?;
    ensure!(bytes.starts_with(b"\x89PNG"), "the screenshot is no picture");
    machine::report(&format!("screenshot: {}", picture.display()));
    Ok(())
}

//! What may be asked of the agent about one program that it has read once and will not read again for an hour: scans, documents,
//! profiles, a stream, another mode.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use anyhow::{Context, Result, ensure};
use live_tests::{
    agent::{Agent, SOON},
    agent_http::{Answer, answer, ask},
    fixture::{Own, Variant},
    process::Process,
    sfgi,
    toolchain::Go,
};
use serde_json::Value;

use crate::harness::{Test, live};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(a_scan_is_triggered_and_says_what_it_found),
        live(goroutines_and_profiles),
        live(a_stream_has_every_goroutine_and_a_block_profile_is_made),
        live(a_mode_is_asked_for_and_given_up),
    ]
}

const TOKEN: &str = "5d1d0a35ce4cd6d2f1d1a83f3d0d9c1b";

/// The function that leaks, as a regular expression in a URL: `^main\.forgotten$`.
const FORGOTTEN: &str = "%5Emain%5C.forgotten%24";

/// An agent that watches one program only.
struct Watching {
    agent: Agent,
    target: Process,
    _own: Own,
}

impl Watching {
    fn new(budget: &str) -> Result<Watching> {
        let own = Own::new("idle", &Go::newest(), Variant::Plain)?;
        let target = own.start(&["-n", "40"])?;
        let (token, config) = (own.dir.path().join("token"), own.dir.path().join("sfgi.toml"));
        fs::write(&token, TOKEN)?;
        let text = format!(
            "scan.interval = \"1h\"\nbudget = {{ node = \"{budget}\", process = \"{budget}\" }}\n\
             http = {{ token_file = {token:?}, trigger_interval = \"1ms\" }}\n[[include]]\nexe = \"^{}$\"\n",
            own.exe.display()
        );
        fs::write(&config, text)?;
        let agent = Agent::start(&["--config", config.to_str().context("path")?])?;
        agent.wait_for(target.pid(), |process| process["scan"].is_object())?;
        Ok(Watching { agent, target, _own: own })
    }

    fn pid(&self) -> u32 {
        self.target.pid()
    }

    fn ask(&self, method: &str, path: &str) -> Result<Answer> {
        ask(self.agent.address()?, method, path, &[("authorization", &format!("Bearer {TOKEN}"))])
    }

    fn get(&self, path: &str) -> Result<Answer> {
        let answer = self.ask("GET", path)?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        Ok(answer)
    }
}

fn a_scan_is_triggered_and_says_what_it_found() -> Result<()> {
    let mut watching = Watching::new("2%")?;
    let trigger =
        |watching: &Watching, query: &str| watching.ask("POST", &format!("/sfgi/trigger-scan{query}"));
    let before = trigger(&watching, &format!("?pid={}", watching.pid()))?.json()?;
    ensure!(before["leaked"] == 0 && before["scanned"].as_u64() >= Some(40), "{before}");
    watching.target.command("leak", SOON)?;
    let after = trigger(&watching, "")?.json()?;
    ensure!(after["leaked"] == 10 && after["scanned"].as_u64() >= Some(50), "{after}");
    let unknown = trigger(&watching, "?pid=1")?;
    ensure!(unknown.status == 404, "{} {}", unknown.status, unknown.text());
    Ok(())
}

fn goroutines_and_profiles() -> Result<()> {
    let mut watching = Watching::new("2%")?;
    watching.target.command("leak", SOON)?;
    let pid = watching.pid();
    let document =
        |more: &str| watching.get(&format!("/sfgi/goroutines?pid={pid}&func={FORGOTTEN}{more}"))?.json();
    let all = document("")?;
    ensure!(all["schema"] == "sfgi.dump/1", "{all:#}");
    ensure!(all["goroutines"].as_array().map(Vec::len) == Some(10), "{all:#}");
    let page = document("&skip=8&limit=5")?;
    ensure!(page["goroutines"].as_array().map(Vec::len) == Some(2), "{page:#}");
    let groups = document("&group=true")?;
    ensure!(groups["groups"][0]["count"] == 10, "{groups:#}");
    let text = watching.get(&format!("/debug/pprof/goroutine?pid={pid}&debug=2"))?.text();
    let forgotten: Vec<&str> = text.split("\n\n").filter(|one| one.contains("main.forgotten(")).collect();
    ensure!(forgotten.len() == 10 && forgotten.iter().all(|one| one.contains(" [chan send")), "{text}");

    for (name, count) in [("goroutineleak", 10), ("goroutine", 50)] {
        let profile = watching.get(&format!("/debug/pprof/{name}?pid={pid}"))?;
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(&profile.body)?;
        let mut go = Go::newest().command();
        let output = go.args(["tool", "pprof", "-raw"]).arg(file.path()).output()?;
        let raw = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(raw.contains(&format!("{name}/count")), "{raw}");
        let samples = raw.lines().skip_while(|line| !line.ends_with("/count")).skip(1);
        let counts = samples.map_while(|line| line.split_once(':')?.0.trim().parse::<u64>().ok());
        let sum: u64 = counts.sum();
        ensure!(sum >= count, "{sum} of {count}: {raw}");
        ensure!(name != "goroutineleak" || sum == count, "{sum}: {raw}");
    }
    Ok(())
}

fn a_stream_has_every_goroutine_and_a_block_profile_is_made() -> Result<()> {
    let mut watching = Watching::new("50%")?;
    let pid = watching.pid();
    let mut stream = TcpStream::connect(watching.agent.address()?)?;
    stream.set_read_timeout(Some(SOON))?;
    let request =
        format!("POST /sfgi/trace?pid={pid}&seconds=4 HTTP/1.1\r\nhost: localhost\r\nconnection: close");
    write!(stream, "{request}\r\nauthorization: Bearer {TOKEN}\r\n\r\n")?;
    // It begins to answer when the probes stand.
    let mut begin = vec![0; 1];
    stream.read_exact(&mut begin)?;
    watching.target.command("leak", SOON)?;
    let text = answer(&mut begin.as_slice().chain(&mut stream))?.text();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(event["schema"] == "sfgi.trace/1", "{line}");
    }
    ensure!(sfgi::events(&text)?.iter().filter(|event| event.event == "create").count() >= 10, "{text}");

    let profile = watching.get(&format!("/debug/pprof/block?pid={pid}&seconds=1"))?;
    ensure!(profile.body.starts_with(&[0x1f, 0x8b]), "it is not compressed");
    Ok(())
}

fn a_mode_is_asked_for_and_given_up() -> Result<()> {
    let watching = Watching::new("50%")?;
    let pid = watching.pid();
    let set = |query: &str| watching.ask("POST", &format!("/sfgi/mode?pid={query}"));
    for mode in ["life", "full", "wait"] {
        let answer = set(&format!("{pid}&mode={mode}"))?;
        ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        watching.agent.wait_for(pid, |process| process["mode"] == mode)?;
    }
    set(&pid.to_string())?;
    let process = watching.agent.wait_for(pid, |process| process["mode"] == "poll")?;
    ensure!(process["events"]["watched_seconds"].as_f64() > Some(0.0), "{process:#}");
    let node = watching.agent.wait(|_| true)?["node"].clone();
    ensure!(node["mode_changes"].as_u64() >= Some(4), "{node}");
    let unknown = set("1")?;
    ensure!(unknown.status == 404, "{} {}", unknown.status, unknown.text());
    Ok(())
}

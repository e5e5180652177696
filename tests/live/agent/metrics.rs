//! The metrics of `sfgi agent` in a real Prometheus: names, rules that fire and clear, the dashboard's queries.

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{Need, Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    agent_http::{Agent, LONGEST, ask},
    fixture::{self, Own, Variant},
    machine,
    process::Process,
    toolchain::{self, Go},
};
use serde_json::Value;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(promtool_finds_nothing_wrong_with_metrics_and_rules).needs(Need::Unpacked("promtool")),
        live(a_process_that_ended_has_no_series),
        live(rules_fire_on_a_leak_and_clear_without_it_and_every_panel_has_data)
            .needs(Need::Unpacked("prometheus")),
    ]
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn leaking() -> Result<Process> {
    fixture::start_own("leaks", &Go::newest(), Variant::Plain, &["-class", "send-without-receiver"])
}

/// Busy, and not so busy that no probe is within the budget; an executable of its own, so that rules can tell it apart.
fn busy(directory: &Path) -> Result<Process> {
    let exe = directory.join("busy");
    fs::copy(fixture::build("leaks", &Go::newest(), Variant::Plain)?, &exe)?;
    fixture::start_command(Command::new(exe).args(["-class", "select-dead", "-fixed"]))
}

fn promtool_finds_nothing_wrong_with_metrics_and_rules() -> Result<()> {
    let promtool = machine::unpacked("promtool")?;
    toolchain::output(Command::new(&promtool).arg("check").arg("rules").arg(deploy("alerts.yml")))?;
    toolchain::output(Command::new(&promtool).args(["test", "rules"]).arg(deploy("alerts_test.yml")))?;

    let directory = tempfile::tempdir()?;
    let target = busy(directory.path())?;
    let agent = Agent::watching(&target, &["--mode", "full"])?;
    let text = until_metrics(&agent, |text| text.contains("sfgi_goroutine_blocked_seconds_bucket"))?;
    for metrics in [text, agent.get("/sfgi/profile")?.text()] {
        let mut check = Command::new(&promtool);
        let mut check = check
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        check.stdin.take().context("no stdin")?.write_all(metrics.as_bytes())?;
        let output = check.wait_with_output()?;
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success() && said.is_empty(), "{said}");
    }
    Ok(())
}

fn until_metrics(agent: &Agent, holds: impl Fn(&str) -> bool) -> Result<String> {
    let deadline = Instant::now() + LONGEST;
    loop {
        let text = agent.get("/metrics")?.text();
        if holds(&text) {
            return Ok(text);
        }
        ensure!(Instant::now() < deadline, "{text}\n{}", agent.process.stderr.text());
        thread::sleep(Duration::from_millis(200));
    }
}

fn a_process_that_ended_has_no_series() -> Result<()> {
    let target = leaking()?;
    let agent = Agent::watching(&target, &[])?;
    let label = format!("pid=\"{}\"", target.pid());
    until_metrics(&agent, |text| {
        text.lines().any(|line| line.starts_with("sfgi_leaked_goroutines{") && line.contains(&label))
    })?;
    drop(target);
    until_metrics(&agent, |text| !text.contains(&label))?;
    Ok(())
}

/// A Prometheus that scrapes one agent and knows our rules, whose waiting times are cut short.
struct Prometheus {
    _process: Process,
    address: SocketAddr,
}

impl Prometheus {
    fn start(program: &Path, directory: &Path, agent: &Agent) -> Result<Prometheus> {
        let rules = fs::read_to_string(deploy("alerts.yml"))?;
        let quick: Vec<String> = rules
            .lines()
            .map(|line| {
                if line.trim_start().starts_with("for: ") {
                    "        for: 1s".to_owned()
                } else {
                    line.to_owned()
                }
            })
            .collect();
        fs::write(directory.join("alerts.yml"), quick.join("\n"))?;
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [alerts.yml]\n\
             scrape_configs:\n- job_name: sfgi\n  static_configs:\n  - targets: [\"{}\"]\n",
            agent.address
        );
        fs::write(directory.join("prometheus.yml"), config)?;
        // A port that was free a moment ago: Prometheus does not say which one it took.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new(program);
        command.current_dir(directory).arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data");
        let process = Process::spawn(command.arg(format!("--web.listen-address={address}")))?;
        process.stderr.wait_for(LONGEST, |line| line.contains("Server is ready"))?;
        Ok(Prometheus { _process: process, address })
    }

    fn get(&self, path: &str) -> Result<Value> {
        let answer = ask(self.address, "GET", path, &[])?;
        ensure!(answer.status == 200, "{path}: {}", answer.text());
        Ok(answer.json()?["data"].clone())
    }

    fn query(&self, query: &str) -> Result<usize> {
        let data = self.get(&format!("/api/v1/query?query={}", escaped(query)))?;
        Ok(data["result"].as_array().map_or(0, Vec::len))
    }

    /// Whether this alert fires for this process. Other tests may run the same programs.
    fn fires(&self, name: &str, pid: u32) -> Result<bool> {
        let data = self.get("/api/v1/alerts")?;
        let (alerts, pid) = (data["alerts"].as_array().context("no alerts")?, pid.to_string());
        Ok(alerts.iter().any(|alert| {
            let labels = &alert["labels"];
            alert["state"] == "firing" && labels["alertname"] == name && labels["pid"] == pid.as_str()
        }))
    }
}

/// As a query of a URL has it.
fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LONGEST;
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}: not within {LONGEST:?}");
        thread::sleep(Duration::from_millis(250));
    }
    Ok(())
}

fn rules_fire_on_a_leak_and_clear_without_it_and_every_panel_has_data() -> Result<()> {
    let program = machine::unpacked("prometheus")?;
    let directory = tempfile::tempdir()?;
    let own = Own::new("leaks", &Go::newest(), Variant::Plain)?;
    let leaking = own.start(&["-class", "send-without-receiver"])?;
    let busy = busy(directory.path())?;
    let exes: Vec<String> = [&leaking, &busy]
        .iter()
        .map(|process| Ok(format!("^{}$", fs::read_link(format!("/proc/{}/exe", process.pid()))?.display())))
        .collect::<Result<_>>()?;
    let config = directory.path().join("sfgi.toml");
    fs::write(
        &config,
        format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n[leaks]\nmin_age = \"1s\"\n[alerts]\nfor = \"1s\"\nclear_after = \"1s\"\n\
             [[rule]]\nmatch = {{ exe = '{}' }}\n[[rule]]\nmatch = {{ exe = '{}' }}\nmode = \"full\"\n[[exclude]]\nexe = 'prometheus'\n\
             [[include]]\nunit = '^none$'\n",
            exes[0], exes[1]
        ),
    )?;
    let agent = Agent::start(&["--config", &config.to_string_lossy()])?;
    let prometheus = Prometheus::start(&program, directory.path(), &agent)?;
    let fires = |pid: u32| prometheus.fires("GoroutinesLeak", pid);
    let leaking_pid = leaking.pid();
    until("the leak is alerted", || fires(leaking_pid))?;

    let dashboard: Value = serde_json::from_slice(&fs::read(deploy("grafana-dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let mut queries = 0;
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().context("no query")?;
            let query = query.replace("$instance", ".*").replace("$service", ".*");
            until(&query, || Ok(prometheus.query(&query)? > 0))?;
            queries += 1;
        }
    }
    ensure!(queries >= 15, "{queries} queries");
    // The variables' queries, too.
    for variable in
        dashboard["templating"]["list"].as_array().into_iter().flatten().filter(|one| one["type"] == "query")
    {
        let query = variable["query"].as_str().context("no query")?;
        let (metric, label) = query
            .strip_prefix("label_values(")
            .and_then(|rest| rest.strip_suffix(')')?.split_once(", "))
            .context("no label_values")?;
        ensure!(prometheus.query(&format!("count by ({label}) ({metric})"))? > 0, "{query}");
    }

    drop(leaking);
    let fixed = own.start(&["-class", "send-without-receiver", "-fixed"])?;
    until("the fixed program is watched", || {
        prometheus.query(&format!("sfgi_process_info{{pid=\"{}\"}}", fixed.pid())).map(|count| count > 0)
    })?;
    until("the alert clears", || Ok(!fires(leaking_pid)?))?;
    thread::sleep(Duration::from_secs(5));
    ensure!(!fires(fixed.pid())?, "it fires on the fixed program");
    Ok(())
}

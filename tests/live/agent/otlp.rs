//! The export of `sfgi agent`, received by a collector of our own and read with the messages of OpenTelemetry.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, Receiver, Sender},
    thread,
    time::Instant,
};

use crate::harness::{Test, live};
use anyhow::{Context, Result, bail, ensure};
use live_tests::{
    agent_http::{Agent, LONGEST},
    fixture::{self, Variant},
    toolchain::Go,
};
use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest},
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::metric::Data,
};
use prost::Message as _;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        live(metrics_and_findings_arrive_and_findings_once),
        live(a_collector_that_refuses_is_said_once_and_holds_nothing_up),
    ]
}

/// A request: its path and body.
type Received = (String, Vec<u8>);

/// Answers every request with a status, and passes it on.
fn collector(status: &'static str) -> Result<(String, Receiver<Received>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("http://{}", listener.local_addr()?);
    let (to, received) = mpsc::channel();
    thread::spawn(move || {
        // Ends with the test, which then receives no more.
        while let Ok((stream, _)) = listener.accept() {
            if take(stream, status, &to).is_err() {
                return;
            }
        }
    });
    Ok((address, received))
}

fn take(stream: TcpStream, status: &str, to: &Sender<Received>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).context("no path")?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "content-type" if value.trim() != "application/x-protobuf" => bail!("{header}"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    write!(reader.get_mut(), "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
    Ok(to.send((path, body))?)
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// Starts an agent that exports there, beside a program that leaks.
fn exporting(endpoint: &str) -> Result<(live_tests::process::Process, Agent, tempfile::TempDir)> {
    let target =
        fixture::start_own("leaks", &Go::newest(), Variant::Plain, &["-class", "send-without-receiver"])?;
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("sfgi.toml");
    let exe = fs::read_link(format!("/proc/{}/exe", target.pid()))?;
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[leaks]\nmin_age = \"1s\"\n[[include]]\nexe = '^{}$'\n\
         [otlp]\nendpoint = \"{endpoint}\"\ninterval = \"1s\"\n",
        exe.display()
    );
    fs::write(&config, text)?;
    let agent = Agent::start(&["--config", &config.to_string_lossy()])?;
    Ok((target, agent, directory))
}

fn metrics_and_findings_arrive_and_findings_once() -> Result<()> {
    let (endpoint, received) = collector("200 OK")?;
    let (target, _agent, _directory) = exporting(&endpoint)?;
    let (deadline, pid) = (Instant::now() + LONGEST, target.pid().to_string());
    let (mut findings, mut exports_since) = (Vec::new(), 0);
    let mut leaked = None;
    while exports_since < 5 {
        let left = deadline.saturating_duration_since(Instant::now());
        let (path, body) = received.recv_timeout(left).context("no more exports")?;
        match path.as_str() {
            "/v1/metrics" => {
                let request = ExportMetricsServiceRequest::decode(body.as_slice())?;
                let resource = request.resource_metrics[0].resource.as_ref().context("no resource")?;
                ensure!(text(&resource.attributes, "service.name") == Some("sfgi-agent"));
                let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
                let scans =
                    metrics.iter().find(|metric| metric.name == "sfgi_scans_total").context("no scans")?;
                ensure!(matches!(&scans.data, Some(Data::Sum(sum)) if sum.is_monotonic), "{scans:?}");
                let metric = metrics.iter().find(|metric| metric.name == "sfgi_leaked_goroutines");
                if let Some(Data::Gauge(gauge)) = metric.and_then(|metric| metric.data.as_ref()) {
                    leaked = gauge
                        .data_points
                        .iter()
                        .find(|point| text(&point.attributes, "pid") == Some(&pid))
                        .cloned();
                }
                exports_since += usize::from(!findings.is_empty());
            }
            "/v1/logs" => {
                let request = ExportLogsServiceRequest::decode(body.as_slice())?;
                let records = &request.resource_logs[0].scope_logs[0].log_records;
                findings.extend(records.iter().cloned());
            }
            other => bail!("{other}"),
        }
    }
    ensure!(leaked.is_some(), "no leaked goroutines among the metrics");
    let of = |key: &str, record: &opentelemetry_proto::tonic::logs::v1::LogRecord| {
        text(&record.attributes, key).map(str::to_owned)
    };
    let mut keys: Vec<_> = findings
        .iter()
        .map(|record| (of("sfgi.finding.id", record), of("sfgi.finding.verdict", record)))
        .collect();
    ensure!(
        findings
            .iter()
            .any(|record| of("sfgi.finding.class", record).as_deref() == Some("send-without-receiver"))
    );
    ensure!(
        findings
            .iter()
            .all(|record| of("sfgi.finding.stack", record).is_some_and(|stack| stack.contains("main.")))
    );
    let all = keys.len();
    keys.sort();
    keys.dedup();
    ensure!(keys.len() == all, "a finding was exported twice: {keys:?}");
    Ok(())
}

fn a_collector_that_refuses_is_said_once_and_holds_nothing_up() -> Result<()> {
    let (endpoint, received) = collector("503 Busy")?;
    let (_target, agent, _directory) = exporting(&endpoint)?;
    for _ in 0..4 {
        received.recv_timeout(LONGEST)?;
    }
    ensure!(agent.get("/healthz")?.status == 200);
    let said = agent.process.stderr.text();
    ensure!(said.matches("takes no export").count() == 1, "{said}");
    Ok(())
}

//! Export by OTLP over HTTP: the metrics of [`metrics`], and findings as log records. Off unless the configuration
//! has an endpoint.

use super::metrics::{self, Dropped, Family, Kind, Label, Value};
use crate::agent::{
    alert::Alert,
    picture::{BOUNDS_SECONDS, Picture, ProcessId, ProcessPicture},
};
use crate::output::clean;
use anyhow::{Context as _, Result, bail, ensure};
use axum::http::{Method, Request, Uri, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
    },
    resource::v1::Resource,
};
use prost::Message as _;
use sfgi_core::{
    detect::{Fingerprint, Severity, Verdict},
    leaks::LeakView,
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// A finding as it was exported. The verdict is part of it: another one is exported again.
type Key = (ProcessId, Fingerprint, Verdict);

#[derive(Debug)]
pub struct Exporter {
    endpoint: String,
    /// Findings that the collector has accepted, of those in the last picture.
    known: BTreeSet<Key>,
    dropped: Dropped,
    failed: bool,
}

impl Exporter {
    /// `endpoint` is the base address of a collector: `http://localhost:4318`.
    pub fn new(endpoint: &str) -> Exporter {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Exporter { endpoint, known: BTreeSet::new(), dropped: Dropped::new(), failed: false }
    }

    /// Exports the metrics, and the findings that are new. A failure is logged once until an export succeeds; its
    /// findings are exported again the next time.
    pub async fn export(&mut self, picture: &Picture, alerts: &[Arc<Alert>], max_series: usize) {
        match self.try_export(picture, alerts, max_series).await {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                log::warn!("{} takes no export: {error:#}; it is tried again", self.endpoint);
            }
            Err(_) => {}
        }
    }

    async fn try_export(
        &mut self,
        picture: &Picture,
        alerts: &[Arc<Alert>],
        max_series: usize,
    ) -> Result<()> {
        let request = self.metrics(picture, alerts, max_series);
        post(&format!("{}/v1/metrics", self.endpoint), request.encode_to_vec()).await?;
        let findings: Vec<_> = picture
            .processes
            .iter()
            .flat_map(|process| process.leaks.iter().map(move |group| (process, group)))
            .map(|(process, group)| ((process.id, group.id, group.verdict), process, group))
            .collect();
        let new = findings.iter().filter(|(key, ..)| !self.known.contains(key));
        let records: Vec<_> =
            new.map(|(_, process, group)| finding(picture.unix_ns, process, group)).collect();
        if !records.is_empty() {
            let request = ExportLogsServiceRequest { resource_logs: vec![resource_logs(records)] };
            post(&format!("{}/v1/logs", self.endpoint), request.encode_to_vec()).await?;
        }
        // Only now: findings that the collector has not accepted must be new the next time. Those that are gone are
        // forgotten.
        self.known = findings.into_iter().map(|(key, ..)| key).collect();
        Ok(())
    }

    /// All metrics. As in `/metrics` (`reading::prometheus`), each document tells what those before it have dropped.
    fn metrics(
        &mut self,
        picture: &Picture,
        alerts: &[Arc<Alert>],
        max_series: usize,
    ) -> ExportMetricsServiceRequest {
        let dropped = self.dropped.clone();
        let about = metrics::About { picture, alerts, dropped: &dropped, max_series };
        let families = metrics::families(&about);
        metrics::count_dropped(&families, &mut self.dropped);
        ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics(&families, picture)] }
    }
}

/// All families with series, at the time of the picture. Counters have the agent's start as their start.
fn resource_metrics(families: &[Family<'_>], picture: &Picture) -> ResourceMetrics {
    let (start, now) = (picture.node.started_unix_ns, picture.unix_ns);
    let filled = families.iter().filter(|family| !family.series.is_empty());
    let metrics = filled.map(|family| metric(family, start, now)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
    ResourceMetrics { resource: Some(resource()), scope_metrics, ..ResourceMetrics::default() }
}

fn metric(family: &Family<'_>, start: u64, now: u64) -> Metric {
    let numbers = || {
        family.series.iter().filter_map(|series| match series.value {
            Value::Number(value) => Some(NumberDataPoint {
                attributes: attributes(&series.labels),
                start_time_unix_nano: start,
                time_unix_nano: now,
                value: Some(number_data_point::Value::AsDouble(value)),
                ..NumberDataPoint::default()
            }),
            Value::Distribution(_) => None,
        })
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Gauge => metric::Data::Gauge(Gauge { data_points: numbers().collect() }),
        Kind::Counter => metric::Data::Sum(Sum {
            data_points: numbers().collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Histogram => metric::Data::Histogram(Histogram {
            data_points: histograms(family, start, now),
            aggregation_temporality: cumulative,
        }),
    };
    Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: unit(family.name).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn histograms(family: &Family<'_>, start: u64, now: u64) -> Vec<HistogramDataPoint> {
    let points = family.series.iter().filter_map(|series| match series.value {
        Value::Number(_) => None,
        Value::Distribution(of) => Some(HistogramDataPoint {
            attributes: attributes(&series.labels),
            start_time_unix_nano: start,
            time_unix_nano: now,
            count: of.count(),
            sum: Some(of.sum_seconds),
            bucket_counts: of.counts.to_vec(),
            explicit_bounds: BOUNDS_SECONDS.to_vec(),
            ..HistogramDataPoint::default()
        }),
    });
    points.collect()
}

/// The unit in UCUM, as OTLP wants it; metric names end in it by the conventions of Prometheus.
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    if name.ends_with("_seconds") {
        "s"
    } else if name.ends_with("_bytes") {
        "By"
    } else {
        "1"
    }
}

/// A finding as a log record: its title is the body, the rest are attributes.
fn finding(now: u64, process: &ProcessPicture, group: &LeakView) -> LogRecord {
    let severity = match group.rule.severity {
        Severity::Error => SeverityNumber::Error,
        Severity::Warning => SeverityNumber::Warn,
        Severity::Note => SeverityNumber::Info,
    };
    let stack: Vec<String> = group
        .stack
        .iter()
        .map(|site| format!("{}\n\t{}:{}", clean(&site.func), clean(&site.file), site.line))
        .collect();
    let evidence: Vec<_> = group.evidence.iter().map(|sentence| clean(sentence)).collect();
    let identity = &process.identity;
    let texts = [
        ("service.name", identity.service.clone()),
        ("sfgi.service.name.from", identity.service_from.word().to_owned()),
        ("process.executable.path", identity.exe_text()),
        ("container.id", identity.container.clone().unwrap_or_default()),
        ("sfgi.finding.id", group.id.to_string()),
        ("sfgi.finding.verdict", group.verdict.word().to_owned()),
        ("sfgi.finding.class", group.rule.class.clone()),
        ("sfgi.finding.silent_failure_type", group.rule.failure.to_string()),
        ("sfgi.finding.stack", stack.join("\n")),
        ("sfgi.finding.evidence", evidence.join("\n")),
        ("sfgi.finding.fix", group.rule.fix.clone()),
    ];
    let numbers = [
        ("process.pid", u64::from(process.id.pid)),
        ("sfgi.finding.count", group.count),
        ("sfgi.finding.pinned_bytes", group.pinned_bytes),
    ];
    // A container or a stack that is not there has no attribute.
    let filled = texts.into_iter().filter(|(_, text)| !text.is_empty());
    let attributes = filled.map(|(key, text)| attribute(key, any_value::Value::StringValue(text)));
    // OTLP's integers are signed.
    let number = |number| any_value::Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX));
    LogRecord {
        // When the leak was found first, which may be before this agent began; `observed` is now.
        time_unix_nano: group.first_seen_unix_ns,
        observed_time_unix_nano: now,
        severity_number: severity.into(),
        severity_text: group.rule.severity.word().to_owned(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(group.title.clone())) }),
        attributes: attributes.chain(numbers.map(|(key, value)| attribute(key, number(value)))).collect(),
        event_name: "sfgi.finding".into(),
        ..LogRecord::default()
    }
}

fn resource_logs(log_records: Vec<LogRecord>) -> ResourceLogs {
    let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
    ResourceLogs { resource: Some(resource()), scope_logs, ..ResourceLogs::default() }
}

fn resource() -> Resource {
    let text = |text: String| any_value::Value::StringValue(text);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let attributes = vec![
        attribute("service.name", text("sfgi-agent".into())),
        attribute("service.version", text(env!("CARGO_PKG_VERSION").into())),
        attribute("host.name", text(host)),
    ];
    Resource { attributes, ..Resource::default() }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "sfgi".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

fn attributes(labels: &[Label<'_>]) -> Vec<KeyValue> {
    let value = |text: &str| any_value::Value::StringValue(text.to_owned());
    labels.iter().map(|(name, text)| attribute(name, value(&clean(text)))).collect()
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// How long a collector may take for one request, from the connection to the status.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends a message and waits until the collector accepts it. Each message has its own connection: one in half a
/// minute is not worth keeping.
async fn post(url: &str, message: Vec<u8>) -> Result<()> {
    match timeout(LIMIT, attempt(url, message)).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {LIMIT:?}"),
    }
}

async fn attempt(url: &str, message: Vec<u8>) -> Result<()> {
    let uri: Uri = url.parse().with_context(|| format!("{url} is no address"))?;
    let host = uri.host().context("the endpoint has no host")?;
    let port = uri.port_u16().unwrap_or(80);
    // `Uri` keeps the brackets of an IPv6 address; a socket takes it without.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((name, port)).await.context("cannot connect")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri.path())
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(Bytes::from(message)))?;
    // The connection ends when the sender is dropped, or earlier where the collector wants it so. Its error does not
    // matter: the answer counts.
    let answer = async move {
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "it answers {}", response.status());
        Ok(())
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a metric's series with this attribute.
    fn value(
        request: &ExportMetricsServiceRequest,
        name: &str,
        of: &str,
    ) -> Option<number_data_point::Value> {
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        let metric = metrics.iter().find(|metric| metric.name == name)?;
        let Some(metric::Data::Sum(Sum { data_points, .. })) = &metric.data else { return None };
        let text = Some(any_value::Value::StringValue(of.to_owned()));
        let is_of = |point: &&NumberDataPoint| {
            point
                .attributes
                .iter()
                .any(|attribute| attribute.value.as_ref().is_some_and(|value| value.value == text))
        };
        data_points.iter().find(is_of)?.value
    }

    #[test]
    fn what_an_export_leaves_out_the_next_ones_tell() {
        let process = |pid| {
            let id = ProcessId { pid, start_ticks: 1, program: 0 };
            Arc::new(ProcessPicture { id, ..ProcessPicture::default() })
        };
        let picture = Picture { processes: (0..50).map(process).collect(), ..Picture::default() };
        let mut exporter = Exporter::new("http://localhost:4318");
        let told = [(); 3].map(|()| {
            value(&exporter.metrics(&picture, &[], 20), "sfgi_series_dropped_total", "sfgi_process_info")
        });
        let number = |value| Some(number_data_point::Value::AsDouble(value));
        assert_eq!(told, [None, number(30.0), number(60.0)]);
    }
}

//! Export by OTLP over HTTP: the metrics of [`metrics`], and findings as logs. Off unless an endpoint is configured.

mod encode;
mod send;

use super::metrics;
use crate::agent::{
    alert::Alert,
    picture::{Picture, ProcessId},
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
};
use prost::Message as _;
use sfgi_core::detect::Verdict;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A finding as it was exported: another verdict is news.
type Key = (ProcessId, String, Verdict);

/// Exports to one collector.
#[derive(Debug)]
pub struct Exporter {
    endpoint: String,
    /// Findings that the collector has.
    known: BTreeSet<Key>,
    failed: bool,
}

impl Exporter {
    /// To a collector, by its base address: `http://localhost:4318`.
    pub fn new(endpoint: &str) -> Exporter {
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Exporter { endpoint, known: BTreeSet::new(), failed: false }
    }

    /// Exports the metrics, and the findings that are new. What the collector does not take is logged, once, and findings are
    /// exported again the next time.
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
    ) -> anyhow::Result<()> {
        let dropped = BTreeMap::new();
        let about = metrics::About { picture, alerts, dropped: &dropped, max_series };
        let resource_metrics = encode::metrics(&metrics::families(&about), picture);
        let request = ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] };
        send::post(&format!("{}/v1/metrics", self.endpoint), request.encode_to_vec()).await?;
        let findings: Vec<_> = picture
            .processes
            .iter()
            .flat_map(|process| process.leaks.iter().map(move |group| (process, group)))
            .map(|(process, group)| ((process.id, group.id.clone(), group.verdict), process, group))
            .collect();
        let new = findings.iter().filter(|(key, ..)| !self.known.contains(key));
        let records: Vec<_> =
            new.map(|(_, process, group)| encode::finding(picture.unix_ns, process, group)).collect();
        if !records.is_empty() {
            let request = ExportLogsServiceRequest { resource_logs: vec![encode::logs(records)] };
            send::post(&format!("{}/v1/logs", self.endpoint), request.encode_to_vec()).await?;
        }
        self.known = findings.into_iter().map(|(key, ..)| key).collect();
        Ok(())
    }
}

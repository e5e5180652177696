//! The agent itself: what it sees of the node, what it costs and what it may cost.

use super::{
    Shared,
    problem::Explanation,
    query::{Nothing, Params},
};
use crate::agent::picture::NodePicture;
use axum::{Json, extract::State};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// The agent and its node.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Node {
    /// Of the agent.
    version: &'static str,
    /// When the agent began: milliseconds since 1970.
    started_unix_ms: u64,
    /// CPU time that it has used since.
    cpu_seconds: f64,
    /// Memory that it has.
    rss_bytes: u64,
    /// What it and its probes use now, cores.
    used_cores: f64,
    /// What they may use, cores.
    budget_cores: f64,
    /// The same for a single process.
    process_budget_cores: f64,
    /// How often a process should be scanned, seconds.
    interval_seconds: f64,
    /// How often one is; 0: none was scanned twice yet.
    achieved_interval_seconds: f64,
    /// Scans that are late for want of budget.
    scans_waiting: u64,
    /// Processes that run.
    processes: u64,
    /// Go programs that are watched.
    tracked: u64,
    /// Go programs that a rule excludes.
    excluded: u64,
    /// Go programs that cannot be watched.
    unsupported: u64,
    /// Processes that may not be looked at.
    unreadable: u64,
    /// What is wrong with the agent, the latest few.
    errors: Vec<String>,
}

impl From<&NodePicture> for Node {
    fn from(node: &NodePicture) -> Self {
        Node {
            version: env!("CARGO_PKG_VERSION"),
            started_unix_ms: node.started_unix_ns / 1_000_000,
            cpu_seconds: node.cpu_seconds,
            rss_bytes: node.rss_bytes,
            used_cores: node.used_cores,
            budget_cores: node.budget_cores.0,
            process_budget_cores: node.budget_cores.1,
            interval_seconds: node.interval_seconds.0,
            achieved_interval_seconds: node.interval_seconds.1,
            scans_waiting: node.scans_waiting,
            processes: node.seen.running,
            tracked: node.seen.tracked,
            excluded: node.seen.excluded,
            unsupported: node.seen.unsupported,
            unreadable: node.seen.unreadable,
            errors: node.errors.clone(),
        }
    }
}

/// The agent itself: what it sees, what it costs and what it may cost.
#[utoipa::path(get, path = "/sfgi/node", tag = "agent", responses(
    (status = 200, description = "The agent and its node", body = Node),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
pub(super) async fn node(
    State(shared): State<Arc<Shared>>,
    Params(Nothing {}): Params<Nothing>,
) -> Json<Node> {
    Json(Node::from(&shared.picture().node))
}

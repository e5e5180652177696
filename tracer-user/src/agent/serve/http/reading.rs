//! Answers that the latest picture has: none of them asks the core or waits for a target.

use super::{
    Explanation, Problem, Shared,
    query::{LeakParams, Nothing, Params, ProcessParams, page},
    views::{AlertView, Health, Leak, Node, Process},
};
use crate::agent::serve::metrics;
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use std::sync::{Arc, PoisonError};

type Of = State<Arc<Shared>>;

/// Findings: groups of leaked goroutines, the surest and largest first.
#[utoipa::path(get, path = "/sfgi/leaks", tag = "findings", params(LeakParams), responses(
    (status = 200, description = "The findings", body = [Leak]),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
pub(super) async fn leaks(
    State(shared): Of,
    Params(params): Params<LeakParams>,
) -> Result<Json<Vec<Leak>>, Problem> {
    let limit = page(params.limit)?;
    let picture = shared.picture();
    let wanted = params.verdict;
    let mut found: Vec<_> = picture
        .processes
        .iter()
        .filter(|process| params.pid.is_none_or(|pid| process.id.pid == pid))
        .filter(|process| params.service.as_ref().is_none_or(|service| process.identity.service == *service))
        .flat_map(|process| process.leaks.iter().map(move |group| (process, group)))
        .filter(|(_, group)| wanted.is_none_or(|verdict| group.verdict >= verdict))
        .filter(|(_, group)| params.class.as_ref().is_none_or(|class| group.rule.class == *class))
        .filter(|(_, group)| group.count >= params.min_count)
        .collect();
    // The ids make the order total, so that pages by `skip` and `limit` fit together.
    found.sort_by_key(|(process, group)| {
        (std::cmp::Reverse((group.verdict, group.count)), process.id, group.id)
    });
    let shown = found.into_iter().skip(params.skip).take(limit);
    Ok(Json(shown.map(|(process, group)| Leak::of(process, group)).collect()))
}

/// The Go processes of the node, by PID.
#[utoipa::path(get, path = "/sfgi/processes", tag = "processes", params(ProcessParams), responses(
    (status = 200, description = "The processes", body = [Process]),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
pub(super) async fn processes(
    State(shared): Of,
    Params(params): Params<ProcessParams>,
) -> Result<Json<Vec<Process>>, Problem> {
    let limit = page(params.limit)?;
    let picture = shared.picture();
    // No `await` while it is held: the guard of a `std` lock must not stay on a task that waits.
    let history = shared.history.read().unwrap_or_else(PoisonError::into_inner);
    let wanted =
        picture.processes.iter().filter(|process| params.pid.is_none_or(|pid| process.id.pid == pid));
    let shown = wanted.skip(params.skip).take(limit);
    Ok(Json(shown.map(|process| Process::of(process, history.of(process))).collect()))
}

/// The alerts that stand now.
#[utoipa::path(get, path = "/sfgi/alerts", tag = "findings", responses(
    (status = 200, description = "The alerts", body = [AlertView]),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
pub(super) async fn alerts(State(shared): Of, Params(Nothing {}): Params<Nothing>) -> Json<Vec<AlertView>> {
    let alerts = shared.alerts.borrow();
    Json(alerts.iter().map(|alert| AlertView::from(&**alert)).collect())
}

/// The agent itself: what it sees, what it costs and what it may cost.
#[utoipa::path(get, path = "/sfgi/node", tag = "agent", responses(
    (status = 200, description = "The agent and its node", body = Node),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
pub(super) async fn node(State(shared): Of, Params(Nothing {}): Params<Nothing>) -> Json<Node> {
    Json(Node::from(&shared.picture().node))
}

/// Goroutines of each process over the last hour, in steps of five minutes, in the text format of Prometheus.
#[utoipa::path(get, path = "/sfgi/profile", tag = "processes", responses(
    (status = 200, description = "The last hour", body = String, content_type = "text/plain"),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
pub(super) async fn profile(State(shared): Of, Params(Nothing {}): Params<Nothing>) -> Response {
    let now_s = shared.picture().unix_ns / 1_000_000_000;
    let max_series = *shared.max_series.borrow();
    let history = shared.history.read().unwrap_or_else(PoisonError::into_inner);
    text(metrics::text(&metrics::history(&history, now_s, max_series)))
}

/// All metrics of the agent and its targets, in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "agent", responses(
    (status = 200, description = "The metrics", body = String, content_type = "text/plain"),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
pub(super) async fn prometheus(State(shared): Of, Params(Nothing {}): Params<Nothing>) -> Response {
    let picture = shared.picture();
    let alerts = Arc::clone(&shared.alerts.borrow());
    let max_series = *shared.max_series.borrow();
    // Held over the whole answer: each scrape shows the drops of the scrapes before it, and adds its own.
    let mut dropped = shared.dropped.lock().unwrap_or_else(PoisonError::into_inner);
    let before = dropped.clone();
    let about = metrics::About { picture: &picture, alerts: &alerts, dropped: &before, max_series };
    let families = metrics::families(&about);
    for family in families.iter().filter(|family| family.dropped > 0) {
        *dropped.entry(family.name).or_default() += family.dropped;
    }
    text(metrics::text(&families))
}

fn text(text: String) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

/// Whether the agent lives; no token is needed.
#[utoipa::path(get, path = "/healthz", tag = "agent", security(()), responses(
    (status = 200, description = "It lives", body = Health),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
pub(super) async fn healthz(Params(Nothing {}): Params<Nothing>) -> Json<Health> {
    Json(Health { status: "ok".into() })
}

/// Whether the agent has a first picture of the node; no token is needed.
#[utoipa::path(get, path = "/readyz", tag = "agent", security(()), responses(
    (status = 200, description = "It has", body = Health),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 503, description = "Not yet, or it is ending", body = Health),
))]
pub(super) async fn readyz(
    State(shared): Of,
    Params(Nothing {}): Params<Nothing>,
) -> (StatusCode, Json<Health>) {
    // A closed channel means that the core has ended; its last picture would still look ready.
    let (status, words) = if shared.agent.requests.is_closed() {
        (StatusCode::SERVICE_UNAVAILABLE, "the agent is ending")
    } else if shared.picture().unix_ns == 0 {
        (StatusCode::SERVICE_UNAVAILABLE, "no look at the node has ended yet")
    } else {
        (StatusCode::OK, "ok")
    };
    (status, Json(Health { status: words.into() }))
}

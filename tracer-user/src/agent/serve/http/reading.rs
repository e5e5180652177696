//! Answers that the latest picture has: none of them asks the core or waits for a target.

use super::{
    Explanation, Problem, Shared,
    bound::Weighed,
    query::{LeakParams, Nothing, Params, ProcessParams, page},
    views::{AlertView, HealthView, Leak, Node, Process},
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
#[utoipa::path(get, path = "/metrics", tag = "agent", security((), ("token" = [])), responses(
    (status = 200, description = "The metrics", body = String, content_type = "text/plain"),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
pub(super) async fn prometheus(
    State(shared): Of,
    Params(Nothing {}): Params<Nothing>,
) -> Result<Response, Problem> {
    let picture = shared.picture();
    let alerts = Arc::clone(&shared.alerts.borrow());
    let max_series = *shared.max_series.borrow();
    // Held over the whole answer: each text shows the drops of the texts before it, and adds its own.
    let mut all = shared.metrics.lock().unwrap_or_else(PoisonError::into_inner);
    // An address instead of the alerts: they would be kept for as long as nobody asks.
    let made_of = (picture.monotonic_ns, Arc::as_ptr(&alerts).addr(), max_series);
    let last = all.last.as_ref().filter(|(of, _)| *of == made_of).map(|(_, text)| text.clone());
    let text = match last {
        Some(text) => text,
        None => {
            let before = all.dropped.clone();
            let about = metrics::About { picture: &picture, alerts: &alerts, dropped: &before, max_series };
            let families = metrics::families(&about);
            metrics::count_dropped(&families, &mut all.dropped);
            // First: the old text counts as long as it is kept.
            all.last = None;
            let text = shared.flight.share(metrics::text(&families))?;
            all.last = Some((made_of, text.clone()));
            text
        }
    };
    let mut response = ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response();
    response.extensions_mut().insert(Weighed);
    Ok(response)
}

fn text(text: String) -> Response {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

/// Whether the agent works, so that it need not be started anew; no token is needed.
#[utoipa::path(get, path = "/healthz", tag = "agent", security(()), responses(
    (status = 200, description = "It does", body = HealthView),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 503, description = "It does not, and why", body = HealthView),
))]
pub(super) async fn healthz(
    State(shared): Of,
    Params(Nothing {}): Params<Nothing>,
) -> (StatusCode, Json<HealthView>) {
    told(shared.health.lives())
}

/// Whether the agent sees what it should: it has looked at the node, and scans come to an end; no token is needed.
#[utoipa::path(get, path = "/readyz", tag = "agent", security(()), responses(
    (status = 200, description = "It does", body = HealthView),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 503, description = "It does not, and why", body = HealthView),
))]
pub(super) async fn readyz(
    State(shared): Of,
    Params(Nothing {}): Params<Nothing>,
) -> (StatusCode, Json<HealthView>) {
    told(shared.health.ready())
}

fn told(health: Result<(), String>) -> (StatusCode, Json<HealthView>) {
    let (status, words) = match health {
        Ok(()) => (StatusCode::OK, "ok".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    };
    (status, Json(HealthView { status: words }))
}

//! Answers for which the core must act: scans, modes, goroutines, traces. Profiles have the paths of
//! `net/http/pprof`, so that what scrapes those can scrape any target.

use super::{
    Explanation, Problem, Shared,
    query::{
        CompressedOrText, GoroutineParams, GoroutineProfileParams, MAX_LIMIT, ModeParams, Params,
        ProfileParams, TraceParams, TriggerParams,
    },
    views::{Found, Noted},
};
use crate::agent::{
    Request,
    request::{Answer, Filter, Form, Profile},
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

type Of = State<Arc<Shared>>;

impl Shared {
    /// Sends the core a request and waits for its answer.
    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, Problem> {
        let (answer, answered) = oneshot::channel();
        self.agent.requests.send(request(answer)).await.map_err(|_| Problem::ending())?;
        Ok(answered.await.map_err(|_| Problem::ending())??)
    }

    /// One of [`COSTLY_AT_A_TIME`](super::COSTLY_AT_A_TIME) permits, or a refusal at once: waiting requests would
    /// only pile up.
    fn costly(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.costly).try_acquire_owned().map_err(|_| {
            let error = "as many requests as may read programs at a time do: try again";
            Problem::later(StatusCode::SERVICE_UNAVAILABLE, error, Duration::from_secs(1))
        })
    }
}

/// Scan now, and look for leaks. Refused when the last scan by request was less than `http.trigger_interval` ago.
#[utoipa::path(post, path = "/sfgi/trigger-scan", tag = "findings", params(TriggerParams), responses(
    (status = 200, description = "What was found", body = Found),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 404, description = "There is no such process", body = Explanation),
    (status = 429, description = "Too soon after the last one", body = Explanation),
    (status = 502, description = "The process cannot be read", body = Explanation),
    (status = 503, description = "Too much at once, or the agent is ending", body = Explanation),
))]
pub(super) async fn trigger(
    State(shared): Of,
    Params(params): Params<TriggerParams>,
) -> Result<Json<Found>, Problem> {
    shared.may_trigger().map_err(|left| {
        let error = format!("a scan was asked for a moment ago: wait for {:.0} s", left.as_secs_f64().ceil());
        Problem::later(StatusCode::TOO_MANY_REQUESTS, error, left)
    })?;
    let found = shared.ask(|answer| Request::TriggerScan { pid: params.pid, answer }).await?;
    Ok(Json(Found { scanned: found.scanned, leaked: found.leaked }))
}

/// Watch a process more or less closely from now on. Only where the agent has a token.
#[utoipa::path(post, path = "/sfgi/mode", tag = "processes", params(ModeParams), responses(
    (status = 200, description = "It was noted; /sfgi/processes says what became of it", body = Noted),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 403, description = "The agent has no token", body = Explanation),
    (status = 404, description = "There is no such process", body = Explanation),
    (status = 502, description = "The process cannot be watched so", body = Explanation),
    (status = 503, description = "Too much at once, or the agent is ending", body = Explanation),
))]
pub(super) async fn mode(
    State(shared): Of,
    Params(params): Params<ModeParams>,
) -> Result<Json<Noted>, Problem> {
    // A mode stays set, unlike a trace or a profile, which end by themselves.
    if !shared.guarded {
        let error = "this changes what sfgi does to programs: start the agent with --token-file to allow it";
        return Err(Problem::new(StatusCode::FORBIDDEN, error));
    }
    shared.ask(|answer| Request::SetMode { pid: params.pid, mode: params.mode, answer }).await?;
    Ok(Json(Noted { noted: true }))
}

/// The goroutines of a process, read now, as `sfgi dump --format json` shows them.
#[utoipa::path(get, path = "/sfgi/goroutines", tag = "processes", params(GoroutineParams), responses(
    (status = 200, description = "A document of the schema sfgi.dump/1", body = Object),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 404, description = "There is no such process", body = Explanation),
    (status = 502, description = "The process cannot be read", body = Explanation),
    (status = 503, description = "Too much at once, or the agent is ending", body = Explanation),
))]
pub(super) async fn goroutines(
    State(shared): Of,
    Params(params): Params<GoroutineParams>,
) -> Result<Response, Problem> {
    let _permit = shared.costly()?;
    let (pid, filter) = params.filter()?;
    let form = if params.group { Form::JsonGroups } else { Form::Json };
    let document = shared.ask(|answer| Request::Goroutines { pid, filter, form, answer }).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], document).into_response())
}

/// The events of a process's goroutines while they happen, as JSON lines (`sfgi.trace/1`).
#[utoipa::path(get, path = "/sfgi/trace", tag = "processes", params(TraceParams), responses(
    (status = 200, description = "The events, a line each", body = String, content_type = "application/jsonl"),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 404, description = "There is no such process", body = Explanation),
    (status = 502, description = "The process cannot be traced", body = Explanation),
    (status = 503, description = "Too much at once, or the agent is ending", body = Explanation),
))]
pub(super) async fn trace(
    State(shared): Of,
    Params(params): Params<TraceParams>,
) -> Result<Response, Problem> {
    // It moves into the body: the trace is costly until its end, not until its headers.
    let permit = shared.costly()?;
    let (pid, seconds) = (params.pid, params.seconds()?);
    let lines = shared.ask(|answer| Request::Trace { pid, seconds, answer }).await?;
    let body = Body::new(Lines { lines, _permit: permit });
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

/// A body that grows while the trace runs. hyper drops it when the client has gone; the closed channel ends the trace.
struct Lines {
    lines: mpsc::Receiver<Bytes>,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.lines.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// A profile of all goroutines by stack.
#[utoipa::path(get, path = "/debug/pprof/goroutine", tag = "profiles", params(GoroutineProfileParams), responses(
    (status = 200, description = "A profile, compressed, or as text", content(
        (Vec<u8> = "application/octet-stream"), (String = "text/plain"),
    )),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 404, description = "There is no such process", body = Explanation),
    (status = 502, description = "The process cannot be read", body = Explanation),
    (status = 503, description = "Too much at once, or the agent is ending", body = Explanation),
))]
pub(super) async fn goroutine(
    shared: Of,
    Params(params): Params<GoroutineProfileParams>,
) -> Result<Response, Problem> {
    let profiled = params.compressed();
    // Not used, but the document bounds it: a value beyond is refused as for the other profiles.
    profiled.seconds()?;
    if params.debug == CompressedOrText::Text {
        let _permit = shared.costly()?;
        let (pid, filter) = (params.pid, Filter { limit: MAX_LIMIT, ..Filter::default() });
        let form = Form::Text;
        let text = shared.ask(|answer| Request::Goroutines { pid, filter, form, answer }).await?;
        return Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response());
    }
    profile(&shared, profiled, Profile::Goroutines, "goroutine").await
}

/// A profile of the goroutines in findings that are `likely` or `proven`, by stack.
#[utoipa::path(get, path = "/debug/pprof/goroutineleak", tag = "profiles", params(ProfileParams), responses(
    (status = 200, description = "A profile, compressed", content_type = "application/octet-stream", body = Vec<u8>),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 404, description = "There is no such process", body = Explanation),
    (status = 502, description = "The process cannot be read", body = Explanation),
    (status = 503, description = "Too much at once, or the agent is ending", body = Explanation),
))]
pub(super) async fn goroutineleak(
    shared: Of,
    Params(params): Params<ProfileParams>,
) -> Result<Response, Problem> {
    profile(&shared, params, Profile::Leaks, "goroutineleak").await
}

/// A profile of the time that goroutines are blocked from now on, by stack. It needs probes.
#[utoipa::path(get, path = "/debug/pprof/block", tag = "profiles", params(ProfileParams), responses(
    (status = 200, description = "A profile, compressed", content_type = "application/octet-stream", body = Vec<u8>),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 404, description = "There is no such process", body = Explanation),
    (status = 502, description = "The process cannot be watched", body = Explanation),
    (status = 503, description = "Too much at once, or the agent is ending", body = Explanation),
))]
pub(super) async fn block(shared: Of, Params(params): Params<ProfileParams>) -> Result<Response, Problem> {
    let seconds = params.seconds()?;
    profile(&shared, params, Profile::Block(seconds), "block").await
}

async fn profile(
    shared: &Shared,
    params: ProfileParams,
    kind: Profile,
    name: &str,
) -> Result<Response, Problem> {
    params.seconds()?;
    let _permit = shared.costly()?;
    let bytes = shared.ask(|answer| Request::Profile { pid: params.pid, kind, answer }).await?;
    let headers: [(HeaderName, String); 2] = [
        (header::CONTENT_TYPE, "application/octet-stream".into()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    Ok((headers, bytes).into_response())
}

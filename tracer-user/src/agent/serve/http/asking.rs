//! Answers for which the core must act: scans, modes, goroutines, traces. Profiles have the paths of
//! `net/http/pprof`, so that what scrapes those can scrape any target.

use super::{
    Explanation, Problem, Shared,
    bound::{Room, Weighed, held},
    query::{
        CompressedOrText, GoroutineParams, GoroutineProfileParams, GraphParams, MAX_LIMIT, ModeParams,
        Params, ProfileParams, TraceParams, TriggerParams,
    },
    views::{Found, Noted},
};
use crate::{
    agent::{
        Request,
        request::{Answer, Filter, Form, Profile},
    },
    output::graph::GraphFormat,
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

    /// As [`ask`](Self::ask), with a place that the request keeps until the core has answered, also when its client has
    /// gone: the core works on. The answer keeps it further.
    async fn ask_with<T: Send + 'static, P: Send + 'static>(
        &self,
        place: P,
        request: impl FnOnce(Answer<T>) -> Request,
    ) -> Result<(T, P), Problem> {
        let (answer, answered) = oneshot::channel();
        self.agent.requests.send(request(answer)).await.map_err(|_| Problem::ending())?;
        let waits = tokio::spawn(async move { (answered.await, place) });
        let (answered, place) = waits.await.map_err(|_| Problem::ending())?;
        Ok((answered.map_err(|_| Problem::ending())??, place))
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

/// Watch a process more or less closely from now on.
#[utoipa::path(post, path = "/sfgi/mode", tag = "processes", params(ModeParams), responses(
    (status = 200, description = "It was noted; /sfgi/processes says what became of it", body = Noted),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 404, description = "There is no such process", body = Explanation),
    (status = 502, description = "The process cannot be watched so", body = Explanation),
    (status = 503, description = "Too much at once, or the agent is ending", body = Explanation),
))]
pub(super) async fn mode(
    State(shared): Of,
    Params(params): Params<ModeParams>,
) -> Result<Json<Noted>, Problem> {
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
    let (pid, filter) = params.filter()?;
    let form = if params.group { Form::JsonGroups } else { Form::Json };
    document(&shared, pid, filter, form, "application/json").await
}

/// Who waits for whom in a process, read now, as `sfgi dump --graph` shows it: who holds each lock, and who could use
/// each channel.
#[utoipa::path(get, path = "/sfgi/graph", tag = "processes", params(GraphParams), responses(
    (status = 200, description = "A document of the schema sfgi.graph/1, or a graph in the language that was asked for",
        content((Object = "application/json"), (String = "text/vnd.graphviz"), (String = "text/vnd.mermaid"))),
    (status = 400, description = "A parameter is wrong", body = Explanation),
    (status = 404, description = "There is no such process", body = Explanation),
    (status = 502, description = "The process cannot be read", body = Explanation),
    (status = 503, description = "Too much at once, or the agent is ending", body = Explanation),
))]
pub(super) async fn graph(
    State(shared): Of,
    Params(params): Params<GraphParams>,
) -> Result<Response, Problem> {
    let kind = match params.format {
        GraphFormat::Json => "application/json",
        GraphFormat::Dot => "text/vnd.graphviz",
        GraphFormat::Mermaid => "text/vnd.mermaid",
    };
    document(&shared, params.pid, Filter::default(), Form::Graph(params.format), kind).await
}

async fn document(
    shared: &Shared,
    pid: u32,
    filter: Filter,
    form: Form,
    kind: &'static str,
) -> Result<Response, Problem> {
    let place = shared.costly.read().await?;
    let room = shared.documents.document()?;
    let asked = shared.ask_with((place, room), |answer| Request::Goroutines { pid, filter, form, answer });
    let (document, (place, room)) = asked.await?;
    Ok(made([(header::CONTENT_TYPE, kind.into())], document, place, room))
}

/// A document as the answer, which keeps its place and its room until the client has taken it.
fn made<const N: usize>(
    headers: [(HeaderName, String); N],
    document: Bytes,
    place: OwnedSemaphorePermit,
    room: Room,
) -> Response {
    let room = room.shrink(document.len());
    let mut response = (headers, held(document.into(), (place, room))).into_response();
    response.extensions_mut().insert(Weighed);
    response
}

/// The events of a process's goroutines while they happen, as JSON lines (`sfgi.trace/1`). It puts probes into the
/// program until it ends.
#[utoipa::path(post, path = "/sfgi/trace", tag = "processes", params(TraceParams), responses(
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
    let (pid, seconds) = (params.pid, params.seconds()?);
    let place = shared.costly.stream()?;
    let (lines, place) = shared.ask_with(place, |answer| Request::Trace { pid, seconds, answer }).await?;
    let body = held(Body::new(Lines(lines)), place);
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

/// A body that grows while the trace runs. hyper drops it when the client has gone; the closed channel ends the trace.
struct Lines(mpsc::Receiver<Bytes>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
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
        let (pid, filter) = (params.pid, Filter { limit: MAX_LIMIT, ..Filter::default() });
        return document(&shared, pid, filter, Form::Text, "text/plain; charset=utf-8").await;
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

/// A profile of the time that goroutines are blocked from now on, by stack. It puts probes into the program until it
/// ends; it is a GET all the same, because pprof and those who collect profiles know nothing else.
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
    let place = match kind {
        Profile::Block(_) => shared.costly.stream()?,
        Profile::Goroutines | Profile::Leaks => shared.costly.read().await?,
    };
    let room = shared.documents.document()?;
    let asked = shared.ask_with((place, room), |answer| Request::Profile { pid: params.pid, kind, answer });
    let (bytes, (place, room)) = asked.await?;
    let headers: [(HeaderName, String); 2] = [
        (header::CONTENT_TYPE, "application/octet-stream".into()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    Ok(made(headers, bytes, place, room))
}

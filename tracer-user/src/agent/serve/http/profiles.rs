//! Profiles of any process on the node, under the paths of `net/http/pprof`, so that what scrapes those takes them.

use super::{
    Shared,
    problem::{Explanation, Problem},
    query::{CompressedOrText, GoroutineProfileParams, Params, ProfileParams},
};
use crate::agent::{
    Request,
    request::{Filter, Form, Profile},
};
use axum::{
    extract::State,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use std::sync::Arc;

type Of = State<Arc<Shared>>;

/// All goroutines by stack.
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
    profiled.seconds()?;
    if params.debug == CompressedOrText::Text {
        let _permit = shared.costly()?;
        let (pid, filter) = (params.pid, Filter { limit: super::query::MAX_LIMIT, ..Filter::default() });
        let form = Form::Text;
        let text = shared.ask(|answer| Request::Goroutines { pid, filter, form, answer }).await?;
        return Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response());
    }
    profile(&shared, profiled, Profile::Goroutines, "goroutine").await
}

/// Goroutines that are leaked, likely or for certain, by stack.
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

/// How long goroutines were blocked, by stack, from now on. It needs probes.
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

//! All routes, and the document that describes them: both are made of the same list.

use super::{
    Access, Shared, access, asking, node, page,
    problem::{Explanation, Problem},
    profiles,
    query::{Nothing, Params},
    reading,
};
use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, Uri},
    middleware,
};
use std::sync::Arc;
use utoipa::openapi::{
    Info, OpenApi,
    security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// What a request may send: nothing here takes a body.
const MAX_BODY: usize = 1024;

/// The description of the interface (OpenAPI 3.1).
pub fn document() -> OpenApi {
    described().split_for_parts().1
}

/// All routes, behind the access check.
pub(super) fn router(shared: Arc<Shared>, access: Arc<Access>) -> Router {
    let (routes, _) = described().split_for_parts();
    routes
        .merge(page::routes())
        .fallback(|uri: Uri| async move {
            Problem::new(
                StatusCode::NOT_FOUND,
                format!("there is nothing at {}: see /openapi.json", uri.path()),
            )
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method: see /openapi.json")
        })
        .layer(middleware::from_fn_with_state(access, access::check))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(shared)
}

fn described() -> OpenApiRouter<Arc<Shared>> {
    let info = Info::new("sfgi agent", env!("CARGO_PKG_VERSION"));
    let mut document = OpenApi::new(info, utoipa::openapi::Paths::new());
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let mut components = utoipa::openapi::Components::new();
    components.add_security_scheme("token", token);
    document.components = Some(components);
    // One or the other: a token is asked for only where one is configured.
    document.security =
        Some(vec![SecurityRequirement::new("token", Vec::<String>::new()), SecurityRequirement::default()]);
    OpenApiRouter::with_openapi(document)
        .routes(routes!(reading::leaks))
        .routes(routes!(reading::processes))
        .routes(routes!(reading::alerts))
        .routes(routes!(node::node))
        .routes(routes!(reading::profile))
        .routes(routes!(reading::prometheus))
        .routes(routes!(reading::healthz))
        .routes(routes!(reading::readyz))
        .routes(routes!(asking::trigger))
        .routes(routes!(asking::mode))
        .routes(routes!(asking::goroutines))
        .routes(routes!(asking::trace))
        .routes(routes!(profiles::goroutine))
        .routes(routes!(profiles::goroutineleak))
        .routes(routes!(profiles::block))
        .routes(routes!(openapi))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "agent", responses(
    (status = 200, description = "The description of the interface", body = Object),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
async fn openapi(Params(Nothing {}): Params<Nothing>) -> Json<OpenApi> {
    Json(document())
}

//! All routes, and the OpenAPI document of them, from the same list: none can be missing from the document.

use super::{
    Explanation, Problem, Shared,
    access::{self, Gate},
    asking,
    bound::{self, Bounds},
    query::{Nothing, Params},
    reading,
};
use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, Uri, header},
    middleware,
    response::IntoResponse,
    routing::get,
};
use std::sync::Arc;
use utoipa::{
    PartialSchema as _,
    openapi::{
        ContentBuilder, Info, OpenApi, ResponseBuilder,
        path::Operation,
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The bound of a request's body, bytes: no route takes one.
const MAX_BODY: usize = 1024;

/// The description of the interface (OpenAPI 3.1), which `/openapi.json` serves.
pub fn document() -> OpenApi {
    let mut document = described().split_for_parts().1;
    for path in document.paths.paths.values_mut() {
        for operation in [&mut path.get, &mut path.post].into_iter().flatten() {
            refusals(operation);
        }
    }
    document
}

/// Adds the answers that come before any handler: to who may not ask.
fn refusals(operation: &mut Operation) {
    let mut add = |status: &str, description: &str| {
        let response = ResponseBuilder::new()
            .description(description)
            .content("application/json", ContentBuilder::new().schema(Some(Explanation::schema())).build());
        operation.responses.responses.entry(status.to_owned()).or_insert_with(|| response.build().into());
    };
    add("503", "Too much at once");
    // Paths that hold nothing have an empty alternative only.
    if operation.security.as_ref().is_some_and(|all| *all == [SecurityRequirement::default()]) {
        return;
    }
    add("401", "The token is missing or wrong");
    add("403", "It comes from a page of another site");
    add("421", "The host is a name that need not be this machine");
}

/// All routes, behind the check of access and the bounds.
pub(super) fn router(shared: Arc<Shared>, gate: Arc<Gate>, bounds: Bounds) -> Router {
    let (routes, _) = described().split_for_parts();
    routes
        .merge(page())
        .fallback(|uri: Uri| async move {
            Problem::new(
                StatusCode::NOT_FOUND,
                format!("there is nothing at {}: see /openapi.json", uri.path()),
            )
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method: see /openapi.json")
        })
        // After `merge` and the fallbacks: a layer covers only what was added before it.
        .layer(middleware::from_fn_with_state(bounds, bound::hold))
        // Outermost: who may not ask, or waits for his turn, takes no place.
        .layer(middleware::from_fn_with_state(gate, access::check))
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
    document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    OpenApiRouter::with_openapi(document)
        .routes(routes!(reading::leaks))
        .routes(routes!(reading::processes))
        .routes(routes!(reading::alerts))
        .routes(routes!(reading::node))
        .routes(routes!(reading::profile))
        .routes(routes!(reading::prometheus))
        .routes(routes!(reading::healthz))
        .routes(routes!(reading::readyz))
        .routes(routes!(asking::trigger))
        .routes(routes!(asking::mode))
        .routes(routes!(asking::goroutines))
        .routes(routes!(asking::graph))
        .routes(routes!(asking::trace))
        .routes(routes!(asking::goroutine))
        .routes(routes!(asking::goroutineleak))
        .routes(routes!(asking::block))
        .routes(routes!(openapi))
}

/// This description of the interface.
#[utoipa::path(get, path = "/openapi.json", tag = "agent", responses(
    (status = 200, description = "The description of the interface", body = Object),
    (status = 400, description = "A parameter is wrong", body = Explanation),
))]
async fn openapi(Params(Nothing {}): Params<Nothing>) -> Json<OpenApi> {
    Json(document())
}

/// The page may load files from and send requests to this agent only, and no page may frame it. A target's name that
/// became markup by mistake could run no script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The page: three files in the binary, nothing from elsewhere. It asks the interface for all data, and puts names
/// from targets into the document as text only.
const PAGE: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", "text/javascript; charset=utf-8", include_str!("page/page.js")),
];

fn page() -> Router<Arc<Shared>> {
    PAGE.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

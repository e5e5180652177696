//! The routes without a socket and without targets: the core is a task that answers requests.

use super::{
    access::{Gate, Way},
    bound::Bounds,
    pace::Paces,
    *,
};
use crate::agent::{
    Refusal, Request as Ask,
    picture::{ProcessId, ProcessPicture},
    request::Scanned,
};
use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
};
use bytes::Bytes;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

/// A core that knows process 7.
async fn core(mut requests: mpsc::Receiver<Ask>) {
    // The one who asked may have gone.
    while let Some(request) = requests.recv().await {
        match request {
            Ask::TriggerScan { answer, .. } => drop(answer.send(Ok(Scanned { scanned: 1247, leaked: 3 }))),
            Ask::Goroutines { pid: 7, answer, .. } | Ask::Profile { pid: 7, answer, .. } => {
                drop(answer.send(Ok(Bytes::from_static(b"{}"))));
            }
            Ask::Goroutines { pid, answer, .. } | Ask::Profile { pid, answer, .. } => {
                drop(answer.send(Err(Refusal::Unknown(pid))));
            }
            Ask::Trace { answer, .. } => {
                let (to, lines) = mpsc::channel(1);
                drop(answer.send(Ok(lines)));
                for line in ["{\"a\":1}\n", "{\"b\":2}\n"] {
                    drop(to.send(Bytes::from_static(line.as_bytes())).await);
                }
            }
            _ => {}
        }
    }
}

fn router() -> axum::Router {
    let process =
        ProcessPicture { id: ProcessId { pid: 7, ..ProcessId::default() }, ..ProcessPicture::default() };
    let picture = Picture { unix_ns: 1, processes: vec![Arc::new(process)], ..Picture::default() };
    let (requests, received) = mpsc::channel(8);
    tokio::spawn(core(received));
    // A watch outlives its sender.
    let agent = Handle { pictures: watch::channel(Arc::new(picture)).1, requests };
    let alerts = watch::channel(Arc::from([])).1;
    let history = Arc::new(RwLock::new(History::new("boot", 10, Vec::new())));
    let trigger = watch::channel(Duration::from_secs(60)).1;
    let health = Arc::new(Health::new(agent.clone(), watch::channel(Arc::default()).1));
    let shared = Shared::new(agent, alerts, history, watch::channel(100).1, trigger, health);
    let bounds = Bounds::new(1024, shared.flight.clone());
    let gate = Gate { access: Access::guarded(), paces: Paces::default() };
    api::router(Arc::new(shared), Arc::new(gate), bounds)
}

/// Status, content type and body.
async fn ask(router: &axum::Router, method: Method, path: &str) -> (StatusCode, String, String) {
    asked(router, method, path, Way::Unix).await
}

/// As [`ask`], by another way.
async fn asked(router: &axum::Router, method: Method, path: &str, way: Way) -> (StatusCode, String, String) {
    let request = Request::builder().method(method).uri(path).header("host", "localhost").extension(way);
    let response = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, kind.unwrap_or_default(), String::from_utf8(body.to_vec()).unwrap())
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn every_route_of_the_document_answers_as_the_document_says() {
    run(async {
        let router = router();
        let document = serde_json::to_value(document()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), 17, "{:?}", paths.keys());
        for (path, methods) in paths {
            for (method, operation) in methods.as_object().unwrap() {
                let needs_pid = operation["parameters"].as_array().is_some_and(|parameters| {
                    parameters.iter().any(|one| one["name"] == "pid" && one["required"] == true)
                });
                let query = if needs_pid { "?pid=7" } else { "" };
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let (status, kind, body) = ask(&router, method, &format!("{path}{query}")).await;
                let documented = &operation["responses"][status.as_str()]["content"];
                let kind = kind.split(';').next().unwrap();
                assert!(documented[kind].is_object(), "{path}: {status} {kind}: {body}");
            }
        }
    });
}

#[test]
fn a_wrong_request_is_told_what_is_wrong() {
    run(async {
        let router = router();
        for (method, path, status, word) in [
            (Method::GET, "/sfgi/leaks?limt=3", 400, "there is no parameter limt: those are pid, "),
            (Method::GET, "/sfgi/leaks?limit=0", 400, "limit is 0"),
            (Method::GET, "/sfgi/goroutines", 400, "the parameter pid is missing"),
            (Method::GET, "/sfgi/goroutines?pid=8", 404, "no Go process with PID 8"),
            (Method::GET, "/sfgi/goroutines?pid=7&older=5", 400, "a time needs a unit"),
            (Method::GET, "/debug/pprof/block?pid=7&seconds=301", 400, "seconds is 301"),
            (Method::GET, "/debug/pprof/block?pid=7&debug=1", 400, ": give 0"),
            (Method::GET, "/sfgi/trigger-scan", 405, "method"),
            (Method::GET, "/sfgi/trace?pid=7", 405, "method"),
            (Method::GET, "/nothing", 404, "/openapi.json"),
        ] {
            let (got, kind, body) = ask(&router, method, path).await;
            assert_eq!((got.as_u16(), kind.as_str()), (status, "application/json"), "{path}: {body}");
            assert!(body.contains(word), "{path}: {body}");
        }
    });
}

#[test]
fn scans_are_triggered_once_in_a_while() {
    run(async {
        let router = router();
        let (status, _, body) = ask(&router, Method::POST, "/sfgi/trigger-scan").await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "{\"scanned\":1247,\"leaked\":3}"));
        let (status, _, body) = ask(&router, Method::POST, "/sfgi/trigger-scan").await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "{body}");
    });
}

#[test]
fn a_trace_is_passed_on_to_its_end() {
    run(async {
        let (_, kind, body) = ask(&router(), Method::POST, "/sfgi/trace?pid=7").await;
        assert_eq!((kind.as_str(), body.as_str()), ("application/jsonl", "{\"a\":1}\n{\"b\":2}\n"));
    });
}

#[test]
fn without_the_token_nothing_is_told_and_nothing_is_done() {
    run(async {
        let router = router();
        let document = serde_json::to_value(document()).unwrap();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let open = ["/metrics", "/healthz", "/readyz"].contains(&path.as_str());
                let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
                let (status, kind, body) = asked(&router, method, path, Way::Loopback).await;
                assert_eq!(status == StatusCode::UNAUTHORIZED, !open, "{path}: {status} {body}");
                let documented = &operation["responses"][status.as_str()]["content"];
                assert!(documented[kind.split(';').next().unwrap()].is_object(), "{path}: {status}");
            }
        }
        let (status, ..) = asked(&router, Method::GET, "/metrics", Way::Network).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    });
}

#[test]
fn metrics_are_made_once_a_picture() {
    run(async {
        let router = router();
        let (_, _, first) = ask(&router, Method::GET, "/metrics").await;
        let (_, kind, second) = ask(&router, Method::GET, "/metrics").await;
        assert_eq!(first, second);
        assert!(kind.starts_with("text/plain") && first.contains("sfgi_build_info"));
    });
}

#[test]
fn the_page_asks_nobody_else_for_anything() {
    run(async {
        let router = router();
        for path in ["/", "/page.js", "/page.css"] {
            let (status, _, body) = ask(&router, Method::GET, path).await;
            assert_eq!(status, StatusCode::OK);
            let elsewhere = body.replace("http://www.w3.org/2000/svg", "");
            assert!(!elsewhere.contains("://") && !body.contains("innerHTML"), "{path}");
        }
    });
}

//! One request to a collector.

use anyhow::{Context as _, Result, bail, ensure};
use axum::http::{Method, Request, Uri, header};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::{net::TcpStream, time::timeout};

/// How long a collector may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends a message and waits for the collector to accept it. Each has its own connection: there is one in half a minute.
pub(super) async fn post(url: &str, message: Vec<u8>) -> Result<()> {
    match timeout(LIMIT, attempt(url, message)).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {LIMIT:?}"),
    }
}

async fn attempt(url: &str, message: Vec<u8>) -> Result<()> {
    let uri: Uri = url.parse().with_context(|| format!("{url} is no address"))?;
    let host = uri.host().context("the endpoint has no host")?;
    let port = uri.port_u16().unwrap_or(80);
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((name, port)).await.context("cannot connect")?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri.path())
        .header(header::HOST, format!("{host}:{port}"))
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .body(Full::new(Bytes::from(message)))?;
    // The connection ends when the sender is dropped, or after the answer where the collector wants it so: what counts is the answer.
    let answer = async move {
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "it answers {}", response.status());
        Ok(())
    };
    let (answer, _) = tokio::join!(answer, connection);
    answer
}

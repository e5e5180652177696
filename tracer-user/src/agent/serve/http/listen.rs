//! The socket: accepts connections, does TLS, and bounds what a client can hold.

use super::{Access, AccessError, Problem, Shared, api};
use crate::agent::config;
use axum::{
    body::Body,
    http::{Request, StatusCode},
    response::{IntoResponse as _, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    convert::Infallible,
    fs::File,
    io::{self, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};
use tower::ServiceExt as _;

/// How long a client may take for the headers of a request, or keep its connection idle. Slow headers would hold a
/// place for ever.
const HEADERS: Duration = Duration::from_secs(10);

/// How long a client may take for the TLS handshake: hyper's limits begin after it.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections beyond `max_requests`: idle ones, and those whose request is refused with status 503.
const SPARE_CONNECTIONS: usize = 256;

/// The buffer for a request's headers, bytes. hyper panics below 8,192 and takes about 400 KiB by default.
const MAX_HEADERS: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("cannot listen on {address}: {error}; give another with --listen")]
    Address { address: SocketAddr, error: io::Error },
    /// The certificate or the key cannot be used.
    #[error("{}: {error}; http.tls wants a certificate and its key in PEM", file.display())]
    Tls { file: PathBuf, error: String },
}

pub struct Listener {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    access: Access,
    max_requests: usize,
}

impl Listener {
    /// Binds the socket; [`serve`](Self::serve) answers.
    ///
    /// # Errors
    /// The interface would be open to other machines, or the address or the certificate cannot be used.
    pub async fn bind(config: &config::Http) -> Result<Listener, ListenError> {
        allow_descriptors();
        let access = Access::of(config)?;
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let listener = TcpListener::bind(config.listen).await;
        let listener = listener.map_err(|error| ListenError::Address { address: config.listen, error })?;
        Ok(Listener { listener, tls, access, max_requests: config.max_requests })
    }

    /// The address that the socket has; with port 0 in the configuration the kernel has chosen the port.
    ///
    /// # Errors
    /// The kernel does not tell the address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Whether requests must bring a token.
    pub fn guarded(&self) -> bool {
        self.access.guarded()
    }

    /// Answers until the future is dropped.
    pub async fn serve(self, shared: Arc<Shared>) -> Infallible {
        let router = api::router(shared, Arc::new(self.access));
        // Two bounds: a connection may be idle between requests, and a request beyond the bound needs one to be
        // refused on.
        let requests = Arc::new(Semaphore::new(self.max_requests));
        let connections = Arc::new(Semaphore::new(self.max_requests + SPARE_CONNECTIONS));
        loop {
            // The place is taken before `accept`: clients beyond the bound wait in the kernel's queue of the socket
            // and cost nothing.
            let Ok(place) = Arc::clone(&connections).acquire_owned().await else {
                unreachable!("the semaphore is never closed")
            };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or the client went before `accept`. Both pass; without the pause the former
                    // would spin.
                    log::debug!("cannot accept a connection: {error}");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (router, requests) = (router.clone(), Arc::clone(&requests));
            let tls = self.tls.clone();
            tokio::spawn(async move {
                connection(stream, tls, router, requests).await;
                drop(place);
            });
        }
    }
}

/// Raises the soft RLIMIT_NOFILE to the hard limit. Each connection is a descriptor, and the usual soft limit of
/// 1,024 is below `max_requests` and [`SPARE_CONNECTIONS`]; it exists only for select(2).
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::debug!("cannot raise the limit of open files: {error}");
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: axum::Router,
    requests: Arc<Semaphore>,
) {
    // An answer is written at once, so Nagle's algorithm could only delay its end.
    let _ = stream.set_nodelay(true);
    let stream = Impatient::new(stream);
    match tls {
        None => talk(stream, router, requests).await,
        Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => talk(stream, router, requests).await,
            Ok(Err(error)) => log::debug!("TLS: {error}"),
            Err(_) => log::debug!("TLS: no handshake within {HANDSHAKE:?}"),
        },
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: axum::Router,
    requests: Arc<Semaphore>,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        // Not awaited: a request beyond the bound is answered with status 503 at once.
        let (router, permit) = (router.clone(), Arc::clone(&requests).try_acquire_owned());
        async move { Ok::<_, Infallible>(answer(router, request, permit.ok()).await) }
    });
    let mut http = http1::Builder::new();
    // `half_close(false)`: a client that closes its side ends the connection and drops the answer, and so a trace.
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(MAX_HEADERS).half_close(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), answer).await {
        log::debug!("HTTP: {error}");
    }
}

async fn answer(
    router: axum::Router,
    request: Request<Incoming>,
    permit: Option<OwnedSemaphorePermit>,
) -> Response {
    // Released when the answer begins: a body that grows (`asking::trace`) holds a permit of its own.
    let Some(_permit) = permit else {
        let error = "too many requests at a time: try again";
        return Problem::later(StatusCode::SERVICE_UNAVAILABLE, error, Duration::from_secs(1))
            .into_response();
    };
    match router.oneshot(request.map(Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn acceptor(tls: &config::Tls) -> Result<TlsAcceptor, ListenError> {
    let certificates = read(&tls.certificate, |reader| CertificateDer::pem_reader_iter(reader).collect())?;
    let key = read(&tls.key, |reader| PrivateKeyDer::from_pem_reader(reader))?;
    let wrong = |error: tokio_rustls::rustls::Error| failed(&tls.certificate, error);
    // ring by name: `ServerConfig::builder` panics where crate features leave the choice of a provider open.
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(wrong)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read<T, E: ToString>(
    file: &Path,
    parse: impl FnOnce(&mut BufReader<File>) -> Result<T, E>,
) -> Result<T, ListenError> {
    let open = File::open(file).map_err(|error| failed(file, error))?;
    parse(&mut BufReader::new(open)).map_err(|error| failed(file, error))
}

fn failed(file: &Path, error: impl ToString) -> ListenError {
    ListenError::Tls { file: file.to_owned(), error: error.to_string() }
}

/// How long a client may take nothing of an answer.
const STUCK: Duration = Duration::from_secs(30);

/// A connection that fails when the client takes nothing for [`STUCK`]. A client that asks and never reads would hold
/// its place for ever: hyper has no limit for writes.
struct Impatient<S> {
    stream: S,
    limit: Duration,
    /// The time limit of a write that is pending.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    fn new(stream: S) -> Self {
        Impatient { stream, limit: STUCK, waiting: None }
    }

    /// Passes the result of a write on, or an error when writes have been pending for too long.
    fn judge<T>(&mut self, context: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.waiting = None;
            return write;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waiting.as_mut().poll(context));
        // A later write, as of a shutdown, gets the whole limit again.
        waiting.as_mut().reset(Instant::now() + limit);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge(context, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.stream).poll_shutdown(context);
        self.judge(context, shutdown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    /// A client that never takes anything.
    struct Stuck;

    impl AsyncWrite for Stuck {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[test]
    fn a_client_that_reads_nothing_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let limit = Duration::from_millis(20);
            let mut stream = Impatient { stream: Stuck, limit, waiting: None };
            let began = Instant::now();
            let write = poll_fn(|context| Pin::new(&mut stream).poll_write(context, b"answer"));
            assert_eq!(write.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(began.elapsed() >= limit);
        });
    }
}

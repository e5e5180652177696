//! The sockets: accepts connections, does TLS, and bounds what a client can hold.

use super::{
    Access, AccessError, Shared,
    access::{Gate, Way, is_loopback},
    api,
    bound::Bounds,
    pace::{Pace, Paces},
};
use crate::agent::config::{self, Address};
use axum::{body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sfgi_core::files::read_limited;
use std::{
    convert::Infallible,
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, UnixListener},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
        server::WebPkiClientVerifier,
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

/// What the kernel may hold of an answer that a client has not taken, bytes a connection. By itself it would grow to
/// megabytes, which count for the agent's control group.
const SEND_BUFFER: u32 = 128 << 10;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// The largest file of certificates or of a key, bytes. A chain has some kilobytes, a bundle of all that a system trusts
/// a quarter of it.
const MAX_PEM: u64 = 1 << 20;

/// Who may use the Unix socket: its owner and its group. Whoever may is answered everything.
const SOCKET_MODE: u32 = 0o660;

/// The mode of the folder of a Unix socket, where it is made: others may look for the socket, but not replace it.
const FOLDER_MODE: u32 = 0o755;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("cannot listen on {address}: {error}; give another with --listen")]
    Address { address: Address, error: io::Error },
    /// The certificate, the key, or the certificates of those that sign clients' cannot be used.
    #[error("{}: {error}; http.tls wants certificates and the key in PEM", file.display())]
    Tls { file: PathBuf, error: String },
}

enum Socket {
    Tcp { listener: TcpListener, way: Way },
    Unix { listener: UnixListener, file: SocketFile },
}

/// The file of a Unix socket, which goes with it.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed by hand. A file that stays is replaced by the next agent.
        let _ = fs::remove_file(&self.0);
    }
}

pub struct Listener {
    sockets: Vec<Socket>,
    tls: Option<TlsAcceptor>,
    access: Access,
    max_requests: usize,
}

impl Listener {
    /// Binds the sockets; [`serve`](Self::serve) answers. `store` is the file of the store, beside which a token is
    /// kept; `terminal` whether somebody reads what is printed.
    ///
    /// # Errors
    /// The interface would be open to others, or an address or the certificate cannot be used.
    pub async fn bind(
        config: &config::Http,
        store: Option<&Path>,
        terminal: bool,
    ) -> Result<Listener, ListenError> {
        allow_descriptors();
        let access = Access::of(config, store, terminal)?;
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let certificates = config.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let mut sockets = Vec::new();
        for address in &config.listen {
            let bound = match address {
                Address::Tcp(at) => {
                    let local = if is_loopback(*at) { Way::Loopback } else { Way::Network };
                    let way = if certificates { Way::Certificate } else { local };
                    bind_tcp(*at).map(|listener| Socket::Tcp { listener, way })
                }
                Address::Unix(path) => {
                    bind_unix(path).map(|listener| Socket::Unix { listener, file: SocketFile(path.clone()) })
                }
            };
            sockets.push(bound.map_err(|error| ListenError::Address { address: address.clone(), error })?);
        }
        Ok(Listener { sockets, tls, access, max_requests: config.max_requests })
    }

    /// The addresses that the sockets have; with port 0 in the configuration the kernel has chosen the port.
    pub fn addresses(&self) -> Vec<Address> {
        let address = |socket: &Socket| match socket {
            Socket::Tcp { listener, .. } => listener.local_addr().ok().map(Address::Tcp),
            Socket::Unix { file, .. } => Some(Address::Unix(file.0.clone())),
        };
        self.sockets.iter().filter_map(address).collect()
    }

    /// Says where it listens, and how its token is to be had.
    pub fn announce(&self) {
        let addresses = self.addresses();
        for address in &addresses {
            log::info!("listens on {address}");
        }
        if let Some(file) = self.access.kept() {
            log::info!("requests need the token in {}", file.display());
        }
        let tcp = addresses.iter().find_map(|address| match address {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        });
        if let (Some(address), Some(token)) = (tcp, self.access.fresh()) {
            // Not logged: the token is for the eyes of who has started the agent.
            let _ = writeln!(io::stderr(), "\n    http://{address}/?token={token}\n");
        }
    }

    /// Answers until the future is dropped.
    pub async fn serve(self, shared: Arc<Shared>) {
        let bounds = Bounds::new(self.max_requests, shared.flight.clone());
        let gate = Gate { access: self.access, paces: Paces::default() };
        let router = api::router(shared, Arc::new(gate), bounds);
        let mut sockets = JoinSet::new();
        for socket in self.sockets {
            // Each socket has connections of its own: clients of one cannot shut out those of another.
            let connections = self.max_requests + SPARE_CONNECTIONS;
            sockets.spawn(accept(socket, self.tls.clone(), router.clone(), connections));
        }
        while sockets.join_next().await.is_some() {}
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Binds a Unix socket. A file that another agent has left is replaced, but none on which anybody listens.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::other("there is a file that is no socket"));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(io::Error::other("somebody listens there already")),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Accepts the connections of a socket, for ever.
async fn accept(socket: Socket, tls: Option<TlsAcceptor>, router: axum::Router, connections: usize) {
    let (connections, pace) = (Arc::new(Semaphore::new(connections)), Pace::of_connections());
    loop {
        // The place is taken before `accept`: clients beyond the bound wait in the kernel's queue of the socket
        // and cost nothing.
        let Ok(place) = Arc::clone(&connections).acquire_owned().await else {
            unreachable!("the semaphore is never closed")
        };
        pace.turn().await;
        let router = router.clone();
        let accepted = match &socket {
            Socket::Tcp { listener, way } => listener.accept().await.map(|(stream, _)| {
                // Answers are written whole: waiting to fill a packet (Nagle's algorithm) would only delay them.
                let _ = stream.set_nodelay(true);
                let (stream, tls, way) = (Impatient::new(stream), tls.clone(), *way);
                tokio::spawn(async move {
                    secured(stream, tls, router, way).await;
                    drop(place);
                })
            }),
            Socket::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| {
                tokio::spawn(async move {
                    talk(Impatient::new(stream), router, Way::Unix).await;
                    drop(place);
                })
            }),
        };
        if let Err(error) = accepted {
            // Out of descriptors, or the client went before `accept`. Both pass; without the pause the former
            // would spin.
            log::debug!("cannot accept a connection: {error}");
            sleep(Duration::from_millis(50)).await;
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

async fn secured(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: Option<TlsAcceptor>,
    router: axum::Router,
    way: Way,
) {
    match tls {
        None => talk(stream, router, way).await,
        Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => talk(stream, router, way).await,
            Ok(Err(error)) => log::debug!("TLS: {error}"),
            Err(_) => log::debug!("TLS: no handshake within {HANDSHAKE:?}"),
        },
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: axum::Router, way: Way) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let (router, mut request) = (router.clone(), request.map(Body::new));
        request.extensions_mut().insert(way);
        async move {
            match router.oneshot(request).await {
                Ok(response) => Ok::<_, Infallible>(response),
                Err(never) => match never {},
            }
        }
    });
    let mut http = http1::Builder::new();
    // `half_close(false)`: a client that closes its side ends the connection and drops the answer, and so a trace.
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(MAX_HEADERS).half_close(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), answer).await {
        log::debug!("HTTP: {error}");
    }
}

fn acceptor(tls: &config::Tls) -> Result<TlsAcceptor, ListenError> {
    let chain = certificates(&tls.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&tls.key)?).map_err(|error| failed(&tls.key, error))?;
    let wrong = |error: tokio_rustls::rustls::Error| failed(&tls.certificate, error);
    // ring by name: `ServerConfig::builder` panics where crate features leave the choice of a provider open.
    let provider = Arc::new(ring::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(wrong)?;
    let config = match &tls.client_ca {
        None => config.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for signer in certificates(file)? {
                roots.add(signer).map_err(|error| failed(file, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.map_err(|error| failed(file, error))?)
        }
    };
    let config = config.with_single_cert(chain, key).map_err(wrong)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, ListenError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(failed(file, "it has no certificate")),
        found => found.map_err(|error| failed(file, error)),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, ListenError> {
    read_limited(file, MAX_PEM).map_err(|error| failed(file, format!("it {error}")))
}

fn failed(file: &Path, error: impl ToString) -> ListenError {
    ListenError::Tls { file: file.to_owned(), error: error.to_string() }
}

/// How long a client may take for [`PROGRESS`] of an answer, or for what is left of it.
const STUCK: Duration = Duration::from_secs(10);

/// Bytes that a client has to take in [`STUCK`]. One that takes a byte now and then would keep its place for hours.
const PROGRESS: usize = 16 << 10;

/// A connection that fails when the client takes too little of an answer. A client that asks and never reads would hold
/// its place for ever: hyper has no limit for writes.
struct Impatient<S> {
    stream: S,
    limit: Duration,
    /// The time limit of a write that is pending, or was lately.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Bytes that were taken since that time runs.
    taken: usize,
}

impl<S> Impatient<S> {
    fn new(stream: S) -> Self {
        Impatient { stream, limit: STUCK, waiting: None, taken: 0 }
    }

    /// Passes the result of a write on, or an error when the client has been too slow.
    fn judge_write(
        &mut self,
        context: &mut Context<'_>,
        write: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match write {
            Poll::Ready(Ok(bytes)) => {
                self.taken += bytes;
                if self.taken >= PROGRESS {
                    self.waiting = None;
                }
                write
            }
            _ => self.judge(context, write),
        }
    }

    /// As [`judge_write`](Self::judge_write), for what is done when nothing waits to be written.
    fn judge<T>(&mut self, context: &mut Context<'_>, write: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.waiting = None;
            return write;
        }
        let limit = self.limit;
        let waiting = match &mut self.waiting {
            Some(waiting) => waiting,
            none => {
                self.taken = 0;
                none.insert(Box::pin(sleep(limit)))
            }
        };
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
        self.judge_write(context, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge_write(context, write)
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

    /// A client that takes a byte at a time, and waits between.
    #[derive(Default)]
    struct Slow(Option<Pin<Box<Sleep>>>);

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            let pause = self.0.get_or_insert_with(|| Box::pin(sleep(Duration::from_millis(1))));
            ready!(pause.as_mut().poll(context));
            self.0 = None;
            Poll::Ready(Ok(1))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_client_that_reads_a_byte_at_a_time_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let limit = Duration::from_millis(50);
            let mut stream = Impatient { limit, ..Impatient::new(Slow::default()) };
            let began = Instant::now();
            let error = loop {
                let write = poll_fn(|context| Pin::new(&mut stream).poll_write(context, b"answer"));
                if let Err(error) = write.await {
                    break error;
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(began.elapsed() >= limit);
        });
    }

    #[test]
    fn a_socket_that_was_left_is_replaced_and_one_that_is_used_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _context = runtime.enter();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/sfgi.sock");
        let first = bind_unix(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (SOCKET_MODE, FOLDER_MODE));
        assert!(bind_unix(&path).unwrap_err().to_string().contains("somebody listens"));
        drop(first);
        let file = SocketFile(path.clone());
        let second = bind_unix(&path).unwrap();
        drop((second, file));
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        assert!(bind_unix(&path).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_client_that_reads_nothing_is_given_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let limit = Duration::from_millis(20);
            let mut stream = Impatient { limit, ..Impatient::new(Stuck) };
            let began = Instant::now();
            let write = poll_fn(|context| Pin::new(&mut stream).poll_write(context, b"answer"));
            assert_eq!(write.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(began.elapsed() >= limit);
        });
    }
}

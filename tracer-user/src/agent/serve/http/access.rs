//! Access to the HTTP interface: from the agent's machine without a token, from elsewhere only with a token or over
//! TLS.

use super::Problem;
use crate::agent::config;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};
use subtle::ConstantTimeEq as _;

/// The environment variable for the token, where a file is awkward.
const TOKEN_VARIABLE: &str = "SFGI_TOKEN";

/// The shortest token, in characters: 16 raw bytes are 128 bits; as hexadecimal they are 64.
const MIN_TOKEN: usize = 16;

/// The longest token, in bytes: it must fit into the headers of a request (`MAX_HEADERS` in `listen.rs`).
const MAX_TOKEN: u64 = 4096;

/// Paths that need no token: the kubelet's probes, and the page, which has no data until it was given a token.
const OPEN: [&str; 5] = ["/healthz", "/readyz", "/", "/page.css", "/page.js"];

/// Why the interface is not opened at all.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Other machines can reach the address, and neither TLS nor a token protects it.
    #[error("{0} can be reached from other machines: give --token-file or http.tls, or listen on 127.0.0.1")]
    Open(SocketAddr),
    #[error("cannot read the token in {}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error(
        "the token in {0} is shorter than {MIN_TOKEN} characters, or longer than {MAX_TOKEN}: make one with openssl rand -hex 32"
    )]
    Bad(String),
}

#[derive(Clone)]
pub struct Access {
    token: Option<Arc<str>>,
    /// Whether the address is of the loopback: only this machine reaches it.
    local: bool,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token is left out: this text may be logged.
        f.debug_struct("Access").field("guarded", &self.guarded()).field("local", &self.local).finish()
    }
}

impl Access {
    /// From the configuration; the token from its file, else from the environment (`SFGI_TOKEN`).
    ///
    /// # Errors
    /// Other machines could use it without a token, or the token cannot be read or has a wrong length.
    pub fn of(config: &config::Http) -> Result<Access, AccessError> {
        let token = match &config.token_file {
            Some(file) => Some((read(file)?, file.display().to_string())),
            None => std::env::var(TOKEN_VARIABLE).ok().map(|token| (token, TOKEN_VARIABLE.to_owned())),
        };
        Access::with(config.listen, config.tls.is_some(), token)
    }

    fn with(listen: SocketAddr, tls: bool, token: Option<(String, String)>) -> Result<Access, AccessError> {
        // `to_canonical`: `::ffff:127.0.0.1` is the loopback, and `::ffff:10.0.0.1` is not.
        let local = listen.ip().to_canonical().is_loopback();
        let token = token
            .map(|(token, place)| {
                let token = token.trim();
                let fits = token.len() >= MIN_TOKEN && token.len() as u64 <= MAX_TOKEN;
                if fits { Ok(Arc::from(token)) } else { Err(AccessError::Bad(place)) }
            })
            .transpose()?;
        if !local && !tls && token.is_none() {
            return Err(AccessError::Open(listen));
        }
        Ok(Access { token, local })
    }

    /// Whether requests must bring a token.
    pub fn guarded(&self) -> bool {
        self.token.is_some()
    }

    fn judge(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
        if OPEN.contains(&uri.path()) {
            return Ok(());
        }
        if let Some(token) = &self.token {
            let given = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
            // In constant time: how long a comparison takes must not tell how much of a guess is right.
            let same = given.is_some_and(|given| bool::from(given.ct_eq(token.as_bytes())));
            return if same { Ok(()) } else { Err(Problem::unauthorized()) };
        }
        // Without a token a foreign page in a browser of this machine could use the interface: by a name of its own
        // that resolves to 127.0.0.1, which `Host` shows, or across sites, which `Origin` shows. With a token neither
        // matters, since a foreign page does not have it.
        // A request without the header may have the host in its URI (the absolute form).
        let host =
            headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(uri.host()).unwrap_or_default();
        if self.local && !is_local_name(host) {
            let error = format!("{host:?} is not this machine: ask for localhost or 127.0.0.1");
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, error));
        }
        let origin = headers.get(header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
        let same = |origin: &str| origin.split_once("://").is_some_and(|(_, from)| from == host);
        if origin.is_some_and(|origin| !same(origin)) {
            return Err(Problem::new(StatusCode::FORBIDDEN, "not from a page of another site"));
        }
        Ok(())
    }
}

/// The token in `Bearer TOKEN`; the scheme's name is case-insensitive (RFC 9110).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Whether a `Host` header can only mean this machine: an address, or `localhost`. A name could be rebound by DNS, an
/// address cannot.
fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        // In `[::1]` the last colon is part of the address: what follows it ends in a bracket and is no port.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn read(file: &Path) -> Result<String, AccessError> {
    let unreadable = |error| AccessError::Unreadable { file: file.to_owned(), error };
    // Before the file is read: it may be any file, of any length.
    if fs::metadata(file).map_err(unreadable)?.len() > MAX_TOKEN {
        return Err(AccessError::Bad(file.display().to_string()));
    }
    fs::read_to_string(file).map_err(unreadable)
}

/// Axum's middleware for all routes.
pub(super) async fn check(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    match access.judge(request.headers(), request.uri()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn access(listen: &str, tls: bool, token: Option<&str>) -> Result<Access, AccessError> {
        Access::with(listen.parse().unwrap(), tls, token.map(|token| (token.to_owned(), "a file".to_owned())))
    }

    #[test]
    fn other_machines_need_tls_or_a_token() {
        for listen in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(matches!(access(listen, false, None), Err(AccessError::Open(_))), "{listen}");
            assert!(access(listen, true, None).is_ok() && access(listen, false, Some(TOKEN)).is_ok());
        }
        for listen in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(access(listen, false, None).is_ok(), "{listen}");
        }
        assert!(matches!(access("127.0.0.1:1", false, Some("short")), Err(AccessError::Bad(_))));
    }

    fn status(access: &Access, path: &str, headers: &[(&str, &str)]) -> Option<StatusCode> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let judged = access.judge(&map, &path.parse().unwrap());
        judged.err().map(|problem| problem.into_response().status())
    }

    #[test]
    fn the_token_must_be_the_right_one() {
        let access = access("0.0.0.0:1", false, Some(TOKEN)).unwrap();
        let with = |value: &str| status(&access, "/metrics", &[("authorization", value)]);
        assert_eq!(with("Bearer 0123456789abcdef"), None);
        assert_eq!(with("bearer  0123456789abcdef"), None);
        for wrong in
            ["Bearer 0123456789abcdeg", "Bearer 0123456789abcde", "Bearer", "Basic 0123456789abcdef", ""]
        {
            assert_eq!(with(wrong), Some(StatusCode::UNAUTHORIZED), "{wrong}");
        }
        assert_eq!(status(&access, "/metrics", &[]), Some(StatusCode::UNAUTHORIZED));
        assert_eq!(status(&access, "/healthz", &[]), None);
    }

    #[test]
    fn pages_of_other_sites_are_refused_where_there_is_no_token() {
        let access = access("127.0.0.1:6061", false, None).unwrap();
        for host in ["localhost", "localhost:6061", "127.0.0.1:6061", "[::1]:6061", "LOCALHOST:1"] {
            assert_eq!(status(&access, "/metrics", &[("host", host)]), None, "{host}");
        }
        for host in ["evil.example", "evil.example:6061", "localhost.evil.example", ""] {
            let refused = status(&access, "/metrics", &[("host", host)]);
            assert_eq!(refused, Some(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
        let from =
            |origin| status(&access, "/sfgi/trigger-scan", &[("host", "localhost:6061"), ("origin", origin)]);
        assert_eq!(from("http://localhost:6061"), None);
        assert_eq!(from("http://evil.example"), Some(StatusCode::FORBIDDEN));
        assert_eq!(from("null"), Some(StatusCode::FORBIDDEN));
    }
}

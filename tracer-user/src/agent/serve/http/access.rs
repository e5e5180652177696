//! Access to the HTTP interface. The page, health and, on this machine, the metrics are open; all else needs the token,
//! a client certificate or the Unix socket. Nothing is answered to a page of another site.

use super::{
    Problem,
    pace::Paces,
    token::{self, Origin, Token},
};
use crate::agent::config::{self, Address};
use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Paths that hold nothing: the kubelet's probes, and the page, which has no data until it was given a token. They may
/// be asked for from anywhere: a link to the page is a request across sites.
const EMPTY: [&str; 5] = ["/healthz", "/readyz", "/", "/page.css", "/page.js"];

/// The path that this machine may ask for without a token, as scrapers do.
const METRICS: &str = "/metrics";

/// Why the interface is not opened at all.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Other machines can reach the address, and nothing was configured that protects it.
    #[error("{0} can be reached from other machines: give --token-file, or listen on 127.0.0.1")]
    Open(SocketAddr),
    #[error("http.tls proves who answers, not who asks: give --token-file, or http.tls.client_ca")]
    Tls,
    #[error("cannot read the token in {}: {error}", file.display())]
    Unreadable { file: PathBuf, error: io::Error },
    #[error(
        "cannot keep a token in {}: {error}; name another file with --token-file, or --listen unix:/PATH only",
        file.display()
    )]
    Kept { file: PathBuf, error: io::Error },
    #[error(
        "the token in {place} is shorter than {shortest} characters, or longer than {longest}: make one with openssl rand -hex 32"
    )]
    Bad { place: String, shortest: usize, longest: u64 },
}

/// The way by which a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A Unix socket: who may open its file may ask.
    Unix,
    /// TLS with a certificate of the client that was verified.
    Certificate,
    /// A socket that only this machine reaches.
    Loopback,
    /// A socket that other machines reach.
    Network,
}

/// Who asks, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// It has shown that it may ask.
    Known,
    Anybody,
}

#[derive(Clone, Debug)]
pub struct Access {
    /// `None`: there is no way in for which one is needed.
    token: Option<Token>,
}

impl Access {
    /// From the configuration. The token comes from its file or the environment (`SFGI_TOKEN`); else the agent makes
    /// one: for this run where somebody reads what it prints on a terminal, otherwise in a file.
    ///
    /// # Errors
    /// Other machines could reach it while no token was configured, or the token cannot be read, kept or used.
    pub fn of(config: &config::Http, store: Option<&Path>, terminal: bool) -> Result<Access, AccessError> {
        let given = match &config.token_file {
            Some(file) => Some(Token::of_file(file)?),
            None => std::env::var(token::VARIABLE)
                .ok()
                .map(|text| Token::given(&text, token::VARIABLE))
                .transpose()?,
        };
        let make = || if terminal { Token::fresh() } else { Token::kept(store) };
        Access::with(&config.listen, config.tls.as_ref(), given, make)
    }

    fn with(
        listen: &[Address],
        tls: Option<&config::Tls>,
        given: Option<Token>,
        make: impl FnOnce() -> Result<Token, AccessError>,
    ) -> Result<Access, AccessError> {
        if given.is_some() {
            return Ok(Access { token: given });
        }
        let sockets: Vec<SocketAddr> = listen.iter().filter_map(tcp).collect();
        match tls {
            _ if sockets.is_empty() => return Ok(Access { token: None }),
            Some(tls) if tls.client_ca.is_some() => return Ok(Access { token: None }),
            Some(_) => return Err(AccessError::Tls),
            None => {}
        }
        if let Some(open) = sockets.into_iter().find(|address| !is_loopback(*address)) {
            return Err(AccessError::Open(open));
        }
        Ok(Access { token: Some(make()?) })
    }

    /// With a token that nobody knows.
    #[cfg(test)]
    pub(super) fn guarded() -> Access {
        Access { token: Some(Token::fresh().unwrap()) }
    }

    /// The token that was made for this run and that nobody knows yet.
    pub(super) fn fresh(&self) -> Option<&str> {
        self.token.as_ref().filter(|token| token.origin == Origin::Fresh).map(Token::reveal)
    }

    /// The file in which the agent keeps the token that it made.
    pub(super) fn kept(&self) -> Option<&Path> {
        match &self.token.as_ref()?.origin {
            Origin::Kept(file) => Some(file),
            Origin::Given | Origin::Fresh => None,
        }
    }

    pub(super) fn judge(&self, way: Way, headers: &HeaderMap, uri: &Uri) -> Result<Who, Problem> {
        // Proxies and we might take different ones of several.
        if headers.get_all(header::HOST).iter().count() > 1 {
            return Err(Problem::bad("the request has more than one Host"));
        }
        if EMPTY.contains(&uri.path()) {
            return Ok(if self.knows(way, headers) { Who::Known } else { Who::Anybody });
        }
        let host =
            headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(uri.host()).unwrap_or_default();
        // Whatever the request brings: a browser adds certificates by itself, and a token may have leaked to a page.
        if !from_here(host, headers) {
            return Err(Problem::new(StatusCode::FORBIDDEN, "not from a page of another site"));
        }
        if self.knows(way, headers) {
            return Ok(Who::Known);
        }
        if uri.path() != METRICS || way != Way::Loopback {
            return Err(self.unauthorized());
        }
        // A page could give itself a name that resolves to 127.0.0.1; then all that it asks for is of its own site.
        if !is_local_name(host) {
            let error = format!("{host:?} is not this machine: ask for localhost or 127.0.0.1");
            return Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, error));
        }
        Ok(Who::Anybody)
    }

    fn knows(&self, way: Way, headers: &HeaderMap) -> bool {
        let given = || headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        match way {
            Way::Unix | Way::Certificate => true,
            Way::Loopback | Way::Network => {
                self.token.as_ref().is_some_and(|token| given().is_some_and(|given| token.is(given)))
            }
        }
    }

    fn unauthorized(&self) -> Problem {
        let place = match self.token.as_ref().map(|token| &token.origin) {
            Some(Origin::Kept(file)) => format!("; it is in {}", file.display()),
            Some(Origin::Fresh) => "; it stands in the address that the agent has printed".to_owned(),
            Some(Origin::Given) | None => String::new(),
        };
        Problem::unauthorized(&place)
    }
}

fn tcp(address: &Address) -> Option<SocketAddr> {
    match address {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) => None,
    }
}

/// Whether only this machine reaches an address. `to_canonical`: `::ffff:127.0.0.1` is the loopback, and
/// `::ffff:10.0.0.1` is not.
pub(super) fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether a request is no page's, or our own page's. Browsers say it twice: newer ones by `Sec-Fetch-Site`, older ones
/// and those that send something by `Origin`.
fn from_here(host: &str, headers: &HeaderMap) -> bool {
    let same_site = |site: &[u8]| site == b"same-origin" || site == b"none";
    let same_origin = |origin: &str| {
        origin.split_once("://").is_some_and(|(_, from)| !host.is_empty() && from.eq_ignore_ascii_case(host))
    };
    headers.get_all("sec-fetch-site").iter().all(|site| same_site(site.as_bytes()))
        && headers.get_all(header::ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(same_origin))
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

/// Who is let in, and at which pace.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) access: Access,
    pub(super) paces: Paces,
}

/// Lets a request in when its turn has come, or answers it with what it lacks. Both take turns: who may not ask must not
/// keep the agent busy either.
pub(super) async fn check(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    // Without the mark of a listener nothing is assumed.
    let way = request.extensions().get().copied().unwrap_or(Way::Network);
    let judged = gate.access.judge(way, request.headers(), request.uri());
    gate.paces.of(judged.as_ref().map_or(Who::Anybody, |who| *who)).turn().await;
    match judged {
        Ok(_) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn token() -> Token {
        Token::given(TOKEN, "a file").unwrap()
    }

    fn never() -> Result<Token, AccessError> {
        panic!("a token is made")
    }

    #[test]
    fn other_machines_need_a_token_and_this_one_has_one_made() {
        let access = |listen: &str, given| {
            let listen = [Address::Tcp(listen.parse().unwrap())];
            Access::with(&listen, None, given, Token::fresh)
        };
        for listen in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(matches!(access(listen, None), Err(AccessError::Open(_))), "{listen}");
            assert!(access(listen, Some(token())).is_ok());
        }
        for listen in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(access(listen, None).unwrap().fresh().map(str::len), Some(32), "{listen}");
        }
        assert!(matches!(Token::given("short", "a file"), Err(AccessError::Bad { .. })));
    }

    #[test]
    fn tls_needs_a_token_or_certificates_of_clients() {
        let tls = |client_ca| config::Tls { certificate: "a".into(), key: "b".into(), client_ca };
        for listen in ["0.0.0.0:1", "127.0.0.1:1"] {
            let listen = [Address::Tcp(listen.parse().unwrap())];
            assert!(matches!(Access::with(&listen, Some(&tls(None)), None, never), Err(AccessError::Tls)));
            assert!(Access::with(&listen, Some(&tls(None)), Some(token()), never).is_ok());
            assert!(Access::with(&listen, Some(&tls(Some("ca".into()))), None, never).is_ok());
        }
    }

    #[test]
    fn a_unix_socket_needs_no_token() {
        assert!(Access::with(&[Address::Unix("/a".into())], None, None, never).unwrap().token.is_none());
    }

    fn status(way: Way, path: &str, headers: &[(&str, &str)]) -> Result<Who, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let access = Access { token: Some(token()) };
        let judged = access.judge(way, &map, &path.parse().unwrap());
        judged.map_err(|problem| problem.into_response().status().as_u16())
    }

    #[test]
    fn all_that_holds_something_needs_the_right_token() {
        let with = |value: &str| status(Way::Network, "/metrics", &[("authorization", value)]);
        assert_eq!(with("Bearer 0123456789abcdef"), Ok(Who::Known));
        assert_eq!(with("bearer  0123456789abcdef"), Ok(Who::Known));
        for wrong in
            ["Bearer 0123456789abcdeg", "Bearer 0123456789abcde", "Bearer", "Basic 0123456789abcdef", ""]
        {
            assert_eq!(with(wrong), Err(401), "{wrong}");
        }
        for path in ["/sfgi/trace?pid=1", "/sfgi/leaks", "/openapi.json", "/debug/pprof/block?pid=1", "/no"] {
            for way in [Way::Loopback, Way::Network] {
                assert_eq!(status(way, path, &[("host", "localhost")]), Err(401), "{path}");
            }
            for way in [Way::Unix, Way::Certificate] {
                assert_eq!(status(way, path, &[]), Ok(Who::Known), "{path}");
            }
        }
        for path in EMPTY {
            assert_eq!(status(Way::Network, path, &[]), Ok(Who::Anybody), "{path}");
        }
        // A token in the address is for the page only.
        assert_eq!(status(Way::Loopback, "/sfgi/leaks?token=0123456789abcdef", &[]), Err(401));
    }

    #[test]
    fn metrics_are_open_to_this_machine_and_to_no_page_on_it() {
        let metrics = |host| status(Way::Loopback, "/metrics", &[("host", host)]);
        for host in ["localhost", "localhost:6061", "127.0.0.1:6061", "[::1]:6061", "LOCALHOST:1"] {
            assert_eq!(metrics(host), Ok(Who::Anybody), "{host}");
        }
        for host in ["evil.example", "evil.example:6061", "localhost.evil.example", ""] {
            assert_eq!(metrics(host), Err(421), "{host}");
        }
        assert_eq!(status(Way::Network, "/metrics", &[("host", "localhost")]), Err(401));
    }

    #[test]
    fn pages_of_other_sites_are_refused_whatever_they_bring() {
        let token = ("authorization", "Bearer 0123456789abcdef");
        for way in [Way::Unix, Way::Certificate, Way::Loopback, Way::Network] {
            let from = |header, value| {
                status(way, "/sfgi/node", &[("host", "localhost:6061"), token, (header, value)])
            };
            assert_eq!(from("origin", "http://localhost:6061"), Ok(Who::Known));
            for origin in ["http://evil.example", "null", "localhost:6061", ""] {
                assert_eq!(from("origin", origin), Err(403), "{origin}");
            }
            for site in ["same-origin", "none"] {
                assert_eq!(from("sec-fetch-site", site), Ok(Who::Known), "{site}");
            }
            for site in ["cross-site", "same-site", "", "SAME-ORIGIN"] {
                assert_eq!(from("sec-fetch-site", site), Err(403), "{site}");
            }
        }
        let image = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
        assert_eq!(status(Way::Loopback, "/metrics", &image), Err(403));
        assert_eq!(status(Way::Loopback, "/", &image), Ok(Who::Anybody), "a link to the page");
    }

    #[test]
    fn more_than_one_host_is_none() {
        for path in ["/", "/metrics", "/sfgi/node"] {
            let hosts = [("host", "localhost"), ("host", "evil.example")];
            assert_eq!(status(Way::Unix, path, &hosts), Err(400), "{path}");
        }
    }
}

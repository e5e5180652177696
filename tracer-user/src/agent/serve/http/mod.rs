//! The HTTP interface: what the agent knows, as JSON, metrics, profiles and a page. GET changes nothing; POST does.
//! Handlers read the latest picture or pass a [`Request`](crate::agent::Request) on: none reads a target itself, so
//! none can hang on one.

mod access;
mod api;
mod asking;
mod listen;
mod query;
mod reading;
mod views;

#[cfg(test)]
mod tests;

pub use access::{Access, AccessError};
pub use api::document;
pub use listen::{ListenError, Listener};

use crate::agent::{Handle, Picture, Refusal, alert::Alert, store::History};
use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, watch};
use utoipa::ToSchema;

/// The bound of requests at a time for which the agent reads a target: its goroutines, its heap, its events.
const COSTLY_AT_A_TIME: usize = 8;

/// The state of all handlers.
#[derive(Debug)]
pub struct Shared {
    pub agent: Handle,
    /// Alerts that stand, by target.
    pub alerts: watch::Receiver<Arc<[Arc<Alert>]>>,
    pub history: Arc<RwLock<History>>,
    /// The bound of series of one metric; a reload may change it.
    pub max_series: watch::Receiver<usize>,
    /// The shortest time between two scans by request; a reload may change it.
    pub trigger_interval: watch::Receiver<Duration>,
    /// Whether requests must bring a token: only then may they change modes.
    pub guarded: bool,
    triggered: Mutex<Option<Instant>>,
    dropped: Mutex<BTreeMap<&'static str, u64>>,
    costly: Arc<Semaphore>,
}

impl Shared {
    /// The state of the handlers of one interface.
    pub fn new(
        agent: Handle,
        alerts: watch::Receiver<Arc<[Arc<Alert>]>>,
        history: Arc<RwLock<History>>,
        max_series: watch::Receiver<usize>,
        trigger_interval: watch::Receiver<Duration>,
        guarded: bool,
    ) -> Shared {
        Shared {
            agent,
            alerts,
            history,
            max_series,
            trigger_interval,
            guarded,
            triggered: Mutex::new(None),
            dropped: Mutex::new(BTreeMap::new()),
            costly: Arc::new(Semaphore::new(COSTLY_AT_A_TIME)),
        }
    }

    fn picture(&self) -> Arc<Picture> {
        Arc::clone(&self.agent.pictures.borrow())
    }

    /// Whether a scan may be triggered now; if not, how long to wait. A scan that may be triggered counts from now.
    fn may_trigger(&self) -> Result<(), Duration> {
        let interval = *self.trigger_interval.borrow();
        // One lock for question and answer: of two requests at the same time only one may trigger.
        let mut last = self.triggered.lock().unwrap_or_else(PoisonError::into_inner);
        let left = last.map_or(Duration::ZERO, |last| interval.saturating_sub(last.elapsed()));
        if left.is_zero() {
            *last = Some(Instant::now());
            return Ok(());
        }
        Err(left)
    }
}

/// Why a request was refused.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Explanation {
    /// What is wrong and what to do about it, in one sentence.
    error: String,
}

/// A refusal: its status, its sentence, and a header that the status asks for.
#[derive(Clone, Debug)]
struct Problem {
    status: StatusCode,
    error: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    fn new(status: StatusCode, error: impl Into<String>) -> Problem {
        Problem { status, error: error.into(), header: None }
    }

    fn bad(error: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, error)
    }

    fn unauthorized() -> Problem {
        let error = "this agent wants its token: send Authorization: Bearer TOKEN";
        let header = (header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        Problem { header: Some(header), ..Problem::new(StatusCode::UNAUTHORIZED, error) }
    }

    /// A refusal for now; `retry` is when to try again (`Retry-After`, rounded up to whole seconds).
    fn later(status: StatusCode, error: impl Into<String>, retry: Duration) -> Problem {
        let seconds = retry.as_secs() + u64::from(retry.subsec_nanos() > 0);
        let header = (header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        Problem { header: Some(header), ..Problem::new(status, error) }
    }

    fn ending() -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending")
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let error = refusal.to_string();
        match refusal {
            Refusal::Unknown(_) | Refusal::Ended(_) => Problem::new(StatusCode::NOT_FOUND, error),
            Refusal::Busy(_) => {
                Problem::later(StatusCode::SERVICE_UNAVAILABLE, error, Duration::from_secs(5))
            }
            Refusal::Failed(_) => Problem::new(StatusCode::BAD_GATEWAY, error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(Explanation { error: self.error })).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

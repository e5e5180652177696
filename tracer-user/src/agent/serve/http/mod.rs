//! The HTTP interface: what the agent knows, as JSON, metrics, profiles and a page. GET changes nothing; POST does.
//! Handlers read the latest picture or pass a [`Request`](crate::agent::Request) on: none reads a target itself, so
//! none can hang on one.

mod access;
mod api;
mod asking;
mod bound;
mod listen;
mod pace;
mod query;
mod reading;
mod token;
mod views;

#[cfg(test)]
mod tests;

pub use access::{Access, AccessError};
pub use api::document;
pub use listen::{ListenError, Listener};

use super::{health::Health, metrics::Dropped};
use crate::agent::{Handle, Picture, Refusal, alert::Alert, store::History};
use crate::output::clean;
use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bound::Flight;
use bytes::Bytes;
use pace::Pace;
use serde::Serialize;
use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};
use utoipa::ToSchema;

/// Requests at a time for which the agent reads a target: its goroutines, its heap. Each may take a worker that scans
/// need and has a snapshot in memory.
const READS_AT_A_TIME: usize = 2;

/// Requests at a time for which the agent probes a target, as many as `core/stream.rs` serves: these may last for
/// minutes, and must not keep out those that read.
const STREAMS_AT_A_TIME: usize = 4;

/// Requests that wait for a place to read, and for how long.
const MAX_WAITING: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

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
    pub health: Arc<Health>,
    triggered: Mutex<Option<Instant>>,
    metrics: Mutex<Metrics>,
    costly: Costly,
    flight: Flight,
    documents: Flight,
}

/// What `/metrics` answers.
#[derive(Debug, Default)]
struct Metrics {
    dropped: Dropped,
    /// The last text, and what it was made of: who asks more often than pictures come gets the same.
    last: Option<(MadeOf, Bytes)>,
}

/// The time of a picture, when the alerts changed last, and the cap of series.
type MadeOf = (u64, usize, usize);

/// Places of requests that make the agent read or probe a target.
#[derive(Debug)]
struct Costly {
    reads: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    waiting: Semaphore,
    pace: Pace,
}

impl Costly {
    /// A place to read a target with, after a while where others have them.
    async fn read(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let busy = || {
            let error = "as many requests as may read programs at a time do: try again";
            Problem::later(StatusCode::SERVICE_UNAVAILABLE, error, Duration::from_secs(1))
        };
        let _waits = self.waiting.try_acquire().map_err(|_| busy())?;
        let turn = async {
            self.pace.turn().await;
            Arc::clone(&self.reads).acquire_owned().await
        };
        timeout(PATIENCE, turn).await.map_err(|_| busy())?.map_err(|_| Problem::ending())
    }

    /// A place to probe a target with, or a refusal at once: others may keep theirs for minutes.
    fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            let error = "as many requests as may probe programs at a time do: try again";
            Problem::later(StatusCode::SERVICE_UNAVAILABLE, error, Duration::from_secs(5))
        })
    }
}

impl Shared {
    /// The state of the handlers of one interface.
    pub fn new(
        agent: Handle,
        alerts: watch::Receiver<Arc<[Arc<Alert>]>>,
        history: Arc<RwLock<History>>,
        max_series: watch::Receiver<usize>,
        trigger_interval: watch::Receiver<Duration>,
        health: Arc<Health>,
    ) -> Shared {
        Shared {
            agent,
            alerts,
            history,
            max_series,
            trigger_interval,
            health,
            triggered: Mutex::new(None),
            metrics: Mutex::default(),
            costly: Costly {
                reads: Arc::new(Semaphore::new(READS_AT_A_TIME)),
                streams: Arc::new(Semaphore::new(STREAMS_AT_A_TIME)),
                waiting: Semaphore::new(MAX_WAITING),
                pace: Pace::of_reads(),
            },
            flight: Flight::default(),
            documents: Flight::of_documents(),
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

    /// The token is missing; `place` says where it is to be had.
    fn unauthorized(place: &str) -> Problem {
        let error = format!("this agent wants its token: send Authorization: Bearer TOKEN{place}");
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
            Refusal::Failed(_) | Refusal::TooLarge => Problem::new(StatusCode::BAD_GATEWAY, error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response =
            (self.status, Json(Explanation { error: clean(&self.error).into_owned() })).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

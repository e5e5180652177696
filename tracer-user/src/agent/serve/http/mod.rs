//! The HTTP interface: what the agent knows, as JSON, metrics, profiles and a page. Reading changes nothing; what does something
//! is a POST. Handlers only read the latest picture or pass a [`Request`](crate::agent::Request) on, so that none of them waits for a target by itself.

mod access;
mod api;
mod asking;
mod connection;
mod listen;
mod node;
mod page;
mod problem;
mod profiles;
mod query;
mod reading;
mod views;

#[cfg(test)]
mod tests;

pub use access::{Access, AccessError};
pub use api::document;
pub use listen::{ListenError, Listener};

use crate::agent::{Handle, Picture, alert::Alert, store::History};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tokio::sync::{Semaphore, watch};

/// Requests at a time that make the agent read a target: its goroutines, its heap, its events.
const COSTLY_AT_A_TIME: usize = 8;

/// What handlers share.
#[derive(Debug)]
pub struct Shared {
    /// The core of the agent.
    pub agent: Handle,
    /// Alerts that stand.
    pub alerts: watch::Receiver<Arc<[Arc<Alert>]>>,
    /// The last hour.
    pub history: Arc<RwLock<History>>,
    /// Series of a metric, at most; may be changed by a reload.
    pub max_series: watch::Receiver<usize>,
    /// Between two scans that are asked for; may be changed by a reload.
    pub trigger_interval: watch::Receiver<Duration>,
    /// Whether whoever asks had to show a token.
    pub guarded: bool,
    triggered: Mutex<Option<Instant>>,
    dropped: Mutex<BTreeMap<&'static str, u64>>,
    costly: Arc<Semaphore>,
}

impl Shared {
    /// What handlers of an interface share.
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

    /// Whether a scan may be triggered now; if not, how long to wait.
    fn may_trigger(&self) -> Result<(), Duration> {
        let interval = *self.trigger_interval.borrow();
        let mut last = self.triggered.lock().unwrap_or_else(PoisonError::into_inner);
        let left = last.map_or(Duration::ZERO, |last| interval.saturating_sub(last.elapsed()));
        if left.is_zero() {
            *last = Some(Instant::now());
            return Ok(());
        }
        Err(left)
    }
}

//! The node agent: all Go processes of a host, within a budget.
//!
//! Data goes one way: discovery finds processes, scans and probes look at them, and what is known is published
//! as a [`Picture`]. Whoever shows, alerts or exports reads pictures; what he wants done he says by a
//! [`Request`]. Nothing here knows of HTTP, metrics or files of configuration.

pub mod alert;
pub mod config;
pub mod http;
pub mod metrics;
pub mod picture;
pub mod request;
pub mod settings;
pub mod store;

pub use picture::Picture;
pub use request::{Refusal, Request};
pub use settings::{Mode, Settings};

use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// How the rest of the program talks to the agent.
#[derive(Clone, Debug)]
pub struct Handle {
    /// The latest picture; a new one each second, and after each scan.
    pub pictures: watch::Receiver<Arc<Picture>>,
    /// What is wanted of it. Closed when the agent has ended.
    pub requests: mpsc::Sender<Request>,
}

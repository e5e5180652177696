//! The node agent: all Go processes of a host, within a budget.
//!
//! Data goes one way: discovery finds processes, scans and probes look at them, and what is known is published
//! as a [`Picture`]. Whoever shows, alerts or exports reads pictures; what he wants done he says by a
//! [`Request`]: [`alert`], [`store`], [`metrics`], [`http`] and [`otlp`], which [`services`] runs beside the core. The core
//! knows nothing of these, nor of files of configuration ([`config`]).

pub mod alert;
pub mod config;
mod core;
pub mod picture;
pub mod request;
pub mod serve;
pub mod services;
pub mod settings;
pub mod store;
mod watch;

pub use self::core::{Earlier, start};
pub use picture::Picture;
pub use request::{Refusal, Request};
pub use settings::Settings;

use std::sync::Arc;
use tokio::sync::{mpsc, watch::Receiver};

/// How the rest of the program talks to the agent.
#[derive(Clone, Debug)]
pub struct Handle {
    /// The latest picture; a new one each second, and after each scan.
    pub pictures: Receiver<Arc<Picture>>,
    /// What is wanted of it. Closed when the agent has ended.
    pub requests: mpsc::Sender<Request>,
}

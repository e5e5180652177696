//! The node agent: all Go processes of a host, within a budget.
//!
//! Data goes one way: the core has targets found, scanned and probed by `watch`, and publishes what is known as a [`Picture`].
//! [`alert`], [`store`] and [`serve`], which [`services`] runs beside the core, read pictures, and have things done by a [`Request`].
//! The core knows nothing of these. All work by the same [`Config`].

pub mod alert;
pub mod config;
mod core;
pub mod picture;
pub mod request;
pub mod serve;
pub mod services;

pub mod store;
mod watch;

pub use self::core::{Earlier, start};
pub use config::Config;
pub use picture::Picture;
pub use request::{Refusal, Request};

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

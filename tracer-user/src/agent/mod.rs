//! The node agent: all Go processes of a host, within a budget.
//!
//! Data goes one way. `core` has `watch` find, scan and probe targets, and publishes the result as a
//! [`Picture`]. [`services`] runs [`alert`], [`store`] and [`serve`] beside the core; they read pictures and
//! send a [`Request`] where the core must act. The core knows none of them. All parts share one [`Config`].

pub mod alert;
pub mod config;
mod core;
pub mod launcher;
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
    /// The latest picture; the core publishes one each second (`PUBLISH` in `core/mod.rs`).
    pub pictures: Receiver<Arc<Picture>>,
    /// To the core. The channel is closed when the agent has ended.
    pub requests: mpsc::Sender<Request>,
}

//! Publishes what the agent knows: over HTTP, as metrics, by OTLP. All of it comes from pictures.

pub mod health;
pub mod http;
pub mod metrics;
pub mod notify;
pub mod otlp;

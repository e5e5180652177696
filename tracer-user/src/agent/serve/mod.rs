//! Tells others what the agent knows: over HTTP, as metrics, by OTLP. Everything here reads pictures.

pub mod http;
pub mod metrics;
pub mod otlp;

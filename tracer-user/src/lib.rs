//! sfgi, the goroutine inspector, as a library: the binary `sfgi` only calls [`cli::main`].
//!
//! The crate [`sfgi_core`] reads and understands a target. This crate adds the kernel's side of a trace ([`probe`],
//! `live`), the output formats, the screen of `top`, the agent and the command line.

pub mod agent;
pub mod cli;
pub mod confine;
pub mod files;
mod live;
pub mod output;
mod parse;
pub mod probe;
mod supervise;
pub mod top;
mod user;

//! sfgi, the goroutine inspector, as a library: everything the command does.
//!
//! What reads and understands a target is the crate [`sfgi_core`]; here are the kernel's side of a trace
//! ([`probe`], [`live`]), the forms of output, the screen of `top`, the agent, and the command line.

pub mod agent;
pub mod cli;
mod live;
pub mod output;
mod parse;
pub mod probe;
pub mod top;

//! What was found leaked: as text, JSON (`sfgi.leaks/1`) and SARIF. (As a profile:
//! [`super::pprof::write_profile`].)

mod json;
mod sarif;
#[cfg(test)]
mod tests;
mod text;

pub use json::write_json;
pub use sarif::write_sarif;
pub use text::{Changes, LeakText, progress, summary};

use sfgi_core::leaks::Leaks;
use std::path::Path;

/// The schema name in every JSON document of `sfgi leaks`.
pub const LEAKS_SCHEMA: &str = "sfgi.leaks/1";

/// All that a document says.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    /// The process, in our PID namespace.
    pub pid: Option<u32>,
    /// Its executable, as it sees it.
    pub exe: &'a Path,
    /// As `go1.26.6`.
    pub go_version: &'a str,
    pub leaks: &'a Leaks,
}

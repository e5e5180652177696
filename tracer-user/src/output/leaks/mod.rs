//! Leaks as text, JSON (`sfgi.leaks/1`) and SARIF. [`super::pprof::write_profile`] writes them as a profile.

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

/// What every format says.
#[derive(Clone, Copy, Debug)]
pub struct Document<'a> {
    /// The process in sfgi's PID namespace; `None`: a core file that names none.
    pub pid: Option<u32>,
    /// Path of the executable as the target sees it.
    pub exe: &'a Path,
    /// The Go version as the build recorded it: `go1.26.6`.
    pub go_version: &'a str,
    pub leaks: &'a Leaks,
}

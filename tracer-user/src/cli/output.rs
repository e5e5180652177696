//! Where results go.

use anyhow::{Context as _, Result};
use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// Opens the file of `-o` (`-` and none: standard output). Says also whether it is a terminal.
pub(super) fn open(path: Option<&Path>) -> Result<(Box<dyn Write + Send>, bool)> {
    Ok(match path {
        Some(path) if path.as_os_str() != "-" => {
            let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
            (Box::new(file), false)
        }
        _ => (Box::new(io::stdout()), io::stdout().is_terminal()),
    })
}

/// What the wall clock says, nanoseconds since 1970.
pub(super) fn wall_clock_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(0)
}

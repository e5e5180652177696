//! Where results go.

use anyhow::{Context as _, Result, ensure};
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

/// Refuses to write what is no text to a terminal.
pub(super) fn no_text(what: &str, terminal: bool) -> Result<()> {
    ensure!(!terminal, "{what} is not for a terminal: write it to a file with -o FILE");
    Ok(())
}

/// What the wall clock says, nanoseconds since 1970.
pub(super) fn wall_clock_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(0)
}

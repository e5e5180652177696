//! Where results go.

use anyhow::{Context as _, Result};
use std::{
    fs::File,
    io::{self, IsTerminal as _, Write},
    path::Path,
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

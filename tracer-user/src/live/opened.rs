//! A program that is about to be looked at; nothing is attached and nothing read of its memory yet.

use sfgi_core::{
    binary::GoBinary,
    process::{Process, ProcessError},
};
use std::{fs::File, path::PathBuf, sync::Arc};

/// A Go program, running or not.
pub(crate) struct Opened {
    /// The process that runs it; `None` for a file.
    pub(crate) process: Option<Process>,
    /// Its executable.
    pub(crate) exe: File,
    /// The name of that, as the process sees it.
    pub(crate) name: PathBuf,
    pub(crate) binary: Arc<GoBinary>,
}

impl Opened {
    /// What the kernel added to its link-time addresses; 0 where nothing runs it.
    ///
    /// # Errors
    /// The process has ended.
    pub(crate) fn bias(&self) -> Result<u64, ProcessError> {
        let of = |process: &Process| process.load_bias(self.binary.image().entry());
        Ok(self.process.as_ref().map(of).transpose()?.unwrap_or(0))
    }
}

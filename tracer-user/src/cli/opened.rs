//! The program that the user named.

pub(super) use crate::live::Opened;
use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use sfgi_core::{
    binary::{GoBinary, Layout},
    process::Process,
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The option that tells where the runtime's fields lie.
#[derive(Clone, Debug, ClapArgs)]
pub(super) struct LayoutArg {
    /// Where the runtime's structs have their fields, for a binary that does not say and a Go version
    /// that is not known (a JSON file as `cargo xtask layouts --one` writes it)
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
}

impl LayoutArg {
    fn load(&self) -> Result<Option<Layout>> {
        Ok(self.layout.as_deref().map(Layout::from_file).transpose()?)
    }
}

impl Opened {
    /// What a process runs, or the executable of a core file, whichever was given.
    pub(super) fn either(pid: Option<u32>, exe: Option<&Path>, layout: &LayoutArg) -> Result<Opened> {
        match (pid, exe) {
            (Some(pid), _) => Opened::process(pid, layout),
            (None, Some(exe)) => Opened::file(exe, layout),
            (None, None) => {
                bail!("neither a process nor a core file was given: use -p PID, or --core FILE --exe FILE")
            }
        }
    }

    /// What a process runs.
    pub(super) fn process(pid: u32, layout: &LayoutArg) -> Result<Opened> {
        let process = Process::open(pid.cast_signed())?;
        let (exe, name) = (process.exe()?, process.exe_name()?);
        let binary = GoBinary::read_with(exe.try_clone()?, layout.load()?)
            .with_context(|| format!("PID {pid} ({})", name.display()))?;
        Ok(Opened { process: Some(process), exe, name, binary: Arc::new(binary) })
    }

    /// What a command would run, or what a core file was made of.
    pub(super) fn file(path: &Path, layout: &LayoutArg) -> Result<Opened> {
        let exe = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let binary = GoBinary::read_with(exe.try_clone()?, layout.load()?)
            .with_context(|| path.display().to_string())?;
        Ok(Opened { process: None, exe, name: path.to_owned(), binary: Arc::new(binary) })
    }
}

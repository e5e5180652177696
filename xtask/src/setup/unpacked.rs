//! Programs from packages that are not installed, because an installed prometheus would run as a service.

use super::apt;
use crate::sh;
use anyhow::{Context as _, Result};
use std::{fs, path::PathBuf};

/// A program in `/usr/bin` of a package.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) package: &'static str,
}

/// Real Go programs as targets, the checkers of metrics and alerting rules, and the emulator that runs arm64
/// programs.
pub(super) const PROGRAMS: [Program; 4] = [
    Program { name: "prometheus", package: "prometheus" },
    Program { name: "promtool", package: "prometheus" },
    Program { name: "syncthing", package: "syncthing" },
    Program { name: "qemu-aarch64-static", package: "qemu-user-static" },
];

/// Puts the missing ones into the cache. A failure is only reported; a test that needs the program fails by itself.
pub(super) fn install(programs: &[Program]) -> Result<()> {
    for program in programs {
        let home = directory()?.join(program.name);
        if !home.is_file()
            && let Err(error) =
                sh::step(&format!("{} without installing it", program.name), || program.unpack(home))
        {
            eprintln!("setup: {error:#}");
        }
    }
    Ok(())
}

impl Program {
    fn unpack(&self, home: PathBuf) -> Result<()> {
        let partial = directory()?.join(format!("{}.partial", self.name));
        sh::remove(&partial)?;
        fs::create_dir_all(&partial)?;
        apt::update();
        sh::output(sh::command("apt-get")?.current_dir(&partial).args(["-q", "download", self.package]))?;
        let file = fs::read_dir(&partial)?.next().context("apt-get downloads nothing")??.path();
        sh::output(sh::command("dpkg-deb")?.arg("-x").arg(file).arg(partial.join("root")))?;
        fs::rename(partial.join("root/usr/bin").join(self.name), home)
            .with_context(|| format!("the package {} has no such program", self.package))?;
        sh::remove(&partial)
    }
}

fn directory() -> Result<PathBuf> {
    Ok(sh::cache_dir()?.join("packages"))
}

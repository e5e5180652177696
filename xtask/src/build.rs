//! `cargo xtask build`: the sfgi binary.

use crate::{setup, sh};
use anyhow::Result;
use std::path::PathBuf;

/// Sets up what a build needs, builds, says where the binary is.
pub(crate) fn run(release: bool) -> Result<()> {
    let compiler = setup::run(&setup::BUILD)?;
    println!("{}", sfgi(compiler, release)?.display());
    Ok(())
}

/// Builds sfgi and gives its path.
pub(crate) fn sfgi(compiler: setup::Compiler, release: bool) -> Result<PathBuf> {
    let mut cargo = sh::cargo()?;
    compiler.tell(&mut cargo).args(["build", "--package", "sfgi", "--bin", "sfgi"]);
    if release {
        cargo.arg("--release");
    }
    sh::show(&mut cargo)?;
    Ok(sh::target_dir().join(if release { "release" } else { "debug" }).join("sfgi"))
}

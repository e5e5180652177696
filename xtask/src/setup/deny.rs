//! cargo-deny, which checks licences, sources, duplicate crates and known vulnerabilities.

use crate::sh;
use anyhow::Result;
use std::path::PathBuf;

const VERSION: &str = "0.20.2";

/// Builds it unless it is there. Without optimisation, since it takes a second to run and minutes to optimise; into
/// the cache, so that a person's own cargo-deny is left alone.
pub(super) fn install() -> Result<()> {
    if program()?.is_file() {
        return Ok(());
    }
    sh::step(&format!("cargo-deny {VERSION}, built"), || {
        let mut cargo = sh::cargo()?;
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
        cargo.args(["install", "cargo-deny", "--version", VERSION, "--locked", "--debug", "--root"]);
        sh::output(cargo.arg(directory()?)).map(drop)
    })
}

/// The program's path.
pub(crate) fn program() -> Result<PathBuf> {
    Ok(directory()?.join("bin/cargo-deny"))
}

fn directory() -> Result<PathBuf> {
    Ok(sh::cache_dir()?.join("cargo-deny").join(VERSION))
}

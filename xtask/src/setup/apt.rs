//! Packages of a Debian-like distribution.

use crate::sh;
use anyhow::{Result, ensure};
use std::sync::{Mutex, Once, PoisonError};

/// A program and the package that contains it.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    /// Its name, or the full path of a file of the package if the program is not on the search path.
    pub(crate) program: &'static str,
    /// The package's name in Debian.
    pub(crate) package: &'static str,
}

/// Installs the packages of those `tools` that are missing.
pub(super) fn install(tools: &[Tool]) -> Result<()> {
    let missing = tools.iter().filter(|tool| sh::find(tool.program).is_none());
    install_packages(&missing.map(|tool| tool.package).collect::<Vec<_>>())
}

/// Installs packages, or their newest versions. A package that this distribution lacks is named and left out; the
/// command that needs it fails by itself.
pub(super) fn install_packages(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    ensure!(
        sh::find("apt-get").is_some(),
        "there is no apt-get here: install by hand {}",
        packages.join(" ")
    );
    update();
    let (known, unknown): (Vec<&str>, Vec<&str>) = packages.iter().partition(|package| is_known(package));
    for package in unknown {
        eprintln!("setup: this distribution has no package {package}: what needs it will say so");
    }
    if known.is_empty() {
        return Ok(());
    }
    sh::step(&format!("apt-get install {}", known.join(" ")), || apt_get("install", &known))
}

/// Fetches the lists of packages, once: old lists name files that are gone and compilers that are too old. A failure
/// is only reported: if one of several sources cannot be reached, the others may do.
pub(super) fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = sh::step("apt-get update", || apt_get("update", &[])) {
            eprintln!("setup: {error:#}");
        }
    });
}

fn is_known(package: &str) -> bool {
    sh::command("apt-cache").is_ok_and(|mut apt| sh::succeeds(apt.args(["show", package])))
}

/// Runs apt-get, one at a time: the steps of the setup run beside each other, and apt-get does not wait for all of
/// its own locks.
fn apt_get(action: &str, packages: &[&str]) -> Result<()> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut apt = sh::root_command("apt-get")?;
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["-y", "-q", "-o", "DPkg::Lock::Timeout=300"]);
    apt.args([action, "--no-install-recommends"]).args(packages);
    sh::output(&mut apt).map(drop)
}

//! The compiler for the eBPF side: a rustc that takes `-Z build-std`, the sources of `core` for it, and a
//! bpf-linker whose LLVM can read that rustc's bitcode.
//!
//! There are two ways to get one. The usual one is rustup's nightly with the published bpf-linker. A machine that
//! reaches only package registries takes Debian's rustc, whose sources and LLVM are packages too, and builds the
//! linker against that LLVM.

use super::apt::{self, Tool};
use crate::sh;
use anyhow::{Context as _, Result, ensure};
use std::{
    env::consts::ARCH,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
};

const LINKER_VERSION: &str = "0.13.0";

/// The LLVM versions that this bpf-linker can be built with (its features `llvm-21` …). It reads the bitcode of its
/// own LLVM and of older ones.
const LINKER_LLVM: RangeInclusive<u32> = 21..=23;

/// Seconds that rustup gets to install a nightly; after that the distribution's compiler is tried.
const NIGHTLY_LIMIT: &str = "300";

const NIGHTLY: &str = "nightly";

/// The name under which rustup knows the distribution's compiler.
const LINKED: &str = "bpf";

/// What it takes to download and unpack the published linker.
const DOWNLOADER: [Tool; 2] =
    [Tool { program: "curl", package: "curl" }, Tool { program: "zstd", package: "zstd" }];

/// Debian's compiler, its cargo (of the same version, for `-Z build-std`) and the sources of `core`. The `-web`
/// packages follow the newest Firefox; the others are years old.
const DISTRIBUTION: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// A compiler for eBPF, by its name in rustup.
#[derive(Clone, Copy)]
pub(crate) struct Compiler(&'static str);

impl Compiler {
    /// Tells the build script of sfgi to use this compiler.
    pub(crate) fn tell(self, cargo: &mut Command) -> &mut Command {
        cargo.env("SFGI_EBPF_TOOLCHAIN", self.0)
    }

    /// A compiler that is complete already. The linked one comes first: it exists only because this setup or a person
    /// linked it. The build script goes by the same order.
    pub(super) fn installed() -> Option<Self> {
        [LINKED, NIGHTLY].into_iter().find(|name| sources(name).is_ok() && can_link(name).is_ok()).map(Self)
    }

    /// Installs the published linker and rustup's nightly. The linker comes first, because a nightly is of no use
    /// without it.
    pub(super) fn install_nightly() -> Result<Self> {
        if linker_llvm().is_none() {
            apt::install(&DOWNLOADER)?;
            sh::step(&format!("bpf-linker {LINKER_VERSION}, published binary"), download_linker)?;
        }
        if sources(NIGHTLY).is_err() {
            sh::step("rustup nightly with rust-src", || {
                ensure!(
                    sh::find("rustup").is_some(),
                    "rustup is not installed: get it from https://rustup.rs"
                );
                let args = ["rustup", "toolchain", "install", NIGHTLY, "--profile", "minimal"];
                let mut rustup = sh::command("timeout")?;
                rustup.arg(NIGHTLY_LIMIT).args(args).args(["--component", "rust-src", "--no-self-update"]);
                sh::output(&mut rustup)
            })?;
        }
        can_link(NIGHTLY)?;
        Ok(Self(NIGHTLY))
    }

    /// Installs the distribution's compiler, makes it known to rustup, builds the linker for it.
    pub(super) fn install_distribution() -> Result<Self> {
        apt::install_packages(&DISTRIBUTION)?;
        if sources(LINKED).is_err() {
            sh::output(sh::rustup()?.args(["toolchain", "link", LINKED, "/usr"]))?;
            sources(LINKED).with_context(|| {
                let packages = DISTRIBUTION.join(", ");
                format!("no compiler for eBPF: it takes rustup's nightly and GitHub, or Debian's {packages}")
            })?;
        }
        if can_link(LINKED).is_err() {
            build_linker(llvm(LINKED)?)?;
            can_link(LINKED)?;
        }
        Ok(Self(LINKED))
    }
}

/// The directory of the sources of `core` for a toolchain; fails if the toolchain or the sources are missing.
fn sources(toolchain: &str) -> Result<PathBuf> {
    let sysroot = sh::output(sh::rustup()?.args(["run", toolchain, "rustc", "--print", "sysroot"]))?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core");
    ensure!(core.exists(), "toolchain {toolchain} has no sources of core in {}", core.display());
    Ok(core)
}

/// The major version of the LLVM in a toolchain.
fn llvm(toolchain: &str) -> Result<u32> {
    let version = sh::output(sh::rustup()?.args(["run", toolchain, "rustc", "-vV"]))?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = llvm.and_then(|llvm| llvm.split('.').next()?.parse().ok());
    major.with_context(|| format!("toolchain {toolchain} does not say which LLVM it has"))
}

/// Fails if the installed bpf-linker cannot read what this toolchain emits.
fn can_link(toolchain: &str) -> Result<()> {
    let (theirs, ours) =
        (llvm(toolchain)?, linker_llvm().context("there is no bpf-linker of the right version")?);
    ensure!(theirs <= ours, "toolchain {toolchain} has LLVM {theirs}, the bpf-linker here has LLVM {ours}");
    Ok(())
}

/// The major LLVM version of the installed bpf-linker, if that is the right version: the one of the library that it
/// loads. The published linker loads none and has the newest.
fn linker_llvm() -> Option<u32> {
    let version = sh::output(sh::command("bpf-linker").ok()?.arg("--version")).ok()?;
    if version.trim() != format!("bpf-linker {LINKER_VERSION}") {
        return None;
    }
    let libraries = sh::output(sh::command("ldd").ok()?.arg(sh::find("bpf-linker")?)).unwrap_or_default();
    let Some((_, library)) = libraries.split_once("libLLVM") else { return Some(*LINKER_LLVM.end()) };
    library.split(|c: char| !c.is_ascii_digit()).find_map(|number| number.parse().ok())
}

fn download_linker() -> Result<()> {
    let url = format!(
        "https://github.com/aya-rs/bpf-linker/releases/download/v{LINKER_VERSION}/bpf-linker-{ARCH}-unknown-linux-musl.tar.zst"
    );
    let archive = sh::target_dir().join("bpf-linker.tar.zst");
    let limits = ["--connect-timeout", "10", "--max-time", "120"];
    sh::output(
        sh::command("curl")?.args(["-fsSL", "--create-dirs"]).args(limits).arg(url).arg("-o").arg(&archive),
    )?;
    sh::output(sh::command("tar")?.arg("-xf").arg(&archive).arg("-C").arg(sh::cargo_bin()?))?;
    sh::remove(&archive)?;
    ensure!(
        linker_llvm().is_some(),
        "the published bpf-linker does not run or is not version {LINKER_VERSION}"
    );
    Ok(())
}

fn build_linker(llvm: u32) -> Result<()> {
    ensure!(
        LINKER_LLVM.contains(&llvm),
        "the distribution's rustc has LLVM {llvm}, bpf-linker {LINKER_VERSION} wants {} to {}: on Debian, enable \
         its security updates",
        LINKER_LLVM.start(),
        LINKER_LLVM.end()
    );
    let llvm_config = format!("/usr/lib/llvm-{llvm}/bin/llvm-config");
    if !Path::new(&llvm_config).exists() {
        apt::install_packages(&[&format!("llvm-{llvm}-dev")])?;
    }
    sh::step(&format!("bpf-linker {LINKER_VERSION}, built for LLVM {llvm}"), || {
        let mut cargo = sh::cargo()?;
        cargo.env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
        // Without optimisation: LLVM does the work, and is not compiled here.
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
        cargo.args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force", "--debug"]);
        cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
        sh::output(&mut cargo).map(drop)
    })
}

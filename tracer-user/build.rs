//! Compiles the eBPF programs and leaves the object where `include_bytes_aligned!` finds it.

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};
use std::{env, fs, path::PathBuf, process::Command};

/// The compiler for the eBPF side (a rustup toolchain with the sources of `core`); `cargo xtask`
/// sets it.
const TOOLCHAIN: &str = "SFGI_EBPF_TOOLCHAIN";

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    println!("cargo:rerun-if-changed=../tracer-common/src");
    let toolchain = match env::var(TOOLCHAIN) {
        Ok(name) => name,
        Err(_) if has_toolchain("bpf")? => "bpf".to_owned(),
        Err(_) => "nightly".to_owned(),
    };
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    // OUT_DIR is TARGET/PROFILE/build/sfgi-ID/out. The object is the same for every profile, and `core` for it is not compiled
    // again for each.
    let shared = out_dir.ancestors().nth(4).context("OUT_DIR is not deep enough")?.join("ebpf");
    fs::create_dir_all(&shared).with_context(|| format!("cannot create {}", shared.display()))?;
    // SAFETY: a build script has one thread here.
    unsafe {
        // Where `build_ebpf` works and leaves the object.
        env::set_var("OUT_DIR", &shared);
        // What cargo has to say below comes out as warnings: let it be warnings.
        env::set_var("CARGO_TERM_QUIET", "true");
        if toolchain != "nightly" {
            // Lets a stable compiler build `core`.
            env::set_var("RUSTC_BOOTSTRAP", "1");
        }
    }
    let package = Package { name: "tracer-ebpf", root_dir: "../tracer-ebpf", ..Package::default() };
    build_ebpf([package], Toolchain::Custom(&toolchain))
        .context("the eBPF programs did not compile; `cargo xtask setup` installs what they need")?;
    fs::copy(shared.join("tracer-ebpf"), out_dir.join("tracer-ebpf"))
        .context("cannot copy the eBPF object into OUT_DIR")?;
    Ok(())
}

fn has_toolchain(name: &str) -> Result<bool> {
    let out = Command::new("rustup").args(["toolchain", "list"]).output().context("cannot run rustup")?;
    Ok(String::from_utf8_lossy(&out.stdout).lines().any(|line| line.split(' ').next() == Some(name)))
}

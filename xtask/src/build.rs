//! `cargo xtask build`: the sfgi binary. And what the tests are built with.

use crate::{setup, sh};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A program that cargo has built.
pub(crate) struct Program {
    /// The name of its target; for a test program of a binary, with the package's name before it.
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    /// The directory of its package.
    pub(crate) package: PathBuf,
    kind: String,
    is_test: bool,
}

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

/// Builds and gives the programs with the unit tests of all packages.
pub(crate) fn unit_tests(compiler: setup::Compiler) -> Result<Vec<Program>> {
    let of_package = |program: &Program| program.is_test && ["lib", "bin"].contains(&program.kind.as_str());
    Ok(everything(compiler)?.into_iter().filter(of_package).collect())
}

/// Builds all that the tests run, in one go: each selection of packages has its own features of their dependencies, and
/// so compiles many of these again.
fn everything(compiler: setup::Compiler) -> Result<Vec<Program>> {
    let mut cargo = sh::cargo()?;
    compiler.tell(&mut cargo).args(["build", "--workspace", "--exclude", "tracer-ebpf", "--all-targets"]);
    let messages = sh::stdout(cargo.args(["--message-format", "json-render-diagnostics"]))?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    let mut programs: Vec<Program> = messages.filter_map(|message| program(&message)).collect();
    ensure!(!programs.is_empty(), "cargo built no program");
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// The program that a message of cargo's is about, if it is about one.
fn program(message: &Value) -> Option<Program> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (target, file) = (&message["target"], text(&message["executable"])?);
    let package = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some(Program {
        name: text(&target["name"])?,
        file: file.into(),
        package: package.to_owned(),
        kind: text(&target["kind"][0])?,
        is_test: message["profile"]["test"] == true,
    })
}

//! `cargo xtask build`: the sfgi binary; and the programs that tests, fuzzing and benches run.

use crate::{crates, setup, sh};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Makes cargo write its messages to stdout as JSON, and what the compiler says to stderr for people.
pub(crate) const MESSAGES: &str = "--message-format=json-render-diagnostics";

/// The profile in `Cargo.toml` of everything that tests build and check; its directory in the target directory has
/// the same name.
pub(crate) const PROFILE: &str = "tests";

/// A program that cargo has built.
pub(crate) struct Program {
    /// The name of its target.
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    /// The directory of its package.
    pub(crate) package: PathBuf,
    kind: String,
    is_test: bool,
}

/// Sets up what a build needs, builds, and prints where the binary is.
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
    // The live tests are a target of another kind and a section of their own.
    let of_package = |program: &Program| program.is_test && ["lib", "bin"].contains(&program.kind.as_str());
    Ok(everything(compiler)?.into_iter().filter(of_package).collect())
}

/// Builds and gives an example.
pub(crate) fn example(compiler: setup::Compiler, name: &str) -> Result<PathBuf> {
    let is_it = |program: &Program| program.kind == "example" && program.name == name;
    let example = everything(compiler)?.into_iter().find(is_it);
    Ok(example.with_context(|| format!("cargo built no example {name}"))?.file)
}

/// What the live tests are run with.
pub(crate) struct LiveTests {
    pub(crate) program: Program,
    /// sfgi, in the profile of the tests.
    pub(crate) sfgi: PathBuf,
}

/// Builds and gives the program with the live tests.
pub(crate) fn live_tests(compiler: setup::Compiler) -> Result<LiveTests> {
    let mut all = everything(compiler)?;
    let mut take = |name: &str, kind: &str| {
        let is_it = |program: &Program| {
            program.name == name && program.kind == kind && program.is_test == (kind == "test")
        };
        let at = all.iter().position(is_it).with_context(|| format!("cargo built no {name}"))?;
        anyhow::Ok(all.swap_remove(at))
    };
    Ok(LiveTests { program: take("live", "test")?, sfgi: take("sfgi", "bin")?.file })
}

/// Builds all that the tests run, in one go: each selection of packages has its own features of their dependencies, and
/// so compiles many of these again.
fn everything(compiler: setup::Compiler) -> Result<Vec<Program>> {
    let mut cargo = sh::cargo()?;
    compiler.tell(&mut cargo).args(["build", "--profile", PROFILE, "--all-targets", MESSAGES]);
    programs(&mut cargo)
}

/// Runs a build with [`MESSAGES`] and gives the programs that it makes.
pub(crate) fn programs(cargo: &mut Command) -> Result<Vec<Program>> {
    let mut programs: Vec<Program> = compile(cargo)?.iter().filter_map(program).collect();
    ensure!(!programs.is_empty(), "cargo built no program");
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// Runs a command of cargo's that compiles, with [`MESSAGES`] among its arguments, and returns the messages. The
/// crates of the registry that it compiled are kept for other checkouts.
pub(crate) fn compile(cargo: &mut Command) -> Result<Vec<Value>> {
    let messages = sh::stdout(cargo)?;
    let messages: Vec<_> = messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if let Err(error) = crates::keep(&messages) {
        eprintln!("compiled crates are not kept for other checkouts: {error:#}");
    }
    Ok(messages)
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

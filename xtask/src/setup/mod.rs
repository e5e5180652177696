//! Makes this machine able to build and test sfgi: finds what is missing, installs it, and says what it does and how
//! long that took. When nothing is missing it says nothing and takes a fraction of a second.

mod apt;
mod compiler;
pub(crate) mod deny;
pub(crate) mod go;
mod python;
mod unpacked;

use crate::{crates, sh};
use anyhow::Result;
use apt::Tool;
pub(crate) use compiler::Compiler;
use std::thread;

/// What a command needs, apart from the eBPF compiler.
pub(crate) struct Needs {
    tools: &'static [Tool],
    go: &'static [&'static str],
    cargo_components: &'static [&'static str],
    deny: bool,
    python: &'static [python::Wheels],
    unpacked: &'static [unpacked::Program],
}

/// What every build needs.
const CC: Tool = Tool { program: "cc", package: "build-essential" };
const BPFTRACE: Tool = Tool { program: "bpftrace", package: "bpftrace" };

pub(crate) const BUILD: Needs =
    Needs { tools: &[], go: &[], cargo_components: &[], deny: false, python: &[], unpacked: &[] };

pub(crate) const DEMO: Needs = Needs { go: &[go::NEWEST], ..BUILD };

pub(crate) const BENCH: Needs = Needs { tools: &[BPFTRACE], go: &[go::BENCH, go::NEWEST], ..BUILD };

/// Everything, for `test` and `fuzz`.
pub(crate) const TEST: Needs = Needs {
    tools: &[
        BPFTRACE,
        // libFuzzer is C++.
        Tool { program: "c++", package: "g++" },
        Tool { program: "bpftool", package: "bpftool" },
        Tool { program: "tmux", package: "tmux" },
        Tool { program: "gcore", package: "gdb" },
        // `go tool pprof -svg` draws with it.
        Tool { program: "dot", package: "graphviz" },
        // Shows the agent's page.
        Tool { program: "chromium", package: "chromium" },
        // Says what is wrong with a unit, and which system calls a group has.
        Tool { program: "systemd-analyze", package: "systemd" },
        Tool { program: go::DEBIAN, package: "golang-1.19-go" },
    ],
    go: &go::VERSIONS,
    cargo_components: &["clippy", "rustfmt"],
    deny: true,
    python: &python::ALL,
    unpacked: &unpacked::PROGRAMS,
};

/// Installs what `needs` names and is missing, and returns the eBPF compiler. Steps that take processors (building
/// the linker, unpacking wheels) run beside steps that wait for the network or for apt.
pub(crate) fn run(needs: &Needs) -> Result<Compiler> {
    let missing_go: Vec<&str> = needs.go.iter().copied().filter(|version| !go::installed(version)).collect();
    let python: Vec<_> = needs.python.iter().filter(|wheels| !wheels.installed()).collect();
    let deny = needs.deny && !deny::installed()?;
    // The steps below need these, so they cannot run beside them.
    let mut first = vec![CC];
    if deny || !missing_go.is_empty() || !python.is_empty() {
        first.extend(go::INSTALLER);
    }
    apt::install(&first)?;
    // Before anything is compiled: a checkout in which cargo has built tests is not filled any more.
    if let Err(error) = crates::fill() {
        eprintln!("setup: crates compiled before are not used: {error:#}");
    }
    add_cargo_components(needs.cargo_components)?;
    thread::scope(|scope| {
        let compiler = scope.spawn(|| match Compiler::installed() {
            None => Compiler::install_nightly()
                .inspect_err(say_other_way)
                .or_else(|_| Compiler::install_distribution()),
            Some(installed) => Ok(installed),
        });
        let others = [
            scope.spawn(|| {
                apt::install(needs.tools)?;
                unpacked::install(needs.unpacked)
            }),
            scope.spawn(|| missing_go.iter().try_for_each(|version| go::install(version))),
            scope.spawn(|| {
                python.iter().try_for_each(|wheels| wheels.install())?;
                if deny { deny::install() } else { Ok(()) }
            }),
        ];
        others.into_iter().try_for_each(sh::join)?;
        sh::join(compiler)
    })
}

fn say_other_way(error: &anyhow::Error) {
    eprintln!("setup: no rustup nightly and published bpf-linker here ({})", sh::last_line(error));
    eprintln!("setup: taking the distribution's compiler instead");
}

/// Adds the parts of the running Rust toolchain that a minimal installation lacks.
fn add_cargo_components(names: &[&str]) -> Result<()> {
    for name in names {
        let subcommand = name.trim_start_matches("rust");
        if !sh::succeeds(sh::cargo()?.args([subcommand, "--version"])) {
            sh::step(&format!("rustup component add {name}"), || {
                sh::output(sh::rustup()?.args(["component", "add", name])).map(drop)
            })?;
        }
    }
    Ok(())
}

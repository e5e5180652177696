//! Makes this machine able to build and test sfgi: finds what is missing, installs it, says what it does and how
//! long that took. When nothing is missing it says nothing and takes a fraction of a second.

mod apt;
mod compiler;
pub(crate) mod deny;
pub(crate) mod go;
mod python;
mod unpacked;

use crate::sh;
use anyhow::Result;
use apt::Tool;
pub(crate) use compiler::Compiler;
use std::thread;

/// What a command needs besides the eBPF compiler.
pub(crate) struct Needs {
    tools: &'static [Tool],
    go: &'static [&'static str],
    cargo_components: &'static [&'static str],
    deny: bool,
    python: &'static [python::Wheels],
    unpacked: &'static [unpacked::Program],
}

const CC: Tool = Tool { program: "cc", package: "build-essential" };
const BPFTRACE: Tool = Tool { program: "bpftrace", package: "bpftrace" };

/// For `build`.
pub(crate) const BUILD: Needs =
    Needs { tools: &[CC], go: &[], cargo_components: &[], deny: false, python: &[], unpacked: &[] };

/// For `demo`.
pub(crate) const DEMO: Needs = Needs { go: &[go::NEWEST], ..BUILD };

/// For `bench`.
pub(crate) const BENCH: Needs = Needs { tools: &[CC, BPFTRACE], go: &[go::BENCH, go::NEWEST], ..BUILD };

/// For `test` and `fuzz`: everything.
pub(crate) const TEST: Needs = Needs {
    tools: &[
        CC,
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

/// Installs what `needs` names and is missing, and gives the eBPF compiler.
pub(crate) fn run(needs: &Needs) -> Result<Compiler> {
    let missing_go: Vec<&str> = needs.go.iter().copied().filter(|version| !go::installed(version)).collect();
    let mut tools = needs.tools.to_vec();
    let python: Vec<_> = needs.python.iter().filter(|wheels| !wheels.installed()).collect();
    if !missing_go.is_empty() || !python.is_empty() {
        tools.extend(go::INSTALLER);
    }
    let compiler = match Compiler::installed() {
        None => Compiler::install_nightly().inspect_err(say_other_way).ok(),
        installed => installed,
    };
    apt::install(&tools)?;
    unpacked::install(needs.unpacked)?;
    add_cargo_components(needs.cargo_components)?;
    thread::scope(|scope| {
        let go = scope.spawn(|| missing_go.iter().try_for_each(|version| go::install(version)));
        let deny = scope.spawn(|| if needs.deny { deny::install() } else { Ok(()) });
        let compiler = compiler.map_or_else(Compiler::install_distribution, Ok);
        let python = scope.spawn(|| python.iter().try_for_each(|wheels| wheels.install()));
        for thread in [go, deny, python] {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        compiler
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

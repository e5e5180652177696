//! What this machine allows the tests, and what BPF leaves on it.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{toolchain, tree};

/// The path of a program that `cargo xtask setup` unpacks without installing it.
///
/// # Errors
/// It is not there.
pub fn unpacked(program: &str) -> Result<PathBuf> {
    let path = cache_dir().join("packages").join(program);
    ensure!(path.is_file(), "no {}: run `cargo xtask setup`", path.display());
    Ok(path)
}

/// A directory of Python packages that `cargo xtask setup` unpacks, for `PYTHONPATH`.
///
/// # Errors
/// It is not there.
pub fn wheels(name: &str) -> Result<PathBuf> {
    let path = cache_dir().join("python").join(name);
    ensure!(path.is_dir(), "no {}: run `cargo xtask setup`", path.display());
    Ok(path)
}

/// The directory in which `cargo xtask setup` and the tests keep what outlives a checkout.
pub fn cache_dir() -> PathBuf {
    PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/sfgi")
}

/// Prints a line that belongs to the result of a test, with the test's name, because several tests run beside each
/// other. The harness gives that name to the test's thread.
pub fn report(text: &str) {
    let thread = thread::current();
    let name = thread.name().map_or_else(String::new, |name| format!("{name}: "));
    // With stdout closed, the error has no reader either.
    let _ = writeln!(io::stdout(), "    {name}{text}");
}

/// Why nothing can be traced on this machine; `None`: everything can.
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF (/sys/kernel/btf/vmlinux)".into());
    }
    crate::sfgi::binary().err().map(|e| e.to_string())
}

/// Cargo's target directory, found from the path of the running test binary.
pub fn target_dir() -> PathBuf {
    let exe = env::current_exe().expect("a process knows its executable");
    exe.ancestors().nth(3).expect("a test binary lies in TARGET/PROFILE/deps").to_path_buf()
}

/// The processes that a process has started.
///
/// # Errors
/// The process has gone.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

/// The BPF programs, maps and links that a process and its children hold now, as `prog_id 7`: a command works in a child.
///
/// # Errors
/// The process has gone.
pub fn bpf_objects_of(pid: u32) -> Result<BTreeSet<String>> {
    let mut objects = BTreeSet::new();
    for pid in tree::of(pid)? {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { continue };
        for entry in entries {
            // A descriptor may be closed meanwhile.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            // A link's entry also names its program.
            objects.extend(text.lines().filter_map(|line| {
                let (key, id) = line.split_once(":\t")?;
                ["prog_id", "map_id", "link_id"].contains(&key).then(|| format!("{key} {id}"))
            }));
        }
    }
    Ok(objects)
}

/// The objects among these that the kernel still has.
fn still_there(objects: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut there = Vec::new();
    for kind in ["prog", "map", "link"] {
        let text = toolchain::output(Command::new("bpftool").args(["--json", kind, "list"]))?;
        let list: Value = serde_json::from_slice(&text).context("bpftool's output is not JSON")?;
        let list = list.as_array().context("bpftool's output is not a list")?;
        let names = list.iter().map(|object| format!("{kind}_id {}", object["id"]));
        there.extend(names.filter(|name| objects.contains(name)));
    }
    Ok(there)
}

/// Waits until the kernel has none of these any more; it frees them a moment after their last holder has gone.
///
/// # Errors
/// They are still there after a minute, or `bpftool` fails.
pub fn nothing_left(objects: &BTreeSet<String>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left = still_there(objects)?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "left behind: {left:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

//! What this machine lets the tests do, and what BPF leaves on it.

use std::{
    env,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::toolchain;

/// Whether a live test can run here. If not, says why, and panics instead where `CI` is set, so
/// that nothing is skipped unnoticed there.
pub fn can_trace() -> bool {
    let Some(reason) = obstacle() else { return true };
    assert!(env::var_os("CI").is_none(), "live test cannot run: {reason}");
    report(&format!("skipped: {reason}"));
    false
}

/// Prints a line that belongs to the result of a test that passes, too: past the test harness,
/// which would only show it for one that fails.
pub fn report(text: &str) {
    // A closed stdout leaves nobody to tell.
    let _ = writeln!(io::stdout(), "\n    {text}");
}

fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF (/sys/kernel/btf/vmlinux)".into());
    }
    crate::sfgi::binary().err().map(|e| e.to_string())
}

/// Cargo's target directory, found from where the running test binary lies.
pub fn target_dir() -> PathBuf {
    let exe = env::current_exe().expect("a process knows its executable");
    exe.ancestors().nth(3).expect("a test binary lies in TARGET/PROFILE/deps").to_path_buf()
}

/// The BPF programs, maps and links that a process holds now, as `bpftool` names them.
///
/// # Errors
/// `bpftool` is missing or fails.
pub fn bpf_objects_of(pid: u32) -> Result<Vec<String>> {
    bpf_objects(|object| {
        let holders = object["pids"].as_array().into_iter().flatten();
        holders.into_iter().any(|holder| holder["pid"] == pid)
    })
}

/// Which of these are still in the kernel.
///
/// # Errors
/// As [`bpf_objects_of`].
pub fn still_there(objects: &[String]) -> Result<Vec<String>> {
    let all = bpf_objects(|_| true)?;
    Ok(objects.iter().filter(|object| all.contains(object)).cloned().collect())
}

fn bpf_objects(wanted: impl Fn(&serde_json::Value) -> bool) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for kind in ["prog", "map", "link"] {
        let text = toolchain::output(Command::new("bpftool").args(["--json", kind, "list"]))?;
        let list: serde_json::Value =
            serde_json::from_slice(&text).context("bpftool's output is not JSON")?;
        let list = list.as_array().context("bpftool's output is not a list")?;
        names.extend(
            list.iter().filter(|object| wanted(object)).map(|object| format!("{kind} {}", object["id"])),
        );
    }
    Ok(names)
}

//! Whether this host lets us trace at all, in one sentence when it does not.

use super::btf;
use std::{fs, path::Path};

/// What this host lacks.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The user may not load and attach eBPF.
    #[error("needs root or {0}: run with sudo")]
    Permission(String),
    /// The kernel was built without `CONFIG_DEBUG_INFO_BTF`.
    #[error(
        "this kernel describes no types of its own ({path} is missing): sfgi needs one with CONFIG_DEBUG_INFO_BTF",
        path = btf::VMLINUX
    )]
    NoBtf,
    /// The kernel was built without `CONFIG_UPROBE_EVENTS`.
    #[error("this kernel has no uprobes: sfgi needs one with CONFIG_UPROBE_EVENTS")]
    NoUprobes,
}

/// The capabilities needed, with their bit in `CapEff` (`include/uapi/linux/capability.h`).
const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_SYS_PTRACE", 19)];
const CAP_SYS_ADMIN: u32 = 21;

/// Checks capabilities, uprobes and BTF. `CAP_SYS_ADMIN` includes `CAP_BPF` and `CAP_PERFMON`,
/// which do not exist by themselves before Linux 5.8.
pub fn check() -> Result<(), HostError> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(name, bit)| !has(*bit) && (*name == "CAP_SYS_PTRACE" || !is_administrator()))
        .map(|(name, _)| *name)
        .collect();
    if !missing.is_empty() {
        return Err(HostError::Permission(missing.join("+")));
    }
    if !Path::new(btf::VMLINUX).exists() {
        return Err(HostError::NoBtf);
    }
    if !Path::new("/sys/bus/event_source/devices/uprobe").exists() {
        return Err(HostError::NoUprobes);
    }
    Ok(())
}

/// Whether this process may do what most of the kernel asks for.
pub(super) fn is_administrator() -> bool {
    has(CAP_SYS_ADMIN)
}

fn has(capability: u32) -> bool {
    effective_capabilities() & (1 << capability) != 0
}

fn effective_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

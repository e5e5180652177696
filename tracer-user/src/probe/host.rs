//! The host: what it lacks for a trace, how many CPUs can write events, and the offsets in `task_struct` that the
//! programs need. The offsets come from the kernel's own BTF (`/sys/kernel/btf/vmlinux`; format:
//! `include/uapi/linux/btf.h`).

use bytes::Buf;
use std::{fs, io, path::Path};

/// What this host lacks for a trace; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The user may not load and attach eBPF.
    #[error("needs root or {0}: run with sudo")]
    Permission(String),
    /// The kernel was built without `CONFIG_DEBUG_INFO_BTF`.
    #[error(
        "this kernel describes no types of its own ({path} is missing): sfgi needs one with CONFIG_DEBUG_INFO_BTF",
        path = VMLINUX
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
        // `CAP_SYS_ADMIN` implies the first two for BPF and perf, but never `CAP_SYS_PTRACE`.
        .filter(|(name, bit)| !has(*bit) && (*name == "CAP_SYS_PTRACE" || !is_administrator()))
        .map(|(name, _)| *name)
        .collect();
    if !missing.is_empty() {
        return Err(HostError::Permission(missing.join("+")));
    }
    if !Path::new(VMLINUX).exists() {
        return Err(HostError::NoBtf);
    }
    if !Path::new("/sys/bus/event_source/devices/uprobe").exists() {
        return Err(HostError::NoUprobes);
    }
    Ok(())
}

/// Whether this process has `CAP_SYS_ADMIN`, which stands for `CAP_BPF` and `CAP_PERFMON`, and which newer kernels
/// ask for at each uprobe ([`ProbeError::AdministratorsOnly`](super::ProbeError)).
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

/// The number of CPUs that may hit a probe. `std::thread::available_parallelism` would give our own quota and
/// affinity, which say nothing of the target's. Online CPUs count, not possible ones: a ring takes its memory at
/// once, and virtual machines reserve a hundred CPUs that never come online. A CPU that comes online later shares a
/// ring.
pub(super) fn cpus() -> u32 {
    // Where the number cannot be read, one ring is correct for any number of CPUs, only slower.
    aya::util::online_cpus().map_or(1, |cpus| cpus.len() as u32)
}

/// The BTF of the running kernel.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Offsets in `struct task_struct`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TaskLayout {
    /// `pid`; `tgid` lies right behind it.
    pub(super) pid: u32,
    /// `__state` (`state` up to Linux 5.13).
    pub(super) state: u32,
}

impl TaskLayout {
    pub(super) fn of_this_kernel() -> io::Result<TaskLayout> {
        let raw = fs::read(VMLINUX)?;
        Self::parse(&raw).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "no usable task_struct in the kernel's BTF")
        })
    }

    fn parse(raw: &[u8]) -> Option<TaskLayout> {
        let (types, strings) = sections(raw)?;
        let (mut pid, mut tgid, mut state) = (None, None, None);
        for member in struct_members(types, strings, "task_struct")? {
            match name_at(strings, member.name) {
                b"pid" => pid = Some(member.offset),
                b"tgid" => tgid = Some(member.offset),
                b"__state" | b"state" => state = Some(member.offset),
                _ => {}
            }
        }
        let (pid, state) = (pid?, state?);
        // The program reads both ids at once (`tracer-ebpf/src/thread.rs`).
        (tgid? == pid + 4).then_some(TaskLayout { pid, state })
    }
}

struct Member {
    name: u32,
    offset: u32,
}

/// The type section and the string section of a BTF blob.
fn sections(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    const MAGIC: u16 = 0xeb9f;
    let mut header = raw.get(..24)?;
    if header.get_u16_le() != MAGIC {
        return None;
    }
    header.advance(2);
    let len = header.get_u32_le() as usize;
    // `hdr_len` as the header says it: a newer kernel may write a longer header.
    let body = raw.get(len..)?;
    let mut section = || {
        let (off, len) = (header.get_u32_le() as usize, header.get_u32_le() as usize);
        body.get(off..off.checked_add(len)?)
    };
    Some((section()?, section()?))
}

fn name_at(strings: &[u8], off: u32) -> &[u8] {
    let rest = strings.get(off as usize..).unwrap_or_default();
    rest.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The members of the first `struct` of this name, offsets in bytes.
fn struct_members(mut types: &[u8], strings: &[u8], wanted: &str) -> Option<Vec<Member>> {
    const STRUCT: u32 = 4;
    while types.len() >= 12 {
        let (name, info, _) = (types.get_u32_le(), types.get_u32_le(), types.get_u32_le());
        let (count, kind, bitfields) = ((info & 0xffff) as usize, (info >> 24) & 0x1f, info >> 31 != 0);
        let size = trailing_bytes(kind, count)?;
        let mut body = types.get(..size)?;
        if kind == STRUCT && name_at(strings, name) == wanted.as_bytes() {
            return Some(
                (0..count)
                    .map(|_| {
                        let (name, _, bits) = (body.get_u32_le(), body.get_u32_le(), body.get_u32_le());
                        // With the kind flag the upper byte is the width of a bit field; without it all 32 bits are
                        // the offset.
                        Member { name, offset: if bitfields { bits & 0x00ff_ffff } else { bits } / 8 }
                    })
                    .collect(),
            );
        }
        types.advance(size);
    }
    None
}

/// Bytes that follow the 12 of a type, by its kind (`BTF_KIND_*`). `None` for an unknown kind: without its length
/// nothing behind it can be found.
fn trailing_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,              // int, var, decl tag
        3 => 12,                       // array
        4 | 5 | 15 | 19 => 12 * count, // struct, union, datasec, enum64
        6 | 13 => 8 * count,           // enum, func proto
        2 | 7..=12 | 16 | 18 => 0,     // pointer, forward, typedef, qualifiers, func, float, type tag
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_task_struct_of_a_small_blob() {
        let strings = b"\0task_struct\0__state\0pid\0tgid\0";
        let mut types = Vec::new();
        let int = [0u32, 1 << 24, 4, 0];
        let task = [1u32, 4 << 24 | 3, 64, 13, 1, 24 * 8, 21, 1, 40 * 8, 25, 1, 44 * 8];
        for word in int.iter().chain(&task) {
            types.extend(word.to_le_bytes());
        }
        let mut blob = Vec::new();
        blob.extend(0xeb9fu16.to_le_bytes());
        blob.extend([1, 0]);
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            blob.extend(word.to_le_bytes());
        }
        blob.extend(&types);
        blob.extend(strings);
        assert_eq!(TaskLayout::parse(&blob), Some(TaskLayout { pid: 40, state: 24 }));
        for len in 0..blob.len() {
            TaskLayout::parse(&blob[..len]);
        }
    }
}

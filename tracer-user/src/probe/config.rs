//! How to trace, and what the programs must know of one target for it: offsets, addresses, which wait reasons are fake.

use super::{btf::TaskLayout, error::ProbeError};
use sfgi_core::{
    binary::GoBinary,
    goruntime::{WaitReason, WaitReasons},
    plan::Plan,
};
use std::{fs, num::NonZeroU32};
use tracer_common::{Config, KINDS, flags};

/// `PROC_PID_INIT_INO` (`include/linux/proc_ns.h`): the initial PID namespace.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// How to trace.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of one event ring, a power of two.
    pub ring_bytes: u32,
    /// Only these goroutines; empty: all.
    pub goids: Vec<u64>,
    /// Also the threads' on/off-CPU times (`sched_switch`, `sched_wakeup`).
    pub threads: bool,
    /// Walk a stack on beyond the frame that tells the place: callers, up to twelve frames.
    pub callers: bool,
    /// The process does not run the binary yet: nothing that comes is to be dropped.
    pub from_birth: bool,
}

pub(super) fn build(
    pid: NonZeroU32,
    binary: &GoBinary,
    plan: &Plan,
    options: &Options,
    task: TaskLayout,
    cpus: u32,
) -> Result<Config, ProbeError> {
    let switch = binary.functions().find("runtime.systemstack_switch");
    let mut flags = 0;
    let release = binary.version().release;
    if !release.goid_at_birth() {
        flags |= flags::STALE_GOID;
    }
    if release.creates_parked() {
        flags |= flags::PARKED_ARGUMENT;
    }
    if !options.goids.is_empty() {
        flags |= flags::FILTER_GOIDS;
    }
    let mut config = Config {
        fake_reasons: fake_reasons(binary.wait_reasons()),
        flags_test: 0,
        probes: [0; KINDS],
        systemstack_switch: switch.as_ref().map_or(0, |f| f.entry),
        systemstack_switch_end: switch.as_ref().map_or(0, |f| f.end),
        plumbing_end: if options.callers { 0 } else { binary.plumbing_end() },
        io_wait: binary.wait_reasons().number(WaitReason::IoWait).map_or(255, u32::from),
        tgid: if in_initial_pid_namespace() { pid.get() } else { 0 },
        // One ring is enough, and in order by itself, where at most two CPUs write to it.
        rings: if cpus > 2 { cpus.min(256) } else { 1 },
        flags,
        offsets: binary.layout().probe_offsets()?,
        task_pid: task.pid,
        task_state: task.state,
        _pad: 0,
    };
    for probe in &plan.probes {
        config.probes[probe.kind as usize] = probe.placement.vaddr;
        if probe.placement.flags_test {
            config.flags_test |= 1 << probe.kind as u32;
        }
    }
    Ok(config)
}

fn fake_reasons(reasons: &WaitReasons) -> u64 {
    let bits = reasons.iter().take(64).enumerate().filter(|(_, reason)| reason.is_fake());
    bits.fold(0, |mask, (bit, _)| mask | 1 << bit)
}

/// In another PID namespace the ids that the kernel gives to a program are not the ones we know.
fn in_initial_pid_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == INITIAL_PID_NAMESPACE)
}

/// The eBPF program for a Go function; `None` for one that no program is written for.
pub(super) fn program(function: &str) -> Option<&'static str> {
    Some(match function.strip_prefix("runtime.")? {
        "casgstatus" => "casgstatus",
        "casGToPreemptScan" => "casgtopreemptscan",
        "casGFromPreempted" => "casgfrompreempted",
        "coroswitch_m" => "coroswitch_m",
        "newproc1" => "newproc1",
        "newproc" => "newproc",
        "execute" => "execute",
        "park_m" => "park_m",
        "ready" => "ready",
        "injectglist" => "injectglist",
        "gosched_m" | "goschedguarded_m" => "gosched_m",
        "goyield_m" => "goyield_m",
        "goschedImpl" | "gopreempt_m" => "goschedimpl",
        "preemptPark" => "preemptpark",
        "gdestroy" | "goexit0" => "gdestroy",
        "reentersyscall" => "reentersyscall",
        "entersyscall" => "entersyscall",
        "entersyscallblock" => "entersyscallblock",
        "exitsyscall" => "exitsyscall",
        "exitsyscall0" | "exitsyscallNoP" => "exitsyscallnop",
        "needm" => "needm",
        "dropm" => "dropm",
        "(*gcControllerState).startCycle" => "gcstart",
        "gcMarkTermination" => "gcend",
        _ => return None,
    })
}

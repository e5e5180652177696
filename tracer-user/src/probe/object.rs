//! The compiled eBPF object: the configuration of its programs for one target (offsets, addresses, fake wait reasons),
//! loading one copy of it, and the errors of that.

use super::{
    host::{self, TaskLayout},
    ring::Ring,
};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{ArrayOfMaps, Map, MapData, MapError, RingBuf},
    programs::{BtfTracePoint, ProgramError, UProbe},
};
use sfgi_core::{
    binary::{GoBinary, LayoutError},
    goruntime::{WaitReason, WaitReasons},
    plan::Plan,
    snapshot::parking_function,
};
use std::{collections::BTreeSet, error::Error, fs, io, num::NonZeroU32};
use tracer_common::{Config, KINDS, flags};

/// Why a target cannot be probed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The object's maps could not be created.
    #[error("the kernel refused the eBPF object: {0:#}")]
    Load(anyhow::Error),
    /// A map or a program is not in the object that was built into this sfgi.
    #[error("the eBPF object has no {0}: this sfgi was built wrongly")]
    Object(&'static str),
    /// The verifier or the attach point refused a program.
    #[error("the kernel refused the eBPF program {name}")]
    Program { name: &'static str, source: ProgramError },
    /// A uprobe could not be placed.
    #[error("cannot put a uprobe on {function} (file offset {offset:#x})")]
    Attach { function: String, offset: u64, source: ProgramError },
    /// The kernel lets only `CAP_SYS_ADMIN` place uprobes. All kernels do since July 2025 (CVE-2025-38466; in 6.16,
    /// 6.12.39, 6.6.99, 6.1.146, 5.15.189 and 5.10.240).
    #[error("this kernel lets only CAP_SYS_ADMIN put uprobes, not CAP_PERFMON: run with sudo, or add it")]
    AdministratorsOnly,
    /// The rings could not be made.
    #[error("cannot create an event ring of {bytes} bytes (a power of two, at least a page)")]
    Ring { bytes: u32, source: MapError },
    /// The kernel's types could not be read.
    #[error("cannot read the kernel's BTF: {0}")]
    Btf(String),
    /// A structure of this Go version does not look as the probes need it.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Counters could not be read.
    #[error("cannot read the probes' counters")]
    Counters(#[source] MapError),
}

impl ProbeError {
    /// The error of an attachment that failed with `source`. Aya wraps the `io::Error` that tells a refusal, so the
    /// whole chain of sources is searched for it.
    pub(super) fn of_attaching(function: &str, offset: u64, source: ProgramError) -> ProbeError {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&source);
        while let Some(error) = cause {
            let refused = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if refused == Some(io::ErrorKind::PermissionDenied) && !host::is_administrator() {
                return ProbeError::AdministratorsOnly;
            }
            cause = error.source();
        }
        ProbeError::Attach { function: function.into(), offset, source }
    }
}

/// `PROC_PID_INIT_INO` (`include/linux/proc_ns.h`): the initial PID namespace.
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of one event ring, a power of two.
    pub ring_bytes: u32,
    /// The goids to report; empty: all. At most 1,024, the size of the map `GOIDS`.
    pub goids: Vec<u64>,
    /// Also report when the target's threads get and leave a CPU (`sched_switch`, `sched_wakeup`). Without effect
    /// where sfgi runs in a nested PID namespace.
    pub threads: bool,
    /// Walk each stack to twelve frames, beyond the first frame of the program's own code.
    pub callers: bool,
    /// The process does not execute the binary yet, so events from before the last probe stood are complete, too, and
    /// are kept.
    pub from_birth: bool,
}

pub(super) fn configure(
    pid: NonZeroU32,
    binary: &GoBinary,
    plan: &Plan,
    options: &Options,
    task: TaskLayout,
    cpus: u32,
) -> Result<Config, ProbeError> {
    let switch = binary.functions().find("runtime.systemstack_switch");
    let gopark = binary.functions().find("runtime.gopark");
    let goparkunlock = binary.functions().find("runtime.goparkunlock");
    let reasons = binary.wait_reasons();
    // By the code: what is not optimised may save it elsewhere (Go 1.19), and what is inlined has no frame.
    let parking: BTreeSet<_> = reasons.iter().filter_map(parking_function).collect();
    let saved: Vec<_> =
        parking.into_iter().filter(|function| binary.saves_first_argument(function)).collect();
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
        fake_reasons: set_of(reasons, WaitReason::is_fake),
        object_reasons: set_of(reasons, |reason| {
            parking_function(reason).is_some_and(|function| saved.contains(&function))
        }),
        select_reasons: set_of(reasons, WaitReason::is_select),
        flags_test: 0,
        probes: [0; KINDS],
        // Without the function the bounds are empty, and no `sched.pc` lies within.
        systemstack_switch: switch.as_ref().map_or(0, |f| f.entry),
        systemstack_switch_end: switch.as_ref().map_or(0, |f| f.end),
        gopark: gopark.as_ref().map_or(0, |f| f.entry),
        gopark_end: gopark.as_ref().map_or(0, |f| f.end),
        goparkunlock: goparkunlock.as_ref().map_or(0, |f| f.entry),
        goparkunlock_end: goparkunlock.as_ref().map_or(0, |f| f.end),
        plumbing_end: if options.callers { 0 } else { binary.plumbing_end() },
        // 255 is no wait reason.
        io_wait: reasons.number(WaitReason::IoWait).map_or(255, u32::from),
        tgid: if in_initial_pid_namespace() { pid.get() } else { 0 },
        // One ring carries what two CPUs send and is in order by itself. 256 is `MAX_RINGS` of
        // `tracer-ebpf/src/emit.rs`.
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

/// The numbers of the wait reasons that `belongs` says yes to, a bit each.
fn set_of(reasons: &WaitReasons, belongs: impl Fn(WaitReason) -> bool) -> u64 {
    // The mask has 64 bits; the runtime has about forty reasons.
    let bits = reasons.iter().take(64).enumerate().filter(|(_, reason)| belongs(*reason));
    bits.fold(0, |mask, (bit, _)| mask | 1 << bit)
}

/// Whether the ids that `bpf_get_current_pid_tgid` gives are the ones that we know: it numbers processes as the
/// initial PID namespace does.
fn in_initial_pid_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == INITIAL_PID_NAMESPACE)
}

/// The name of the eBPF program for a Go function; `None`: no program is written for it. Functions that say the same
/// of the goroutine in their first argument share a program.
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

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-ebpf"));

/// `BPF_MAP_TYPE_RINGBUF` in `enum bpf_map_type` (`include/uapi/linux/bpf.h`).
const RINGBUF: u32 = 27;

/// Parses the object, patches `config` into its read-only data and creates its maps. Loads no program: of two dozen
/// only those of the plan are needed.
pub(super) fn load(config: &Config) -> Result<Ebpf, ProbeError> {
    EbpfLoader::new()
        .override_global("CONFIG", config, true)
        .load(OBJECT)
        .map_err(|source| ProbeError::Load(source.into()))
}

/// Creates `count` event rings of `bytes` each and puts them into the array that the programs send through.
pub(super) fn create_rings(ebpf: &mut Ebpf, count: u32, bytes: u32) -> Result<Vec<Ring>, ProbeError> {
    let fail = |source: MapError| ProbeError::Ring { bytes, source };
    let map = ebpf.map_mut("RINGS").ok_or(ProbeError::Object("map RINGS"))?;
    let mut rings: ArrayOfMaps<&mut MapData, MapData> = ArrayOfMaps::try_from(map).map_err(fail)?;
    (0..count)
        .map(|index| {
            // Made here and not by the loader, which takes the size from the object: `--ring-size` decides it.
            let object = aya_obj::Map::new_from_params(RINGBUF, 0, 0, bytes, 0);
            let ring = MapData::create(object, "events", None)?;
            rings.set(index, &ring, 0)?;
            let ring = RingBuf::try_from(Map::RingBuf(ring))?;
            Ring::new(ring).map_err(|source| MapError::IoError(source.into()))
        })
        .collect::<Result<_, _>>()
        .map_err(fail)
}

/// The uprobe program `name`, loaded into the kernel at its first use: several probes may share it.
pub(super) fn uprobe<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut UProbe, ProbeError> {
    let program: &mut UProbe = ebpf
        .program_mut(name)
        .ok_or(ProbeError::Object(name))?
        .try_into()
        .map_err(|source| ProbeError::Program { name, source })?;
    if program.fd().is_err() {
        program.load().map_err(|source| ProbeError::Program { name, source })?;
    }
    Ok(program)
}

/// Loads and attaches a BTF tracepoint program; program and tracepoint have the same name.
pub(super) fn attach_tracepoint(ebpf: &mut Ebpf, name: &'static str, btf: &Btf) -> Result<(), ProbeError> {
    let fail = |source| ProbeError::Program { name, source };
    let program: &mut BtfTracePoint =
        ebpf.program_mut(name).ok_or(ProbeError::Object(name))?.try_into().map_err(fail)?;
    program.load(name, btf).map_err(fail)?;
    program.attach().map_err(fail)?;
    Ok(())
}

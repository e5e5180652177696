//! What user space patched into this object, and whether a hit is the target's.

use crate::{abi, emit};
use aya_ebpf::programs::ProbeContext;
use tracer_common::{Config, Counters, KINDS, Kind, ProbeOffsets};

#[unsafe(no_mangle)]
pub static CONFIG: Config = Config {
    fake_reasons: 0,
    flags_test: 0,
    probes: [0; KINDS],
    systemstack_switch: 0,
    systemstack_switch_end: 0,
    plumbing_end: 0,
    io_wait: 255,
    tgid: 0,
    rings: 1,
    flags: 0,
    offsets: ProbeOffsets::ZERO,
    task_pid: 0,
    task_state: 0,
    _pad: 0,
};

/// Reads one field of the configuration. Volatile, because the compiler would fold the zeros
/// above; the verifier then folds what user space wrote.
macro_rules! config {
    ($($field:tt)+) => {
        // SAFETY: a valid, aligned, initialised static.
        unsafe { core::ptr::read_volatile(&raw const crate::config::CONFIG.$($field)+) }
    };
}
pub(crate) use config;

/// One hit of a probe: on which thread, and what is counted.
pub struct Hit {
    pub tid: u32,
    /// What the probe usually sends.
    pub kind: Kind,
    pub counters: *mut Counters,
}

impl Hit {
    /// Counts that memory of the target could not be read.
    #[inline(always)]
    pub fn blur(&self) {
        // SAFETY: as in `enter`.
        unsafe { (*self.counters).blurred[self.kind as usize] += 1 };
    }

    /// Counts an event that could not be sent.
    #[inline(always)]
    pub fn lose(&self, kind: Kind) {
        // SAFETY: as in `enter`.
        unsafe { (*self.counters).lost[kind as usize] += 1 };
    }
}

/// Says whether this hit is the target's, and counts it. `None`: not ours, or it does not count.
#[inline(always)]
pub fn enter(ctx: &ProbeContext, kind: Kind) -> Option<Hit> {
    if config!(flags_test) & (1 << kind as u32) != 0 && abi::stack_check_fails(ctx) {
        return None;
    }
    let id = aya_ebpf::helpers::bpf_get_current_pid_tgid();
    let tgid = config!(tgid);
    if tgid != 0 && (id >> 32) as u32 != tgid {
        return None;
    }
    let counters = emit::counters()?;
    // SAFETY: this CPU's own element; a probe that interrupts another one can at worst lose one.
    unsafe { (*counters).hits[kind as usize] += 1 };
    Some(Hit { tid: id as u32, kind, counters })
}

/// Where the process's text lies relative to its link addresses, seen from a hit at `probe`.
#[inline(always)]
pub fn bias(ctx: &ProbeContext, probe: u64) -> u64 {
    abi::instruction_pointer(ctx).wrapping_sub(probe)
}

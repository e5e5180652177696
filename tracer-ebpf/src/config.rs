//! What user space patched into this object.

use crate::abi;
use aya_ebpf::programs::ProbeContext;
use tracer_common::{Config, KINDS, ProbeOffsets};

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

/// Where the process's text lies relative to its link addresses, seen from a hit at `probe`.
#[inline(always)]
pub fn bias(ctx: &ProbeContext, probe: u64) -> u64 {
    abi::instruction_pointer(ctx).wrapping_sub(probe)
}

//! The configuration of this object: user space patches it in before the kernel loads the programs.

use crate::abi;
use aya_ebpf::programs::ProbeContext;
use tracer_common::{Config, KINDS, ProbeOffsets};

#[unsafe(no_mangle)]
pub static CONFIG: Config = Config {
    fake_reasons: 0,
    object_reasons: 0,
    select_reasons: 0,
    flags_test: 0,
    probes: [0; KINDS],
    systemstack_switch: 0,
    systemstack_switch_end: 0,
    gopark: 0,
    gopark_end: 0,
    goparkunlock: 0,
    goparkunlock_end: 0,
    plumbing_end: 0,
    // 255 is no wait reason: an object that was not patched treats none as "IO wait".
    io_wait: 255,
    tgid: 0,
    rings: 1,
    flags: 0,
    offsets: ProbeOffsets::ZERO,
    task_pid: 0,
    task_state: 0,
    _pad: 0,
};

/// Reads one field of the configuration. The read is volatile because the compiler would otherwise fold
/// the zeros of `CONFIG` into the code; the verifier later folds the values that user space wrote.
macro_rules! config {
    ($($field:tt)+) => {
        // SAFETY: a valid, aligned, initialised static.
        unsafe { core::ptr::read_volatile(&raw const crate::config::CONFIG.$($field)+) }
    };
}
pub(crate) use config;

/// The load bias of the target's text, computed from a hit: `probe` is the link-time address of the instruction.
#[inline(always)]
pub fn bias(ctx: &ProbeContext, probe: u64) -> u64 {
    abi::instruction_pointer(ctx).wrapping_sub(probe)
}

//! The event that interrupts a thread and notes its registers.

use aya_obj::generated::{perf_event_attr, perf_event_sample_format, perf_sw_ids, perf_type_id};
use rustix::fd::{FromRawFd, OwnedFd};
use rustix::io::Errno;
use std::io;

/// Nanoseconds of a thread's time between two samples: 997 Hz, so that it does not fall in with what a
/// program does a thousand times in a second.
const PERIOD_NS: u64 = 1_000_000_000 / 997;
const FD_CLOEXEC: libc::c_ulong = 8;

/// The general registers that are noted, by their numbers; each sample has their values in that order.
/// `enum perf_event_x86_regs` (`arch/x86/include/uapi/asm/perf_regs.h`): `ax` to `ip` are 0 to 8, `r8` to `r15` 16 to 23.
#[cfg(target_arch = "x86_64")]
mod arch {
    pub(crate) const MASK: u64 = 0xff_01ff;
    pub(crate) const SP: usize = 7;
    pub(crate) const PC: usize = 8;
}

/// `enum perf_event_arm_regs` (`arch/arm64/include/uapi/asm/perf_regs.h`): `x0` to `x29`, `lr`, `sp`, `pc`.
#[cfg(target_arch = "aarch64")]
mod arch {
    pub(crate) const MASK: u64 = (1 << 33) - 1;
    pub(crate) const SP: usize = 31;
    pub(crate) const PC: usize = 32;
}

/// How many registers a sample has.
pub(super) const REGISTERS: usize = arch::MASK.count_ones() as usize;
/// Where among them the stack pointer is.
pub(super) const SP: usize = arch::SP;
/// Where among them the program counter is.
pub(super) const PC: usize = arch::PC;

/// Begins to sample a thread. Without the privilege to see where the kernel is at work, only while the thread
/// is in user mode.
pub(super) fn open(tid: i32) -> Result<OwnedFd, Errno> {
    match open_with(tid, false) {
        Err(Errno::PERM | Errno::ACCESS) => open_with(tid, true),
        opened => opened,
    }
}

fn open_with(tid: i32, user_only: bool) -> Result<OwnedFd, Errno> {
    // SAFETY: a structure of numbers, for which 0 means that nothing is asked for.
    let mut attr: perf_event_attr = unsafe { std::mem::zeroed() };
    attr.type_ = perf_type_id::PERF_TYPE_SOFTWARE as u32;
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.config = perf_sw_ids::PERF_COUNT_SW_CPU_CLOCK as u64;
    attr.__bindgen_anon_1.sample_period = PERIOD_NS;
    attr.sample_type = perf_event_sample_format::PERF_SAMPLE_REGS_USER as u64;
    attr.sample_regs_user = arch::MASK;
    attr.set_exclude_kernel(user_only.into());
    attr.set_exclude_hv(1);
    // SAFETY: the structure says its own size; the call writes nothing of ours.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, tid, -1, -1, FD_CLOEXEC) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

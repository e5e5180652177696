//! The clock that the kernel's probes, the Go runtime and we share.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` now, nanoseconds: `bpf_ktime_get_ns` in the probes, `runtime.nanotime` in Go.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

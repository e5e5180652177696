//! `CLOCK_MONOTONIC`, the clock that the BPF programs, the Go runtime and sfgi share; durations as text.

use rustix::time::{ClockId, clock_gettime};
use std::io;

/// `CLOCK_MONOTONIC` now, nanoseconds: `bpf_ktime_get_ns` in the probes, `runtime.nanotime` in Go.
pub fn now() -> u64 {
    read(ClockId::Monotonic)
}

/// Time since boot, time in suspension included, nanoseconds: what `/proc` counts by.
pub fn since_boot() -> u64 {
    read(ClockId::Boottime)
}

/// CPU time of the calling thread of sfgi (not of the target), nanoseconds.
pub fn thread_cpu() -> u64 {
    read(ClockId::ThreadCPUTime)
}

/// CPU time of all threads of sfgi (not of the target), nanoseconds.
pub fn process_cpu() -> u64 {
    read(ClockId::ProcessCPUTime)
}

/// CPU time of all threads of another process, ended ones included, nanoseconds.
///
/// # Errors
/// It has ended.
pub fn cpu_of(pid: u32) -> io::Result<u64> {
    // `stat` has clock ticks only: the kernel's clock of the process is exact, and open to everybody.
    let mut clock = 0;
    // SAFETY: the pointer is to a local of the right type.
    let code = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

fn read(clock: ClockId) -> u64 {
    // These clocks are never negative: they count from boot, or from the start of the thread or process.
    let time = clock_gettime(clock);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

/// Nanoseconds in the largest unit that leaves a digit before the point: `1.23ms`, `12.3µs`.
pub fn duration(ns: u64) -> String {
    let (value, ns) = (ns as f64, rounded(ns));
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns}ns"),
        1_000..1_000_000 => (value / 1e3, "µs"),
        1_000_000..1_000_000_000 => (value / 1e6, "ms"),
        1_000_000_000..60_000_000_000 => (value / 1e9, "s"),
        _ => return format!("{}m{:02}s", ns / 60_000_000_000, ns / 1_000_000_000 % 60),
    };
    // As many as the rounded value has: 9.996 is 10.0, not 10.00.
    let digits = match ns.ilog10() % 3 {
        0 => 2,
        1 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{unit}")
}

/// Nanoseconds with three digits where [`duration`] shows three: what is rounded up to a unit is shown in that unit.
fn rounded(ns: u64) -> u64 {
    match ns {
        1_000..60_000_000_000 => {
            let last = 10_u64.pow(ns.ilog10() - 2);
            (ns + last / 2) / last * last
        }
        _ => ns,
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_keep_three_digits() {
        let cases = [
            (0, "0ns"),
            (999, "999ns"),
            (1_234, "1.23µs"),
            (56_789, "56.8µs"),
            (123_456, "123µs"),
            (1_500_000, "1.50ms"),
            (59_000_000_000, "59.0s"),
            (9_994, "9.99µs"),
            (9_996, "10.0µs"),
            (99_960, "100µs"),
            (999_499, "999µs"),
            (999_500, "1.00ms"),
            (999_999_999, "1.00s"),
            (59_949_999_999, "59.9s"),
            (59_950_000_000, "1m00s"),
            (119_999_999_999, "1m59s"),
            (u64::MAX, "307445734m33s"),
            (61_000_000_000, "1m01s"),
        ];
        for (ns, text) in cases {
            assert_eq!(duration(ns), text);
        }
    }
}

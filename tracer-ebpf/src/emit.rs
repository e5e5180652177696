//! What every probe does on a hit: check that the target was hit, count the hit, and send an event through
//! a ring. An event that finds its ring full is counted as lost.

use crate::{abi, config::config};
use aya_ebpf::{
    btf_maps::{ArrayOfMaps, RingBuf},
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::{btf_map, map},
    maps::{HashMap, PerCpuArray},
    programs::ProbeContext,
};
use tracer_common::{Counters, Header, Kind, flags};

/// The largest number of rings. User space creates the rings, because their size is an option of the
/// command, and caps their number at the same 256 (`tracer-user/src/probe/object.rs`).
const MAX_RINGS: usize = 256;

/// `BPF_RB_NO_WAKEUP`: user space drains by the clock. A wake-up from the probe doubles its cost.
const NO_WAKEUP: u64 = 1;

#[btf_map]
static RINGS: ArrayOfMaps<RingBuf<u64, 4096>, MAX_RINGS> = ArrayOfMaps::new();

#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// The goids to report. Programs look here only under [`flags::FILTER_GOIDS`].
#[map]
static GOIDS: HashMap<u64, u8> = HashMap::with_max_entries(1024, 0);

#[inline(always)]
pub fn counters() -> Option<*mut Counters> {
    COUNTERS.get_ptr_mut(0)
}

/// One hit of a probe in the target.
pub struct Hit {
    pub tid: u32,
    /// The kind under which the counters count this probe; the probe may send events of other kinds.
    pub kind: Kind,
    pub counters: *mut Counters,
}

impl Hit {
    /// Counts a failed read of the target's memory.
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

/// Counts a hit and returns it. `None` for a hit of another process, and for one that the stack check
/// is about to send to `morestack`, because the same call hits the probe again afterwards.
#[inline(always)]
pub fn enter(ctx: &ProbeContext, kind: Kind) -> Option<Hit> {
    if config!(flags_test) & (1 << kind as u32) != 0 && abi::stack_check_fails(ctx) {
        return None;
    }
    let id = aya_ebpf::helpers::bpf_get_current_pid_tgid();
    let tgid = config!(tgid);
    // 0: sfgi runs in a nested PID namespace and does not know the id that the kernel uses. The perf event of
    // each uprobe is bound to the process anyway.
    if tgid != 0 && (id >> 32) as u32 != tgid {
        return None;
    }
    let counters = counters()?;
    // SAFETY: this CPU's own element; a probe that interrupts another one can at worst lose one.
    unsafe { (*counters).hits[kind as usize] += 1 };
    Some(Hit { tid: id as u32, kind, counters })
}

/// Whether the user asked for this goroutine. Goid 0 (not known yet, or not readable) passes, because an
/// event that is one too many can be dropped later and a missing one cannot be made up for.
#[inline(always)]
pub fn wanted(goid: u64) -> bool {
    if config!(flags) & flags::FILTER_GOIDS == 0 || goid == 0 {
        return true;
    }
    // SAFETY: entries are written before the probes are attached and never removed.
    unsafe { GOIDS.get(goid) }.is_some()
}

#[repr(C)]
struct Record<P> {
    header: Header,
    payload: P,
}

/// Sends one event. `fill` writes the payload straight into the ring. The bytes that `fill` leaves
/// untouched are old ring content, so a payload with a variable part carries its length.
#[inline(always)]
pub fn emit<P: 'static>(hit: &Hit, header: Header, kind: Kind, fill: impl FnOnce(&mut P)) -> Option<()> {
    let rings = config!(rings);
    // SAFETY: a helper without arguments.
    let ring = if rings <= 1 { 0 } else { (unsafe { bpf_get_smp_processor_id() }) % rings };
    let Some(mut entry) = RINGS.get(ring).and_then(|ring| ring.reserve_untyped::<Record<P>>(0)) else {
        hit.lose(kind);
        return None;
    };
    let record = entry.as_mut_ptr();
    // Read the clock only after the reservation: a record that enters an empty ring is then younger than the
    // reader's look that found it empty (`tracer-user/src/probe/ring.rs` orders events by that).
    // SAFETY: a helper without arguments.
    let ts = unsafe { bpf_ktime_get_ns() };
    // SAFETY: `record` points to reserved ring memory of this size; the payload is plain integers.
    unsafe {
        (*record).header = Header { ts, tid: hit.tid, kind: kind as u8, ..header };
        fill(&mut (*record).payload);
    }
    entry.submit(NO_WAKEUP);
    Some(())
}

//! Layout shared by the eBPF programs and user space: the events that travel through the ring
//! buffers, the configuration that is patched into the object before it is loaded, and the
//! counters both sides read.
//!
//! Every event starts with a [`Header`]; `header.kind` says which probe sent it and how long the
//! record is. All structs are `repr(C)`, without implicit padding, and their sizes are asserted
//! below, so that decoding can be a bounds-checked copy.
#![no_std]

/// Return addresses a [`Stack`] carries at most.
///
/// Deep enough for the first frame of the program's own code above `net.(*conn).Read`, which has eight frames of
/// plumbing.
pub const MAX_FRAMES: usize = 12;

/// Goroutines of one call of `runtime.injectglist` that are reported; a longer list counts as one loss. The verifier
/// needs a bound of the loop.
pub const MAX_INJECT: u32 = 128;

/// Goroutine states: the values of `g.atomicstatus` (`src/runtime/runtime2.go`; the same numbers in Go 1.19–1.27,
/// `LEAKED` and `DEADEXTRA` since 1.26).
pub mod status {
    #![allow(missing_docs, reason = "the names are the runtime's own")]
    pub const IDLE: u8 = 0;
    pub const RUNNABLE: u8 = 1;
    pub const RUNNING: u8 = 2;
    pub const SYSCALL: u8 = 3;
    pub const WAITING: u8 = 4;
    pub const DEAD: u8 = 6;
    pub const COPYSTACK: u8 = 8;
    pub const PREEMPTED: u8 = 9;
    pub const LEAKED: u8 = 10;
    pub const DEADEXTRA: u8 = 11;
    /// No state of the runtime: the arguments of the probed function do not tell the state.
    pub const UNSAID: u8 = 0xff;
    /// `_Gscan` (0x1000) does not fit a byte; events carry the state without it.
    pub const SCAN_BIT: u32 = 0x1000;
}

/// Which probe sent an event; the discriminant is `Header::kind` and the index of its counters.
///
/// The comment gives the Go function and the payload that follows the header.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `runtime.casgstatus(gp, old, new)`; `from`, `to` are its arguments. No payload.
    Status = 0,
    /// `runtime.casgstatus` out of `_Gwaiting` into `_Grunnable`. Payload [`By`]: who woke it.
    StatusWake = 1,
    /// `runtime.casgstatus` from `_Grunning` to `_Gwaiting`, not a fake wait. Payload [`Stack`].
    StatusPark = 2,
    /// `runtime.casgstatus` out of `_Gdead` into `_Grunnable` or `_Gwaiting`. Payload [`Birth`].
    StatusCreate = 3,
    /// `runtime.casGToPreemptScan`: running → preempted. No payload.
    PreemptScan = 4,
    /// `runtime.casGFromPreempted`: preempted → waiting, may fail and be tried again. No payload.
    FromPreempted = 5,
    /// `runtime.coroswitch_m(gp)`, Go 1.22+. Payload [`Switch`].
    CoroSwitch = 6,
    /// `runtime.newproc1`: `g`, `goid` are the creator's; the new goroutine is not known yet; `to`
    /// is the state it begins in. Payload [`NewProc`].
    NewProc = 7,
    /// `runtime.execute(gp, …)`: → running. No payload.
    Execute = 8,
    /// `runtime.execute` of a goroutine that never ran before. Payload [`Birth`].
    FirstRun = 9,
    /// `runtime.park_m(gp)`: running → waiting. Payload [`Stack`].
    Park = 10,
    /// `runtime.ready(gp, …)`: → runnable. Payload [`By`].
    Ready = 11,
    /// `runtime.injectglist`: one event for each goroutine of the list. Payload [`By`].
    Inject = 12,
    /// `runtime.gosched_m`: running → runnable of its own will. No payload.
    Gosched = 13,
    /// `runtime.goyield_m`: running → runnable, to the local queue. No payload.
    Goyield = 14,
    /// `runtime.goschedImpl`: running → runnable, `Gosched` and preemption alike. No payload.
    GoschedImpl = 15,
    /// `runtime.preemptPark`: running → preempted. No payload.
    PreemptPark = 16,
    /// `runtime.gdestroy` (1.22+) or `runtime.goexit0` (≤ 1.21): running → dead. Payload [`Birth`].
    Destroy = 17,
    /// `runtime.entersyscall` or `reentersyscall`: running → syscall. Payload [`Stack`].
    SyscallEnter = 18,
    /// `runtime.entersyscallblock`: running → syscall. Payload [`Stack`].
    SyscallBlock = 19,
    /// `runtime.exitsyscall`: syscall → running, unless no P is free. No payload.
    SyscallExit = 20,
    /// `runtime.exitsyscall0` (≤ 1.25), `exitsyscallNoP` (1.26+): → runnable. No payload.
    SyscallExitNoP = 21,
    /// `runtime.needm`: a C thread is about to run Go; its goroutine is not known yet. No payload.
    NeedM = 22,
    /// `runtime.dropm`: the extra goroutine of a C thread goes back: syscall → dead. No payload.
    DropM = 23,
    /// `runtime.(*gcControllerState).startCycle`: a garbage collection begins. No payload.
    GcStart = 24,
    /// `runtime.gcMarkTermination`: marking is over. No payload.
    GcEnd = 25,
    /// `sched_switch`, a thread of the target leaves its CPU; `from` = 1 if it was still runnable
    /// (preempted by the kernel), 0 if it sleeps. No payload.
    ThreadOff = 26,
    /// `sched_switch`, a thread of the target gets a CPU. No payload.
    ThreadOn = 27,
    /// `sched_wakeup`, a thread of the target becomes runnable for the kernel. No payload.
    ThreadWake = 28,
    /// `sched_process_exec`: the target replaced its program. No payload.
    Exec = 29,
    /// `runtime.casgstatus` from `_Grunning` to `_Gsyscall`. Payload [`Stack`].
    StatusSyscall = 30,
}

/// The number of kinds, and the length of every array that is indexed by kind.
pub const KINDS: usize = 31;

impl Kind {
    /// All kinds, `ALL[k as usize] == k`.
    pub const ALL: [Kind; KINDS] = [
        Kind::Status,
        Kind::StatusWake,
        Kind::StatusPark,
        Kind::StatusCreate,
        Kind::PreemptScan,
        Kind::FromPreempted,
        Kind::CoroSwitch,
        Kind::NewProc,
        Kind::Execute,
        Kind::FirstRun,
        Kind::Park,
        Kind::Ready,
        Kind::Inject,
        Kind::Gosched,
        Kind::Goyield,
        Kind::GoschedImpl,
        Kind::PreemptPark,
        Kind::Destroy,
        Kind::SyscallEnter,
        Kind::SyscallBlock,
        Kind::SyscallExit,
        Kind::SyscallExitNoP,
        Kind::NeedM,
        Kind::DropM,
        Kind::GcStart,
        Kind::GcEnd,
        Kind::ThreadOff,
        Kind::ThreadOn,
        Kind::ThreadWake,
        Kind::Exec,
        Kind::StatusSyscall,
    ];

    /// The kind with this discriminant, or `None` for a byte no probe sends.
    pub const fn from_u8(raw: u8) -> Option<Kind> {
        if (raw as usize) < KINDS { Some(Self::ALL[raw as usize]) } else { None }
    }
}

/// The start of every event. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `CLOCK_MONOTONIC` in nanoseconds (`bpf_ktime_get_ns`), which is also Go's `nanotime`.
    pub ts: u64,
    /// Address of the goroutine's `runtime.g`; 0 for events that are about a thread or the collector.
    pub g: u64,
    /// `g.goid` as read by the probe; 0: not given yet, or not readable at that moment.
    pub goid: u64,
    /// Thread id in the initial PID namespace.
    pub tid: u32,
    /// A [`Kind`].
    pub kind: u8,
    /// State before, one of [`status`], or [`status::UNSAID`].
    pub from: u8,
    /// State after, one of [`status`], or [`status::UNSAID`].
    pub to: u8,
    /// `g.waitreason`: an index into the binary's own `runtime.waitReasonStrings`. Only means
    /// something while the goroutine waits.
    pub reason: u8,
}

/// Payload: the waker. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// The goroutine that ran on this thread (`m.curg`); 0: the scheduler itself (a timer, the
    /// network poller, the garbage collector, sysmon).
    pub by_goid: u64,
    /// The channel whose case of a `select` was taken; 0: it waited in no select, or it could not be read. What any
    /// other wait was for was said when it began ([`Stack::object`]).
    pub object: u64,
}

/// Payload: return addresses, innermost first, found by frame pointers, and what the goroutine waits for. 112 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stack {
    /// How many of `pcs` are set; the others hold old content of the ring.
    pub len: u64,
    /// Where it waits: the address of the `hchan`, of the semaphore (within a `sync.Mutex` and others), or of the list of
    /// a `sync.Cond`. 0: a wait for something else (also a `select`, which waits for several), or not read.
    pub object: u64,
    /// Return addresses as the process sees them (load bias not removed).
    pub pcs: [u64; MAX_FRAMES],
}

/// Payload: the origin of a goroutine. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Birth {
    /// Goid of the creator; 0 when the version does not record it and the probe cannot know.
    pub parent_goid: u64,
    /// `g.gopc`: the return address behind the `go` statement.
    pub gopc: u64,
    /// `g.startpc`: entry of the function the goroutine runs.
    pub startpc: u64,
    /// `g.sched.ctxt`: the `funcval`; joins a [`Kind::FirstRun`] with its [`Kind::NewProc`].
    pub funcval: u64,
}

/// Payload of [`Kind::NewProc`]. 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewProc {
    /// The return address behind the `go` statement, `gopc` of the goroutine to come.
    pub callerpc: u64,
    /// The `funcval` it will run.
    pub funcval: u64,
    /// Entry of the function it will run.
    pub startpc: u64,
}

/// Payload of [`Kind::CoroSwitch`]: the header's goroutine hands its thread to this one. 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switch {
    /// Address of the other goroutine's `g`.
    pub next_g: u64,
    /// Goid of the other goroutine; 0: not readable at that moment.
    pub next_goid: u64,
    /// 1: the header's goroutine ends here (`coroexit`), 0: it waits.
    pub exit: u64,
}

const _: () = {
    // Padding would show here: the sizes are the sums of the fields.
    assert!(size_of::<Header>() == 32);
    assert!(size_of::<By>() == 16);
    assert!(size_of::<Stack>() == 16 + 8 * MAX_FRAMES);
    assert!(size_of::<Birth>() == 32);
    assert!(size_of::<NewProc>() == 24);
    assert!(size_of::<Switch>() == 24);
};

/// Byte offsets of the fields of the runtime's structures that the probes read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeOffsets {
    /// Offset of `g.atomicstatus`. `goid` must be `g_status + 8`, `waitreason` `g_status + 32`.
    pub g_status: u32,
    /// Offset of `g.m`.
    pub g_m: u32,
    /// Offset of `g.sched.pc`; `sched.g`, `sched.ctxt` follow it.
    pub g_sched_pc: u32,
    /// Offset of `g.sched.bp`, four or five words behind `sched.pc`.
    pub g_sched_bp: u32,
    /// Offset of `g.schedlink`.
    pub g_schedlink: u32,
    /// Offset of `g.parentGoid`; 0 where the version has none (≤ 1.20).
    pub g_parent_goid: u32,
    /// Offset of `g.gopc`; `ancestors` and `startpc` must follow it, `parentGoid`, where there
    /// is one, stand before it.
    pub g_gopc: u32,
    /// Offset of `g.coroarg`; 0 where the version has none (≤ 1.21).
    pub g_coroarg: u32,
    /// Offset of `g.coroexit`.
    pub g_coroexit: u32,
    /// Offset of `m.curg`.
    pub m_curg: u32,
    /// Offset of `m.p`.
    pub m_p: u32,
    /// Offset of `p.goidcache`; `goidcacheend` follows it.
    pub p_goidcache: u32,
    /// Offset of `coro.gp`.
    pub coro_gp: u32,
    /// Offset of `g.param`, the word before `atomicstatus`.
    pub g_param: u32,
    /// Offset of `sudog.c`.
    pub sudog_c: u32,
}

impl ProbeOffsets {
    /// The offsets in an object that was not patched.
    pub const ZERO: ProbeOffsets = ProbeOffsets {
        g_status: 0,
        g_m: 0,
        g_sched_pc: 0,
        g_sched_bp: 0,
        g_schedlink: 0,
        g_parent_goid: 0,
        g_gopc: 0,
        g_coroarg: 0,
        g_coroexit: 0,
        m_curg: 0,
        m_p: 0,
        p_goidcache: 0,
        coro_gp: 0,
        g_param: 0,
        sudog_c: 0,
    };
}

/// Constants that user space patches into the object's read-only data before it is loaded, so that the verifier folds
/// them. Each target has a loaded object of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Bit `i`: wait reason `i` is one of the runtime's fake waits (the goroutine executes on the
    /// system stack); no event is sent for it.
    pub fake_reasons: u64,
    /// Bit `i`: who waits with reason `i` was parked by a function whose first argument is what it waits for.
    pub object_reasons: u64,
    /// Bit `i`: wait reason `i` is that of a `select`.
    pub select_reasons: u64,
    /// Bit `k`: the probe of [`Kind`] `k` stands on the branch of the stack check itself; a hit
    /// with the branch about to be taken is `morestack`'s and does not count.
    pub flags_test: u64,
    /// Link-time address of the instruction each probe stands on, by [`Kind`];
    /// the difference to the instruction pointer at a hit is the load bias.
    pub probes: [u64; KINDS],
    /// Link-time address of `runtime.systemstack_switch`; 0, as its end, where the binary has no such function.
    pub systemstack_switch: u64,
    /// End (exclusive) of `runtime.systemstack_switch`.
    pub systemstack_switch_end: u64,
    /// Link-time address of `runtime.gopark`; 0, as its end, where the binary has no such function.
    pub gopark: u64,
    /// End (exclusive) of `runtime.gopark`.
    pub gopark_end: u64,
    /// Link-time address of `runtime.goparkunlock`; 0, as its end, where it is inlined wherever it is called.
    pub goparkunlock: u64,
    /// End (exclusive) of `runtime.goparkunlock`.
    pub goparkunlock_end: u64,
    /// Link-time address behind the last function of the packages that only pass a wait on
    /// (runtime, sync, …): a stack walk stops at the first frame above. 0: no such bound.
    pub plumbing_end: u64,
    /// Index of the wait reason "IO wait"; its stacks are walked whole, because the network's
    /// plumbing is deep. 255: the binary has none.
    pub io_wait: u32,
    /// PID of the target in the initial PID namespace. 0: not known; then only the uprobes' own filter tells the
    /// target, and no tracepoint is attached.
    pub tgid: u32,
    /// Event rings in use; a CPU sends to ring `cpu % rings`.
    pub rings: u32,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Offsets in the target's release of Go.
    pub offsets: ProbeOffsets,
    /// Offset of `task_struct.pid` in the running kernel, from its BTF; `tgid` follows it.
    pub task_pid: u32,
    /// Offset of `task_struct.__state` (`state` before 5.14).
    pub task_state: u32,
    /// Keeps the size a multiple of eight without implicit padding.
    pub _pad: u32,
}

/// Bits of [`Config::flags`].
pub mod flags {
    /// `goid` is stale in the first transition of a new goroutine (Go ≤ 1.23): take it from the
    /// P's cache, or send 0.
    pub const STALE_GOID: u32 = 1;
    /// newproc1 has a fourth argument that says whether the goroutine begins parked (Go 1.23+).
    pub const PARKED_ARGUMENT: u32 = 4;
    /// Only goroutines in the `GOIDS` map are reported.
    pub const FILTER_GOIDS: u32 = 2;
}

/// The counters of one CPU. Programs add to them without atomics: each CPU has an element of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Times a probe ran for the target, whatever came of it; by the [`Kind`] it usually sends.
    pub hits: [u64; KINDS],
    /// Events that found no room in their ring, by [`Kind`].
    pub lost: [u64; KINDS],
    /// Reads of the target's memory that failed, by the probe's usual [`Kind`]; the event was sent
    /// without what they would have told.
    pub blurred: [u64; KINDS],
}

impl Default for Counters {
    fn default() -> Self {
        Counters { hits: [0; KINDS], lost: [0; KINDS], blurred: [0; KINDS] }
    }
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: integers only, `repr(C)`, no padding (asserted by the sizes), every bit pattern valid.
    unsafe impl aya::Pod for super::Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Counters {}
}

//! The kernel's side: when the target's threads get and leave a CPU, and when the target replaces its program.
//! A BTF tracepoint fires for the whole machine, so each program first compares the thread's tgid with the
//! target's. User space attaches these programs only where it knows that tgid (`Config::tgid` is not 0).

use crate::{
    config::config,
    emit::{self, Hit},
};
use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use tracer_common::{Header, Kind};

/// `sched_switch(bool preempt, struct task_struct *prev, struct task_struct *next, …)`.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let prev: *const u8 = ctx.arg(1);
    let next: *const u8 = ctx.arg(2);
    let id = bpf_get_current_pid_tgid();
    if (id >> 32) as u32 == config!(tgid) {
        // At this tracepoint the current task still is `prev`: its ids need no read of kernel memory.
        let runnable = state(prev) == Some(0);
        send(id as u32, Kind::ThreadOff, u8::from(runnable));
    }
    if let Some(tid) = ours(next) {
        send(tid, Kind::ThreadOn, 0);
    }
    0
}

/// `sched_wakeup(struct task_struct *p)`.
#[btf_tracepoint(function = "sched_wakeup")]
pub fn sched_wakeup(ctx: BtfTracePointContext) -> i32 {
    if let Some(tid) = ours(ctx.arg(0)) {
        send(tid, Kind::ThreadWake, 0);
    }
    0
}

/// `sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(_ctx: BtfTracePointContext) -> i32 {
    let id = bpf_get_current_pid_tgid();
    if (id >> 32) as u32 == config!(tgid) {
        send(id as u32, Kind::Exec, 0);
    }
    0
}

#[inline(always)]
fn task_field<T>(task: *const u8, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(task.add(offset as usize).cast()) }.ok()
}

/// `task.__state`: 0 is `TASK_RUNNING`.
#[inline(always)]
fn state(task: *const u8) -> Option<u32> {
    task_field(task, config!(task_state))
}

/// The thread's id if the thread belongs to the target. One read gives both ids: `tgid` follows `pid` in `task_struct`.
#[inline(always)]
fn ours(task: *const u8) -> Option<u32> {
    let [tid, tgid]: [u32; 2] = task_field(task, config!(task_pid))?;
    (tgid == config!(tgid)).then_some(tid)
}

#[inline(always)]
fn send(tid: u32, kind: Kind, from: u8) -> Option<()> {
    let counters = emit::counters()?;
    // Counted under `ThreadOff` and later kinds, which user space leaves out of the price of uprobes.
    // SAFETY: this CPU's own element.
    unsafe { (*counters).hits[kind as usize] += 1 };
    emit::emit::<()>(&Hit { tid, kind, counters }, Header { from, ..Header::default() }, kind, |_| ())
}

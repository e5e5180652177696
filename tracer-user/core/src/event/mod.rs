//! One event of the target, as user space sees it, and its decoding from ring-buffer bytes.

mod batch;
mod decode;
mod mode;
mod stack;

pub use batch::Batch;
pub use decode::{DecodeError, decode};
pub use mode::{Mode, Set, UnknownWord};
pub use stack::Stack;
pub use tracer_common::{Birth, By, Kind, NewProc, Switch, status};

/// What a probe saw: the decoded form of one ring-buffer record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When the probe read the clock, `CLOCK_MONOTONIC` nanoseconds.
    pub ts: u64,
    /// Address of the goroutine's `runtime.g`, 0 where there is none.
    pub g: u64,
    /// Its goid, 0 while unknown.
    pub goid: u64,
    /// Thread id in the initial PID namespace.
    pub tid: u32,
    pub kind: Kind,
    /// State before ([`status`]), or [`status::UNSAID`].
    pub from: u8,
    /// State after ([`status`]), or [`status::UNSAID`].
    pub to: u8,
    /// Index into the binary's wait reasons; stale for a goroutine that does not wait.
    pub reason: u8,
    pub payload: Payload,
}

/// The part of an [`Event`] that depends on its kind (see [`Kind`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    None,
    By(By),
    Stack {
        stack: Stack,
        /// As [`tracer_common::Stack::object`].
        object: u64,
    },
    Birth(Birth),
    /// A `go` statement whose goroutine has no id yet.
    NewProc(NewProc),
    Switch(Switch),
}

//! The parts of the agent that touch targets. The core, in the server, decides what is done when ([`Pool`]); workers
//! do it, each a process that can be ended at any moment ([`work`]): they find the Go processes of the host, read them,
//! and put probes into them. What the two say to each other is in `wire`.

mod attach;
mod budget;
mod documents;
mod identity;
mod pool;
mod prober;
pub(super) mod scan;
mod stream;
mod sweep;
mod target;
pub(super) mod wire;
mod worker;

pub(super) use budget::{Bucket, Pace, Reading, Step};
pub(super) use pool::{Following, Lost, Pool, PoolNews, READERS, Task};
pub(super) use prober::{Figures, News, Spent};
pub(super) use target::TargetSpec;
pub(super) use wire::{
    Again, Ask, End, Failure, ProbeAsk, ProbeSaid, Role, Stream, Sweeper, Swept, WireFilter,
};
pub(super) use worker::{trim, work};

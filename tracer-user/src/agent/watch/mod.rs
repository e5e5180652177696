//! The parts of the agent that touch targets: finding the Go processes of the host, scanning them on a pool of
//! threads, probing them. The core decides what is done when.

mod attach;
mod budget;
mod discovery;
mod identity;
mod pool;
mod prober;
pub(super) mod scan;
mod sweep;
mod target;

pub(super) use attach::{Attached, Ceiling, Refused, attach, calibration};
pub(super) use budget::{Bucket, Pace, Reading, Step};
pub(super) use discovery::{Discovery, Swept};
pub(super) use pool::{Pool, Task};
pub(super) use prober::{Figures, News, Prober, Spent};
pub(super) use target::{Binaries, Opened, Target, TargetError};

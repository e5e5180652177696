//! Watches targets: finds the Go processes of the host, scans them on a pool of threads, and puts probes into them. What
//! is done when is decided by the core.

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

//! Keeps what the agent costs within its budget: what it uses itself, and what its probes cost the programs.

mod bucket;
mod climb;
mod figures;
mod pace;
mod price;
mod watcher;

pub(super) use bucket::Bucket;
pub(super) use climb::{Attached, Ceiling, Refused, attach, calibration};
pub(super) use figures::Figures;
pub(super) use pace::{Pace, Reading, Step};
pub(super) use watcher::{News, Spent, Watcher};

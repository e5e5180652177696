//! Keeps what the agent costs within its budget.

mod bucket;

pub(super) use bucket::Bucket;

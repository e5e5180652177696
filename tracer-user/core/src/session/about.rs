//! What must be known of a target before its first event.

use crate::{
    event::{Kind, Mode, Set},
    goruntime::{Release, WaitReasons},
    model::Setup,
};
use serde::{Deserialize, Serialize};

/// Goroutines whose state is kept at once; a million cost about 200 MB.
const CAPACITY: usize = 1_000_000;

/// One target: its program, and how it is probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The process, as the host numbers it.
    pub pid: u32,
    /// The name of its executable, as the process sees it.
    pub exe: String,
    /// Its main package's path; empty where the binary does not say.
    pub module: String,
    /// What it was built with, `go1.26.6`.
    pub go_version: String,
    /// Its release of Go.
    #[serde(rename = "minor")]
    pub release: Release,
    pub wait_reasons: WaitReasons,
    /// Which functions are probed.
    pub set: Set,
    /// How many of them.
    pub mode: Mode,
    /// Numbers of the [`Kind`]s that are not probed, or not everywhere.
    pub blind: Vec<u8>,
    /// It is followed from its first goroutine on: its `exec` is yet to come.
    pub from_birth: bool,
}

impl About {
    /// What the model must know of it.
    pub fn setup(&self) -> Setup {
        Setup {
            release: self.release,
            set: self.set,
            mode: self.mode,
            wait_reasons: self.wait_reasons.clone(),
            blind: self.blind.iter().filter_map(|kind| Kind::from_u8(*kind)).collect(),
            capacity: CAPACITY,
        }
    }

    /// A wait reason in the runtime's words; empty for a number that is none.
    pub fn wait_reason(&self, reason: u8) -> &str {
        self.wait_reasons.text(reason)
    }
}

//! What the agent is to do: plain values, made by whoever reads flags and files.

use regex::Regex;
use sfgi_core::{detect::Rules, event::Mode};
use std::{sync::Arc, time::Duration};

/// What the agent is to do. May be replaced while it runs ([`super::Request::Reload`]); nothing that is known
/// is lost by that.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Between two scans of a process.
    pub interval: Duration,
    /// What may be used, in cores (2 % is 0.02).
    pub budget: Budget,
    /// The mode of processes that no rule gives one.
    pub mode: Mode,
    /// Which processes are watched, and how. The first that fits holds; what fits none is watched by `mode`.
    pub rules: Vec<ProcessRule>,
    /// Whether a finding raises the mode for a while.
    pub raise: Raise,
    /// When waiting is suspicious.
    pub thresholds: Thresholds,
    /// What a leak looks like.
    pub catalogue: Arc<Rules>,
    /// The rows of each table of places; what comes beyond is counted together.
    pub top: usize,
    /// Where the host keeps what names its processes.
    pub host: Host,
    /// What is known of processes is to outlive this agent ([`super::picture::ProcessPicture::kept`]).
    pub remember: bool,
}

/// Shares of a core. The agent's own work and what probes cost the programs both count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// For all processes together.
    pub node: f64,
    /// For one process.
    pub process: f64,
}

/// Whether a finding that more detail would help raises the mode, within the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raise {
    /// It does.
    pub on_finding: bool,
    /// For how long.
    pub hold: Duration,
    /// How long nothing does after it, but a stronger reason.
    pub cool_down: Duration,
}

/// Directories of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Control groups, for memory limits: usually `/sys/fs/cgroup`.
    pub cgroup: std::path::PathBuf,
    /// Where the kubelet keeps the logs of pods, whose directories name them: usually `/var/log/pods`.
    pub pod_logs: std::path::PathBuf,
}

/// When waiting is suspicious: as the options of `sfgi leaks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// How long one must have been waiting.
    pub min_age: Duration,
    /// How many must be alike.
    pub min_count: u64,
}

/// What is done with processes that it fits.
#[derive(Clone, Debug, Default)]
pub struct ProcessRule {
    /// Everything that is set must match.
    pub when: Matcher,
    /// They are not watched at all.
    pub exclude: bool,
    /// How closely they are watched; `None`: as [`Settings::mode`] says.
    pub mode: Option<Mode>,
    /// The name of the service that they are of.
    pub service: Option<Arc<str>>,
    /// How often they are scanned; `None`: as [`Settings::interval`] says.
    pub interval: Option<Duration>,
    /// Whether a finding raises their mode for a while; `None`: as [`Settings::raise`] says.
    pub raise: Option<bool>,
}

/// Which processes are meant. A process without what is asked for does not match.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    /// The path of the executable, as the process sees it.
    pub exe: Option<Regex>,
    /// The import path of the main package, or the path of the main module.
    pub module: Option<Regex>,
    /// The systemd unit.
    pub unit: Option<Regex>,
    /// The container's id.
    pub container: Option<Regex>,
    /// The pod, as `namespace/name`, or its uid where the name is not known.
    pub pod: Option<Regex>,
}

impl Settings {
    /// Each 30 seconds, 2 % of a core for the node and for each process, by polling.
    pub fn new(catalogue: Arc<Rules>) -> Settings {
        Settings {
            interval: Duration::from_secs(30),
            budget: Budget { node: 0.02, process: 0.02 },
            mode: Mode::Poll,
            rules: Vec::new(),
            raise: Raise {
                on_finding: true,
                hold: Duration::from_secs(60),
                cool_down: Duration::from_secs(600),
            },
            thresholds: Thresholds { min_age: Duration::from_secs(300), min_count: 3 },
            catalogue,
            top: 20,
            host: Host::default(),
            remember: false,
        }
    }
}

impl Default for Host {
    fn default() -> Self {
        Host { cgroup: "/sys/fs/cgroup".into(), pod_logs: "/var/log/pods".into() }
    }
}

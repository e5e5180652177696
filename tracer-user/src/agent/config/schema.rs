//! All that a user can set, with its defaults. Every key is described in `deploy/sfgi.toml`, and a test holds that file against
//! these types.

use super::matching::{Glob, Matching, Rule};
use crate::parse;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use sfgi_core::{
    detect::{self, Rules},
    event::Mode,
};
use std::{
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

/// All that a user can set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is looked at, and how often.
    pub scan: Scan,
    /// When waiting is suspicious, and what a leak looks like.
    pub leaks: Leaks,
    pub budget: Budget,
    /// When a finding has a process watched more closely.
    pub raise: Raise,
    /// Only these processes, and those that a rule is about; empty: all.
    pub include: Vec<Matching>,
    /// Not these; stronger than `include` and rules.
    pub exclude: Vec<Matching>,
    /// What holds for some processes only; the first that matches.
    pub rule: Vec<Rule>,
    pub http: Http,
    pub metrics: Metrics,
    /// When findings are alerts.
    pub alerts: Alerts,
    /// What outlives a restart.
    pub store: Store,
    /// Evidence that alerts keep.
    pub evidence: Evidence,
    /// Export by OTLP; off where it is left out.
    pub otlp: Option<Otlp>,
    /// Where the host keeps what names its processes; no key, for tests only.
    #[serde(skip)]
    pub host: Host,
}

/// What is looked at, and how often.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scan {
    /// Between two scans of a process.
    #[serde(deserialize_with = "time")]
    pub interval: Duration,
    /// How closely processes are watched, where no rule says otherwise.
    pub mode: Mode,
}

/// When waiting is suspicious, and what a leak looks like: as the options of `sfgi leaks`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Leaks {
    /// How long a goroutine must have been waiting.
    #[serde(deserialize_with = "time")]
    pub min_age: Duration,
    /// How many must be alike.
    pub min_count: u64,
    /// A directory with rules of one's own.
    pub rules: Option<PathBuf>,
    /// The built-in rules and those of `rules`, which [`Config::load`] reads.
    #[serde(skip)]
    pub catalogue: Arc<Rules>,
}

impl Leaks {
    pub fn thresholds(&self) -> detect::Thresholds {
        detect::Thresholds { min_age: self.min_age, min_count: self.min_count }
    }
}

impl PartialEq for Leaks {
    fn eq(&self, other: &Leaks) -> bool {
        (self.min_age, self.min_count, &self.rules) == (other.min_age, other.min_count, &other.rules)
    }
}

/// What it may cost, in cores.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// For all processes together.
    #[serde(deserialize_with = "share")]
    pub node: f64,
    /// For each; not above `node`. Left out: as `node`.
    #[serde(deserialize_with = "some_share")]
    pub process: Option<f64>,
}

impl Budget {
    /// For each process, cores.
    pub fn process(&self) -> f64 {
        self.process.unwrap_or(self.node)
    }
}

/// When a finding has a process watched more closely: one that is not proven, a creation site that grows, an alert of level
/// `warn` or above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raise {
    /// It does, within the budget.
    pub on_finding: bool,
    /// For so long.
    #[serde(rename = "for", deserialize_with = "time")]
    pub hold: Duration,
    /// And then not again for so long, but for a stronger reason.
    #[serde(deserialize_with = "time")]
    pub cool_down: Duration,
}

/// Directories of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Control groups, for memory limits.
    pub cgroup: PathBuf,
    /// Where the kubelet keeps the logs of pods, whose directories name them.
    pub pod_logs: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Where it listens; elsewhere than on this machine only with TLS or a token.
    pub listen: SocketAddr,
    /// A file with the token that every request must bring (`Authorization: Bearer …`).
    pub token_file: Option<PathBuf>,
    /// Certificate and key for TLS.
    pub tls: Option<Tls>,
    /// Between two scans that are asked for.
    #[serde(deserialize_with = "time")]
    pub trigger_interval: Duration,
    /// Requests that are answered at the same time; more are refused.
    pub max_requests: usize,
}

/// Certificate and key for TLS.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// A file with the certificate and its chain (PEM).
    pub certificate: PathBuf,
    /// A file with the private key (PEM).
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// At most so many series of a metric; what is above is counted.
    pub max_series: usize,
    /// So many creation and wait sites of a process have series of their own; the rest is `other`.
    pub sites: usize,
}

/// When findings are alerts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alerts {
    /// How long a threshold must be passed.
    #[serde(rename = "for", deserialize_with = "time")]
    pub hold: Duration,
    /// How long all must be below the thresholds of a level before the level falls.
    #[serde(deserialize_with = "time")]
    pub clear_after: Duration,
    /// Below this share of a threshold is below: the hysteresis.
    #[serde(deserialize_with = "share")]
    pub clear_below: f64,
    /// How high those without a proof and a rule may rise.
    pub suspect_limit: LevelName,
    /// L1. A level that stands in the file replaces what holds by itself.
    pub observe: Thresholds,
    /// L2.
    pub warn: Thresholds,
    /// L3.
    pub intervene: Thresholds,
    /// L4.
    pub isolate: Thresholds,
    /// What holds for some services.
    pub service: Vec<ServiceLevels>,
    /// Several signs at the same time.
    pub signs: Signs,
    /// The command that runs at the highest level.
    pub hook: Option<Hook>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LevelName {
    /// L1: known, shown.
    Observe,
    /// L2: worth a look by a person.
    Warn,
    /// L3: evidence is kept.
    Intervene,
    /// L4: the hook runs.
    Isolate,
}

impl LevelName {
    /// All levels, the lowest first.
    pub const ALL: [LevelName; 4] =
        [LevelName::Observe, LevelName::Warn, LevelName::Intervene, LevelName::Isolate];

    /// `L1` to `L4`, as people say it.
    pub fn number(self) -> u8 {
        match self {
            LevelName::Observe => 1,
            LevelName::Warn => 2,
            LevelName::Intervene => 3,
            LevelName::Isolate => 4,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            LevelName::Observe => "observe",
            LevelName::Warn => "warn",
            LevelName::Intervene => "intervene",
            LevelName::Isolate => "isolate",
        }
    }
}

impl Alerts {
    /// The thresholds of a level that hold for services without their own.
    pub fn level(&self, level: LevelName) -> &Thresholds {
        match level {
            LevelName::Observe => &self.observe,
            LevelName::Warn => &self.warn,
            LevelName::Intervene => &self.intervene,
            LevelName::Isolate => &self.isolate,
        }
    }
}

impl ServiceLevels {
    /// The service's own thresholds of a level; `None`: as for all.
    pub fn level(&self, level: LevelName) -> Option<&Thresholds> {
        match level {
            LevelName::Observe => self.observe.as_ref(),
            LevelName::Warn => self.warn.as_ref(),
            LevelName::Intervene => self.intervene.as_ref(),
            LevelName::Isolate => self.isolate.as_ref(),
        }
    }
}

/// What raises to a level: any of these. A level without any is not reached by thresholds.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    pub count: Option<u64>,
    /// Goroutines a minute.
    pub growth_per_minute: Option<f64>,
    /// Of the oldest.
    #[serde(deserialize_with = "some_time")]
    pub age: Option<Duration>,
    /// Heap that only they hold, in bytes.
    #[serde(deserialize_with = "some_size")]
    pub pinned: Option<u64>,
    /// The same as a share of the container's memory limit.
    #[serde(deserialize_with = "some_share")]
    pub memory_share: Option<f64>,
}

/// The thresholds of some services; what is left out is as for all.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceLevels {
    pub name: Glob,
    /// L1.
    pub observe: Option<Thresholds>,
    /// L2.
    pub warn: Option<Thresholds>,
    /// L3.
    pub intervene: Option<Thresholds>,
    /// L4.
    pub isolate: Option<Thresholds>,
}

/// Several signs of one process that together mean more than each. A section in the file replaces what holds by itself:
/// a sign that is left out is not asked for, and with none the signs are off.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signs {
    /// How much the heap in use has risen over `for`.
    #[serde(default, deserialize_with = "some_share")]
    pub heap: Option<f64>,
    /// How much the number of goroutines has.
    #[serde(default, deserialize_with = "some_share")]
    pub goroutines: Option<f64>,
    /// How much the number of goroutines that wait for a mutex has.
    #[serde(default, deserialize_with = "some_share")]
    pub mutex_wait: Option<f64>,
    /// How long all must agree.
    #[serde(rename = "for", default = "ten_minutes", deserialize_with = "time")]
    pub hold: Duration,
    /// The level of a process where they do.
    #[serde(default = "warn")]
    pub level: LevelName,
}

/// A command, without a shell. What it is about is in its environment (`SFGI_ALERT_…`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// It is killed after this.
    #[serde(default = "ten_seconds", deserialize_with = "time")]
    pub timeout: Duration,
}

/// What outlives a restart.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// The file. Left out: nothing outlives.
    pub file: Option<PathBuf>,
    /// Processes that are remembered, the latest.
    pub max_processes: usize,
}

/// Evidence that alerts keep: recordings and dumps.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evidence {
    /// The directory. Left out: none is kept.
    pub directory: Option<PathBuf>,
    /// At most so many files; the oldest go first.
    pub max_files: usize,
    /// At most so much.
    #[serde(deserialize_with = "size")]
    pub max_size: u64,
    /// How long is recorded.
    #[serde(deserialize_with = "time")]
    pub record: Duration,
}

/// Export by OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// The collector: `http://localhost:4318`.
    pub endpoint: String,
    #[serde(default = "thirty_seconds", deserialize_with = "time")]
    pub interval: Duration,
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn ten_minutes() -> Duration {
    Duration::from_secs(600)
}

fn warn() -> LevelName {
    LevelName::Warn
}

impl Default for Scan {
    fn default() -> Self {
        Scan { interval: thirty_seconds(), mode: Mode::Poll }
    }
}

impl Default for Host {
    fn default() -> Self {
        Host { cgroup: "/sys/fs/cgroup".into(), pod_logs: "/var/log/pods".into() }
    }
}

/// The rules that the program brings along.
fn built_in() -> Arc<Rules> {
    static BUILT_IN: LazyLock<Arc<Rules>> =
        LazyLock::new(|| Arc::new(Rules::built_in().expect("the tests read the built-in rules")));
    Arc::clone(&BUILT_IN)
}

impl Default for Leaks {
    fn default() -> Self {
        let detect::Thresholds { min_age, min_count } = detect::Thresholds::default();
        Leaks { min_age, min_count, rules: None, catalogue: built_in() }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget { node: 0.02, process: None }
    }
}

impl Default for Raise {
    fn default() -> Self {
        Raise { on_finding: true, hold: Duration::from_secs(60), cool_down: ten_minutes() }
    }
}

impl Default for Http {
    fn default() -> Self {
        Http {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 6061)),
            token_file: None,
            tls: None,
            trigger_interval: ten_seconds(),
            max_requests: 1024,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { max_series: 10_000, sites: 10 }
    }
}

impl Default for Alerts {
    fn default() -> Self {
        let thresholds = |count, age: u64| Thresholds {
            count: Some(count),
            age: (age > 0).then(|| Duration::from_secs(age)),
            ..Thresholds::default()
        };
        let growing = |count, per_minute, share| Thresholds {
            growth_per_minute: Some(per_minute),
            memory_share: Some(share),
            ..thresholds(count, 0)
        };
        Alerts {
            hold: Duration::from_secs(60),
            clear_after: Duration::from_secs(300),
            clear_below: 0.8,
            suspect_limit: LevelName::Observe,
            observe: thresholds(1, 0),
            warn: Thresholds { growth_per_minute: Some(10.0), ..thresholds(100, 3600) },
            intervene: growing(10_000, 600.0, 0.25),
            isolate: Thresholds::default(),
            service: Vec::new(),
            signs: Signs::default(),
            hook: None,
        }
    }
}

impl Default for Signs {
    fn default() -> Self {
        Signs { heap: Some(0.2), goroutines: Some(0.2), mutex_wait: None, hold: ten_minutes(), level: warn() }
    }
}

impl Default for Store {
    fn default() -> Self {
        Store { file: None, max_processes: 2000 }
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Evidence { directory: None, max_files: 20, max_size: 256 << 20, record: ten_seconds() }
    }
}

/// `"30s"`.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    text(from, parse::time_with_unit)
}

/// `"30s"`, for a key that may be left out.
pub(super) fn some_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    time(from).map(Some)
}

/// `"64MiB"`, in bytes.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    text(from, parse::size_with_unit)
}

/// `"64MiB"`, for a key that may be left out.
fn some_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    size(from).map(Some)
}

/// `"2%"` as 0.02.
fn share<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    text(from, parse::share)
}

/// `"2%"`, for a key that may be left out.
fn some_share<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    share(from).map(Some)
}

fn text<'de, D: Deserializer<'de>, T, E: Display>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map_err(D::Error::custom)
}

//! All settings of a user, with their defaults. `deploy/sfgi.toml` describes every key for users; a test compares
//! that file with these types.

use super::matching::{Glob, Matching, Rule};
use crate::parse;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, SeqAccess, Visitor},
};
use sfgi_core::{
    detect::{self, Rules},
    event::Mode,
};
use std::{
    fmt::{self, Display},
    marker::PhantomData,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::{Arc, LazyLock},
    time::Duration,
};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub scan: Scan,
    /// When a wait is suspicious, and the rules that tell leaks.
    pub leaks: Leaks,
    pub budget: Budget,
    /// When a finding raises the mode of a target.
    pub raise: Raise,
    /// Only these processes and those that a rule matches become targets; empty: all.
    #[serde(deserialize_with = "some")]
    pub include: Vec<Matching>,
    /// Processes that never become targets; wins over `include` and rules.
    #[serde(deserialize_with = "some")]
    pub exclude: Vec<Matching>,
    /// Settings of some targets; the first rule that matches holds.
    #[serde(deserialize_with = "some")]
    pub rule: Vec<Rule>,
    pub http: Http,
    pub metrics: Metrics,
    pub alerts: Alerts,
    pub store: Store,
    pub evidence: Evidence,
    /// Export by OTLP; `None`: off.
    pub otlp: Option<Otlp>,
    /// Where the host keeps memory limits and pod names. No key of the file: only tests replace it.
    #[serde(skip)]
    pub host: Host,
}

/// How often all targets are scanned, and how closely they are watched.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scan {
    /// Between two scans of one target.
    #[serde(deserialize_with = "time")]
    pub interval: Duration,
    /// For targets where no rule says otherwise.
    pub mode: Mode,
    /// How long a target may leave a read of its memory or executable unanswered before that is given up.
    #[serde(deserialize_with = "time")]
    pub timeout: Duration,
}

/// When a wait is suspicious, and the rules that tell leaks: the options of `sfgi leaks`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Leaks {
    /// The shortest wait of a goroutine that is suspicious.
    #[serde(deserialize_with = "time")]
    pub min_age: Duration,
    /// The smallest group of like goroutines that is suspicious.
    pub min_count: u64,
    /// A directory with `.toml` files of rules, which add to the built-in ones.
    pub rules: Option<PathBuf>,
    /// The built-in rules and those in `rules`; [`Config::load`] fills it in.
    #[serde(skip)]
    pub catalogue: Arc<Rules>,
}

impl Leaks {
    pub fn thresholds(&self) -> detect::Thresholds {
        detect::Thresholds { min_age: self.min_age, min_count: self.min_count }
    }
}

// `Rules` has no equality: a change within the files of `rules` is no difference here, though the core gets it.
impl PartialEq for Leaks {
    fn eq(&self, other: &Leaks) -> bool {
        (self.min_age, self.min_count, &self.rules) == (other.min_age, other.min_count, &other.rules)
    }
}

/// What the agent and its probes may cost, in cores.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// For all targets together.
    #[serde(deserialize_with = "share")]
    pub node: f64,
    /// For each target; at most `node`. `None`: as `node`.
    #[serde(deserialize_with = "some_share")]
    pub process: Option<f64>,
    /// Memory that all processes of the agent may take together, bytes.
    #[serde(deserialize_with = "size")]
    pub memory: u64,
}

impl Budget {
    /// What one target may cost, cores.
    pub fn process(&self) -> f64 {
        self.process.unwrap_or(self.node)
    }
}

/// Whether and how long a finding raises a target's mode: a finding without proof, a creation site that grows, an
/// alert of level `warn` or above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Raise {
    /// Off: no finding raises a target.
    pub on_finding: bool,
    /// How long a raise lasts, counted from when its probes stand.
    #[serde(rename = "for", deserialize_with = "time")]
    pub hold: Duration,
    /// How long after a raise only a stronger cause (growth, finding, alert: in this order) raises the target again.
    #[serde(deserialize_with = "time")]
    pub cool_down: Duration,
}

/// Paths of the host that name and limit its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The root of the control groups, for memory limits.
    pub cgroup: PathBuf,
    /// The kubelet's log directory: its subdirectories are called `NAMESPACE_NAME_UID`.
    pub pod_logs: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// One address or several. One that other machines reach needs a token or client certificates (`Access::of`).
    #[serde(deserialize_with = "addresses")]
    pub listen: Vec<Address>,
    /// A file with the token that requests must bring (`Authorization: Bearer …`), made where it is missing.
    /// `None`: the agent makes a token of its own.
    pub token_file: Option<PathBuf>,
    pub tls: Option<Tls>,
    /// The shortest time between two scans by request.
    #[serde(deserialize_with = "time")]
    pub trigger_interval: Duration,
    /// Requests that are answered at the same time; more get status 503.
    pub max_requests: usize,
}

/// The files for TLS.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate and its chain (PEM).
    pub certificate: PathBuf,
    /// The private key (PEM).
    pub key: PathBuf,
    /// Certificates (PEM) by which those of clients must be signed; such a client needs no token. `None`: clients
    /// show none.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

/// Where the HTTP interface listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// A Unix socket; who may open it may ask for everything.
    Unix(PathBuf),
}

/// Why a text is no [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address: give IP:PORT, or unix:/PATH of a socket")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let wrong = || AddressError(text.to_owned());
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Address::Unix(path.into())),
            Some(_) => Err(wrong()),
            None => text.parse().map(Address::Tcp).map_err(|_| wrong()),
        }
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Series that one metric may have; those above are dropped and counted (`sfgi_series_dropped_total`).
    pub max_series: usize,
    /// Creation and wait sites of one target with series of their own; the rest is added up as `other`.
    pub sites: usize,
}

/// How findings become alerts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alerts {
    /// How long a threshold must be passed before the level rises.
    #[serde(rename = "for", deserialize_with = "time")]
    pub hold: Duration,
    /// How long all values must be below the thresholds of a level before it falls.
    #[serde(deserialize_with = "time")]
    pub clear_after: Duration,
    /// The hysteresis: a value is below a threshold only when it is below this share of it.
    #[serde(deserialize_with = "share")]
    pub clear_below: f64,
    /// The highest level of a group with the verdict `suspect`, which has neither proof nor a rule.
    pub suspect_limit: LevelName,
    /// L1. A level in the file replaces the default thresholds of that level as a whole.
    pub observe: Thresholds,
    /// L2; see `observe`.
    pub warn: Thresholds,
    /// L3; see `observe`.
    pub intervene: Thresholds,
    /// L4; see `observe`. No threshold by default: what the hook does is for the user to decide.
    pub isolate: Thresholds,
    /// Thresholds of some services; the first entry whose name matches holds.
    #[serde(deserialize_with = "some")]
    pub service: Vec<ServiceLevels>,
    pub signs: Signs,
    /// The command that runs when an alert reaches `isolate`.
    pub hook: Option<Hook>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LevelName {
    /// L1: the alert is shown.
    Observe,
    /// L2: the target is watched more closely for a while.
    Warn,
    /// L3: a dump and a recording are kept as evidence.
    Intervene,
    /// L4: the hook runs.
    Isolate,
}

impl LevelName {
    /// In ascending order.
    pub const ALL: [LevelName; 4] =
        [LevelName::Observe, LevelName::Warn, LevelName::Intervene, LevelName::Isolate];

    /// The digit of `L1` to `L4`, which metrics give as a value.
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
    /// The thresholds for services without their own.
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
    /// The service's own thresholds; `None`: those for all services.
    pub fn level(&self, level: LevelName) -> Option<&Thresholds> {
        match level {
            LevelName::Observe => self.observe.as_ref(),
            LevelName::Warn => self.warn.as_ref(),
            LevelName::Intervene => self.intervene.as_ref(),
            LevelName::Isolate => self.isolate.as_ref(),
        }
    }
}

/// The thresholds of one level; passing any of them is enough. A level without thresholds is never reached by them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    pub count: Option<u64>,
    pub growth_per_minute: Option<f64>,
    /// The longest wait in the group.
    #[serde(deserialize_with = "some_time")]
    pub age: Option<Duration>,
    /// Heap that only the group's goroutines hold, bytes.
    #[serde(deserialize_with = "some_size")]
    pub pinned: Option<u64>,
    /// `pinned` as a share of the memory limit of the container, 0 to 1.
    #[serde(deserialize_with = "some_share")]
    pub memory_share: Option<f64>,
}

/// The thresholds of some services, by level; a level that is left out is that of all services.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceLevels {
    pub name: Glob,
    pub observe: Option<Thresholds>,
    pub warn: Option<Thresholds>,
    pub intervene: Option<Thresholds>,
    pub isolate: Option<Thresholds>,
}

/// Signs that say more about one target together than each alone. A section `signs` in the file replaces the default
/// as a whole: a sign that is left out is not asked for, and a section without signs switches them off.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signs {
    /// The share by which the heap in use must rise over `for`.
    #[serde(default, deserialize_with = "some_share")]
    pub heap: Option<f64>,
    /// The share by which the number of goroutines must rise.
    #[serde(default, deserialize_with = "some_share")]
    pub goroutines: Option<f64>,
    /// The share by which the number of goroutines that wait for a mutex must rise.
    #[serde(default, deserialize_with = "some_share")]
    pub mutex_wait: Option<f64>,
    /// The time over which all must rise.
    #[serde(rename = "for", default = "ten_minutes", deserialize_with = "time")]
    pub hold: Duration,
    /// The level of the target's alert.
    #[serde(default = "warn")]
    pub level: LevelName,
}

/// A command that runs without a shell. It learns about the alert from its environment (`SFGI_ALERT_…`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// The program, then its arguments.
    pub command: Vec<String>,
    /// The command is killed after this.
    #[serde(default = "ten_seconds", deserialize_with = "time")]
    pub timeout: Duration,
    /// The user as whom the command runs: a name or a number. `None`: as the agent itself.
    #[serde(default)]
    pub user: Option<String>,
}

/// The file for what outlives a restart, and its bound.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// `None`: nothing outlives a restart.
    pub file: Option<PathBuf>,
    /// Processes that are remembered; the latest stay.
    pub max_processes: usize,
}

/// Recordings and dumps that alerts keep.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evidence {
    /// `None`: no evidence is kept.
    pub directory: Option<PathBuf>,
    /// The oldest files are removed above this.
    pub max_files: usize,
    /// Bytes of all files together.
    #[serde(deserialize_with = "size")]
    pub max_size: u64,
    /// How long one recording lasts.
    #[serde(deserialize_with = "time")]
    pub record: Duration,
}

/// Export by OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// The base address of a collector: `http://localhost:4318`.
    pub endpoint: String,
    #[serde(default = "thirty_seconds", deserialize_with = "time")]
    pub interval: Duration,
}

// Defaults of single keys, for sections that have no default as a whole.
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
        Scan { interval: thirty_seconds(), mode: Mode::Poll, timeout: Duration::from_secs(20) }
    }
}

impl Default for Host {
    fn default() -> Self {
        Host { cgroup: "/sys/fs/cgroup".into(), pod_logs: "/var/log/pods".into() }
    }
}

/// The built-in rules, parsed once for all configurations.
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
        Budget { node: 0.02, process: None, memory: 256 << 20 }
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
            listen: vec![Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 6061)))],
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

/// A time with a unit: `"30s"`.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    text(from, parse::time_with_unit)
}

/// As [`time`], for a key that may be left out.
pub(super) fn some_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    time(from).map(Some)
}

/// A size with a unit, in bytes: `"64MiB"`.
fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    text(from, parse::size_with_unit)
}

/// As [`size`], for a key that may be left out.
fn some_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    size(from).map(Some)
}

/// A percentage as a share: `"2%"` is 0.02.
fn share<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    text(from, parse::share)
}

/// As [`share`], for a key that may be left out.
fn some_share<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    share(from).map(Some)
}

/// The longest list of sections; each may have expressions, which take much more memory than their text.
const MAX_SECTIONS: usize = 256;

/// A list of sections, read no further than there may be some.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Sections<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Sections<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(section) = from.next_element()? {
                if list.len() == MAX_SECTIONS {
                    return Err(A::Error::custom(format!("there are more than {MAX_SECTIONS} of these")));
                }
                list.push(section);
            }
            Ok(list)
        }
    }
    from.deserialize_seq(Sections(PhantomData))
}

/// One address, or a list of them.
fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Address>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        One(String),
        Several(Vec<String>),
    }
    let texts = match Given::deserialize(from)? {
        Given::One(text) => vec![text],
        Given::Several(texts) => texts,
    };
    texts.iter().map(|text| text.parse().map_err(D::Error::custom)).collect()
}

fn text<'de, D: Deserializer<'de>, T, E: Display>(
    from: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map_err(D::Error::custom)
}

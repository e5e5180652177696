//! The configuration of the agent, from one TOML file, flags and environment. A flag wins over the environment, the
//! environment over the file, the file over the defaults. All parts of the agent use [`Config`] itself.

mod check;
mod matching;
mod schema;

#[cfg(test)]
mod tests;

use crate::parse;
pub(super) use matching::Plan;
pub use matching::{Glob, Matching, Pattern, PatternError, Rule};
pub use schema::*;
use sfgi_core::{
    detect::Rules,
    event::Mode,
    files::{self, FileError},
};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The longest configuration file. Ours has a few kilobytes; `--config` may name any file by mistake.
const MAX_FILE: u64 = 1 << 20;

impl Config {
    /// Reads the file, if one is given, applies the overrides, reads the rules of leaks and checks the whole.
    ///
    /// A bad file keeps a running agent at its old configuration (SIGHUP in `cli/agent.rs`).
    ///
    /// # Errors
    /// The file cannot be read or parsed, or a value makes no sense. The error is a sentence, with the line where it
    /// is about the file's syntax.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Config, ConfigError> {
        let mut config = match file {
            Some(file) => Config::parse(file, &read(file)?)?,
            None => Config::default(),
        };
        overrides.put_over(&mut config);
        // After the overrides, which may name `leaks.rules`.
        config.complete()
    }

    /// The text as a [`Config`], not checked yet.
    fn parse(file: &Path, text: &str) -> Result<Config, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::of_toml(file.to_owned(), text, &error))
    }

    /// Reads the files that the configuration names, then checks it.
    fn complete(mut self) -> Result<Config, ConfigError> {
        if let Some(directory) = &self.leaks.rules {
            let rules = Rules::clone(&self.leaks.catalogue).with_directory(directory);
            let rules = rules.map_err(|error| ConfigError::Senseless(format!("leaks.rules: {error}")))?;
            self.leaks.catalogue = Arc::new(rules);
        }
        self.check()?;
        Ok(self)
    }
}

fn read(file: &Path) -> Result<String, ConfigError> {
    files::read_text_limited(file, MAX_FILE)
        .map_err(|error| ConfigError::Unreadable { file: file.to_owned(), error })
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{} {error}", file.display())]
    Unreadable {
        /// The file that `--config` names.
        file: PathBuf,
        error: FileError,
    },
    /// The text does not fit the types of `schema.rs`.
    #[error("{}, line {line}: {what}", file.display())]
    Wrong {
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, with the key that is probably meant.
        what: String,
    },
    /// The text is understood but a value makes no sense; it may come from the file, a flag or the environment.
    #[error("{0}")]
    Senseless(String),
}

impl ConfigError {
    /// The reader's error, with its line and a suggestion for the key.
    fn of_toml(file: PathBuf, text: &str, error: &toml::de::Error) -> Self {
        let begin = error.span().map_or(0, |span| span.start);
        let line = text.bytes().take(begin).filter(|byte| *byte == b'\n').count() + 1;
        ConfigError::Wrong { file, line, what: with_suggestion(error.message()) }
    }
}

/// The Jaro-Winkler likeness (0 to 1) from which on a key is suggested; below, all keys are listed.
const LIKE: f64 = 0.75;

/// serde says ``unknown field `intervall`, expected one of `interval`, `mode` ``: between backticks are the unknown
/// key, then all that exist. serde has no structured form of this, so the text is taken apart.
fn with_suggestion(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return message.to_owned();
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(unknown) = names.next() else { return message.to_owned() };
    let known: Vec<&str> = names.collect();
    let what = if message.starts_with("unknown field") { "key" } else { "value" };
    let likeness = |name: &&str| strsim::jaro_winkler(unknown, name);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match best.filter(|best| likeness(best) >= LIKE) {
        Some(best) => format!("there is no {what} `{unknown}` here: did you mean `{best}`?"),
        None => format!("there is no {what} `{unknown}` here, only {}", known.join(", ")),
    }
}

/// Settings that need no file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct Overrides {
    /// The budget for all programs together, and for each: a share of a core
    #[arg(long, value_name = "PERCENT", env = "SFGI_BUDGET", value_parser = budget)]
    pub budget: Option<f64>,
    /// The memory that the agent may take, all its processes together [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "SFGI_MEMORY", value_parser = parse::size)]
    pub memory: Option<u64>,
    /// The time between two scans of a program
    #[arg(long, value_name = "TIME", env = "SFGI_INTERVAL", value_parser = parse::time)]
    pub interval: Option<Duration>,
    /// How closely programs are watched, as far as the budget allows: poll (no probes), life, wait or full
    #[arg(long, value_name = "MODE", env = "SFGI_MODE")]
    pub mode: Option<Mode>,
    /// Only programs whose path or module matches (several: repeat)
    #[arg(long, value_name = "REGEX", env = "SFGI_INCLUDE")]
    pub include: Vec<Pattern>,
    /// Leave out programs whose path or module matches (several: repeat)
    #[arg(long, value_name = "REGEX", env = "SFGI_EXCLUDE")]
    pub exclude: Vec<Pattern>,
    /// From which age on waiting is suspicious
    #[arg(long, value_name = "TIME", env = "SFGI_MIN_AGE", value_parser = parse::time)]
    pub min_age: Option<Duration>,
    /// Add the rules of all .toml files in DIR; those with the id of a built-in one replace it
    #[arg(long, value_name = "DIR", env = "SFGI_RULES")]
    pub rules: Option<PathBuf>,
    /// The address that the HTTP interface listens on: IP:PORT, or unix:/PATH of a socket (several: repeat)
    /// [default: 127.0.0.1:6061]
    #[arg(long, value_name = "ADDRESS", env = "SFGI_LISTEN", value_delimiter = ',')]
    pub listen: Vec<Address>,
    /// A file with the token that HTTP requests must bring; it is made where it is missing
    #[arg(long, value_name = "FILE", env = "SFGI_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// The file that keeps the history over restarts
    #[arg(long, value_name = "FILE", env = "SFGI_STORE")]
    pub store: Option<PathBuf>,
}

impl Overrides {
    /// Puts the given values over the file's. Lists (`include`, `exclude`) replace the file's, they do not extend it.
    fn put_over(&self, config: &mut Config) {
        if let Some(budget) = self.budget {
            // One figure sets both: the file's `process` could be above the new `node`, which `check` refuses.
            config.budget = Budget { node: budget, process: None, ..config.budget };
        }
        set(&mut config.budget.memory, self.memory);
        set(&mut config.leaks.min_age, self.min_age);
        if let Some(rules) = &self.rules {
            config.leaks.rules = Some(rules.clone());
        }
        set(&mut config.scan.interval, self.interval);
        set(&mut config.scan.mode, self.mode);
        if !self.listen.is_empty() {
            config.http.listen.clone_from(&self.listen);
        }
        if let Some(file) = &self.token_file {
            config.http.token_file = Some(file.clone());
        }
        if let Some(file) = &self.store {
            config.store.file = Some(file.clone());
        }
        for (given, list) in [(&self.include, &mut config.include), (&self.exclude, &mut config.exclude)] {
            if !given.is_empty() {
                *list = given.iter().flat_map(path_or_module).collect();
            }
        }
    }
}

// A flag has one pattern, and either name may match; the fields of one `Matching` would both have to.
fn path_or_module(pattern: &Pattern) -> [Matching; 2] {
    let (exe, module) = (Some(pattern.clone()), Some(pattern.clone()));
    [Matching { exe, ..Matching::default() }, Matching { module, ..Matching::default() }]
}

fn set<T>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}

fn budget(text: &str) -> Result<f64, String> {
    let share = parse::share(text).map_err(|error| error.to_string())?;
    if share > 0.0 { Ok(share) } else { Err(format!("{text}: a budget is more than nothing")) }
}

/// A part of the agent that has to react to a new configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Scans, modes, the budget, rules.
    Core,
    Http,
    Metrics,
    /// Alerts and the evidence that they keep.
    Alerts,
    Otlp,
}

/// What a new configuration changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reload {
    /// Parts for which it takes effect at once.
    pub parts: Vec<Part>,
    /// Keys that take effect after a restart only.
    pub restart: Vec<&'static str>,
}

/// Compares two configurations. The core is sent every new configuration, whatever this says (`cli/agent.rs`).
pub fn changes(old: &Config, new: &Config) -> Reload {
    let core = (&old.scan, &old.leaks, &old.budget, &old.raise, &old.include, &old.exclude, &old.rule)
        != (&new.scan, &new.leaks, &new.budget, &new.raise, &new.include, &new.exclude, &new.rule);
    let alerts = (&old.alerts, &old.evidence) != (&new.alerts, &new.evidence);
    let (before, after) = (&old.http, &new.http);
    let parts = [
        (core, Part::Core),
        (before.trigger_interval != after.trigger_interval, Part::Http),
        (old.metrics != new.metrics, Part::Metrics),
        (alerts, Part::Alerts),
        (old.otlp != new.otlp, Part::Otlp),
    ];
    // The socket, its certificate, its limit and the store's file are opened once, at the start.
    let restart = [
        (before.listen != after.listen, "http.listen"),
        (before.tls != after.tls, "http.tls"),
        (before.token_file != after.token_file, "http.token_file"),
        (before.max_requests != after.max_requests, "http.max_requests"),
        (old.store != new.store, "store"),
        // The server may write only where it said it would when it began (`writable` in `cli/agent.rs`).
        (old.evidence.directory != new.evidence.directory, "evidence.directory"),
    ];
    Reload {
        parts: parts.into_iter().filter_map(|(changed, part)| changed.then_some(part)).collect(),
        restart: restart.into_iter().filter_map(|(changed, key)| changed.then_some(key)).collect(),
    }
}

impl fmt::Display for Reload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.parts.is_empty() && self.restart.is_empty() {
            return f.write_str("nothing has changed");
        }
        let parts: Vec<String> = self.parts.iter().map(|part| format!("{part:?}").to_lowercase()).collect();
        if !parts.is_empty() {
            write!(f, "changed: {}", parts.join(", "))?;
        }
        if !self.restart.is_empty() {
            let between = if parts.is_empty() { "" } else { "; " };
            write!(f, "{between}restart sfgi for {}", self.restart.join(", "))?;
        }
        Ok(())
    }
}

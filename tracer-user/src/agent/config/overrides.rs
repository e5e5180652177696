//! Flags and environment variables, which are stronger than the file.

use super::{Budget, Config, Matching};
use crate::parse;
use sfgi_core::event::Mode;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// What can be set without a file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct Overrides {
    /// What may be used for all programs together, and for each: a share of a core
    #[arg(long, value_name = "PERCENT", env = "SFGI_BUDGET", value_parser = budget)]
    pub budget: Option<f64>,
    /// Between two scans of a program
    #[arg(long, value_name = "TIME", env = "SFGI_INTERVAL", value_parser = parse::duration)]
    pub interval: Option<Duration>,
    /// How closely programs are watched, as far as the budget allows: poll (no probes), life, wait or full
    #[arg(long, value_name = "MODE", env = "SFGI_MODE")]
    pub mode: Option<Mode>,
    /// Only programs whose path or module matches (several: repeat)
    #[arg(long, value_name = "REGEX", env = "SFGI_INCLUDE")]
    pub include: Vec<String>,
    /// No programs whose path or module matches (several: repeat)
    #[arg(long, value_name = "REGEX", env = "SFGI_EXCLUDE")]
    pub exclude: Vec<String>,
    /// From which age on waiting is suspicious
    #[arg(long, value_name = "TIME", env = "SFGI_MIN_AGE", value_parser = parse::duration)]
    pub min_age: Option<Duration>,
    /// Add the rules of all .toml files in DIR; those with the id of a built-in one replace it
    #[arg(long, value_name = "DIR", env = "SFGI_RULES")]
    pub rules: Option<PathBuf>,
    /// Where the HTTP interface listens [default: 127.0.0.1:6061]
    #[arg(long, value_name = "ADDRESS", env = "SFGI_LISTEN")]
    pub listen: Option<SocketAddr>,
    /// A file with the token that every HTTP request must bring
    #[arg(long, value_name = "FILE", env = "SFGI_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// The file that history is kept in
    #[arg(long, value_name = "FILE", env = "SFGI_STORE")]
    pub store: Option<PathBuf>,
}

impl Overrides {
    /// Puts what was given over what the file says. Include and exclude replace the file's.
    pub(super) fn put_over(&self, config: &mut Config) {
        if let Some(budget) = self.budget {
            config.budget = Budget { node: budget, process: None };
        }
        set(&mut config.leaks.min_age, self.min_age);
        if let Some(rules) = &self.rules {
            config.leaks.rules = Some(rules.clone());
        }
        set(&mut config.scan.interval, self.interval);
        set(&mut config.scan.mode, self.mode);
        set(&mut config.http.listen, self.listen);
        if let Some(file) = &self.token_file {
            config.http.token_file = Some(file.clone());
        }
        if let Some(file) = &self.store {
            config.store.file = Some(file.clone());
        }
        for (given, list) in [(&self.include, &mut config.include), (&self.exclude, &mut config.exclude)] {
            if !given.is_empty() {
                *list = given.iter().flat_map(|regex| path_or_module(regex)).collect();
            }
        }
    }
}

fn path_or_module(regex: &str) -> [Matching; 2] {
    let (exe, module) = (Some(regex.to_owned()), Some(regex.to_owned()));
    [Matching { exe, ..Matching::default() }, Matching { module, ..Matching::default() }]
}

fn set<T>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}

fn budget(text: &str) -> Result<f64, String> {
    let share = parse::share(text)?;
    if share > 0.0 { Ok(share) } else { Err(format!("{text}: a budget is more than nothing")) }
}

//! Flags and environment variables, which are stronger than the file.

use super::{Config, Matching};
use crate::{agent::Mode, parse};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// What can be set without a file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct Overrides {
    /// What sfgi may cost: a share of one core for the whole node
    #[arg(long, value_name = "PERCENT", env = "SFGI_BUDGET", value_parser = parse::share)]
    pub budget: Option<f64>,
    /// Time between two scans of a process
    #[arg(long, value_name = "TIME", env = "SFGI_INTERVAL", value_parser = parse::duration)]
    pub interval: Option<Duration>,
    /// How closely processes are watched: poll (no probes), life, wait or full
    #[arg(long, value_name = "MODE", env = "SFGI_MODE", value_parser = mode)]
    pub mode: Option<Mode>,
    /// Only processes whose executable's path matches, with * and ? (several: repeat)
    #[arg(long, value_name = "EXE", env = "SFGI_INCLUDE", value_delimiter = ',')]
    pub include: Vec<String>,
    /// Not processes whose executable's path matches (several: repeat)
    #[arg(long, value_name = "EXE", env = "SFGI_EXCLUDE", value_delimiter = ',')]
    pub exclude: Vec<String>,
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
        set(&mut config.budget.node, self.budget);
        set(&mut config.scan.interval, self.interval);
        set(&mut config.scan.mode, self.mode);
        set(&mut config.http.listen, self.listen);
        if let Some(file) = &self.token_file {
            config.http.token_file = Some(file.clone());
        }
        if let Some(file) = &self.store {
            config.store.file = Some(file.clone());
        }
        let matching = |exe: &String| Matching { exe: Some(exe.clone()), ..Matching::default() };
        for (given, list) in [(&self.include, &mut config.include), (&self.exclude, &mut config.exclude)] {
            if !given.is_empty() {
                *list = given.iter().map(matching).collect();
            }
        }
    }
}

fn set<T>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    let named = Mode::ALL.into_iter().find(|mode| mode.word() == text);
    named.ok_or_else(|| format!("{text}: a mode is poll, life, wait or full"))
}

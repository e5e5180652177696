//! The options of `sfgi top`.

use super::super::{attach::mode, opened::LayoutArg, parse};
use crate::top::{By, Screen, Sort};
use anyhow::{Result, bail, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use regex::Regex;
use sfgi_core::event::Mode;
use std::{ffi::OsString, time::Duration};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ByArg {
    Wait,
    Creation,
    State,
    Goroutine,
}

#[derive(Debug, ClapArgs)]
#[command(
    override_usage = "sfgi top [OPTIONS] (-p PID... | -- CMD...)",
    after_help = "\
`?` shows all keys, and what the columns tell. What cannot be known is shown as `-`. Where probes cannot
be had, the goroutines are read from outside, and what happens between two readings is not known.

EXAMPLES
  sfgi top -p 1234                             where goroutines wait
  sfgi top -p 1234 --by creation               which go statements make ever more of them
  sfgi top -p 1234 -p 1235 --filter 'main\\.'   two processes, what is their own
  sfgi top -p 1234 -b 3 --every 5s             three pages of text for a file
  sfgi top -- ./server -port 8080              from the first goroutine on; its output is dropped"
)]
pub(in super::super) struct Args {
    /// Process to watch (several: repeat)
    #[arg(
        short,
        long = "pid",
        value_name = "PID",
        required_unless_present = "command",
        conflicts_with = "command"
    )]
    pub(super) pid: Vec<u32>,
    /// What to observe: less costs the target less [default: full, or poll where probes cannot be had]
    #[arg(long, value_parser = mode(&[Mode::Full, Mode::Wait, Mode::Life, Mode::Poll]))]
    pub(super) mode: Option<Mode>,
    /// How long an interval is
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    pub(super) every: Duration,
    /// What the rows are
    #[arg(long, value_enum, default_value = "wait")]
    by: ByArg,
    /// Only what matches: function, wait reason, state
    #[arg(long, value_name = "REGEX")]
    pub(super) filter: Option<Regex>,
    /// Sort by the column with this heading
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,
    /// Without colours (as with NO_COLOR set)
    #[arg(long, visible_alias = "no-color")]
    no_colour: bool,
    /// Write N pages of text and end
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) batch: Option<u64>,
    #[command(flatten)]
    pub(super) layout: LayoutArg,
    /// Command to start and watch, with its arguments
    #[arg(last = true, value_name = "CMD")]
    pub(super) command: Vec<OsString>,
}

/// A time that leaves the program room to run.
fn interval(text: &str) -> Result<Duration> {
    let time = parse::time(text)?;
    let allowed = Duration::from_millis(100)..=Duration::from_secs(3600);
    ensure!(allowed.contains(&time), "{text}: an interval is 100ms to 1h long");
    Ok(time)
}

impl Args {
    pub(super) fn by(&self) -> By {
        match self.by {
            ByArg::Wait => By::Wait,
            ByArg::Creation => By::Creation,
            ByArg::State => By::State,
            ByArg::Goroutine => By::Goroutine,
        }
    }

    /// Puts the table in the order that was asked for.
    pub(super) fn sort(&self, screen: &mut Screen) -> Result<()> {
        let Some(title) = &self.sort else { return Ok(()) };
        let columns = screen.by.columns();
        let Some(column) = columns.iter().position(|column| column.title.eq_ignore_ascii_case(title)) else {
            let titles: Vec<&str> = columns.iter().map(|column| column.title).collect();
            bail!("--sort {title}: the columns of {} are {}", screen.by.name(), titles.join(", "));
        };
        screen.query.sort[screen.by as usize] = Sort { column, reverse: false };
        Ok(())
    }

    pub(super) fn colour(&self) -> bool {
        !self.no_colour && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }
}

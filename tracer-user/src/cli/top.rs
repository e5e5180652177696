//! `sfgi top`: what the goroutines do, refreshed each second.

mod closer;
mod source;
mod ui;

use super::{
    args::{LayoutArg, UserArg, mode},
    parse,
    session::{Signals, Stop},
};
use crate::{
    output::say,
    top::{By, Look, Picture, Screen, Shared, Sort, text},
};
use anyhow::{Result, bail, ensure};
use clap::{Args as ClapArgs, ValueEnum};
use regex::Regex;
use sfgi_core::event::Mode;
use source::Running;
use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
    time::Duration,
};

/// Pause between two checks for a new picture, and for the end.
const TURN: Duration = Duration::from_millis(50);
/// Columns and lines of a page of `--batch` where COLUMNS and LINES do not say.
const PAGE: (u16, u16) = (120, 40);

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

TIME is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h.

EXAMPLES
  sfgi top -p 1234                             where goroutines wait
  sfgi top -p 1234 --by creation               which go statements make ever more of them
  sfgi top -p 1234 -p 1235 --filter 'main\\.'   two processes, what is their own
  sfgi top -p 1234 -b 3 --every 5s             three pages of text for a file
  sfgi top -- ./server -port 8080              from the first goroutine on; its output is dropped"
)]
pub(super) struct Args {
    /// Process to watch (several: repeat)
    #[arg(short, long = "pid", value_name = "PID", conflicts_with = "command")]
    pid: Vec<u32>,
    /// What to observe: less costs the target less [default: full, or poll where probes cannot be had]
    #[arg(long, value_parser = mode(&[Mode::Full, Mode::Wait, Mode::Life, Mode::Poll]))]
    mode: Option<Mode>,
    /// How long an interval is
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    every: Duration,
    /// What each row stands for
    #[arg(long, value_enum, default_value = "wait")]
    by: ByArg,
    /// Only what matches: function, wait reason, state
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Sort by the column with this heading
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,
    /// Without colours (as with NO_COLOR set)
    #[arg(long, visible_alias = "no-color")]
    no_colour: bool,
    /// Write N pages of text and end
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    #[command(flatten)]
    layout: LayoutArg,
    #[command(flatten)]
    user: UserArg,
    /// Command to start and watch, with its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Parses `--every`. The bounds leave the target and the tracing thread room between two pictures.
fn interval(text: &str) -> Result<Duration> {
    let time = parse::time(text)?;
    let allowed = Duration::from_millis(100)..=Duration::from_secs(3600);
    ensure!(allowed.contains(&time), "{text}: an interval is 100ms to 1h long");
    Ok(time)
}

impl Args {
    pub(super) fn has_no_target(&self) -> bool {
        self.pid.is_empty() && self.command.is_empty()
    }

    pub(super) fn pids(&self) -> &[u32] {
        &self.pid
    }

    /// Whether it draws on the terminal.
    pub(super) fn draws(&self) -> bool {
        self.batch.is_none()
    }

    fn by(&self) -> By {
        match self.by {
            ByArg::Wait => By::Wait,
            ByArg::Creation => By::Creation,
            ByArg::State => By::State,
            ByArg::Goroutine => By::Goroutine,
        }
    }

    /// Sorts the table by the column of `--sort`.
    fn sort(&self, screen: &mut Screen) -> Result<()> {
        let Some(title) = &self.sort else { return Ok(()) };
        let columns = screen.by.columns();
        let Some(column) = columns.iter().position(|column| column.title.eq_ignore_ascii_case(title)) else {
            let titles: Vec<&str> = columns.iter().map(|column| column.title).collect();
            bail!("--sort {title}: the columns of {} are {}", screen.by.name(), titles.join(", "));
        };
        screen.query.sort[screen.by as usize] = Sort { column, reverse: false };
        Ok(())
    }

    fn colour(&self) -> bool {
        !self.no_colour && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut screen = Screen::new(args.by());
    screen.query.filter.clone_from(&args.filter);
    args.sort(&mut screen)?;
    if args.batch.is_none() && !io::stdout().is_terminal() {
        bail!("standard output is no terminal: use --batch N for N pages of text");
    }
    let shared = Arc::new(Shared::default());
    shared.ask(&screen.query);
    let signals = Signals::listen()?;
    let (running, notice) = source::start(args, &shared)?;
    let look = Look { colour: args.colour(), notice, ..Look::default() };
    match args.batch {
        Some(pages) => batch(pages, &screen, &look, &shared, running, signals),
        None => ui::run(args, screen, look, &shared, running, signals),
    }
}

/// Writes `pages` pages of text, one for each interval.
fn batch(
    pages: u64,
    screen: &Screen,
    look: &Look,
    shared: &Shared,
    mut running: Running,
    signals: Signals,
) -> Result<()> {
    let stop = Stop::on(signals)?;
    if let Some(notice) = &look.notice {
        say(notice);
    }
    let (width, height) = (size("COLUMNS", PAGE.0), size("LINES", PAGE.1));
    let mut out = io::stdout().lock();
    let (mut shown, mut last_ts) = (0, 0);
    while shown < pages && !stop.wait(TURN) {
        // Asked before the picture is taken: the last one is published before the thread ends, so none is missed.
        let ended = running.ended();
        // A picture without an interval has no rates to show.
        let new = |picture: &Arc<Picture>| picture.interval_ns > 0 && picture.ts != last_ts;
        if let Some(picture) = shared.picture().filter(new) {
            let blank = if shown > 0 { "\n" } else { "" };
            write!(out, "{blank}{}", text(&picture, screen, look, width, height))?;
            out.flush()?;
            (shown, last_ts) = (shown + 1, picture.ts);
        } else if ended {
            break;
        }
    }
    running.finish()
}

fn size(variable: &str, default: u16) -> u16 {
    let said = env::var(variable).ok().and_then(|text| text.parse().ok());
    said.filter(|size| (10..=1000).contains(size)).unwrap_or(default)
}

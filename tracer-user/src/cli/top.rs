//! `sfgi top`: what the goroutines do, refreshed each second.

mod args;
mod closer;
mod poll;
mod source;
mod terminal;
mod ui;

use super::stop::Stop;
use crate::top::{Look, Picture, Screen, Shared, text};
use anyhow::{Result, bail};
pub(super) use args::Args;
use source::Running;
use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
    time::Duration,
};

/// How often is looked whether there is another picture.
const TURN: Duration = Duration::from_millis(50);
/// The size of a page where no terminal says one.
const PAGE: (u16, u16) = (120, 40);

pub(super) fn run(args: &Args) -> Result<()> {
    let mut screen = Screen::new(args.by());
    screen.query.filter.clone_from(&args.filter);
    args.sort(&mut screen)?;
    if args.batch.is_none() && !io::stdout().is_terminal() {
        bail!("standard output is no terminal: use --batch N for N pages of text");
    }
    let shared = Arc::new(Shared::default());
    shared.ask(&screen.query);
    let (running, notice) = source::start(args, &shared)?;
    let look = Look { colour: args.colour(), notice, ..Look::default() };
    match args.batch {
        Some(pages) => batch(pages, &screen, &look, &shared, running),
        None => ui::run(args, screen, look, &shared, running),
    }
}

/// So many pages, one an interval.
fn batch(pages: u64, screen: &Screen, look: &Look, shared: &Shared, mut running: Running) -> Result<()> {
    let stop = Stop::on_signals()?;
    if let Some(notice) = &look.notice {
        eprintln!("sfgi: {notice}");
    }
    let (width, height) = (size("COLUMNS", PAGE.0), size("LINES", PAGE.1));
    let mut out = io::stdout().lock();
    let (mut shown, mut last_ts) = (0, 0);
    while shown < pages && !stop.wait(TURN) {
        let ended = running.ended();
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

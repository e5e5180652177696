//! The loop of the user: keys and pictures in, the screen out.

use super::{Args, TURN, closer::Closer, source::Running, terminal::Terminal};
use crate::{
    cli::stop::Stop,
    top::{Action, LeakSearch, Look, Picture, Read, Screen, Shared, draw},
};
use anyhow::Result;
use ratatui::crossterm::event::{self, Event};
use std::{sync::Arc, time::Duration};

/// The user's side.
struct Ui<'a> {
    screen: Screen,
    look: Look,
    shared: &'a Shared,
    running: Running,
    closer: Closer,
    picture: Option<Arc<Picture>>,
    ended: bool,
}

pub(super) fn run(args: &Args, screen: Screen, look: Look, shared: &Shared, running: Running) -> Result<()> {
    let stop = Stop::on_signals()?;
    let closer = Closer::new(&args.layout);
    let mut ui = Ui { screen, look, shared, running, closer, picture: None, ended: false };
    // A closure, so that the terminal is given back before anything is said.
    let result = (|| ui.talk(&stop, &mut Terminal::take()?))();
    result.and(ui.running.finish())
}

impl Ui<'_> {
    fn talk(&mut self, stop: &Stop, terminal: &mut Terminal) -> Result<()> {
        loop {
            self.refresh();
            let size = terminal.grid().size()?;
            let mut most = 0;
            terminal.grid().draw(|frame| {
                most = draw(frame.buffer_mut(), self.picture.as_deref(), &self.screen, &self.look);
            })?;
            self.screen.drawn(most);
            // Everything that was typed, then one drawing.
            let mut wait = TURN;
            while event::poll(wait)? {
                wait = Duration::ZERO;
                let picture = self.picture.as_deref();
                let action = match event::read()? {
                    Event::Key(key) => {
                        self.look.notice = None;
                        self.screen.key(key, picture, size.height)
                    }
                    Event::Mouse(mouse) => self.screen.mouse(mouse, picture, (size.width, size.height)),
                    _ => Action::Draw,
                };
                match action {
                    Action::Draw => {}
                    Action::Ask => self.shared.ask(&self.screen.query),
                    Action::FindLeaks(target) => self.find_leaks(target),
                    Action::Quit => return Ok(()),
                }
            }
            if stop.wait(Duration::ZERO) {
                return Ok(());
            }
        }
    }

    /// Takes what is new.
    fn refresh(&mut self) {
        if !self.ended && self.running.ended() {
            self.ended = true;
            self.look.notice = Some("the end: nothing more comes, the last picture stays".to_owned());
        }
        self.look.leaks = self.closer.leaks();
        let Some(new) = self.shared.picture() else { return };
        let old = self.picture.as_ref();
        if old.is_some_and(|old| Arc::ptr_eq(old, &new)) {
            return;
        }
        match old.filter(|_| self.screen.paused) {
            None => self.picture = Some(new),
            // Who is looked at closely while the picture stands still is taken as he is now.
            Some(held) if asked(&self.screen, &new) && !asked(&self.screen, held) => {
                let detail = new.detail.clone();
                self.picture = Some(Arc::new(Picture { detail, ..Picture::clone(held) }));
            }
            Some(_) => return,
        }
        self.read_detail();
    }

    /// Reads what only the target's memory tells of the goroutine that is shown.
    fn read_detail(&mut self) {
        let picture = self.picture.as_ref();
        let Some((detail, picture)) = picture.and_then(|picture| Some((picture.detail.as_ref()?, picture)))
        else {
            self.look.read = None;
            return;
        };
        let pid = picture.heads.get(detail.who.0).map_or(0, |head| head.pid);
        let read = if detail.waits && detail.g != 0 {
            self.closer.goroutine(pid, detail.who.1, detail.g)
        } else {
            None
        };
        self.look.read = read.map(|(stack, waits_for)| Read { who: detail.who, stack, waits_for });
    }

    fn find_leaks(&mut self, target: usize) {
        let Some(pid) = self.running.pids.get(target).copied() else { return };
        if let Err(error) = self.closer.find_leaks(pid) {
            self.look.leaks = LeakSearch::Failed(format!("{error:#}"));
            self.look.notice = Some(format!("{error:#}"));
        }
    }
}

/// Whether the goroutine that is wanted is in the picture.
fn asked(screen: &Screen, picture: &Picture) -> bool {
    let who = picture.detail.as_ref().map(|detail| detail.who);
    screen.query.detail.is_some() && who == screen.query.detail
}

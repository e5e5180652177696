//! The user's thread: keys and pictures in, the screen out. The terminal is given back as it was, however the command
//! ends.

use super::{Args, TURN, closer::Closer, source::Running};
use crate::{
    cli::session::{Signals, Stop},
    top::{Action, LeakSearch, Look, Picture, Read, Screen, Shared, draw},
};
use anyhow::{Context as _, Result};
use ratatui::{
    Terminal as Grid,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{self, DisableMouseCapture, EnableMouseCapture, Event},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Seek as _, Stdout, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    panic,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The state of the user's side.
struct Ui<'a> {
    screen: Screen,
    look: Look,
    shared: &'a Shared,
    running: Running,
    closer: Closer,
    picture: Option<Arc<Picture>>,
    ended: bool,
}

pub(super) fn run(
    args: &Args,
    screen: Screen,
    look: Look,
    shared: &Shared,
    running: Running,
    signals: Signals,
) -> Result<()> {
    let stop = Stop::on(signals)?;
    let closer = Closer::new(&args.layout);
    let mut ui = Ui { screen, look, shared, running, closer, picture: None, ended: false };
    // The closure drops the terminal, and so gives it back, before an error is printed.
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
            // All keys that are waiting are handled before the next drawing: drawing is far slower than typing ahead.
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
                    Event::FocusGained | Event::FocusLost | Event::Paste(_) | Event::Resize(..) => {
                        Action::Draw
                    }
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

    /// Takes the newest picture, the state of the leak search, and the end of tracing.
    fn refresh(&mut self) {
        if !self.ended && self.running.ended() {
            self.ended = true;
            self.look.notice = Some("the end: nothing more comes, the last picture stays".to_owned());
        }
        self.look.leaks = self.closer.leaks();
        let Some(new) = self.shared.picture() else { return };
        let old = self.picture.as_ref();
        // The same picture: the target's memory was read for it already.
        if old.is_some_and(|old| Arc::ptr_eq(old, &new)) {
            return;
        }
        match old.filter(|_| self.screen.paused) {
            None => self.picture = Some(new),
            // While the picture is held, the goroutine that was chosen meanwhile is still shown, as it is now.
            Some(held) if asked(&self.screen, &new) && !asked(&self.screen, held) => {
                let detail = new.detail.clone();
                self.picture = Some(Arc::new(Picture { detail, ..Picture::clone(held) }));
            }
            Some(_) => return,
        }
        self.read_detail();
    }

    /// Reads what only the target's memory tells of the shown goroutine.
    fn read_detail(&mut self) {
        let picture = self.picture.as_ref();
        let Some((detail, picture)) = picture.and_then(|picture| Some((picture.detail.as_ref()?, picture)))
        else {
            self.look.read = None;
            return;
        };
        let pid = picture.heads.get(detail.who.0).map_or(0, |head| head.pid);
        // The stack of a goroutine that moves would be torn, so it is not tried.
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

/// Whether the picture has the goroutine that the screen asks for.
fn asked(screen: &Screen, picture: &Picture) -> bool {
    let who = picture.detail.as_ref().map(|detail| detail.who);
    screen.query.detail.is_some() && who == screen.query.detail
}

/// The former standard error, and the file that takes its place while the screen is drawn: a line would tear the
/// picture.
static HELD: Mutex<Option<(OwnedFd, File)>> = Mutex::new(None);

/// The terminal in raw mode with the alternate screen; dropping it gives it back.
struct Terminal(Grid<CrosstermBackend<Stdout>>);

impl Terminal {
    fn take() -> Result<Terminal> {
        // A panic message on the alternate screen would vanish with it, so the terminal is given back first.
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            usual(info);
        }));
        enable_raw_mode().context("the terminal does not let us read single keys")?;
        let grid = (|| {
            // Before the alternate screen, so that not a single line can get between.
            hold_stderr()?;
            execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture)?;
            Grid::new(CrosstermBackend::new(io::stdout()))
        })();
        grid.map(Terminal).inspect_err(|_| give_back()).context("cannot draw on the terminal")
    }

    fn grid(&mut self) -> &mut Grid<CrosstermBackend<Stdout>> {
        &mut self.0
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Restores the terminal and standard error, and prints what was held back. A second call does no harm.
fn give_back() {
    // Errors are ignored: there is nowhere left to report them.
    let _ = disable_raw_mode();
    let _ = execute!(io::stdout(), DisableMouseCapture, LeaveAlternateScreen, Show);
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some((before, mut kept)) = held else { return };
    // SAFETY: both descriptors are open.
    unsafe { libc::dup2(before.as_raw_fd(), libc::STDERR_FILENO) };
    let mut text = Vec::new();
    if kept.rewind().is_ok() && kept.read_to_end(&mut text).is_ok() {
        let _ = io::stderr().write_all(&text);
    }
}

/// Redirects standard error into memory, if it is the terminal.
fn hold_stderr() -> io::Result<()> {
    if !io::stderr().is_terminal() {
        return Ok(());
    }
    // A memfd has no name and no size limit of a pipe: nobody reads it before the end.
    let kept = rustix::fs::memfd_create("sfgi-stderr", rustix::fs::MemfdFlags::CLOEXEC)?;
    // SAFETY: a plain system call on a descriptor that is open.
    let before = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 3) };
    if before < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave it to us, and nobody else has it.
    let before = unsafe { OwnedFd::from_raw_fd(before) };
    // SAFETY: both descriptors are open.
    if unsafe { libc::dup2(kept.as_raw_fd(), libc::STDERR_FILENO) } < 0 {
        return Err(io::Error::last_os_error());
    }
    *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some((before, File::from(kept)));
    Ok(())
}

//! The terminal, which is given back as it was, however we end.

use anyhow::{Context as _, Result};
use ratatui::{
    Terminal as Grid,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        event::{DisableMouseCapture, EnableMouseCapture},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _, Seek as _, Stdout, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    panic,
    sync::{Mutex, PoisonError},
};

/// What standard error was, and what keeps what is written to it meanwhile: a line would tear the picture.
static HELD: Mutex<Option<(OwnedFd, File)>> = Mutex::new(None);

/// The terminal while it is ours.
pub(super) struct Terminal(Grid<CrosstermBackend<Stdout>>);

impl Terminal {
    pub(super) fn take() -> Result<Terminal> {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            usual(info);
        }));
        enable_raw_mode().context("the terminal does not let us read single keys")?;
        let grid = (|| {
            hold_stderr()?;
            execute!(io::stdout(), EnterAlternateScreen, EnableMouseCapture)?;
            Grid::new(CrosstermBackend::new(io::stdout()))
        })();
        grid.map(Terminal).inspect_err(|_| give_back()).context("cannot draw on the terminal")
    }

    pub(super) fn grid(&mut self) -> &mut Grid<CrosstermBackend<Stdout>> {
        &mut self.0
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Everything as it was. Twice does no harm.
fn give_back() {
    // What fails here cannot be told anybody any more.
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

/// From now on what is written to standard error is kept, if that is the terminal.
fn hold_stderr() -> io::Result<()> {
    if !io::stderr().is_terminal() {
        return Ok(());
    }
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

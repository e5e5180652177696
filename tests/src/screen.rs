//! A terminal (tmux) for a program that draws on one: keys in, the screen out.

use std::{
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// A terminal, ended when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    /// The name of its own tmux server, so that no other server is touched.
    server: String,
}

impl Terminal {
    /// Starts a shell on a terminal of this size.
    ///
    /// # Errors
    /// There is no tmux, or it does not start.
    pub fn new(name: &str, (width, height): (u16, u16)) -> Result<Terminal> {
        let terminal = Terminal { server: format!("sfgi-{name}-{}", std::process::id()) };
        let (width, height) = (width.to_string(), height.to_string());
        // A shell that reads no files, so that the prompt is always the same.
        let shell = "exec env -i PATH=\"$PATH\" HOME=/ TERM=screen LC_ALL=C.UTF-8 PS1='prompt> ' bash --norc --noprofile";
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height, shell])?;
        Ok(terminal)
    }

    fn tmux(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        command.env("LC_ALL", "C.UTF-8").args(["-L", &self.server]).args(args);
        let Output { status, stdout, stderr } = command.output().context("tmux cannot be started")?;
        ensure!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Presses keys, by tmux's names for them.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn press(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// Types a text.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn type_in(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text]).map(drop)
    }

    /// Gives the terminal another size.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn resize(&self, (width, height): (u16, u16)) -> Result<()> {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]).map(drop)
    }

    /// The text on the terminal.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn text(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// A piece of the terminal's state, in tmux's format language.
    ///
    /// # Errors
    /// The terminal has gone.
    pub fn state(&self, format: &str) -> Result<String> {
        Ok(self.tmux(&["display-message", "-p", format])?.trim().to_owned())
    }

    /// Waits until the text on the terminal is as wanted, and returns it.
    ///
    /// # Errors
    /// It does not come to that in time; the error holds the text that is there instead.
    pub fn wait_for(&self, timeout: Duration, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            let text = self.text()?;
            if wanted(&text) {
                return Ok(text);
            }
            if Instant::now() > deadline {
                bail!("{what} does not come within {timeout:?}; there is\n{text}");
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It fails only if the server has gone already.
        let _ = self.tmux(&["kill-server"]);
    }
}

//! `sfgi agent`, started for some programs only, and the pictures that it prints each second.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{agent_http, process::Process, sfgi};

/// How long anything that the agent does may take on the slowest machine.
pub const SOON: Duration = Duration::from_secs(120);

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// The command. Its stdout has pictures, a line each; its stderr is its log.
    pub process: Process,
}

impl Agent {
    /// Starts `sfgi agent ARGS…`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(args: &[&str]) -> Result<Agent> {
        let mut command = sfgi::command(&["agent", "--pictures", "--listen", "127.0.0.1:0"])?;
        command.env(agent_http::TOKEN_VARIABLE, agent_http::TOKEN);
        let process = Process::spawn(command.args(args))?;
        process.stderr.wait_for(SOON, |line| line.contains("begins: PID"))?;
        Ok(Agent { process })
    }

    pub fn address(&self) -> Result<SocketAddr> {
        agent_http::address(&self.process)
    }

    /// Makes a request that shows the token.
    ///
    /// # Errors
    /// There is no answer.
    pub fn ask(&self, method: &str, path: &str) -> Result<agent_http::Answer> {
        let shown = format!("Bearer {}", agent_http::TOKEN);
        agent_http::ask(self.address()?, method, path, &[("authorization", &shown)])
    }

    /// Waits for a picture, later than this call, for which `wanted` holds.
    ///
    /// # Errors
    /// It does not come in time; the error has the last picture.
    pub fn wait(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + SOON;
        // An earlier picture may be from before what the test has just done.
        let mut seen = self.process.stdout.lines().len();
        let mut last = String::new();
        while Instant::now() < deadline {
            let lines = self.process.stdout.lines();
            for line in lines.iter().skip(seen) {
                let picture: Value = serde_json::from_str(&line.text)?;
                if wanted(&picture) {
                    return Ok(picture);
                }
                last.clone_from(&line.text);
            }
            seen = lines.len();
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("no picture is as expected; the last:\n{last}\nthe log:\n{}", self.process.stderr.text())
    }

    /// As [`wait`](Self::wait), for what the pictures say of one process.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_for(&self, pid: u32, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let picture = self.wait(|picture| of(picture, pid).is_some_and(&wanted))?;
        of(&picture, pid).cloned().context("it is in the picture")
    }
}

/// What a picture says of a process.
pub fn of(picture: &Value, pid: u32) -> Option<&Value> {
    picture["processes"].as_array()?.iter().find(|process| process["id"]["pid"] == pid)
}

/// The sum of a table of places: its rows and what it counts together under `other`.
pub fn sum(table: &Value) -> u64 {
    let rows =
        table["rows"].as_array().map_or(0, |rows| rows.iter().filter_map(|row| row["count"].as_u64()).sum());
    rows + table["other"].as_u64().unwrap_or(0)
}

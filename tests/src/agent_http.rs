//! A running `sfgi agent` and its HTTP interface, asked byte by byte.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{process::Process, sfgi};

/// The token of agents that are given none otherwise.
pub const TOKEN: &str = "5d1d0a35ce4cd6d2f1d1a83f3d0d9c1b";

/// The environment variable for it.
pub const TOKEN_VARIABLE: &str = "SFGI_TOKEN";

/// The header that shows [`TOKEN`], with its line end: for requests that are written byte by byte.
pub const AUTHORIZATION: &str = "authorization: Bearer 5d1d0a35ce4cd6d2f1d1a83f3d0d9c1b\r\n";

/// How long anything may take on the slowest machine.
pub const LONGEST: Duration = Duration::from_secs(120);

/// `sfgi agent`, listening on a port of its own.
#[derive(Debug)]
pub struct Agent {
    pub process: Process,
    /// The address that its log says it listens on.
    pub address: SocketAddr,
    /// The token that requests show.
    pub token: Option<String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Status line and headers, as they came.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("{} {}", self.status, self.text()))
    }

    /// The value of a header, in whose name capitals do not count.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// The address that an agent listens on, by its log.
///
/// # Errors
/// It does not say.
pub fn address(process: &Process) -> Result<SocketAddr> {
    let of = |line: &str| line.split_once("listens on ")?.1.trim().parse::<SocketAddr>().ok();
    let line = process.stderr.wait_for(LONGEST, |line| of(line).is_some())?;
    of(&line.text).context(line.text)
}

/// The token that an agent keeps in a file, which its log names; `None`: it keeps none.
fn kept_token(process: &Process) -> Option<String> {
    let log = process.stderr.text();
    let file = log.lines().find_map(|line| Some(line.split_once("requests need the token in ")?.1.trim()))?;
    Some(std::fs::read_to_string(file).ok()?.trim().to_owned())
}

/// The command `sfgi agent ARGS…`, with an interval of a second and a budget that allows it; on a free port, unless
/// the arguments say where. [`TOKEN`] is its token.
///
/// # Errors
/// sfgi was not built.
pub fn command<S: AsRef<OsStr>>(args: &[S]) -> Result<Command> {
    let mut command = sfgi::command(&["agent", "--interval", "1s", "--budget", "50%"])?;
    let listens = args.iter().any(|arg| arg.as_ref() == "--listen" || arg.as_ref() == "--config");
    if !listens {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(args).env(TOKEN_VARIABLE, TOKEN);
    Ok(command)
}

impl Agent {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// It does not begin.
    pub fn start<S: AsRef<OsStr>>(args: &[S]) -> Result<Agent> {
        Agent::of(&mut command(args)?)
    }

    /// Starts it for one program and waits until it has looked there for leaks.
    ///
    /// # Errors
    /// It does not.
    pub fn watching(target: &Process, args: &[&str]) -> Result<Agent> {
        let exe = std::fs::read_link(format!("/proc/{}/exe", target.pid()))?;
        let only = format!("^{}$", exe.display());
        let agent = Agent::start(&[&["--include", &only, "--min-age", "1s"], args].concat())?;
        agent.until(&format!("/sfgi/processes?pid={}", target.pid()), |answer| {
            let process = &answer[0];
            process["scanned_unix_ms"].is_u64() && process["findings"].is_u64()
        })?;
        Ok(agent)
    }

    /// Starts this command and waits until it listens.
    ///
    /// # Errors
    /// It does not begin.
    pub fn of(command: &mut Command) -> Result<Agent> {
        let given = command.get_envs().find(|(name, _)| *name == TOKEN_VARIABLE);
        let given = given.and_then(|(_, value)| Some(value?.to_str()?.to_owned()));
        let process = Process::spawn(command)?;
        let address = address(&process)?;
        // Which token it is was said before where it listens, or right behind.
        process.stderr.wait_for(LONGEST, |line| line.contains("begins: PID"))?;
        let token = given.or_else(|| kept_token(&process));
        Ok(Agent { process, address, token })
    }

    /// GET, with the token if there is one.
    ///
    /// # Errors
    /// There is no answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.ask("GET", path)
    }

    fn ask(&self, method: &str, path: &str) -> Result<Answer> {
        let shown = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let headers: Vec<(&str, &str)> =
            shown.iter().map(|shown| ("authorization", shown.as_str())).collect();
        ask(self.address, method, path, &headers)
    }

    /// POST without a body and without a token.
    ///
    /// # Errors
    /// There is no answer.
    pub fn post(&self, path: &str) -> Result<Answer> {
        self.ask("POST", path)
    }

    /// GET of a JSON document; the status must be 200.
    ///
    /// # Errors
    /// It is not.
    pub fn json(&self, path: &str) -> Result<Value> {
        let answer = self.get(path)?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        answer.json()
    }

    /// Asks for a document until `holds` holds of it.
    ///
    /// # Errors
    /// It does not in time; the error has the last document and the agent's log.
    pub fn until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + LONGEST;
        loop {
            let document = self.json(path)?;
            if holds(&document) {
                return Ok(document);
            }
            if Instant::now() > deadline {
                bail!("{path} stays\n{document:#}\nthe agent's log:\n{}", self.process.stderr.text());
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// There is no whole answer.
pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONGEST))?;
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    // With `connection: close` the answer ends with the stream.
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes())?;
    answer(&mut stream).with_context(|| format!("{method} {path}"))
}

/// Reads an answer to its end.
///
/// # Errors
/// There is no whole one.
pub fn answer(stream: &mut impl Read) -> Result<Answer> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("no end of the headers")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    let mut answer = Answer { status, head, body: bytes[end + 4..].to_vec() };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = joined(&answer.body)?;
    }
    Ok(answer)
}

/// The bytes of a chunked body.
fn joined(mut chunked: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = chunked.windows(2).position(|two| two == b"\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&chunked[..line])?, 16)?;
        let chunk = chunked.get(line + 2..line + 2 + size).context("a chunk that is cut off")?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(chunk);
        chunked = chunked.get(line + 4 + size..).context("no chunk after the last")?;
    }
}

//! `cargo xtask demo`: sfgi on a small service in which several things go wrong, with a few words on what to look
//! for.

use crate::{build, interrupt, setup, setup::go, sh};
use anyhow::{Context as _, Result, bail};
use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

const LIVE_SECS: &str = "8";
const SUMMARY_SECS: &str = "5";

/// The events of the service's own goroutines, without those of net/http.
const INTERESTING: [&str; 4] = ["-e", "create,exit,block,unblock", "--func", r"^main\."];

/// Builds sfgi and the service, starts the service, shows it with one command after the other, and stops it.
pub(crate) fn run() -> Result<()> {
    let compiler = setup::run(&setup::DEMO)?;
    let sfgi = build::sfgi(compiler, true)?;
    let service = build_service()?;
    interrupt::catch();
    let (_service, pid) = start(&service)?;
    for (words, args) in scenes(&pid) {
        println!("\n{words}\n\n$ sfgi {}", args.join(" "));
        sh::show(sh::root_command(&sfgi)?.args(args))?;
        if interrupt::happened() {
            return Ok(());
        }
    }
    println!("\n{}", where_next(&sfgi));
    Ok(())
}

/// The text before each command, and the command's arguments.
fn scenes(pid: &str) -> [(String, Vec<&str>); 4] {
    [
        (
            format!(
                "A small shop service runs as process {pid}: an ordinary Go program that knows nothing of sfgi. It gets ten\n\
                 requests a second, and has faults that real services have. Here is what its goroutines do for {LIVE_SECS} seconds.\n\
                 Watch askSupplier: two are created for each quote, and one of them blocks in its send (chan send) for good.\n\
                 Ctrl-C ends the demo."
            ),
            [["trace", "-p", pid, "-d", LIVE_SECS].as_slice(), &INTERESTING].concat(),
        ),
        (
            format!(
                "The same service for {SUMMARY_SECS} seconds, as a summary (-c). OPEN counts waits that have not ended: some of\n\
                 askSupplier (nobody takes the second answer), book (the ledger's mutex is never unlocked) and report (a\n\
                 WaitGroup that one part forgets) never will. The last table shows which go statements make them: those of\n\
                 quote, order and report, where more is created than exits."
            ),
            vec!["trace", "-p", pid, "-d", SUMMARY_SECS, "-c"],
        ),
        (
            "Which of them are leaked, and how that is known. \"proven\" means that nothing that can still run leads to what\n\
             would wake the goroutine; sfgi searches the whole heap for that, while the service goes on running."
                .to_owned(),
            vec!["leaks", "-p", pid, "--min-verdict", "proven"],
        ),
        (
            "And all of it by the second. This is one page as text (-b 1); without -b it fills the terminal, and Enter\n\
             leads from a place to its goroutines, and from a goroutine to its stack."
                .to_owned(),
            vec!["top", "-p", pid, "-b", "1"],
        ),
    ]
}

fn where_next(sfgi: &Path) -> String {
    let sfgi = sfgi.strip_prefix(sh::root()).unwrap_or(sfgi).display();
    format!(
        "That was sfgi; the service is stopped now. Next, with a Go program of your own (as root or with sudo):\n\
         \n  {sfgi} top -p PID                          where its goroutines wait, live\
         \n  {sfgi} leaks -p PID                        what is leaked, and what to do\
         \n  {sfgi} dump -p PID --group                 every goroutine with its stack, without stopping the program\
         \n  {sfgi} record -p PID -d 30 -o app.sfgi     record it, then look at it later and elsewhere:\
         \n  {sfgi} report app.sfgi\
         \n  {sfgi} export app.sfgi --to go-trace -o app.trace && go tool trace app.trace\
         \n  {sfgi} agent                               watch every Go program of this host; its page: http://127.0.0.1:6061/\
         \n\nREADME.md and docs/ have the rest, and `{sfgi} COMMAND --help` has examples."
    )
}

/// Builds the service with the newest Go.
fn build_service() -> Result<PathBuf> {
    let binary = sh::target_dir().join("demo/faults");
    let mut go = go::command(go::NEWEST)?;
    sh::output(
        go.current_dir(sh::root().join("tests/fixtures")).args(["build", "-o"]).arg(&binary).arg("./faults"),
    )?;
    Ok(binary)
}

/// Starts the service; it ends when the returned child is dropped, or with this process.
fn start(service: &Path) -> Result<(sh::Child, String)> {
    // A service must not outlive a demo that is killed.
    let mut command = sh::command("setpriv")?;
    command.args(["--pdeathsig", "KILL"]).arg(service).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = sh::Child::spawn(&mut command)?;
    let mut ready = String::new();
    BufReader::new(child.0.stdout.take().context("no stdout")?).read_line(&mut ready)?;
    let Some(pid) = ready.strip_prefix("pid ").and_then(|rest| rest.split(' ').next()) else {
        bail!("the service did not start");
    };
    Ok((child, pid.to_owned()))
}

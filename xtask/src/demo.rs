//! `cargo xtask demo`: sfgi on a small service in which several things go wrong, with a few words on what is to be
//! seen.

use crate::{build, interrupt, setup, setup::go, sh};
use anyhow::{Context as _, Result, bail};
use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

const LIVE_SECS: &str = "8";
const SUMMARY_SECS: &str = "5";

/// What is worth reading in the live trace: the events of the service's own goroutines, not of net/http's.
const INTERESTING: [&str; 4] = ["-e", "create,exit,block,unblock", "--func", r"^main\."];

/// Builds sfgi and the service, starts the service, traces it twice, stops it.
pub(crate) fn run() -> Result<()> {
    let compiler = setup::run(&setup::DEMO)?;
    let sfgi = build::sfgi(compiler, true)?;
    let service = build_service()?;
    interrupt::catch();
    let (_service, pid) = start(&service)?;

    println!(
        "\nA small shop service runs as process {pid}: an ordinary Go program that knows nothing of sfgi. It gets ten\n\
         requests a second, and has faults that real services have. Here is what its goroutines do for {LIVE_SECS} seconds.\n\
         Watch askSupplier: two are created for each quote, and one of them blocks in its send (chan send) for good.\n\
         Ctrl-C ends the demo.\n"
    );
    trace(&sfgi, &[["-p", &pid, "-d", LIVE_SECS].as_slice(), &INTERESTING].concat())?;
    if interrupt::happened() {
        return Ok(());
    }

    println!(
        "\nThe same service for {SUMMARY_SECS} seconds, as a summary (-c). OPEN counts waits that have not ended: some of\n\
         askSupplier (nobody takes the second answer), book (the ledger's mutex is never unlocked) and report (a\n\
         WaitGroup that one part forgets) never will. The last table shows which go statements make them: those of\n\
         quote, order and report, where more is created than exits.\n"
    );
    trace(&sfgi, &["-p", &pid, "-d", SUMMARY_SECS, "-c"])
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

fn trace(sfgi: &Path, args: &[&str]) -> Result<()> {
    println!("$ sfgi trace {}", args.join(" "));
    sh::show(sh::root_command(sfgi)?.arg("trace").args(args))
}

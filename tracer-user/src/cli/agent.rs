//! `sfgi agent`: watches all Go processes of the host until a signal ends it.

use crate::{
    agent,
    agent::{
        Handle, Request,
        config::{Address, Config, Overrides},
        launcher::{self, Launcher},
        services::Opened,
    },
    confine::{self, Needs},
};
use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};
use tokio::signal::unix::{SignalKind, signal};

#[derive(ClapArgs)]
#[command(after_help = "\
All Go programs are found, old and new, in containers too, by what their executables say. Each is scanned once an
interval: goroutines by state, reason and place; and its heap now and then, for which of them are leaked. What the
agent uses of the CPU, and what its probes cost the programs, stays within the budget: what does not fit is put off
or watched less closely, and the log says so.

TIME is a number of seconds, or has a unit: 10ms, 30s, 5m, 1h.

EXAMPLES
  sfgi agent                                   all Go programs, 2 % of a core at most
  sfgi agent --interval 10s --budget 5%        more often, for more
  sfgi agent --mode wait --include '/shop$'    one program, with its blocking")]
pub(super) struct Args {
    /// The file of configuration; flags and SFGI_… variables are stronger, SIGHUP reads it again
    #[arg(long, value_name = "FILE", env = "SFGI_CONFIG")]
    config: Option<PathBuf>,
    /// Only say whether the configuration is right
    #[arg(long, requires = "config")]
    check_config: bool,
    #[command(flatten)]
    overrides: Overrides,
    /// Write what is known each second to standard output, a line of JSON each time
    #[arg(long, hide = true)]
    pictures: bool,
}

/// Returns the exit code of the process that decides, which has said what there was to say.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.load()?;
    if args.check_config {
        println!("the configuration is right");
        return Ok(ExitCode::SUCCESS);
    }
    let config = Arc::new(config);
    let reload = || args.load().ok().map(Arc::new);
    let code = launcher::run(Arc::clone(&config), reload, |launcher| match server(args, config, launcher) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sfgi: {error:#}");
            ExitCode::FAILURE
        }
    });
    code.context("the agent cannot start")
}

/// The process that decides and talks to clients. The core has a thread of its own; this one only waits for signals, requests
/// and pictures.
fn server(args: &Args, config: Arc<Config>, launcher: Launcher) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The socket and the store are opened before any process is looked at, so that a wrong setting ends the command.
    let mut opened = runtime.block_on(Opened::open(&config))?;
    // Before threads: each has capabilities of its own. After the socket, which may want a low port.
    // Not within the macro: that evaluates nothing where the level is off.
    let in_force = confine::apply(&Needs::server(writable(&config)));
    log::info!("server: {in_force}");
    let handle = agent::start(Arc::clone(&config), opened.take_earlier(), launcher)
        .context("the agent cannot start")?;
    runtime.block_on(serve(args, config, opened, handle))
}

/// The folders in which the server writes. What a reload adds to them needs a restart.
fn writable(config: &Config) -> Vec<PathBuf> {
    let folder = |file: &PathBuf| file.parent().map(Path::to_owned);
    // A Unix socket is removed at the end. The token was made before.
    let sockets = config.http.listen.iter().filter_map(|address| match address {
        Address::Unix(socket) => Some(socket),
        Address::Tcp(_) => None,
    });
    let folders = config.store.file.iter().chain(sockets).filter_map(folder);
    folders.chain(config.evidence.directory.clone()).collect()
}

/// Runs until SIGINT or SIGTERM. SIGHUP reads the configuration again.
async fn serve(args: &Args, config: Arc<Config>, opened: Opened, mut handle: Handle) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let services = opened.start(config, &handle);
    // The launcher's: signals go there.
    log::info!("begins: PID {}", std::os::unix::process::parent_id());
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => match args.load() {
                Ok(config) => {
                    let config = Arc::new(config);
                    handle.requests.send(Request::Reload(Arc::clone(&config))).await?;
                    log::info!("has read its configuration again: {}", services.reload(config));
                }
                // A typing error must not end an agent that runs.
                Err(err) => log::error!("goes on with the settings that it has: {err:#}"),
            },
            changed = handle.pictures.changed() => {
                if changed.is_err() {
                    bail!("the agent's thread has ended, which is a bug in sfgi");
                }
                if args.pictures {
                    let picture = Arc::clone(&handle.pictures.borrow_and_update());
                    println!("{}", serde_json::to_string(&*picture)?);
                }
            }
        }
    }
    services.ending();
    handle.requests.send(Request::Stop).await?;
    // The core's thread owns the sender: `changed` fails once that thread has ended.
    while handle.pictures.changed().await.is_ok() {}
    Ok(services.stop()?)
}

impl Args {
    fn load(&self) -> Result<Config> {
        Ok(Config::load(self.config.as_deref(), &self.overrides)?)
    }
}

//! `sfgi agent`: watches all Go processes of the host.

use super::parse::duration;
use crate::{
    agent::{
        self, Handle, Mode, Request, Settings,
        settings::{Budget, Matcher, ProcessRule},
    },
    detect::Rules,
};
use anyhow::{Context as _, Result, bail};
use clap::{Args as ClapArgs, ValueEnum};
use regex::Regex;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// Read their memory now and then: they pay nothing
    Poll,
    /// Also probe birth and death of goroutines
    Life,
    /// Also blocking and waking
    Wait,
    /// Every state transition
    Full,
}

impl ModeArg {
    fn mode(self) -> Mode {
        match self {
            ModeArg::Poll => Mode::Poll,
            ModeArg::Life => Mode::Life,
            ModeArg::Wait => Mode::Wait,
            ModeArg::Full => Mode::Full,
        }
    }
}

#[derive(ClapArgs)]
#[command(after_help = "\
All Go programs are found, old and new, in containers too, by what their executables say. Each is scanned once an
interval: goroutines by state, reason and place; and its heap now and then, for which of them are leaked. What the
agent uses of the CPU, and what its probes cost the programs, stays within the budget: what does not fit is put off
or watched less closely, and the log says so.

EXAMPLES
  sfgi agent                                   all Go programs, 2 % of a core at most
  sfgi agent --interval 10s --budget 5%        more often, for more
  sfgi agent --mode wait --include '/shop$'    one program, with its blocking")]
pub(super) struct Args {
    /// What may be used for all programs together, and for each: a share of a core
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    budget: Option<f64>,
    /// Between two scans of a program
    #[arg(long, value_name = "TIME", value_parser = duration)]
    interval: Option<Duration>,
    /// How closely programs are watched, as far as the budget allows
    #[arg(long, value_enum)]
    mode: Option<ModeArg>,
    /// Only programs whose path or module matches (several: repeat)
    #[arg(long, value_name = "REGEX")]
    include: Vec<Regex>,
    /// No programs whose path or module matches (several: repeat)
    #[arg(long, value_name = "REGEX")]
    exclude: Vec<Regex>,
    /// From which age on waiting is suspicious
    #[arg(long, value_name = "TIME", value_parser = duration)]
    min_age: Option<Duration>,
    /// Add the rules of all .toml files in DIR; those with the id of a built-in one replace it
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Write what is known each second to standard output, a line of JSON each time
    #[arg(long, hide = true)]
    pictures: bool,
}

/// `2%`, `0.5%`.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    let share = number.filter(|number| number.is_finite() && *number > 0.0).map(|number| number / 100.0);
    share.ok_or_else(|| format!("{text}: a budget is a share of a core, as 2%"))
}

pub(super) fn run(args: &Args) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = agent::start(args.settings()?).context("the agent cannot start")?;
    runtime.block_on(serve(args, handle))
}

/// Until a signal asks for the end.
async fn serve(args: &Args, mut handle: Handle) -> Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    log::info!("begins: PID {}", std::process::id());
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            _ = hangup.recv() => match args.settings() {
                Ok(settings) => handle.requests.send(Request::Reload(Box::new(settings))).await?,
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
    handle.requests.send(Request::Stop).await?;
    // It has ended when nobody publishes any more.
    while handle.pictures.changed().await.is_ok() {}
    Ok(())
}

impl Args {
    /// What the flags say.
    fn settings(&self) -> Result<Settings> {
        let rules = Rules::built_in()?;
        let rules = match &self.rules {
            Some(directory) => rules.with_directory(directory)?,
            None => rules,
        };
        let mut settings = Settings::new(Arc::new(rules));
        if let Some(budget) = self.budget {
            settings.budget = Budget { node: budget, process: budget };
        }
        settings.interval = self.interval.unwrap_or(settings.interval);
        settings.mode = self.mode.map_or(settings.mode, ModeArg::mode);
        settings.thresholds.min_age = self.min_age.unwrap_or(settings.thresholds.min_age);
        let rules = |regexes: &[Regex], exclude| -> Vec<ProcessRule> {
            let matchers = regexes.iter().flat_map(|regex| {
                let (exe, module) = (Some(regex.clone()), Some(regex.clone()));
                [Matcher { exe, ..Matcher::default() }, Matcher { module, ..Matcher::default() }]
            });
            matchers.map(|when| ProcessRule { when, exclude, ..ProcessRule::default() }).collect()
        };
        settings.rules = rules(&self.exclude, true);
        if !self.include.is_empty() {
            settings.rules.extend(rules(&self.include, false));
            settings.rules.push(ProcessRule { exclude: true, ..ProcessRule::default() });
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_share_of_a_core() {
        assert_eq!(percent("2%"), Ok(0.02));
        assert_eq!(percent("150%"), Ok(1.5));
        for bad in ["", "2", "%", "-1%", "0%", "inf%", "NaN%", "2 %"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }
}

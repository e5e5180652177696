//! The command that runs at the highest level: without a shell, with a time limit, never two at a time for one alert.

use super::Alert;
use crate::agent::config;
use anyhow::{Context as _, Result, bail, ensure};
use std::process::Stdio;
use tokio::{process::Command, time};

/// Runs it and waits for its end.
///
/// # Errors
/// It cannot be started, fails, or is killed because its time is over.
pub(super) async fn run(hook: &config::Hook, alert: &Alert) -> Result<()> {
    let (program, args) = hook.command.split_first().context("the hook has no command")?;
    let mut command = Command::new(program);
    // What names the process comes from the process: as the value of a variable nothing interprets it.
    command.args(args).stdin(Stdio::null()).kill_on_drop(true).envs(environment(alert));
    let mut child = command.spawn().with_context(|| format!("cannot start the hook {program}"))?;
    let Ok(status) = time::timeout(hook.timeout, child.wait()).await else {
        child.kill().await.with_context(|| format!("cannot kill the hook {program}"))?;
        bail!("the hook {program} was killed after {:?}: raise alerts.hook.timeout", hook.timeout);
    };
    let status = status?;
    ensure!(status.success(), "the hook {program} failed: {status}");
    Ok(())
}

fn environment(alert: &Alert) -> [(&'static str, String); 7] {
    [
        ("SFGI_ALERT_LEVEL", alert.level.word().to_owned()),
        ("SFGI_ALERT_PID", alert.pid.to_string()),
        ("SFGI_ALERT_SERVICE", alert.service.clone()),
        ("SFGI_ALERT_GROUP", alert.group.clone().unwrap_or_default()),
        ("SFGI_ALERT_CLASS", alert.class.clone()),
        ("SFGI_ALERT_VERDICT", alert.verdict.unwrap_or_default().to_owned()),
        ("SFGI_ALERT_REASON", alert.reason.clone()),
    ]
    .map(|(name, value)| (name, value.replace('\0', "")))
}

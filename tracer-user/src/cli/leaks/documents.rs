//! What `sfgi leaks` says of a process, in every format, for a recording.

use super::{
    Args,
    judge::{Judge, registers},
    write_pprof,
};
use crate::{
    cli::{session, source::Opened},
    output::leaks::{LeakText, write_json, write_sarif},
};
use anyhow::{Context as _, Result};
use clap::Parser;
use sfgi_core::{
    detect::History,
    memory::Live,
    snapshot::{Clock, View},
};

/// The command's own defaults.
#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    args: Args,
}

/// Looks at a process as `sfgi leaks -p PID` does, and gives what that would write, by format: `leaks.text`,
/// `leaks.json`, `leaks.sarif`, `leaks.pprof`.
pub(in crate::cli) fn documents(pid: u32) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let args = Defaults::try_parse_from(["leaks", "-p", &pid.to_string()])?.args;
    let opened = Opened::process(pid, &args.layout)?;
    let process = opened.process.as_ref().context("there is no process")?;
    let (rules, baseline) = (args.rules()?, args.baseline()?);
    let (memory, bias) = (Live::of(process), opened.bias()?);
    let view = View { memory: &memory, binary: &opened.binary, bias, clock: Clock::Live };
    let (scope, history) = (args.scope(), History::default());
    let mut judge = Judge { args: &args, opened: &opened, rules, baseline, scope, pid: Some(pid), history };
    let mut documents = Vec::new();
    judge.look(&view, &mut registers(process, false), |_, found, names| {
        let (mut text, mut json, mut sarif, mut pprof) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        LeakText::new(&mut text, found, names, false).write()?;
        write_json(&mut json, found, names, false)?;
        write_sarif(&mut sarif, found, names)?;
        write_pprof(&mut pprof, found, names, session::wall_clock_ns())?;
        documents =
            vec![("leaks.text", text), ("leaks.json", json), ("leaks.sarif", sarif), ("leaks.pprof", pprof)];
        Ok(())
    })?;
    Ok(documents)
}

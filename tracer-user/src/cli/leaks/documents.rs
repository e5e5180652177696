//! The result of `sfgi leaks` in every format, for `sfgi record --leaks`.

use super::{Args, Run, registers, write_pprof};
use crate::{
    cli::{session, source::Opened},
    output::leaks::{LeakText, write_json, write_sarif},
};
use anyhow::{Context as _, Result};
use clap::Parser;
use sfgi_core::{
    memory::Live,
    snapshot::{Clock, View},
};

/// Parses the command's arguments alone, so that a recording has exactly the defaults of `sfgi leaks`.
#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    args: Args,
}

/// Searches a process as `sfgi leaks -p PID` does. The result is what that writes, by name: `leaks.text`,
/// `leaks.json`, `leaks.sarif`, `leaks.pprof`.
pub(in crate::cli) fn documents(pid: u32) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let args = Defaults::try_parse_from(["leaks", "-p", &pid.to_string()])?.args;
    let opened = Opened::process(pid, &args.target.layout)?;
    let process = opened.process.as_ref().context("there is no process")?;
    let (memory, bias) = (Live::of(process), opened.bias()?);
    let view = View { memory: &memory, binary: &opened.binary, bias, clock: Clock::Live };
    let mut run = Run::new(&args, &opened, args.rules()?, args.baseline()?);
    let mut found = run.search(&view, &mut registers(process, false))?;
    let (document, names) = (run.document(&found.leaks), &mut found.names);
    let (mut text, mut json, mut sarif, mut pprof) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    LeakText::new(&mut text, document.leaks, names, false).write()?;
    write_json(&mut json, &document, names, false)?;
    write_sarif(&mut sarif, &document)?;
    write_pprof(&mut pprof, &document, names, session::wall_clock_ns())?;
    Ok(vec![("leaks.text", text), ("leaks.json", json), ("leaks.sarif", sarif), ("leaks.pprof", pprof)])
}

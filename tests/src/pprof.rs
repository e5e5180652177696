//! Profiles, read by `go tool pprof`.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, ensure};

use crate::toolchain::Go;

/// What `go tool pprof ARGUMENTS… FILES…` of the newest toolchain prints.
///
/// # Errors
/// It fails; the error holds its stderr.
pub fn run(arguments: &[&str], files: &[&Path]) -> Result<String> {
    let mut command = Go::newest().command();
    let output = command.args(["tool", "pprof"]).args(arguments).args(files).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {stderr}");
    Ok(String::from_utf8(output.stdout)?)
}

/// A sample of a profile.
#[derive(Clone, Debug)]
pub struct Sample {
    /// A value of each kind that the profile has.
    pub values: Vec<u64>,
    /// The names of the functions, innermost first, inlined ones among them.
    pub functions: Vec<String>,
}

/// All samples of a profile, as `go tool pprof -raw` prints them.
///
/// # Errors
/// It cannot be read, or is printed otherwise than expected.
pub fn samples(file: &Path) -> Result<Vec<Sample>> {
    let text = run(&["-raw"], &[file])?;
    let (_, rest) = text.split_once("Samples:\n").with_context(|| text.clone())?;
    let (samples, rest) = rest.split_once("Locations\n").with_context(|| text.clone())?;
    let (locations, _) = rest.split_once("Mappings\n").with_context(|| text.clone())?;
    let mut functions: HashMap<&str, Vec<String>> = HashMap::new();
    let mut id = "";
    for line in locations.lines() {
        // `ID: ADDRESS M=MAPPING NAME FILE:LINE:COLUMN s=START`. A function that the code is inlined into has a line
        // of its own, which begins with its name. A name may contain blanks.
        let mut rest = line.trim();
        if let Some((number, text)) = rest.split_once(": 0x") {
            id = number;
            rest = text.split_once(' ').map_or("", |(_, text)| text);
        }
        if let Some(text) = rest.strip_prefix("M=") {
            rest = text.split_once(' ').map_or("", |(_, text)| text);
        }
        let name = rest.rsplitn(3, ' ').nth(2).with_context(|| line.to_owned())?;
        functions.entry(id).or_default().push(name.to_owned());
    }
    let mut all = Vec::new();
    // The first line names the columns; labels follow their sample.
    for line in samples.lines().skip(1).filter(|line| !line.contains(":[")) {
        let (values, ids) = line.split_once(": ").with_context(|| line.to_owned())?;
        let values = values.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let names = ids.split_whitespace().map(|id| functions.get(id).cloned().context("no such location"));
        let functions = names.collect::<Result<Vec<_>>>()?.concat();
        all.push(Sample { values, functions });
    }
    Ok(all)
}

//! Go's own account of a program: the state transitions in a `runtime/trace` recording, as `go tool trace -d=parsed`
//! prints them.
//!
//! A line of interest is `M=1 P=0 G=1 StateTransition Time=N GoID=G From->To Reason="…"`; Go 1.25
//! prints `Resource=Goroutine(G) Reason="…" GoID=G From->To`. `Time` is `CLOCK_MONOTONIC` in
//! nanoseconds, counted by the CPU's clock between two synchronisations.

use std::{collections::BTreeMap, io::BufRead, path::Path};

use anyhow::{Context, Result};

use crate::{
    state::{State, Transition},
    toolchain::{self, Go},
};

/// The state transitions of one recording.
#[derive(Debug, Default)]
pub struct Recording {
    /// The transitions of each goroutine, by goid, in order.
    pub goroutines: BTreeMap<u64, Vec<Transition>>,
    /// Time of the first event, ns.
    pub begin: u64,
    /// Time of the last event, ns.
    pub end: u64,
}

/// Reads a recording with the newest toolchain's reader, which knows all formats since Go 1.22.
///
/// # Errors
/// As [`read_with`].
pub fn read(file: &Path) -> Result<Recording> {
    read_with(&Go::newest(), file)
}

/// Reads a recording with the reader of this toolchain, 1.22 or newer.
///
/// # Errors
/// The tool fails (the recording is broken) or prints a transition that cannot be read.
pub fn read_with(go: &Go, file: &Path) -> Result<Recording> {
    // The levels have had names since 1.24.
    let level = if go.minor >= 24 { "-d=parsed" } else { "-d=1" };
    let text = toolchain::output(go.command().args(["tool", "trace", level]).arg(file))?;
    parse(text.as_slice())
}

/// Reads the tool's output. A state in which the recording first finds a goroutine (`Undetermined->X`) is no
/// transition, nor is the state that each further generation repeats (`X->X`, `src/runtime/tracestatus.go`). The
/// goroutine appears all the same, if need be with an empty list.
///
/// # Errors
/// A state transition of a goroutine cannot be read.
pub fn parse(text: impl BufRead) -> Result<Recording> {
    let mut recording = Recording::default();
    for line in text.lines() {
        let line = line?;
        // The lines of stack traces are indented.
        let Some(ts) = line.starts_with("M=").then(|| field(&line, " Time=")).flatten() else { continue };
        let ts = ts.parse().with_context(|| format!("no time: {line}"))?;
        if recording.begin == 0 {
            recording.begin = ts;
        }
        recording.end = ts;
        if line.contains(" StateTransition ")
            && let Some(goid) = field(&line, " GoID=")
        {
            let goid = goid.parse().with_context(|| format!("no goroutine id: {line}"))?;
            let transition = transition(ts, &line).with_context(|| format!("no transition: {line}"))?;
            let list = recording.goroutines.entry(goid).or_default();
            if transition.from != State::Unknown && transition.from != transition.to {
                list.push(transition);
            }
        }
    }
    Ok(recording)
}

fn transition(ts: u64, line: &str) -> Option<Transition> {
    let arrow = line.split(' ').find(|word| word.contains("->"))?;
    let (from, to) = arrow.split_once("->")?;
    let reason = line.split_once(" Reason=\"")?.1.split_once('"')?.0.to_owned();
    Some(Transition { ts, from: State::of_go(from)?, to: State::of_go(to)?, reason })
}

/// The word after `key`.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_once(key)?.1.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
M=-1 P=-1 G=-1 Sync Time=100 N=1 Trace=101 Mono=102 Wall=2026-11-22T00:06:15.264444257Z
M=7 P=-1 G=-1 StateTransition Time=110 ProcID=0 Undetermined->Running Reason=\"\"
M=7 P=0 G=-1 StateTransition Time=120 GoID=1 Undetermined->Running Reason=\"\"
M=7 P=0 G=1 StateTransition Time=130 GoID=5 NotExist->Runnable Reason=\"\"
TransitionStack=
\tmain.f->g StateTransition Time=1 GoID=1 Running->Waiting Reason=\"\"

M=7 P=0 G=1 StateTransition Time=140 GoID=1 Running->Waiting Reason=\"chan receive\"
M=7 P=0 G=-1 StateTransition Time=150 Resource=Goroutine(5) Reason=\"\" GoID=5 Runnable->Running
";

    #[test]
    fn transitions_of_both_formats_are_read_and_stacks_are_not() {
        let recording = parse(OUTPUT.as_bytes()).unwrap();
        let text: Vec<String> = recording
            .goroutines
            .iter()
            .flat_map(|(goid, list)| list.iter().map(move |t| format!("{goid}: {t}")))
            .collect();
        assert_eq!(
            text,
            ["1: 140 running→waiting chan receive", "5: 130 dead→runnable ", "5: 150 runnable→running "]
        );
        assert_eq!((recording.begin, recording.end), (100, 150));
    }

    #[test]
    fn a_goroutine_seen_in_one_state_only_is_there_without_a_transition() {
        let lines = "M=7 P=0 G=-1 StateTransition Time=120 GoID=9 Undetermined->Waiting Reason=\"\"\n\
                     M=7 P=0 G=-1 StateTransition Time=130 GoID=9 Waiting->Waiting Reason=\"\"\n";
        let recording = parse(lines.as_bytes()).unwrap();
        assert_eq!(recording.goroutines[&9], []);
    }

    #[test]
    fn an_unknown_state_is_an_error() {
        let line = "M=7 P=0 G=1 StateTransition Time=120 GoID=9 Running->Flying Reason=\"\"\n";
        assert!(parse(line.as_bytes()).is_err());
    }
}

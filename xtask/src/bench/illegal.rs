//! How soon an illegal transition is on the screen. A program makes some and prints when.

use super::{
    Row, Setting,
    fixture::Fixture,
    screen::{Round, rows, watch},
};
use crate::setup::go;
use anyhow::{Result, ensure};
use serde_json::Value;

const ROUNDS: usize = 5;

/// Pairs of illegal transitions in a round, twenty milliseconds apart: the 99th percentile leaves out the slowest
/// two.
const PAIRS: usize = 200;

/// Measures several rounds.
pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    // From Go 1.23 on the program may not call the runtime's own functions without this.
    let program = Fixture::build("illegal", go::BENCH, &["-ldflags=-checklinkname=0"])?;
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let target = Fixture::start(&program, &["-n".to_owned(), PAIRS.to_string()])?;
        rounds.push(measure(target, setting)?);
        eprintln!("bench illegal: round {round} of {ROUNDS} done");
    }
    Ok(rows("illegal: on the screen after", &rounds))
}

fn measure(target: Fixture, setting: &Setting) -> Result<Round> {
    let watched = watch(target, setting, &["-e", "illegal"])?;
    let made: Vec<u64> = watched.said.iter().filter_map(|line| made_at(line)).collect();
    ensure!(made.len() == PAIRS, "the program made {} illegal transitions", made.len());
    // The first step of each pair counts.
    let first: Vec<u64> =
        watched.shown.iter().filter(|(_, line)| is_first(line)).map(|(arrived, _)| *arrived).collect();
    ensure!(first.len() == PAIRS, "{} of {PAIRS} were flagged", first.len());
    let times =
        first.iter().zip(&made).map(|(arrived, made)| arrived.saturating_sub(*made) as f64 / 1e6).collect();
    Ok(Round::of(times, watched))
}

/// The FROM of "illegal FROM UNTIL GOID".
fn made_at(line: &str) -> Option<u64> {
    line.strip_prefix("illegal ")?.split(' ').next()?.parse().ok()
}

fn is_first(line: &str) -> bool {
    serde_json::from_str::<Value>(line)
        .is_ok_and(|event| event["event"] == "illegal" && event["from"] == "waiting")
}

//! How soon a deadlock is on the screen: a program closes one ring of goroutines after the other, while others share a
//! lock as they should.

use super::{
    Row, Setting,
    fixture::Fixture,
    screen::{Round, rows, watch},
};
use crate::setup::go;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

const ROUNDS: usize = 3;
/// Rings in a round: the 99th percentile leaves out the slowest two.
const RINGS: usize = 200;

pub(super) fn run(setting: &Setting) -> Result<Vec<Row>> {
    let program = Fixture::build("closing", go::BENCH, &[])?;
    let mut rounds = Vec::new();
    for round in 1..=ROUNDS {
        let target = Fixture::start(&program, &["-n".to_owned(), RINGS.to_string()])?;
        rounds.push(measure(target, setting)?);
        eprintln!("bench deadlock: round {round} of {ROUNDS} done");
    }
    Ok(rows("deadlock: on the screen after its last step", &rounds))
}

fn measure(target: Fixture, setting: &Setting) -> Result<Round> {
    let watched = watch(target, setting, &["-e", "deadlock", "--mode", "wait"])?;
    let mut times = Vec::new();
    for (arrived, line) in &watched.shown {
        let told: Value = serde_json::from_str(line)?;
        if told["event"] == "deadlock" {
            let since = told["since_ts_ns"].as_u64().context("no since_ts_ns")?;
            times.push(arrived.saturating_sub(since) as f64 / 1e6);
        }
    }
    ensure!(times.len() == RINGS, "{} of {RINGS} rings were told", times.len());
    Ok(Round::of(times, watched))
}

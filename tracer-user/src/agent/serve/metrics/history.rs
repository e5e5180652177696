//! The last hour as metrics: what `/sfgi/profile` shows. A label says how long ago, because in this format a series has one value.

use super::family::{Families, Family, Kind};
use crate::agent::store::{History, STEP_SECONDS};
use std::borrow::Cow;

/// Goroutines of each process, in steps of five minutes.
pub fn history(of: &History, now_unix_s: u64, max_series: usize) -> Vec<Family<'_>> {
    let mut out = Families { all: Vec::new(), max_series };
    let mut family = |name, help, value: fn(&crate::agent::store::Step) -> u64| {
        let mut sink = out.add(Kind::Gauge, name, help);
        for (_, series) in of.rows() {
            for step in &series.steps {
                let ago = now_unix_s.saturating_sub(step.start_s) / STEP_SECONDS * STEP_SECONDS / 60;
                let labels = [
                    ("pid", Cow::from(series.pid.to_string())),
                    ("service", Cow::from(series.service.as_str())),
                    ("exe", Cow::from(series.exe.as_str())),
                    ("minutes_ago", Cow::from(ago.to_string())),
                ];
                sink.number(value(step) as f64, labels);
            }
        }
    };
    family("sfgi_history_goroutines", "The most goroutines of a process within five minutes.", |step| {
        step.goroutines
    });
    family("sfgi_history_fewest_goroutines", "The fewest of these.", |step| step.fewest);
    family("sfgi_history_leaked_goroutines", "The most in findings that are likely or proven.", |step| {
        step.leaked
    });
    out.all
}

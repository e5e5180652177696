//! What probes have told of a process.

use super::Top;
use serde::Serialize;
use std::sync::Arc;

/// What probes have told of a process, in all the time that they stood.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Events {
    /// How long probes stood, all in all.
    pub watched_seconds: f64,
    /// Goroutines made, by the `go` statement.
    pub created: Top,
    /// Goroutines that ended, by the `go` statement that made them.
    pub exited: Top,
    /// How long goroutines were blocked, by wait reason (`wait` and `full` only). At most 64.
    pub blocked: Vec<(Arc<str>, Distribution)>,
    /// How long goroutines were ready and not run (`full` only).
    pub run_queue: Distribution,
    /// Steps that the runtime's own rules do not allow.
    pub illegal: u64,
    /// Hits of the probes, and events that were lost.
    pub hits: u64,
    /// See `hits`.
    pub lost: u64,
    /// Hits a second, of late.
    pub hits_per_second: f64,
    /// What a hit costs the program, as measured when the agent began and corrected since, nanoseconds.
    pub hit_ns: f64,
    /// What the probes cost the program now, cores: by hits and their price.
    pub predicted_cores: f64,
    /// What the BPF programs ran in this process, of late, cores, as the kernel counts it: a part of the price.
    /// `None`: it does not.
    pub bpf_cores: Option<f64>,
    /// What our reading of the events costs, of late, cores.
    pub own_cores: f64,
}

/// Upper bounds of [`Distribution`], seconds: powers of four from a microsecond.
pub const BOUNDS_SECONDS: [f64; 16] = [
    1e-6,
    4e-6,
    16e-6,
    64e-6,
    256e-6,
    1.024e-3,
    4.096e-3,
    16.384e-3,
    65.536e-3,
    0.262_144,
    1.048_576,
    4.194_304,
    16.777_216,
    67.108_864,
    268.435_456,
    1_073.741_824,
];

/// Lengths of time, counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Those up to each of [`BOUNDS_SECONDS`] and above the one before; the last are longer than all.
    pub counts: [u64; BOUNDS_SECONDS.len() + 1],
    /// All together, seconds.
    pub sum_seconds: f64,
}

impl Distribution {
    /// Counts one.
    pub fn add(&mut self, ns: u64) {
        let seconds = ns as f64 / 1e9;
        let class = BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(class) {
            *count += 1;
        }
        self.sum_seconds += seconds;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_counts_in_the_class_that_it_bounds() {
        let mut distribution = Distribution::default();
        for ns in [0, 1_000, 1_001, 4_000, u64::MAX] {
            distribution.add(ns);
        }
        assert_eq!(distribution.counts[..3], [2, 2, 0]);
        assert_eq!(distribution.counts.last(), Some(&1));
        assert_eq!(distribution.count(), 5);
    }
}

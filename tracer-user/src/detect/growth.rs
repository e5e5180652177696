//! Whether a creation site makes goroutines faster than they end.
//!
//! The slope over the looks is that of least squares, with a t-test. Counts that merely wander look like a
//! slope to that, so the steps from look to look are tested too, and the less sure of both counts. And a site
//! whose goroutines come and go under a load that rises is not one that leaks: nearly all that any look found
//! must still be there.

use super::student;
use crate::heap::Observed;
use std::collections::HashMap;

/// How a creation site grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// Goroutines more, a second.
    pub per_s: f64,
    /// The probability that it grows at all, from 0 to 1.
    pub confidence: f64,
    /// From how many looks that was told.
    pub looks: usize,
}

/// Looks that a slope needs.
const MIN_LOOKS: usize = 4;
/// Goroutines that must have come.
const MIN_GAIN: u64 = 3;
/// How sure it must be.
const MIN_CONFIDENCE: f64 = 0.99;
/// The part of what all looks found that must still be there.
const MIN_SURVIVAL: f64 = 0.9;

/// A creation site: `gopc` and `startpc`.
pub(super) type Site = (u64, u64);

/// The sites that grow.
pub(super) fn find(observed: &Observed) -> HashMap<Site, Growth> {
    let mut stayed: HashMap<Site, u64> = HashMap::new();
    for (goroutine, facts) in observed.snapshot.goroutines.iter().zip(&observed.facts) {
        *stayed.entry((goroutine.gopc, goroutine.startpc)).or_default() += u64::from(facts.looks);
    }
    let Some(last) = observed.looks.last() else { return HashMap::new() };
    let mut found = HashMap::new();
    for site in last.counts.keys() {
        let points: Vec<(u64, u64)> = observed
            .looks
            .iter()
            .map(|look| (look.at_ns, look.counts.get(site).copied().unwrap_or(0)))
            .collect();
        let seen: u64 = points.iter().map(|(_, count)| count).sum();
        let survival = stayed.get(site).copied().unwrap_or(0) as f64 / seen.max(1) as f64;
        if let Some(growth) = Growth::of(&points).filter(|_| survival >= MIN_SURVIVAL) {
            found.insert(*site, growth);
        }
    }
    found
}

impl Growth {
    /// Of counts at times (nanoseconds), the oldest first; `None` where they do not grow for certain.
    pub fn of(points: &[(u64, u64)]) -> Option<Growth> {
        let ((start, first), (_, last)) = (points.first()?, points.last()?);
        if points.len() < MIN_LOOKS || last.saturating_sub(*first) < MIN_GAIN {
            return None;
        }
        let points: Vec<(f64, f64)> = points
            .iter()
            .map(|(at, count)| (at.saturating_sub(*start) as f64 / 1e9, *count as f64))
            .collect();
        let (per_s, of_slope) = slope(&points)?;
        let confidence = of_slope.min(of_steps(&points));
        (per_s > 0.0 && confidence >= MIN_CONFIDENCE).then_some(Growth {
            per_s,
            confidence,
            looks: points.len(),
        })
    }
}

/// The slope of the line of least squares, and the probability that it rises.
fn slope(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let sxx: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if sxx <= 0.0 {
        return None;
    }
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / sxx;
    let residual: f64 = points.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum();
    let error = (residual / (n - 2.0) / sxx).sqrt();
    Some((slope, student::below(ratio(slope, error), n - 2.0)))
}

/// The probability that the steps between the points rise in the mean.
fn of_steps(points: &[(f64, f64)]) -> f64 {
    let steps: Vec<f64> =
        points.windows(2).filter_map(|pair| Some(pair.get(1)?.1 - pair.first()?.1)).collect();
    let n = steps.len() as f64;
    let mean = steps.iter().sum::<f64>() / n;
    let variance = steps.iter().map(|step| (step - mean).powi(2)).sum::<f64>() / (n - 1.0);
    student::below(ratio(mean, (variance / n).sqrt()), n - 1.0)
}

/// A line without any error is certain.
fn ratio(value: f64, error: f64) -> f64 {
    if error > 0.0 { value / error } else { value * f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn growth(counts: &[u64]) -> Option<Growth> {
        let points: Vec<(u64, u64)> =
            (0u64..).zip(counts).map(|(at, count)| (at * SECOND / 2, *count)).collect();
        Growth::of(&points)
    }

    #[test]
    fn a_steady_leak_grows() {
        let exact = growth(&[10, 12, 14, 16, 18]).unwrap();
        assert_eq!((exact.per_s, exact.confidence, exact.looks), (4.0, 1.0, 5));
        let noisy = growth(&[10, 12, 13, 17, 18, 20, 23, 24]).unwrap();
        assert!((noisy.per_s - 4.0).abs() < 0.5 && noisy.confidence > 0.99 && noisy.confidence < 1.0);
    }

    #[test]
    fn what_does_not_grow_is_not_said_to() {
        let cases: [&[u64]; 8] = [
            &[],
            &[5, 50, 500],
            &[10, 10, 10, 10, 10],
            &[20, 18, 16, 14, 12],
            &[10, 11, 11, 12],
            // A load that goes up and down, and one that wanders.
            &[10, 40, 12, 45, 9, 38, 15],
            &[10, 14, 11, 17, 16, 22, 18, 24],
            // Many at once: a pool that was started.
            &[0, 0, 0, 100, 100, 100, 100, 100],
        ];
        for case in cases {
            assert_eq!(growth(case), None, "{case:?}");
        }
    }

    #[test]
    fn hostile_times_make_no_slope() {
        assert_eq!(Growth::of(&[(5, 1), (5, 2), (5, 30), (5, 400)]), None);
        assert_eq!(Growth::of(&[(9, 1), (7, 2), (5, 30), (0, u64::MAX)]), None);
    }
}

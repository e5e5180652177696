//! Whether a creation site makes goroutines faster than they end.
//!
//! The slope over the looks is that of least squares, with a t-test. Counts that wander look like a slope to that
//! test, so the steps from look to look are tested as well, and the lower of both confidences counts. Looks come in
//! bunches, with pauses between them, and a test of steps only holds for steps of about the same length: so the short
//! ones and the long ones are tested apart. A site whose goroutines come and go under a rising load does not leak: nearly
//! all goroutines that any look found must still be there.

use crate::heap::{Look, Observed};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How a creation site grows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// Goroutines made a second, less those that end.
    pub per_s: f64,
    /// The probability that it grows at all, from 0 to 1.
    pub confidence: f64,
    /// How many looks tell so.
    pub looks: usize,
}

/// Looks that a slope needs: three points leave the t-test one degree of freedom, and chance makes lines of them.
const MIN_LOOKS: usize = 4;
/// How many goroutines the last look must have more than the first.
const MIN_GAIN: u64 = 3;
/// The confidence from which on a site counts as growing.
const MIN_CONFIDENCE: f64 = 0.99;
/// The part of all sightings, over all looks, that must be of goroutines that are still there.
const MIN_SURVIVAL: f64 = 0.9;
/// A step is long if it lasts at least one in so many of the longest.
const LONG: u64 = 4;

/// A creation site: `gopc` and `startpc`.
pub(super) type Site = (u64, u64);

pub(super) fn find(observed: &Observed) -> HashMap<Site, Growth> {
    let mut stayed: HashMap<Site, u64> = HashMap::new();
    for (goroutine, facts) in observed.snapshot.goroutines.iter().zip(&observed.facts) {
        // `facts.looks` counts the looks that found this goroutine.
        *stayed.entry((goroutine.gopc, goroutine.startpc)).or_default() += u64::from(facts.looks);
    }
    let Some(last) = observed.looks.last() else { return HashMap::new() };
    let mut found = HashMap::new();
    for site in last.counts.keys() {
        let counts = observed.looks.iter().map(|look| look.counts.get(site).copied().unwrap_or(0));
        let survival = stayed.get(site).copied().unwrap_or(0) as f64 / counts.sum::<u64>().max(1) as f64;
        let growth = Growth::of_site(&observed.looks, site);
        if let Some(growth) = growth.filter(|_| survival >= MIN_SURVIVAL) {
            found.insert(*site, growth);
        }
    }
    found
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at_ns: u64,
    count: u64,
    after_gap: bool,
}

impl Growth {
    /// Of the goroutines of a creation site (`gopc`, `startpc`) at these looks, the oldest first; `None` where they do
    /// not grow for certain.
    pub fn of_site(looks: &[Look], site: &(u64, u64)) -> Option<Growth> {
        let point = |look: &Look| Point {
            at_ns: look.at_ns,
            count: look.counts.get(site).copied().unwrap_or(0),
            after_gap: look.after_gap,
        };
        Growth::of(&looks.iter().map(point).collect::<Vec<_>>())
    }

    /// Of how many there were of something, by time (monotonic clock, ns), the oldest first; `None` where they do not grow
    /// for certain.
    pub fn of_counts(counts: &[(u64, u64)]) -> Option<Growth> {
        let point = |(at_ns, count): &(u64, u64)| Point { at_ns: *at_ns, count: *count, after_gap: false };
        Growth::of(&counts.iter().map(point).collect::<Vec<_>>())
    }

    fn of(points: &[Point]) -> Option<Growth> {
        let (first, last) = (points.first()?, points.last()?);
        if points.len() < MIN_LOOKS || last.count.saturating_sub(first.count) < MIN_GAIN {
            return None;
        }
        let seconds = |point: &Point| point.at_ns.saturating_sub(first.at_ns) as f64 / 1e9;
        let line: Vec<(f64, f64)> = points.iter().map(|point| (seconds(point), point.count as f64)).collect();
        let (per_s, of_slope) = slope(&line)?;
        let confidence = of_slope.min(of_steps(points));
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
    Some((slope, student_below(ratio(slope, error), n - 2.0)))
}

/// The probability that the steps between the points rise in the mean: by those within a bunch of looks, or by those from
/// bunch to bunch. One long step among many short ones would hide that each of them rises, and the short ones between two
/// long ones that these do. A step over a gap is left out: what came in it may have come at once.
fn of_steps(points: &[Point]) -> f64 {
    let length = |one: &Point, next: &Point| next.at_ns.saturating_sub(one.at_ns);
    let pairs = || points.iter().zip(points.iter().skip(1)).filter(|(_, next)| !next.after_gap);
    let rise = |one: &Point, next: &Point| next.count as f64 - one.count as f64;
    let longest = pairs().map(|(one, next)| length(one, next)).max().unwrap_or(0);
    let is_long = |ns: u64| ns >= longest / LONG;
    let short = pairs().filter(|(one, next)| !is_long(length(one, next)));
    let short: Vec<f64> = short.map(|(one, next)| rise(one, next)).collect();
    // Of each bunch the first look stands for all.
    let (mut long, mut from) = (Vec::new(), points.first());
    for point in points.iter().skip(1) {
        match from {
            _ if point.after_gap => from = Some(point),
            Some(one) if is_long(length(one, point)) => {
                long.push(rise(one, point));
                from = Some(point);
            }
            _ => {}
        }
    }
    rising(&short).max(rising(&long))
}

/// The probability that the mean of these is above 0; one half for too few: two may be equal by chance.
fn rising(steps: &[f64]) -> f64 {
    if steps.len() < MIN_LOOKS - 1 {
        return 0.5;
    }
    let n = steps.len() as f64;
    let mean = steps.iter().sum::<f64>() / n;
    let variance = steps.iter().map(|step| (step - mean).powi(2)).sum::<f64>() / (n - 1.0);
    student_below(ratio(mean, (variance / n).sqrt()), n - 1.0)
}

/// `value / error`; a line without any error is certain, so its ratio is infinite.
fn ratio(value: f64, error: f64) -> f64 {
    if error > 0.0 { value / error } else { value * f64::INFINITY }
}

/// The probability that a value of Student's t distribution with `df` degrees of freedom is less than `t`.
fn student_below(t: f64, df: f64) -> f64 {
    if t.is_nan() || df <= 0.0 {
        return 0.5;
    }
    if t.is_infinite() {
        return if t > 0.0 { 1.0 } else { 0.0 };
    }
    let tail = 0.5 * incomplete_beta(df / (df + t * t), df / 2.0, 0.5);
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// The regularised incomplete beta function, by its continued fraction.
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // The fraction converges fast on this side only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp() / a;
    front * fraction(x, a, b)
}

/// The continued fraction, evaluated from the front (Lentz).
fn fraction(x: f64, a: f64, b: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let keep = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / keep(1.0 - (a + b) * x / (a + 1.0));
    let mut result = d;
    for m in (1..=200).map(f64::from) {
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / keep(1.0 + term * d);
            c = keep(1.0 + term / c);
            change = c * d;
            result *= change;
        }
        if (change - 1.0).abs() < 1e-12 {
            break;
        }
    }
    result
}

/// The logarithm of the gamma function for positive numbers: Stirling's series, from 10 on.
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 10.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / (x * x);
    let series = (1.0 / 12.0 - inverse * (1.0 / 360.0 - inverse / 1260.0)) / x;
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn growth(counts: &[u64]) -> Option<Growth> {
        of((0u64..).zip(counts).map(|(at, count)| (at * SECOND / 2, *count)), u64::MAX)
    }

    /// Of counts at times, with a gap before this one.
    fn of(points: impl IntoIterator<Item = (u64, u64)>, gap: u64) -> Option<Growth> {
        let point = |(at_ns, count)| Point { at_ns, count, after_gap: at_ns == gap };
        Growth::of(&points.into_iter().map(point).collect::<Vec<_>>())
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
        assert_eq!(of([(5, 1), (5, 2), (5, 30), (5, 400)], 0), None);
        assert_eq!(of([(9, 1), (7, 2), (5, 30), (0, u64::MAX)], 0), None);
    }

    #[test]
    fn what_came_while_nobody_looked_is_no_step() {
        let times = [0, 1, 2, 3, 63, 64, 65];
        let around = |counts: [u64; 7]| of(times.map(|at| at * SECOND).into_iter().zip(counts), 63 * SECOND);
        let steady = around([5, 10, 15, 20, 320, 325, 330]).unwrap();
        assert!((steady.per_s - 5.0).abs() < 0.01, "{steady:?}");
        // A pool that was started meanwhile.
        assert_eq!(around([20, 20, 20, 20, 120, 120, 120]), None);
        assert_eq!(around([20, 21, 20, 21, 120, 121, 120]), None);
    }

    /// Looks of `--watch`: a bunch of them, fifty milliseconds apart, then a pause.
    fn rounds(rounds: u64, count: impl Fn(u64) -> u64) -> Option<Growth> {
        let looks = (0..rounds).flat_map(|round| (0..21).map(move |look| round * 6000 + look * 50));
        of(looks.map(|ms| (ms * SECOND / 1000, count(ms))), u64::MAX)
    }

    #[test]
    fn a_steady_leak_grows_in_each_round() {
        for number in 1..12 {
            let growth = rounds(number, |ms| 10 + ms / 25).unwrap_or_else(|| panic!("not in round {number}"));
            assert!((growth.per_s - 40.0).abs() < 0.5, "{number}: {growth:?}");
        }
        // So slow that only the pauses show it.
        assert_eq!(rounds(3, |ms| 10 + ms / 2000), None);
        assert!((6..12).all(|number| rounds(number, |ms| 10 + ms / 2000).is_some()));
    }

    #[test]
    fn a_pool_that_was_started_between_two_rounds_does_not_grow() {
        for number in 2..12 {
            assert_eq!(rounds(number, |ms| if ms < 6000 { 20 } else { 120 }), None, "round {number}");
        }
    }

    /// Values of the usual tables.
    #[test]
    fn student_s_distribution_is_as_in_the_tables() {
        let cases = [
            (0.0, 5.0, 0.5),
            (6.314, 1.0, 0.95),
            (2.920, 2.0, 0.95),
            (3.365, 5.0, 0.99),
            (2.764, 10.0, 0.99),
            (3.646, 30.0, 0.9995),
            (-2.015, 5.0, 0.05),
        ];
        for (t, df, expected) in cases {
            assert!(
                (student_below(t, df) - expected).abs() < 1e-4,
                "t {t} df {df}: {}",
                student_below(t, df)
            );
        }
        assert_eq!(student_below(f64::INFINITY, 3.0), 1.0);
        assert_eq!(student_below(f64::NAN, 3.0), 0.5);
        assert!((student_below(1.96, 1e6) - 0.975).abs() < 1e-4);
    }
}

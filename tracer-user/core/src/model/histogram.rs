//! Durations, counted in classes that grow with the value.

/// Classes per power of two. A class is at most 1/32 of its value wide and speaks for its middle,
/// so that a quantile is off by at most 1/64 (1.6 %).
const PER_OCTAVE: u64 = 32;

/// A histogram of any `u64`; it takes as much memory as its largest value needs, 15 KiB at most.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    classes: Vec<u64>,
    count: u64,
    total: u64,
    max: u64,
}

impl Histogram {
    /// Counts one value.
    pub fn add(&mut self, value: u64) {
        let class = class_of(value);
        if self.classes.len() <= class {
            self.classes.resize(class + 1, 0);
        }
        self.classes[class] += 1;
        self.count += 1;
        self.total = self.total.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Counts everything that another one counted.
    pub fn merge(&mut self, other: &Histogram) {
        if self.classes.len() < other.classes.len() {
            self.classes.resize(other.classes.len(), 0);
        }
        for (mine, theirs) in self.classes.iter_mut().zip(&other.classes) {
            *mine += theirs;
        }
        self.count += other.count;
        self.total = self.total.saturating_add(other.total);
        self.max = self.max.max(other.max);
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum; it stops at `u64::MAX`.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest, exactly; 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The smallest value that a share of `per_mille`/1000 does not exceed, to 1.6 %; 0 if there
    /// is none.
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let rank = u128::from(self.count) * u128::from(per_mille.min(1000));
        let rank = rank.div_ceil(1000).max(1);
        if rank >= u128::from(self.count) {
            return self.max;
        }
        let mut below = 0u128;
        for (class, &count) in self.classes.iter().enumerate() {
            below += u128::from(count);
            if below >= rank {
                return middle_of(class).min(self.max);
            }
        }
        self.max
    }
}

/// Values below 64 have a class each; above, the five bits behind the first one count.
fn class_of(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(6);
    (u64::from(shift) * PER_OCTAVE + (value >> shift)) as usize
}

fn middle_of(class: usize) -> u64 {
    let class = class as u64;
    let shift = (class / PER_OCTAVE).saturating_sub(1);
    let lowest = (class - shift * PER_OCTAVE) << shift;
    lowest + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn classes_are_contiguous_and_the_last_fits() {
        assert_eq!(class_of(0), 0);
        assert_eq!(class_of(63), 63);
        assert_eq!(class_of(64), 64);
        assert_eq!(class_of(65), 64);
        assert_eq!(class_of(66), 65);
        assert_eq!(class_of(127), 95);
        assert_eq!(class_of(128), 96);
        assert_eq!(class_of(u64::MAX), 1919);
        assert_eq!(middle_of(63), 63);
        assert_eq!(middle_of(64), 65);
    }

    #[test]
    fn nothing_has_no_quantiles() {
        let empty = Histogram::default();
        assert_eq!((empty.count(), empty.total(), empty.max(), empty.quantile(500)), (0, 0, 0, 0));
    }

    #[test]
    fn quantiles_of_one_to_hundred() {
        let mut histogram = Histogram::default();
        (1..=100).rev().for_each(|value| histogram.add(value * 1000));
        assert_eq!((histogram.count(), histogram.total(), histogram.max()), (100, 5_050_000, 100_000));
        for (per_mille, exact) in [(500, 50_000), (990, 99_000), (10, 1_000), (0, 1_000)] {
            let got = histogram.quantile(per_mille);
            assert!(got.abs_diff(exact) * 64 <= exact, "{per_mille}: {got} is too far from {exact}");
        }
        assert_eq!(histogram.quantile(1000), 100_000);
    }

    proptest! {
        #[test]
        fn a_class_is_never_far_from_its_values(value: u64) {
            prop_assert!(middle_of(class_of(value)).abs_diff(value) <= value / 64 + 1);
        }

        #[test]
        fn quantiles_are_near_the_exact_ones(
            mut values in prop::collection::vec(any::<u64>().prop_map(|v| v >> (v % 60)), 1..200),
            per_mille in 0u64..=1000,
        ) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.add(*value));
            values.sort_unstable();
            let rank = (values.len() as u64 * per_mille).div_ceil(1000).max(1);
            let exact = values[rank as usize - 1];
            prop_assert!(histogram.quantile(per_mille).abs_diff(exact) <= exact / 64 + 1);
        }
    }
}

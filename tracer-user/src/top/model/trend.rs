//! A number's last values.

use std::collections::VecDeque;

/// How many are kept: a minute at one a second.
const LENGTH: usize = 60;

/// The last values of a number, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trend(VecDeque<u32>);

impl Trend {
    pub(super) fn push(&mut self, value: u64) {
        if self.0.len() >= LENGTH {
            self.0.pop_front();
        }
        self.0.push_back(u32::try_from(value).unwrap_or(u32::MAX));
    }

    /// By how much it has grown over the values that are kept; `None`: there is only one.
    pub fn growth(&self) -> Option<i64> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        (self.0.len() > 1).then(|| i64::from(*last) - i64::from(*first))
    }

    /// The last `width` of them as bars from 0 to the largest.
    pub fn bars(&self, width: usize) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let shown = self.0.len().min(width);
        let values = self.0.iter().skip(self.0.len() - shown);
        let most = u64::from(values.clone().max().copied().unwrap_or(0)).max(1);
        let bar = |value: &u32| BARS[(u64::from(*value) * 7).div_ceil(most) as usize % BARS.len()];
        let bars: String = values.map(bar).collect();
        format!("{bars:>width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[u64]) -> Trend {
        let mut trend = Trend::default();
        values.iter().for_each(|value| trend.push(*value));
        trend
    }

    #[test]
    fn the_largest_is_a_full_bar_and_only_nothing_is_none() {
        assert_eq!(of(&[0, 1, 50, 100]).bars(6), "  ▁▂▅█");
        assert_eq!(of(&[7, 7]).bars(2), "██");
        assert_eq!(of(&[]).bars(2), "  ");
        assert_eq!(of(&[100, 1, 2]).bars(2), "▅█", "what is not shown does not count");
    }

    #[test]
    fn growth_needs_two_values_and_forgets_the_oldest() {
        assert_eq!(of(&[5]).growth(), None);
        assert_eq!(of(&[5, 3]).growth(), Some(-2));
        let long: Vec<u64> = (0..1000).collect();
        assert_eq!(of(&long).growth(), Some(59));
    }
}

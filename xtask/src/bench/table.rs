//! A row: one measured quantity, its spread, and what it is held against.

use serde_json::{Value, json};

/// One measured quantity; its value is the median of the samples.
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    samples: Vec<f64>,
    against: Option<Against>,
}

/// What a row is held against.
struct Against {
    name: String,
    value: f64,
    /// The largest good ratio of the row to `value`; `None`: the ratio is only shown.
    goal: Option<f64>,
}

impl Row {
    /// A quantity that was measured several times; there must be one sample at least.
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, samples: Vec<f64>) -> Self {
        Self { name: name.into(), unit, samples, against: None }
    }

    /// Holds this row against another; its value should be at most `goal` times the other's.
    pub(crate) fn against(mut self, other: &Self, goal: impl Into<Option<f64>>) -> Self {
        self.against = Some(Against { name: other.name.clone(), value: other.value(), goal: goal.into() });
        self
    }

    /// Holds this row against a limit in its own unit.
    pub(crate) fn within(mut self, limit: f64) -> Self {
        self.against =
            Some(Against { name: format!("{limit} {}", self.unit), value: limit, goal: Some(1.0) });
        self
    }

    fn value(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
    }

    fn min(&self) -> f64 {
        self.samples.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn max(&self) -> f64 {
        self.samples.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    fn ratio(&self) -> Option<f64> {
        self.against.as_ref().map(|against| self.value() / against.value)
    }

    fn goal(&self) -> Option<f64> {
        self.against.as_ref()?.goal
    }

    fn met(&self) -> Option<bool> {
        Some(self.ratio()? <= self.goal()?)
    }

    /// The row as it stands in the JSON document. `goal` is the largest good `ratio`.
    pub(crate) fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "value": self.value(), "min": self.min(), "max": self.max(),
            "runs": self.samples.len(), "against": self.against.as_ref().map(|against| &against.name),
            "ratio": self.ratio(), "goal": self.goal(), "met": self.met(),
        })
    }

    fn cells(&self) -> [String; 8] {
        let number =
            |value: f64| if value.abs() < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") };
        let times =
            |ratio: Option<f64>, mark| ratio.map_or_else(String::new, |ratio| format!("{mark}{ratio:.2}"));
        [
            self.name.clone(),
            number(self.value()),
            format!("{} – {}", number(self.min()), number(self.max())),
            self.unit.to_owned(),
            self.against.as_ref().map_or_else(String::new, |against| against.name.clone()),
            times(self.ratio(), "× "),
            times(self.goal(), "≤ "),
            self.met().map_or("", |met| if met { "met" } else { "NOT MET" }).to_owned(),
        ]
    }
}

pub(super) fn text(rows: &[Row]) -> String {
    let head = ["name", "value", "spread", "unit", "against", "ratio", "goal", ""].map(str::to_owned);
    let lines: Vec<[String; 8]> = [head].into_iter().chain(rows.iter().map(Row::cells)).collect();
    let widths: [usize; 8] = std::array::from_fn(|column| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for line in lines {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            let padded =
                if matches!(column, 1 | 2) { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            text += &padded;
            text += "  ";
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_ratio_and_goal() {
        let floor = Row::new("floor", "ns", vec![900.0, 500.0, 510.0]);
        let good = Row::new("good", "ns", vec![600.0, 620.0]).against(&floor, 1.25);
        let bad = Row::new("bad", "ns", vec![700.0]).against(&floor, 1.25);
        let told = Row::new("told", "ns", vec![1020.0]).against(&floor, None);
        assert_eq!((floor.value(), floor.min(), floor.max(), floor.met()), (510.0, 500.0, 900.0, None));
        assert_eq!((good.value(), good.met(), bad.met()), (610.0, Some(true), Some(false)));
        let limited = Row::new("limited", "s", vec![4.0]).within(5.0);
        assert_eq!((limited.ratio(), limited.met()), (Some(0.8), Some(true)));
        assert_eq!((told.ratio(), told.met()), (Some(2.0), None));
        assert_eq!(bad.json()["against"], "floor");
    }

    #[test]
    fn columns_are_aligned() {
        let floor = Row::new("floor", "ns", vec![5.0]);
        let long = Row::new("a longer name", "ns", vec![15.0, 25.0]).against(&floor, 2.0);
        assert_eq!(
            text(&[long, floor]),
            "name           value       spread  unit  against  ratio   goal\n\
             a longer name     20      15 – 25  ns    floor    × 4.00  ≤ 2.00  NOT MET\n\
             floor           5.00  5.00 – 5.00  ns\n"
        );
    }
}

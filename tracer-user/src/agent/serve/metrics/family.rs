//! Metrics as plain data, which every exporter turns into its own form.

use crate::agent::picture::{Distribution, ProcessPicture};
use std::borrow::Cow;

/// What a metric's values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// May rise and fall.
    Gauge,
    /// Only rises.
    Counter,
    /// Counts by size.
    Histogram,
}

/// A metric with all its series.
#[derive(Clone, Debug)]
pub struct Family<'a> {
    /// By the conventions of Prometheus: base unit at the end, then `_total` for counters.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub help: &'static str,
    /// See there.
    pub kind: Kind,
    /// One for each set of labels.
    pub series: Vec<Series<'a>>,
    /// Series above the cap.
    pub dropped: u64,
}

/// One series.
#[derive(Clone, Debug)]
pub struct Series<'a> {
    /// Names and values. The values come from targets: they may hold anything.
    pub labels: Vec<Label<'a>>,
    /// Its value now.
    pub value: Value<'a>,
}

/// Name and value.
pub type Label<'a> = (&'static str, Cow<'a, str>);

/// A value.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Of a gauge or counter.
    Number(f64),
    /// Of a histogram.
    Distribution(&'a Distribution),
}

/// Families as they are made.
#[derive(Debug)]
pub(super) struct Families<'a> {
    pub(super) all: Vec<Family<'a>>,
    pub(super) max_series: usize,
}

impl<'a> Families<'a> {
    /// Begins a family.
    pub(super) fn add(&mut self, kind: Kind, name: &'static str, help: &'static str) -> Sink<'_, 'a> {
        self.all.push(Family { name, help, kind, series: Vec::new(), dropped: 0 });
        let at = self.all.len() - 1;
        Sink { family: &mut self.all[at], max_series: self.max_series, process: None }
    }
}

/// Takes the series of a family, up to the cap.
#[derive(Debug)]
pub(super) struct Sink<'f, 'a> {
    family: &'f mut Family<'a>,
    max_series: usize,
    process: Option<&'a ProcessPicture>,
}

impl<'a> Sink<'_, 'a> {
    /// Series that follow are of this process.
    pub(super) fn of(&mut self, process: &'a ProcessPicture) -> &mut Self {
        self.process = Some(process);
        self
    }

    /// A series with a number.
    pub(super) fn number(&mut self, value: f64, labels: impl IntoIterator<Item = Label<'a>>) {
        self.push(Value::Number(value), labels);
    }

    /// A series with a number, if it is known.
    pub(super) fn maybe(&mut self, value: Option<f64>, labels: impl IntoIterator<Item = Label<'a>>) {
        if let Some(value) = value {
            self.number(value, labels);
        }
    }

    /// A series with a distribution.
    pub(super) fn distribution(&mut self, of: &'a Distribution, labels: impl IntoIterator<Item = Label<'a>>) {
        self.push(Value::Distribution(of), labels);
    }

    fn push(&mut self, value: Value<'a>, labels: impl IntoIterator<Item = Label<'a>>) {
        if self.family.series.len() >= self.max_series {
            self.family.dropped += 1;
            return;
        }
        let own = self.process.map(|process| {
            let service = Cow::from(process.identity.service.as_str());
            [("pid", Cow::from(process.id.pid.to_string())), ("service", service)]
        });
        let labels = own.into_iter().flatten().chain(labels).collect();
        self.family.series.push(Series { labels, value });
    }
}

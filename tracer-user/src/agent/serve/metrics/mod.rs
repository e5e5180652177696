//! What a picture says, as metrics: names, units and labels by the conventions of Prometheus. The series of a process are made anew
//! from each picture, so those of one that has ended are gone with it.

mod families;

#[cfg(test)]
mod tests;

use crate::agent::{
    picture::{BOUNDS_SECONDS, Distribution, ProcessPicture},
    store::{History, STEP_SECONDS, Step},
};
pub use families::{About, families};
use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

/// What a metric's values mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gauge,
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
    /// Whether it only rises.
    pub kind: Kind,
    /// One for each set of labels.
    pub series: Vec<Series<'a>>,
    /// Series above the cap.
    pub dropped: u64,
}

#[derive(Clone, Debug)]
pub struct Series<'a> {
    /// Names and values. The values come from targets: they may hold anything.
    pub labels: Vec<Label<'a>>,
    pub value: Value<'a>,
}

pub type Label<'a> = (&'static str, Cow<'a, str>);

#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Of a gauge or counter.
    Number(f64),
    Distribution(&'a Distribution),
}

/// Families as they are made.
#[derive(Debug)]
struct Families<'a> {
    all: Vec<Family<'a>>,
    max_series: usize,
}

impl<'a> Families<'a> {
    fn add(&mut self, kind: Kind, name: &'static str, help: &'static str) -> Sink<'_, 'a> {
        self.all.push(Family { name, help, kind, series: Vec::new(), dropped: 0 });
        let at = self.all.len() - 1;
        Sink { family: &mut self.all[at], max_series: self.max_series, process: None }
    }
}

/// Takes the series of a family, up to the cap.
#[derive(Debug)]
struct Sink<'f, 'a> {
    family: &'f mut Family<'a>,
    max_series: usize,
    process: Option<&'a ProcessPicture>,
}

impl<'a> Sink<'_, 'a> {
    /// Series that follow are of this process.
    fn of(&mut self, process: &'a ProcessPicture) -> &mut Self {
        self.process = Some(process);
        self
    }

    /// A series with a number.
    fn number(&mut self, value: f64, labels: impl IntoIterator<Item = Label<'a>>) {
        self.push(Value::Number(value), labels);
    }

    /// A series with a number, if it is known.
    fn maybe(&mut self, value: Option<f64>, labels: impl IntoIterator<Item = Label<'a>>) {
        if let Some(value) = value {
            self.number(value, labels);
        }
    }

    /// A series with a distribution.
    fn distribution(&mut self, of: &'a Distribution, labels: impl IntoIterator<Item = Label<'a>>) {
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

/// Goroutines of each process over the last hour, in steps of five minutes. A label says how long ago, because in the text format a series
/// has one value.
pub fn history(of: &History, now_unix_s: u64, max_series: usize) -> Vec<Family<'_>> {
    let mut out = Families { all: Vec::new(), max_series };
    let mut family = |name, help, value: fn(&Step) -> u64| {
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

/// What the document is called in HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes families; those without series are left out.
pub fn text(families: &[Family<'_>]) -> String {
    let mut out = String::new();
    for family in families.iter().filter(|family| !family.series.is_empty()) {
        // Writing to a String cannot fail.
        let _ = write_family(&mut out, family);
    }
    out
}

fn write_family(out: &mut String, family: &Family<'_>) -> fmt::Result {
    let kind = match family.kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
    };
    let name = family.name;
    writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help)?;
    for series in &family.series {
        match series.value {
            Value::Number(value) => line(out, name, "", &series.labels, None, value)?,
            Value::Distribution(distribution) => buckets(out, name, &series.labels, distribution)?,
        }
    }
    Ok(())
}

fn buckets(out: &mut String, name: &str, labels: &[Label<'_>], of: &Distribution) -> fmt::Result {
    let mut below = 0;
    let bounds = BOUNDS_SECONDS.iter().map(|bound| Cow::from(bound.to_string()));
    for (bound, count) in bounds.chain([Cow::from("+Inf")]).zip(of.counts) {
        below += count;
        line(out, name, "_bucket", labels, Some(("le", bound)), below as f64)?;
    }
    line(out, name, "_sum", labels, None, of.sum_seconds)?;
    line(out, name, "_count", labels, None, below as f64)
}

fn line(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &[Label<'_>],
    last: Option<Label<'_>>,
    value: f64,
) -> fmt::Result {
    write!(out, "{name}{suffix}")?;
    let mut before = '{';
    for (name, value) in labels.iter().chain(&last) {
        write!(out, "{before}{name}=\"")?;
        escape(out, value);
        out.push('"');
        before = ',';
    }
    if before == ',' {
        out.push('}');
    }
    writeln!(out, " {value}")
}

/// Backslash, quote and line end, as the format has them; nothing else can end a value.
fn escape(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

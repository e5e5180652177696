//! A picture as metrics: names, units and labels by the conventions of Prometheus. The series of a target are made
//! anew from each picture, so they end with the target.

mod families;

#[cfg(test)]
mod tests;

use crate::agent::{
    picture::{BOUNDS_SECONDS, Distribution, ProcessPicture},
    store::{History, STEP_SECONDS, Step},
};
use crate::output::clean;
pub use families::{About, families};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Write as _},
};

/// How a metric's values behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gauge,
    Counter,
    /// [`Value::Distribution`] only; the other two have [`Value::Number`].
    Histogram,
}

/// One metric with all its series.
#[derive(Clone, Debug)]
pub struct Family<'a> {
    /// By the conventions of Prometheus: the base unit at the end, then `_total` for counters.
    pub name: &'static str,
    /// A sentence; shown to users of both formats.
    pub help: &'static str,
    pub kind: Kind,
    /// One for each set of labels, at most as many as the cap.
    pub series: Vec<Series<'a>>,
    /// Series that the cap left out of this picture.
    pub dropped: u64,
}

#[derive(Clone, Debug)]
pub struct Series<'a> {
    /// Names and values. The values come from targets and may hold anything.
    pub labels: Vec<Label<'a>>,
    pub value: Value<'a>,
}

/// Series that the cap has left out of all documents of one kind, by metric.
pub type Dropped = BTreeMap<&'static str, u64>;

/// Adds what was left out of one document.
pub fn count_dropped(families: &[Family<'_>], dropped: &mut Dropped) {
    for family in families.iter().filter(|family| family.dropped > 0) {
        *dropped.entry(family.name).or_default() += family.dropped;
    }
}

pub type Label<'a> = (&'static str, Cow<'a, str>);

#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Number(f64),
    Distribution(&'a Distribution),
}

/// The families of one document, as they are made.
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

/// Takes the series of one family, up to the cap.
#[derive(Debug)]
struct Sink<'f, 'a> {
    family: &'f mut Family<'a>,
    max_series: usize,
    process: Option<&'a ProcessPicture>,
}

impl<'a> Sink<'_, 'a> {
    /// Labels the series that follow with this target's PID and service.
    fn of(&mut self, process: &'a ProcessPicture) -> &mut Self {
        self.process = Some(process);
        self
    }

    fn number(&mut self, value: f64, labels: impl IntoIterator<Item = Label<'a>>) {
        self.push(Value::Number(value), labels);
    }

    /// A series with a number; none where it is not known: a 0 would be a measurement.
    fn maybe(&mut self, value: Option<f64>, labels: impl IntoIterator<Item = Label<'a>>) {
        if let Some(value) = value {
            self.number(value, labels);
        }
    }

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

/// Goroutines of each target over the last hour, in steps of five minutes. A label says how long ago a step was,
/// because the text format has one value for a series.
pub fn history(of: &History, now_unix_s: u64, max_series: usize) -> Vec<Family<'_>> {
    let mut out = Families { all: Vec::new(), max_series };
    let mut family = |name, help, value: fn(&Step) -> u64| {
        let mut sink = out.add(Kind::Gauge, name, help);
        for (_, series) in of.rows() {
            for step in &series.steps {
                // Rounded down to whole steps, so that the label changes every five minutes and not with each scrape.
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

/// The content type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The families in the text format; those without series are left out.
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
        // The format wants each bucket to count everything up to its bound, [`Distribution`] counts each class alone.
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

/// Escapes backslash, quote and line end, as the format wants it: nothing else can end a value. Without this a
/// target's name could add series of its own. What else may mislead is replaced.
fn escape(out: &mut String, value: &str) {
    for (number, line) in value.split('\n').enumerate() {
        if number > 0 {
            out.push_str("\\n");
        }
        for c in clean(line).chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                c => out.push(c),
            }
        }
    }
}

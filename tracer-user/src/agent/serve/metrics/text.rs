//! The text format of Prometheus, version 0.0.4.

use super::family::{Family, Kind, Label, Value};
use crate::agent::picture::{BOUNDS_SECONDS, Distribution};
use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

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

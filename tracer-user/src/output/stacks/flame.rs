//! A profile by stack as a flame graph, and as the text that flame graph tools read.
//!
//! The SVG stands alone. A click on a function shows only what it calls; the search marks functions whose name matches.

use super::profile::{Profile, Sample};
use crate::output::duration;
use inferno::flamegraph::{
    self, Options,
    color::{BasicPalette, Palette},
};
use std::{
    collections::HashMap,
    io::{self, Write},
};

/// The SVG.
pub(super) fn write_svg(out: impl Write, profile: &Profile) -> io::Result<()> {
    let stacks = folded(profile);
    let lines: Vec<String> = stacks.iter().map(|(stack, value)| line(stack, *value)).collect();
    let mut options = options(profile);
    if lines.is_empty() {
        // The picture says that there was no input; why it has none is for us to say.
        options.title = format!("{}: nothing to show", options.title);
    }
    match flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out) {
        Err(error) if lines.is_empty() && error.kind() == io::ErrorKind::InvalidData => Ok(()),
        result => result,
    }
}

fn options(profile: &Profile) -> Options<'static> {
    let exe = profile.exe.rsplit('/').next().unwrap_or_default();
    let title = format!("{} by stack: {exe}, PID {}", profile.kind.title(), profile.pid);
    let within = format!("within {}", duration(profile.duration_ns));
    let subtitle = [within].iter().chain(&profile.comments).cloned().collect::<Vec<_>>().join("; ");
    let mut options = Options::default();
    (options.title, options.subtitle) = (drawable(&title), Some(drawable(&subtitle)));
    // The colours that flame graphs of waiting and of counts have elsewhere; a function has the same in all of them.
    let (unit, colours) =
        if profile.kind.is_time() { ("ns", BasicPalette::Io) } else { ("goroutines", BasicPalette::Aqua) };
    (options.count_name, options.colors, options.hash) = (unit.to_owned(), Palette::Basic(colours), true);
    options
}

/// A stack and its value as the crate reads them.
fn line(stack: &str, value: u64) -> String {
    let mut stack = drawable(stack);
    // It takes these for a comment, and for a second value.
    let last = stack.rsplit_once(' ').map_or("", |(_, last)| last);
    if stack.starts_with("# ") || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
    {
        stack = stack.replace(' ', "\u{a0}");
    }
    format!("{stack} {value}")
}

/// Without what may not be in an SVG at all.
fn drawable(text: &str) -> String {
    text.replace(|letter| matches!(letter, '\0'..'\x20' | '\u{fffe}' | '\u{ffff}'), "\u{fffd}")
}

/// A stack a line.
pub(super) fn write_folded(out: impl Write, profile: &Profile) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    folded(profile).iter().try_for_each(|(stack, value)| writeln!(out, "{stack} {value}"))?;
    out.flush()
}

/// Each stack, and its number or nanoseconds: those with the most first. What differs only in lines or labels is one
/// stack here.
fn folded(profile: &Profile) -> Vec<(String, u64)> {
    let mut stacks: HashMap<String, u64> = HashMap::new();
    for sample in &profile.samples {
        let value = sample.value(profile.kind);
        if value != 0 {
            let sum = stacks.entry(names(sample).collect::<Vec<_>>().join(";")).or_default();
            *sum = sum.saturating_add(value);
        }
    }
    let mut stacks: Vec<(String, u64)> = stacks.into_iter().collect();
    stacks.sort_unstable_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    stacks
}

/// The names of its functions, outermost first, without what separates them: the name of a generic function may
/// hold a struct type.
fn names(sample: &Sample) -> impl Iterator<Item = String> {
    let plain = |name: &str| name.replace(';', ",").replace(['\n', '\r'], " ");
    sample.frames.iter().rev().flat_map(move |frame| frame.names().rev().map(plain))
}

//! A profile by stack as a flame graph, and as the text that flame graph tools read.
//!
//! The SVG needs no other file. A click on a function shows only what it calls; the search marks functions by name.

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

pub(super) fn write_svg(out: impl Write, profile: &Profile) -> io::Result<()> {
    let stacks = folded(profile);
    let lines: Vec<String> = stacks.iter().map(|(stack, value)| line(stack, *value)).collect();
    let mut options = options(profile);
    if lines.is_empty() {
        // `inferno` draws that there was no input. The title says that this is the result.
        options.title = format!("{}: nothing to show", options.title);
    }
    match flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), out) {
        // It reports empty input as an error after it has written the picture.
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
    // Flame graphs of waiting and of counts have these colours elsewhere, too. `hash` gives a function the same colour
    // in every graph.
    let (unit, colours) =
        if profile.kind.is_time() { ("ns", BasicPalette::Io) } else { ("goroutines", BasicPalette::Aqua) };
    (options.count_name, options.colors, options.hash) = (unit.to_owned(), Palette::Basic(colours), true);
    options
}

/// A line of `inferno`'s input: a stack and its value.
fn line(stack: &str, value: u64) -> String {
    let mut stack = drawable(stack);
    // `inferno` takes a line that begins with `# ` for a comment, and a number behind a blank for a second value. A
    // no-break space in the name avoids both.
    let last = stack.rsplit_once(' ').map_or("", |(_, last)| last);
    if stack.starts_with("# ") || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
    {
        stack = stack.replace(' ', "\u{a0}");
    }
    format!("{stack} {value}")
}

/// Replaces characters that XML forbids, even as references.
fn drawable(text: &str) -> String {
    text.replace(|letter| matches!(letter, '\0'..'\x20' | '\u{fffe}' | '\u{ffff}'), "\u{fffd}")
}

pub(super) fn write_folded(out: impl Write, profile: &Profile) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    folded(profile).iter().try_for_each(|(stack, value)| writeln!(out, "{stack} {value}"))?;
    out.flush()
}

/// Stacks with their number or nanoseconds, the largest first. Stacks that differ only in lines or labels are one.
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

/// Names of functions, outermost first. The separator `;` is replaced: the name of a generic function may hold a struct
/// type.
fn names(sample: &Sample) -> impl Iterator<Item = String> {
    let plain = |name: &str| name.replace(';', ",").replace(['\n', '\r'], " ");
    sample.frames.iter().rev().flat_map(move |frame| frame.names().rev().map(plain))
}

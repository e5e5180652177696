//! A profile by stack as text, a stack a line.

use super::profile::{Profile, Sample};
use std::{
    collections::HashMap,
    io::{self, Write},
};

/// Writes it.
pub(super) fn write(out: impl Write, profile: &Profile) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    stacks(profile).iter().try_for_each(|(stack, value)| writeln!(out, "{stack} {value}"))?;
    out.flush()
}

/// Each stack, and its number or nanoseconds: those with the most first. What differs only in lines or labels is one
/// stack here.
pub(super) fn stacks(profile: &Profile) -> Vec<(String, u64)> {
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

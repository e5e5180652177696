//! A profile by stack as text, a stack a line.

use super::profile::{Profile, Sample};
use std::io::{self, Write};

/// Writes it: number, or nanoseconds.
pub(super) fn write(out: impl Write, profile: &Profile) -> io::Result<()> {
    let mut out = io::BufWriter::new(out);
    for sample in &profile.samples {
        let value = sample.value(profile.kind);
        if value != 0 {
            writeln!(out, "{} {value}", names(sample).collect::<Vec<_>>().join(";"))?;
        }
    }
    out.flush()
}

/// The names of its functions, outermost first, without what separates them: the name of a generic function may
/// hold a struct type.
fn names(sample: &Sample) -> impl Iterator<Item = String> {
    let plain = |name: &str| name.replace(';', ",").replace(['\n', '\r'], " ");
    sample.frames.iter().rev().flat_map(move |frame| frame.names().rev().map(plain))
}

//! A profile by stack as pprof reads it.

use super::profile::{Frame, Profile};
use crate::output::pprof::{Builder, Head, Place};
use std::io::{self, Write};

/// Writes it, compressed.
pub(super) fn write(out: impl Write, profile: &Profile) -> io::Result<()> {
    let head = Head {
        values: profile.kind.values(),
        time_ns: profile.time_ns,
        duration_ns: signed(profile.duration_ns),
        exe: &profile.exe,
        build_id: "",
        code: Default::default(),
        comments: &profile.comments,
    };
    let mut builder = Builder::new(out, &head);
    for sample in &profile.samples {
        let location = |frame: &Frame| match frame {
            Frame::Code(pc, sites) => {
                builder.location(*pc, sites.iter().map(|site| Place { site, start_line: 0 }))
            }
            Frame::Note(note) => builder.note(note),
        };
        let locations = sample.frames.iter().map(location).collect();
        let values = [sample.tally.count, sample.tally.ns].map(signed);
        builder.sample(locations, values[..head.values.len()].to_vec(), &sample.labels)?;
    }
    builder.finish()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

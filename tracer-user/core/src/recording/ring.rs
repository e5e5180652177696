//! The last so many seconds or bytes of a trace, in memory.

use std::collections::VecDeque;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything.
    All,
    /// At least the last so many nanoseconds.
    Last(u64),
    /// About so many bytes, at least half of it.
    Bytes(u64),
}

/// Pieces of a trace are let go of as a whole: an eighth of what is kept.
const SEGMENTS: u64 = 8;

/// Frames that are let go of together.
#[derive(Debug)]
struct Segment {
    began_ts: u64,
    /// How things stood when it began: needed when it is the first.
    standing: Vec<u8>,
    frames: Vec<u8>,
}

impl Segment {
    fn bytes(&self) -> u64 {
        (self.standing.len() + self.frames.len()) as u64
    }
}

/// The kept segments.
#[derive(Debug)]
pub(super) struct Ring {
    keep: Keep,
    segments: VecDeque<Segment>,
    bytes: u64,
}

impl Ring {
    pub(super) fn new(keep: Keep) -> Ring {
        Ring { keep, segments: VecDeque::new(), bytes: 0 }
    }

    /// Whether a new segment is due: then [`Ring::begin`].
    pub(super) fn is_full(&self, now_ts: u64) -> bool {
        let Some(last) = self.segments.back() else { return true };
        match self.keep {
            Keep::All => false,
            Keep::Last(ns) => now_ts.saturating_sub(last.began_ts) >= ns / SEGMENTS,
            Keep::Bytes(bytes) => last.bytes() >= bytes / SEGMENTS,
        }
    }

    /// Begins a segment with frames that tell how things stand, and lets go of what need not be kept any more.
    pub(super) fn begin(&mut self, now_ts: u64, standing: Vec<u8>) {
        while let Some(second) = self.segments.get(1) {
            let needed = match self.keep {
                Keep::All => true,
                Keep::Last(ns) => now_ts.saturating_sub(second.began_ts) < ns,
                Keep::Bytes(bytes) => self.bytes <= bytes / SEGMENTS * (SEGMENTS - 1),
            };
            if needed {
                break;
            }
            let gone = self.segments.pop_front();
            self.bytes -= gone.map_or(0, |segment| segment.bytes());
        }
        self.bytes += standing.len() as u64;
        self.segments.push_back(Segment { began_ts: now_ts, standing, frames: Vec::new() });
    }

    /// Adds a packed frame.
    pub(super) fn push(&mut self, frame: &[u8]) {
        if let Some(segment) = self.segments.back_mut() {
            segment.frames.extend_from_slice(frame);
            self.bytes += frame.len() as u64;
        }
    }

    /// Everything that is kept, oldest first.
    pub(super) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let first = self.segments.front().map(|segment| &*segment.standing);
        first.into_iter().chain(self.segments.iter().map(|segment| &*segment.frames))
    }

    /// Since when, nanoseconds.
    pub(super) fn began_ts(&self) -> Option<u64> {
        self.segments.front().map(|segment| segment.began_ts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(keep: Keep, seconds: u64) -> (u64, u64) {
        let mut ring = Ring::new(keep);
        for second in 0..seconds {
            if ring.is_full(second) {
                ring.begin(second, Vec::new());
            }
            ring.push(&[0; 10]);
        }
        (seconds - ring.began_ts().expect("something"), ring.frames().map(|frames| frames.len() as u64).sum())
    }

    #[test]
    fn at_least_the_time_and_not_much_more() {
        assert_eq!(kept(Keep::Last(80), 30), (30, 300));
        let (time, _) = kept(Keep::Last(80), 1000);
        assert!((80..=100).contains(&time), "{time}");
    }

    #[test]
    fn about_the_bytes() {
        let (_, bytes) = kept(Keep::Bytes(800), 1000);
        assert!((400..=900).contains(&bytes), "{bytes}");
        assert_eq!(kept(Keep::All, 1000).1, 10_000);
    }
}

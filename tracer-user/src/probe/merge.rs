//! Several rings, one order: events are held back until nothing older can still arrive.

use sfgi_core::event::Event;

/// Sorts events by time across rings and drains.
#[derive(Default)]
pub(super) struct Merger {
    held: Vec<Event>,
}

impl Merger {
    /// Adds one event, in the order of its ring.
    pub(super) fn push(&mut self, event: Event) {
        self.held.push(event);
    }

    /// Moves everything up to `watermark` (time stamps, inclusive) to `out`, oldest first.
    pub(super) fn release(&mut self, watermark: u64, out: &mut Vec<Event>) {
        // Stable: events of one ring with the same time stamp keep their order.
        self.held.sort_by_key(|event| event.ts);
        let ready = self.held.partition_point(|event| event.ts <= watermark);
        out.extend(self.held.drain(..ready));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sfgi_core::event::{Kind, Payload};

    fn at(ts: u64, goid: u64) -> Event {
        Event {
            ts,
            g: 1,
            goid,
            tid: 1,
            kind: Kind::Status,
            from: 1,
            to: 2,
            reason: 0,
            payload: Payload::None,
        }
    }

    #[test]
    fn merges_rings_and_holds_back_the_young() {
        let (mut merger, mut out) = (Merger::default(), Vec::new());
        for event in [at(10, 1), at(30, 1), at(20, 2), at(40, 2)] {
            merger.push(event);
        }
        merger.release(25, &mut out);
        assert_eq!(out.iter().map(|e| e.ts).collect::<Vec<_>>(), [10, 20]);
        merger.push(at(28, 3));
        merger.release(u64::MAX, &mut out);
        assert_eq!(out.iter().map(|e| e.ts).collect::<Vec<_>>(), [10, 20, 28, 30, 40]);
    }
}

//! Another way through the objects that were reached, which leaves some of them out: what it does not meet, only those
//! keep alive.

use super::ObjectsError;
use super::graph::{BATCH, BATCH_BYTES, Graph, is_marked, mark};
use crate::budget;
use crate::heap::words;
use crate::memory::Range;

/// Goes through the objects that were reached once more, and marks those that are met.
pub(super) struct Sweep<'g, 'a> {
    graph: &'g Graph<'a>,
    /// By object, a bit.
    marks: Vec<u64>,
    /// It meets only what the graph has reached.
    reached: bool,
    bytes: Vec<u8>,
    whole: Vec<bool>,
}

impl<'g, 'a> Sweep<'g, 'a> {
    /// One for which these objects are met already, so that it does not go through them.
    pub(super) fn without(graph: &'g Graph<'a>, objects: &[u32]) -> Result<Sweep<'g, 'a>, ObjectsError> {
        budget::check(graph.links.len() / 8)?;
        let marks = vec![0; graph.links.len().div_ceil(64)];
        let mut sweep = Sweep { graph, marks, reached: true, bytes: Vec::new(), whole: Vec::new() };
        for object in objects {
            sweep.meets(*object);
        }
        Ok(sweep)
    }

    /// One for which the objects with these marks are met already, and that goes to whatever object it comes by.
    pub(super) fn beyond(graph: &'g Graph<'a>, marks: Vec<u64>) -> Sweep<'g, 'a> {
        Sweep { graph, marks, reached: false, bytes: Vec::new(), whole: Vec::new() }
    }

    /// Whether an object is met for the first time, if it counts.
    fn meets(&mut self, object: u32) -> bool {
        (!self.reached || self.graph.is_reached(object)) && mark(&mut self.marks, object)
    }

    /// Goes through these objects and what they lead to; returns the marks of all that is met.
    pub(super) fn marks_from(mut self, mut seeds: Vec<u32>) -> Result<Vec<u64>, ObjectsError> {
        seeds.retain(|seed| self.meets(*seed));
        self.drain(seeds)?;
        Ok(self.marks)
    }

    /// Goes through everything that roots lead to; returns how many objects were met, and their bytes.
    pub(super) fn all(&mut self) -> Result<(u64, u64), ObjectsError> {
        let graph = self.graph;
        let next = graph.seeds.iter().copied().filter(|seed| self.meets(*seed)).collect();
        self.drain(next)
    }

    /// Goes through an object that is met already, and what it leads to.
    pub(super) fn within(&mut self, object: u32) -> Result<(u64, u64), ObjectsError> {
        if self.graph.is_reached(object) { self.drain(vec![object]) } else { Ok((0, 0)) }
    }

    fn drain(&mut self, mut next: Vec<u32>) -> Result<(u64, u64), ObjectsError> {
        let (mut count, mut size) = (0, 0);
        while !next.is_empty() {
            next.sort_unstable();
            let mut later = Vec::new();
            let (mut ranges, mut total) = (Vec::new(), 0);
            for object in &next {
                let Some((_, span, addr)) = self.graph.place(*object) else { continue };
                count += 1;
                size += span.size;
                if span.noscan || is_marked(&self.graph.never, *object) {
                    continue;
                }
                for from in (0..span.size).step_by(BATCH_BYTES) {
                    let len = (span.size - from).min(BATCH_BYTES as u64) as usize;
                    ranges.push(Range { addr: addr + from, len });
                    total += len;
                    if total >= BATCH_BYTES || ranges.len() >= BATCH {
                        self.read(&mut ranges, &mut later)?;
                        total = 0;
                    }
                }
            }
            self.read(&mut ranges, &mut later)?;
            next = later;
        }
        Ok((count, size))
    }

    /// Reads words, and adds the objects that they lead to and that are met for the first time.
    fn read(&mut self, ranges: &mut Vec<Range>, later: &mut Vec<u32>) -> Result<(), ObjectsError> {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.graph.view.memory.scatter(ranges, &mut bytes, &mut self.whole)?;
        for word in words(&bytes) {
            if let Some(child) = self.graph.at(word).filter(|child| self.meets(*child)) {
                budget::reserve(later, 1)?;
                later.push(child);
            }
        }
        self.bytes = bytes;
        ranges.clear();
        Ok(())
    }
}

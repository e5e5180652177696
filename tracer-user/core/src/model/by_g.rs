//! Which place in the store uses a `g`.

use hashbrown::HashMap;

/// Few goroutines make most of the events: the places of those are found without hashing.
const RECENT: usize = 64;

/// Places by `g`.
#[derive(Debug)]
pub(super) struct ByG {
    all: HashMap<u64, usize>,
    /// Some of `all`, each where its address says.
    recent: [Option<(u64, usize)>; RECENT],
}

/// The runtime's `g` is some hundred bytes, in pages of its own size class.
#[inline]
fn slot(g: u64) -> usize {
    ((g >> 6) ^ (g >> 12)) as usize % RECENT
}

impl ByG {
    pub(super) fn new() -> ByG {
        ByG { all: HashMap::new(), recent: [None; RECENT] }
    }

    #[inline]
    pub(super) fn get(&self, g: u64) -> Option<usize> {
        match self.recent[slot(g)] {
            Some((recent, at)) if recent == g => Some(at),
            _ => self.all.get(&g).copied(),
        }
    }

    /// As [`ByG::get`], of one whose events are likely to go on.
    #[inline]
    pub(super) fn find(&mut self, g: u64) -> Option<usize> {
        let at = self.get(g)?;
        self.recent[slot(g)] = Some((g, at));
        Some(at)
    }

    pub(super) fn insert(&mut self, g: u64, at: usize) {
        self.recent[slot(g)] = Some((g, at));
        self.all.insert(g, at);
    }

    pub(super) fn remove(&mut self, g: u64) -> Option<usize> {
        self.recent[slot(g)].take_if(|(recent, _)| *recent == g);
        self.all.remove(&g)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_finds_what_a_map_finds(steps in prop::collection::vec((0u8..4, 0u64..200, 0usize..9), 0..300)) {
            let (mut ours, mut map) = (ByG::new(), HashMap::new());
            for (what, g, at) in steps {
                let g = g * 64;
                match what {
                    0 => {
                        ours.insert(g, at);
                        map.insert(g, at);
                    }
                    1 => prop_assert_eq!(ours.remove(g), map.remove(&g)),
                    2 => prop_assert_eq!(ours.find(g), map.get(&g).copied()),
                    _ => prop_assert_eq!(ours.get(g), map.get(&g).copied()),
                }
            }
        }
    }
}

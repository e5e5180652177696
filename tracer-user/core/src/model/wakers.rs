//! Who woke those who waited for something: whoever did once may do again.

use super::{Step, What};
use hashbrown::HashMap;

/// Most objects of which it is remembered, and most goroutines of one: the last that woke anybody.
const MAX_OBJECTS: usize = 1 << 16;
const MAX_WAKERS: usize = 8;

/// By object, the goroutines that woke waiters of it.
#[derive(Debug, Default, Clone)]
pub struct Wakers {
    by_object: HashMap<u64, Vec<u64>>,
}

impl Wakers {
    /// Takes what a step says.
    pub fn add(&mut self, step: &Step) {
        if step.what != What::Unblock || step.object == 0 || step.by_goid == 0 {
            return;
        }
        if self.by_object.len() >= MAX_OBJECTS && !self.by_object.contains_key(&step.object) {
            // What is still used comes back by itself.
            self.by_object.clear();
        }
        let wakers = self.by_object.entry(step.object).or_default();
        if wakers.last() == Some(&step.by_goid) {
            return;
        }
        wakers.retain(|goid| *goid != step.by_goid);
        if wakers.len() >= MAX_WAKERS {
            wakers.remove(0);
        }
        wakers.push(step.by_goid);
    }

    /// The goids of those who woke waiters of the object at this address, the last one last. The address is that of
    /// [`Step::object`].
    pub fn of(&self, object: u64) -> &[u64] {
        self.by_object.get(&object).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::machine::bare;
    use crate::testing::timeline::event;

    #[test]
    fn the_last_ones_are_remembered_each_once() {
        let wake =
            |object, by_goid| Step { object, by_goid, ..bare(&event("1 m1 g1 ready by g2"), What::Unblock) };
        let mut wakers = Wakers::default();
        for by in [2, 3, 2, 2, 0] {
            wakers.add(&wake(0x10, by));
        }
        wakers.add(&wake(0, 9));
        wakers.add(&Step { what: What::Start, ..wake(0x10, 9) });
        assert_eq!(wakers.of(0x10), [3, 2]);
        assert_eq!(wakers.of(0x20), [0; 0]);
        (10..100).for_each(|by| wakers.add(&wake(0x10, by)));
        assert_eq!(wakers.of(0x10), [92, 93, 94, 95, 96, 97, 98, 99]);
        (0..=MAX_OBJECTS as u64).for_each(|object| wakers.add(&wake(0x1000 + object, 1)));
        assert!(wakers.by_object.len() <= MAX_OBJECTS);
    }
}

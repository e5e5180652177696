//! The stacks that events carry, each kept once.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::{
    fmt,
    hash::BuildHasher as _,
    num::NonZeroU64,
    ops::Deref,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};
use tracer_common::MAX_FRAMES;

/// Different stacks that are kept, about 130 bytes each. A program has some thousands; the bound is for a hostile
/// target, and for many targets over a long time.
const CAPACITY: u64 = 1 << 20;

/// Return addresses as the target sees them, innermost first, [`MAX_FRAMES`] at most; empty: not known.
///
/// A program blocks millions of times a second, but at few places: so a stack is a number of eight bytes, which is
/// copied, compared and hashed as such. Its addresses are in `TABLE`, one for this process. When the table is full,
/// the oldest stack goes: its number has no addresses any more, and when it comes again it gets another number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stack(NonZeroU64);

/// The number of the empty stack.
const EMPTY: NonZeroU64 = NonZeroU64::MAX;

#[derive(Clone, Copy, Debug)]
pub struct Pcs {
    len: usize,
    all: [u64; MAX_FRAMES],
}

static TABLE: LazyLock<Mutex<Table>> = LazyLock::new(|| Mutex::new(Table::new(CAPACITY)));

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stack {
    /// The stack with these addresses, cut after [`MAX_FRAMES`].
    pub fn of(pcs: &[u64]) -> Stack {
        let pcs = &pcs[..pcs.len().min(MAX_FRAMES)];
        if pcs.is_empty() { Stack::default() } else { Stack(table().number(pcs)) }
    }

    pub fn pcs(self) -> Pcs {
        if self.is_empty() { Pcs::of(&[]) } else { table().get(self.0) }
    }

    /// Whether its addresses are not known.
    pub fn is_empty(self) -> bool {
        self.0 == EMPTY
    }
}

impl Default for Stack {
    fn default() -> Stack {
        Stack(EMPTY)
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pcs().iter().map(|pc| format!("{pc:#x}"))).finish()
    }
}

impl Pcs {
    fn of(pcs: &[u64]) -> Pcs {
        let mut all = [0; MAX_FRAMES];
        all[..pcs.len()].copy_from_slice(pcs);
        Pcs { len: pcs.len(), all }
    }
}

impl Deref for Pcs {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        &self.all[..self.len]
    }
}

/// Stacks by number: number `n` stands at `n % capacity` until another one takes its place.
struct Table {
    kept: Vec<(NonZeroU64, Pcs)>,
    places: HashTable<usize>,
    hasher: DefaultHashBuilder,
    next: NonZeroU64,
    capacity: u64,
}

impl Table {
    fn new(capacity: u64) -> Table {
        let (kept, places, hasher) = (Vec::new(), HashTable::new(), DefaultHashBuilder::default());
        Table { kept, places, hasher, next: NonZeroU64::MIN, capacity }
    }

    fn number(&mut self, pcs: &[u64]) -> NonZeroU64 {
        let Table { kept, places, hasher, .. } = self;
        let hash = hasher.hash_one(pcs);
        if let Some(place) = places.find(hash, |place| *kept[*place].1 == *pcs) {
            return kept[*place].0;
        }
        let new = (self.next, Pcs::of(pcs));
        self.next = self.next.saturating_add(1);
        let place = if (kept.len() as u64) < self.capacity {
            kept.push(new);
            kept.len() - 1
        } else {
            // The place of the oldest stack, whose number is lower by the capacity.
            let place = self.place(new.0);
            self.take_out(place);
            self.kept[place] = new;
            place
        };
        let Table { kept, places, hasher, .. } = self;
        places.insert_unique(hash, place, |place| hasher.hash_one(&*kept[*place].1));
        new.0
    }

    fn place(&self, number: NonZeroU64) -> usize {
        ((number.get() - 1) % self.capacity) as usize
    }

    fn take_out(&mut self, place: usize) {
        let hash = self.hasher.hash_one(&*self.kept[place].1);
        if let Ok(entry) = self.places.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
    }

    /// The addresses of a number; empty if its place has been given to another stack.
    fn get(&self, number: NonZeroU64) -> Pcs {
        let kept = self.kept.get(self.place(number)).filter(|(kept, _)| *kept == number);
        kept.map_or_else(|| Pcs::of(&[]), |(_, pcs)| *pcs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_behind_the_last_frame_does_not_count() {
        let long: Vec<u64> = (1..=MAX_FRAMES as u64 + 3).collect();
        assert_eq!(Stack::of(&long), Stack::of(&long[..MAX_FRAMES]));
        assert_eq!(*Stack::of(&long).pcs(), long[..MAX_FRAMES]);
        assert_eq!(Stack::of(&[]), Stack::default());
        assert!(Stack::default().is_empty() && !Stack::of(&[0]).is_empty());
        assert_eq!(size_of::<Option<Stack>>(), 8);
    }

    proptest! {
        #[test]
        fn equal_addresses_are_one_stack(
            a in prop::collection::vec(0u64..3, 0..5),
            b in prop::collection::vec(0u64..3, 0..5),
        ) {
            prop_assert_eq!(Stack::of(&a) == Stack::of(&b), a == b);
            prop_assert_eq!(&*Stack::of(&a).pcs(), &a[..]);
        }

        #[test]
        fn a_full_table_keeps_the_youngest(seen in prop::collection::vec(1u64..9, 1..60)) {
            let (mut table, mut youngest) = (Table::new(3), Vec::new());
            for pc in seen {
                let number = table.number(&[pc, 7]);
                if !youngest.iter().any(|(known, _)| *known == pc) {
                    youngest.push((pc, number));
                }
                if youngest.len() > 3 {
                    let (_, gone) = youngest.remove(0);
                    prop_assert!(table.get(gone).is_empty());
                }
                for (pc, number) in &youngest {
                    prop_assert_eq!(&*table.get(*number), &[*pc, 7]);
                    prop_assert_eq!(table.number(&[*pc, 7]), *number);
                }
                prop_assert_eq!(table.places.len(), youngest.len());
            }
        }
    }
}

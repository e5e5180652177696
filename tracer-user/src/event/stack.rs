//! The stacks that events carry, each kept once.

use hashbrown::HashMap;
use std::{
    fmt,
    hash::{Hash, Hasher},
    ptr,
    sync::{LazyLock, Mutex, PoisonError},
};
use tracer_common::MAX_FRAMES;

/// Different stacks that are kept, about 150 bytes each. Real programs have some thousands; a hostile one can
/// invent any number.
const CAPACITY: usize = 1 << 20;

/// Return addresses as the process sees them, innermost first, [`MAX_FRAMES`] at most; none: not known.
///
/// A program blocks millions of times a second, but at few places: a stack is a number of eight bytes, which is
/// copied, compared and hashed as such. What it stands for is kept for as long as this process lives, up to
/// a million stacks; further ones are empty.
#[derive(Clone, Copy)]
pub struct Stack(&'static Frames);

/// Behind `len`, everything is 0.
struct Frames {
    len: usize,
    pcs: [u64; MAX_FRAMES],
}

static EMPTY: Frames = Frames { len: 0, pcs: [0; MAX_FRAMES] };

/// All that are kept, by their addresses.
static ALL: LazyLock<Mutex<HashMap<&'static [u64], Stack>>> = LazyLock::new(Default::default);

impl Stack {
    /// The stack with these addresses; what is behind the first [`MAX_FRAMES`] does not count.
    pub fn of(pcs: &[u64]) -> Stack {
        let pcs = &pcs[..pcs.len().min(MAX_FRAMES)];
        if pcs.is_empty() {
            return Stack::default();
        }
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(pcs) {
            return *known;
        }
        if all.len() >= CAPACITY {
            return Stack::default();
        }
        let mut frames = Frames { len: pcs.len(), ..EMPTY };
        frames.pcs[..pcs.len()].copy_from_slice(pcs);
        let stack = Stack(Box::leak(Box::new(frames)));
        all.insert(stack.pcs(), stack);
        stack
    }

    /// Its addresses.
    pub fn pcs(self) -> &'static [u64] {
        self.0.pcs.get(..self.0.len).unwrap_or_default()
    }

    /// Whether nothing is known of it.
    pub fn is_empty(self) -> bool {
        self.0.len == 0
    }
}

impl Default for Stack {
    fn default() -> Stack {
        Stack(&EMPTY)
    }
}

// Equal ones are one.
impl PartialEq for Stack {
    fn eq(&self, other: &Stack) -> bool {
        ptr::eq(self.0, other.0)
    }
}

impl Eq for Stack {}

impl Hash for Stack {
    fn hash<H: Hasher>(&self, state: &mut H) {
        ptr::hash(self.0, state);
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.pcs().iter().map(|pc| format!("{pc:#x}"))).finish()
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
        assert_eq!(Stack::of(&long).pcs(), &long[..MAX_FRAMES]);
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
            prop_assert_eq!(Stack::of(&a).pcs(), &a[..]);
        }
    }
}

//! What an object of the heap holds, packed into one word for each object.

use crate::binary::TypeId;

/// How an object holds values of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One value, at the object's begin.
    One,
    /// As many as fit, one behind the other.
    Row,
    /// The header of a map of this type (`hmap`, `maps.Map`).
    Map,
    /// The header of a channel of this type, and its buffer if elements have no pointers.
    Chan,
    /// A `table` of a Swiss map of this type.
    Table,
    /// The directory of a Swiss map of this type: pointers to tables.
    Directory,
}

/// What tells the type of an object, the surest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// A pointer to a value that is smaller than the object: it may be the first field of something larger.
    Part,
    /// An interface on a stack, which may be a remnant: the object may be another one by now.
    Stack,
    /// A pointer of a known type, or a slice.
    Field,
    /// An interface that holds it.
    Interface,
    /// Its own words: a closure's function, a channel.
    Own,
    /// The allocator's header, or a finalizer.
    Header,
    /// The map that it is a part of.
    Map,
}

/// What an object holds, and how surely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) shape: Shape,
    pub(super) of: TypeId,
    pub(super) rank: Rank,
}

const SHAPES: [Shape; 6] = [Shape::One, Shape::Row, Shape::Map, Shape::Chan, Shape::Table, Shape::Directory];
const RANKS: [Rank; 7] =
    [Rank::Part, Rank::Stack, Rank::Field, Rank::Interface, Rank::Own, Rank::Header, Rank::Map];
const TYPE_BITS: u32 = 24;

impl Form {
    /// Never 0, which stands for an object of which nothing is known.
    pub(super) fn pack(self) -> u32 {
        let at = |found: Option<usize>| found.unwrap_or(0) as u32;
        let shape = at(SHAPES.iter().position(|shape| *shape == self.shape)) + 1;
        let rank = at(RANKS.iter().position(|rank| *rank == self.rank));
        self.of.0 & ((1 << TYPE_BITS) - 1) | shape << TYPE_BITS | rank << (TYPE_BITS + 4)
    }

    pub(super) fn unpack(word: u32) -> Option<Form> {
        let shape = (word >> TYPE_BITS & 0xf).checked_sub(1)?;
        Some(Form {
            shape: *SHAPES.get(shape as usize)?,
            rank: *RANKS.get((word >> (TYPE_BITS + 4)) as usize)?,
            of: TypeId(word & ((1 << TYPE_BITS) - 1)),
        })
    }
}

/// Bytes of the slots that the allocator has for objects of up to 32 KiB (`src/runtime/sizeclasses.go`, 1.19 to 1.27).
#[rustfmt::skip]
const CLASSES: [u64; 67] = [
    8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 288, 320, 352, 384, 416, 448, 480,
    512, 576, 640, 704, 768, 896, 1024, 1152, 1280, 1408, 1536, 1792, 2048, 2304, 2688, 3072, 3200, 3456, 4096, 4864,
    5376, 6144, 6528, 6784, 6912, 8192, 9472, 9728, 10240, 10880, 12288, 13568, 14336, 16384, 18432, 19072, 20480, 21760,
    24576, 27264, 28672, 32768,
];

/// Whether the allocator takes slots of `slot` bytes for `size` bytes.
pub(super) fn fits_slot(size: u64, slot: u64) -> bool {
    let index = CLASSES.partition_point(|class| *class < size);
    match CLASSES.get(index) {
        Some(class) => *class == slot,
        // A large object has whole pages.
        None => size <= slot && slot - size < 8192,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        assert_eq!(Form::unpack(0), None);
        for shape in SHAPES {
            for rank in RANKS {
                for of in [TypeId(0), TypeId(1), TypeId((1 << 20) - 1)] {
                    let form = Form { shape, of, rank };
                    assert_ne!(form.pack(), 0);
                    assert_eq!(Form::unpack(form.pack()), Some(form));
                }
            }
        }
        assert_eq!(Form::unpack(u32::MAX), None);
    }

    #[test]
    fn a_slot_is_the_smallest_that_has_room() {
        for (size, slot, fits) in [
            (1, 8, true),
            (8, 8, true),
            (9, 16, true),
            (9, 24, false),
            (33, 48, true),
            (513, 576, true),
            (40_000, 40_960, true),
            (40_000, 65_536, false),
        ] {
            assert_eq!(fits_slot(size, slot), fits, "{size} in {slot}");
        }
    }
}

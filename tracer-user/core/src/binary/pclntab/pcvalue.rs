//! pc-value tables: compressed maps from a pc to a number, which the runtime keeps for lines, files, frame sizes and
//! inlining (`src/runtime/symtab.go`: `pcvalue`).
//!
//! A table is a row of pairs: a zig-zag varint by which the value changes, and a varint for how many instruction quanta
//! it then holds. The value begins at −1. A change of zero ends the table, except in the first pair.

use super::super::bytes::uvarint;

/// Runs of one table. The largest functions, which initialise tables of data, have some ten thousand.
const MAX_RUNS: usize = 1 << 18;

/// A range of a function's code over which one value holds; it begins where the run before ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Bytes from the function's entry to the end of the run.
    pub end: u64,
    pub value: i32,
}

/// The runs of a table. The iterator ends behind `len` bytes of code, so it takes no more steps than the function has
/// instructions, whatever the bytes are.
pub(super) struct Runs<'a> {
    table: &'a [u8],
    at: usize,
    quantum: u64,
    len: u64,
    next: Run,
    first: bool,
    left: usize,
}

impl<'a> Runs<'a> {
    /// The table that begins at `table`, for a function of `len` bytes; `quantum` is the smallest instruction of the
    /// processor (1 on amd64, 4 on arm64).
    pub(super) fn new(table: &'a [u8], quantum: u64, len: u64) -> Runs<'a> {
        Runs { table, at: 0, quantum, len, next: Run { end: 0, value: -1 }, first: true, left: MAX_RUNS }
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.next.end >= self.len {
            return None;
        }
        self.left = self.left.checked_sub(1)?;
        let change = u32::try_from(uvarint(self.table, &mut self.at)?).ok()?;
        if change == 0 && !self.first {
            return None;
        }
        self.first = false;
        let change = (change >> 1) as i32 ^ -((change & 1) as i32);
        // A run of no instructions would let a hostile table go on for ever.
        let quanta = uvarint(self.table, &mut self.at).filter(|quanta| *quanta > 0)?;
        self.next.value = self.next.value.wrapping_add(change);
        self.next.end = self.next.end.checked_add(quanta.checked_mul(self.quantum)?)?;
        Some(self.next)
    }
}

/// The value `into` bytes behind the function's entry. `None`: the table ends before.
pub(super) fn value_at(table: &[u8], quantum: u64, len: u64, into: u64) -> Option<i32> {
    Runs::new(table, quantum, len).find(|run| into < run.end).map(|run| run.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// +1 → 0 for 4, +2 → 2 for 3, −3 → −1 for 2, end.
    const TABLE: &[u8] = &[2, 4, 4, 3, 5, 2, 0];

    #[test]
    fn values_hold_until_the_end_of_their_run() {
        let at = |into| value_at(TABLE, 1, 9, into);
        assert_eq!(
            [at(0), at(3), at(4), at(6), at(7), at(8)],
            [Some(0), Some(0), Some(2), Some(2), Some(-1), Some(-1)]
        );
        assert_eq!(at(9), None);
    }

    #[test]
    fn quanta_are_instructions() {
        assert_eq!(value_at(TABLE, 4, 36, 15), Some(0));
        assert_eq!(value_at(TABLE, 4, 36, 16), Some(2));
    }

    #[test]
    fn a_first_change_of_zero_is_a_value() {
        assert_eq!(value_at(&[0, 4, 0], 1, 4, 0), Some(-1));
    }

    #[test]
    fn hostile_tables_end() {
        assert_eq!(Runs::new(&[2, 0, 2, 0, 2, 0], 1, 10).count(), 0, "a run of no instructions");
        assert_eq!(Runs::new(&[2, 1].repeat(1000), 1, 10).count(), 10, "no more steps than bytes of code");
        assert_eq!(Runs::new(&[0x80], 1, 10).count(), 0);
        let far = [2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Runs::new(&far, 4, 10).count(), 0, "behind the end of the address space");
        for len in 0..TABLE.len() {
            assert!(Runs::new(&TABLE[..len], 1, 9).count() <= 3);
        }
    }
}

//! A stretch of the target's memory that was read already, in front of the rest of it.

use crate::memory::{Fault, Memory};
use std::cell::RefCell;

/// How much is read at once where the stretch does not reach.
const REFILL: usize = 4096;

/// Serves reads from bytes that are here; others go to the target, a page's worth at once.
pub(super) struct Window<'a> {
    memory: &'a dyn Memory,
    base: u64,
    bytes: &'a [u8],
    /// Nothing at or behind this address is read: the end of the stack.
    end: u64,
    beyond: RefCell<(u64, Vec<u8>)>,
}

impl<'a> Window<'a> {
    /// `bytes` are what is at `base`.
    pub(super) fn new(memory: &'a dyn Memory, base: u64, bytes: &'a [u8], end: u64) -> Window<'a> {
        Window { memory, base, bytes, end, beyond: RefCell::default() }
    }

    /// Whether anything was read from the target.
    pub(super) fn went_beyond(&self) -> bool {
        !self.beyond.borrow().1.is_empty()
    }
}

impl Memory for Window<'_> {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        if let Some(bytes) = part(self.base, self.bytes, addr, buffer.len()) {
            buffer.copy_from_slice(bytes);
            return Ok(());
        }
        let room = usize::try_from(self.end.saturating_sub(addr)).unwrap_or(usize::MAX);
        if buffer.len() > room || buffer.len() > REFILL {
            return Err(Fault::Unmapped(addr));
        }
        let mut beyond = self.beyond.borrow_mut();
        if part(beyond.0, &beyond.1, addr, buffer.len()).is_none() {
            let mut fresh = vec![0; REFILL.min(room)];
            self.memory.read(addr, &mut fresh)?;
            *beyond = (addr, fresh);
        }
        let bytes = part(beyond.0, &beyond.1, addr, buffer.len()).ok_or(Fault::Unmapped(addr))?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

fn part(base: u64, bytes: &[u8], addr: u64, len: usize) -> Option<&[u8]> {
    let from = usize::try_from(addr.checked_sub(base)?).ok()?;
    bytes.get(from..)?.get(..len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte is its address's lowest; nothing is mapped from 0x4000 on.
    struct Pattern;

    impl Memory for Pattern {
        fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
            for (at, byte) in (addr..).zip(buffer) {
                *byte = if at < 0x4000 { at as u8 ^ 0xff } else { return Err(Fault::Unmapped(at)) };
            }
            Ok(())
        }
    }

    #[test]
    fn bytes_that_are_here_come_from_here_and_others_from_the_target() {
        let here = [7; 16];
        let window = Window::new(&Pattern, 0x1000, &here, 0x3000);
        assert_eq!(window.word(0x1008), Ok(0x0707_0707_0707_0707));
        assert_eq!(
            window.word(0x1010),
            Ok(u64::from_le_bytes([0xef, 0xee, 0xed, 0xec, 0xeb, 0xea, 0xe9, 0xe8]))
        );
        let mut across = [0; 4];
        window.read(0x100e, &mut across).unwrap();
        assert_eq!(across, [0xf1, 0xf0, 0xef, 0xee], "read anew where it is not whole here");
    }

    #[test]
    fn nothing_is_read_behind_the_end() {
        let window = Window::new(&Pattern, 0x1000, &[], 0x1010);
        assert!(window.word(0x1008).is_ok());
        assert_eq!(window.word(0x1009), Err(Fault::Unmapped(0x1009)));
        assert_eq!(window.word(u64::MAX), Err(Fault::Unmapped(u64::MAX)));
    }
}

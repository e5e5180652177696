//! The memory of a program with goroutines, made up from bytes.

use sfgi_core::{
    binary::GoBinary,
    memory::{Fault, Memory},
    testing::binary::CODE,
};

/// Where the array of `runtime.allgs`, the goroutines and their stacks lie.
const ARRAY: u64 = 0x10_0000;
const G: u64 = 0x20_0000;
const STACK: u64 = 0x30_0000;
/// How many goroutines there are, and bytes of each, and of the stack that they share.
const COUNT: u64 = 4;
const G_SIZE: u64 = 1024;
const STACK_SIZE: u64 = 8192;
/// Bytes of code that words of the stack point into.
const CODE_SIZE: u64 = 168;
/// `g.sched.sp`, `.pc` and `.g`, in every version.
const SCHED: [usize; 3] = [56, 64, 72];

/// A program that stands still, with goroutines in its memory.
pub struct Stopped {
    allglen: u64,
    gs: Vec<u8>,
    stack: Vec<u8>,
}

impl Stopped {
    /// The memory that `bytes` describe: first of each goroutine where its stack pointer and its pc
    /// are, then return addresses and frames, then whatever remains, in the `g`s and all over the
    /// stack. `None`: there are no bytes, or the binary has no list.
    pub fn new(binary: &GoBinary, bytes: &[u8]) -> Option<Stopped> {
        let allglen = binary.globals().ok()?.allglen;
        let status = binary.layout().field("g", "atomicstatus")? as usize;
        let (first, rest) = bytes.split_at_checked(COUNT as usize * 2)?;
        let byte = |at: usize| rest.get(at % rest.len().max(1)).copied().unwrap_or(0);
        let mut gs: Vec<u8> = (0..(COUNT * G_SIZE) as usize).map(|at| byte(at / 3)).collect();
        for (index, from) in first.chunks_exact(2).enumerate() {
            let base = index * G_SIZE as usize;
            let mut put = |at: usize, word: u64| gs[base + at..][..8].copy_from_slice(&word.to_le_bytes());
            put(0, STACK);
            put(8, STACK + STACK_SIZE);
            put(SCHED[0], STACK + u64::from(from[0]) * 8);
            put(SCHED[1], CODE + u64::from(from[1]) % CODE_SIZE);
            put(SCHED[2], G + base as u64);
            gs[base + status..][..4].copy_from_slice(&[from[1] >> 5, 0, 0, 0]);
        }
        let mut stack = Vec::new();
        for at in 0..STACK_SIZE as usize / 8 {
            let word = match byte(at * 2) {
                255 => 0,
                254 => u64::MAX - u64::from(byte(at * 2 + 1)),
                253 => STACK + u64::from(byte(at * 2 + 1)) * 32,
                into => CODE + u64::from(into) % (CODE_SIZE + 8),
            };
            stack.extend(word.to_le_bytes());
        }
        Some(Stopped { allglen, gs, stack })
    }

    fn byte(&self, addr: u64) -> Option<u8> {
        let in_words = |base: u64, words: [u64; 4]| {
            let at = addr.checked_sub(base)?;
            words.get(at as usize / 8).map(|word| word.to_le_bytes()[at as usize % 8])
        };
        let of = |base: u64, bytes: &[u8]| bytes.get(usize::try_from(addr.checked_sub(base)?).ok()?).copied();
        let array = [G, G + G_SIZE, G + 2 * G_SIZE, G + 3 * G_SIZE];
        (of(G, &self.gs).or_else(|| of(STACK, &self.stack)).or_else(|| in_words(ARRAY, array)))
            .or_else(|| in_words(self.allglen, [COUNT, ARRAY, 0, 0]))
    }
}

impl Memory for Stopped {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        for (at, to) in (0..).zip(buffer) {
            *to = self.byte(addr.wrapping_add(at)).ok_or(Fault::Unmapped(addr))?;
        }
        Ok(())
    }
}

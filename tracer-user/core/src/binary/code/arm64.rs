//! AArch64. Two instructions make an address: `adrp` gives the page, the next one adds the offset in it or accesses
//! memory through it. So [`Walk`] keeps register values from one branch to the next; a branch or call forgets them.
//!
//! Encodings: Arm Architecture Reference Manual for A-profile, C4.1. An instruction that is not decoded counts as one
//! that writes the register in its lowest five bits, where most encodings have the destination.

use super::{Access, Branch, Step};

/// Register 31: the zero register as an operand, the stack pointer as a base. Its value is never known.
const ZERO: usize = 31;

pub(super) fn steps(code: &[u8], entry: u64) -> Vec<Step> {
    let mut walk = Walk { known: [None; 32], found: Vec::new() };
    let mut at = entry;
    for word in code.chunks_exact(4) {
        let &[a, b, c, d] = word else { continue };
        walk.step(u32::from_le_bytes([a, b, c, d]), at);
        at = at.wrapping_add(4);
    }
    walk.found
}

pub(super) fn branches(code: &[u8], entry: u64) -> Vec<Branch> {
    let words = code.chunks_exact(4).zip(0_u64..);
    let branch = |(word, index): (&[u8], u64)| {
        let at = entry.wrapping_add(index * 4);
        let word = u32::from_le_bytes(word.try_into().ok()?);
        // b, bl; cbz, b.cond; tbz: a distance in instructions.
        let distance = match word {
            word if word & 0x7c00_0000 == 0x1400_0000 => signed(word & 0x03ff_ffff, 26),
            word if word & 0x7e00_0000 == 0x3400_0000 || word & 0xff00_0000 == 0x5400_0000 => {
                signed(word >> 5 & 0x7_ffff, 19)
            }
            word if word & 0x7e00_0000 == 0x3600_0000 => signed(word >> 5 & 0x3fff, 14),
            _ => return None,
        };
        let calls = word & 0xfc00_0000 == 0x9400_0000;
        Some(Branch { at, to: at.wrapping_add_signed(distance * 4), calls })
    };
    words.filter_map(branch).collect()
}

struct Walk {
    /// Values of the registers by number; `None`: not known.
    known: [Option<u64>; 32],
    found: Vec<Step>,
}

impl Walk {
    fn step(&mut self, word: u32, at: u64) {
        let (target, base) = (register(word, 0), register(word, 5));
        // What jumps to the next instruction may have other values in the registers.
        if is_branch(word) {
            self.known = [None; 32];
        } else if word & 0x1f00_0000 == 0x1000_0000 {
            self.set(target, Some(pc_relative(word, at)));
            // adr: the whole address. adrp: the page, which alone is no reference.
            if word >> 31 == 0 {
                self.found.push(Step::Global(pc_relative(word, at), Access::Address));
            }
        } else if word & 0xff80_0000 == 0x9100_0000 {
            let offset = immediate12(word);
            self.refer(base, offset, Access::Address);
            self.set(target, self.known[base].map(|page| page.wrapping_add_signed(offset)));
        } else if word & 0x7f80_001f == 0x7100_001f {
            self.found.push(Step::Compare(immediate12(word).cast_unsigned()));
        } else if let Some((offset, access)) = memory(word) {
            self.refer(base, offset, access);
            self.forget_written(word);
        } else {
            self.set(target, None);
        }
    }

    fn refer(&mut self, base: usize, offset: i64, access: Access) {
        let step = match self.known[base] {
            Some(page) => Step::Global(page.wrapping_add_signed(offset), access),
            None => Step::Field { base: base as u8, offset, access },
        };
        // One access, not two: the address was computed only for this instruction.
        if let Step::Global(addr, _) = step {
            self.found.pop_if(|last| *last == Step::Global(addr, Access::Address));
        }
        self.found.push(step);
    }

    /// Forgets what a load or store may write: its first register, a pair's second, an atomic's status register, and
    /// the base where the form moves it. A plain store writes none, but to forget too much only loses a step.
    fn forget_written(&mut self, word: u32) {
        self.set(register(word, 0), None);
        let pair = word & 0x3a00_0000 == 0x2800_0000;
        if pair {
            self.set(register(word, 10), None);
        }
        let atomic = word & 0x3f00_0000 == 0x0800_0000 || word & 0x3b20_0c00 == 0x3820_0000;
        if atomic {
            self.set(register(word, 16), None);
        }
        let moved = if pair { word & 0x0080_0000 != 0 } else { word & 0x3b20_0400 == 0x3800_0400 };
        if moved {
            self.set(register(word, 5), None);
        }
    }

    fn set(&mut self, register: usize, value: Option<u64>) {
        if register != ZERO {
            self.known[register] = value;
        }
    }
}

/// The offset of a load or store from its base register, and the access. `None`: another instruction, or one whose
/// address depends on a second register.
fn memory(word: u32) -> Option<(i64, Access)> {
    let size = 1u8 << (word >> 30);
    let vector = word & 0x0400_0000 != 0;
    // unsigned scaled offset
    if word & 0x3b00_0000 == 0x3900_0000 {
        let shift = if vector && word & 0x0080_0000 != 0 { 4 } else { word >> 30 };
        return Some((i64::from(word >> 10 & 0xfff) << shift, direction(word, 1 << shift)));
    }
    // unscaled offset; with the base moved after (1) or before (3)
    if word & 0x3b20_0000 == 0x3800_0000 && word >> 10 & 3 != 2 {
        let offset = if word >> 10 & 3 == 1 { 0 } else { signed(word >> 12, 9) };
        return Some((offset, direction(word, if vector && word & 0x0080_0000 != 0 { 16 } else { size })));
    }
    // pairs
    if word & 0x3a00_0000 == 0x2800_0000 {
        let scale = if vector { 2 + (word >> 30) } else { 2 + (word >> 31) };
        let moved_after = word & 0x0180_0000 == 0x0080_0000;
        let offset = if moved_after { 0 } else { signed(word >> 15, 7) << scale };
        return Some((offset, direction(word, 2 << scale)));
    }
    // atomics: exclusive and ordered accesses, compare and swap; ldadd, swp and the like
    if word & 0x3f00_0000 == 0x0800_0000 {
        let swap = word & 0x00a0_0000 == 0x00a0_0000;
        return Some((0, if swap { Access::Update(size) } else { direction(word, size) }));
    }
    (word & 0x3b20_0c00 == 0x3820_0000).then_some((0, Access::Update(size)))
}

/// Tells a load from a store: bits 22 and 23 are zero for a store. A prefetch counts as a load.
fn direction(word: u32, size: u8) -> Access {
    let single = word & 0x3a00_0000 == 0x3800_0000;
    let load = if single { word & 0x00c0_0000 != 0 } else { word & 0x0040_0000 != 0 };
    let wide_store = single && word & 0x04c0_0000 == 0x0480_0000;
    if load && !wide_store { Access::Load(size) } else { Access::Store(size) }
}

fn is_branch(word: u32) -> bool {
    // b, bl; cbz, tbz; b.cond; br, blr, ret
    word & 0x7c00_0000 == 0x1400_0000
        || word & 0x7c00_0000 == 0x3400_0000
        || word & 0xfe00_0000 == 0x5400_0000
        || word & 0xfe00_0000 == 0xd600_0000
}

/// The value that `adr` or `adrp` at address `at` gives.
fn pc_relative(word: u32, at: u64) -> u64 {
    let distance = signed((word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3, 21);
    match word >> 31 {
        0 => at.wrapping_add_signed(distance),
        _ => (at & !0xfff).wrapping_add_signed(distance << 12),
    }
}

fn immediate12(word: u32) -> i64 {
    i64::from(word >> 10 & 0xfff) << if word & 0x0040_0000 != 0 { 12 } else { 0 }
}

/// The lowest `bits` bits as a signed number.
fn signed(value: u32, bits: u32) -> i64 {
    i64::from((value << (32 - bits)).cast_signed() >> (32 - bits))
}

fn register(word: u32, shift: u32) -> usize {
    (word >> shift & 31) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(words: &[u32]) -> Vec<Step> {
        let code: Vec<_> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        steps(&code, 0x2_055c)
    }

    /// Words of `chansend` and `casgstatus` of Go 1.19 and 1.27.
    #[test]
    fn what_instructions_tell() {
        let field = |base, offset, access| Step::Field { base, offset, access };
        // adrp x0; add x0,x0,#2412
        assert_eq!(told(&[0xf000_04a0, 0x9125_b000]), [Step::Global(0xb_796c, Access::Address)]);
        // The same, then ldp x3,x4,[x0]: one access, not two.
        let pair = Step::Global(0xb_796c, Access::Load(16));
        assert_eq!(told(&[0xf000_04a0, 0x9125_b000, 0xa940_1003]), [pair]);
        // adrp x27; ldrb w6,[x27,#2668]
        let flag = Step::Global(0x1b_0a6c, Access::Load(1));
        assert_eq!(told(&[0x9000_0c9b, 0x3969_b366]), [flag]);
        // A call forgets: adrp x0; bl; ldp x3,x4,[x0,#40]
        let moved = [0xf000_04a0, 0x9400_0001, 0xa942_9003];
        assert_eq!(told(&moved), [field(0, 40, Access::Load(16))]);
        // add x5,x5,#376; stp zr,zr,[x0,#64]; ldr x30,[sp],#112
        let expected = [(5, 376, Access::Address), (0, 64, Access::Store(16)), (31, 0, Access::Load(8))];
        let words = [0x9105_e0a5, 0xa904_7c1f, 0xf847_07fe];
        assert_eq!(told(&words), expected.map(|(base, offset, access)| field(base, offset, access)));
        // str x30,[sp,#-112]!; str w1,[sp,#128]; cmp w2,#47
        let expected =
            [field(31, -112, Access::Store(8)), field(31, 128, Access::Store(4)), Step::Compare(47)];
        assert_eq!(told(&[0xf819_0ffe, 0xb900_83e1, 0x7100_bc5f]), expected);
        // ldaxr w27,[x5]; stlxr w27,w2,[x5]; casal w3,w4,[x5]; ldaddal w3,w4,[x5]
        let expected = [Access::Load(4), Access::Store(4), Access::Update(4), Access::Update(4)];
        let words = [0x885f_fcbb, 0x881b_fca2, 0x88e3_fca4, 0xb8e3_00a4];
        assert_eq!(told(&words), expected.map(|access| field(5, 0, access)));
    }
}

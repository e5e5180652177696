//! The arguments of a frame, as a traceback prints them: `printArgs` of `src/runtime/traceback.go`, the same from 1.19
//! to 1.27. The compiler leaves a small program for each function that says what to print (`FUNCDATA_ArgInfo`,
//! `cmd/compile/internal/ssagen.emitArgInfo`). It is translated once for each pc, because liveness depends on the pc.

use crate::binary::{FuncData, Function, PcData, Pclntab};
use crate::memory::Memory;
use std::fmt::Write;

/// Operators of the program (`abi.TraceArgs…`; in 1.19 constants within `printArgs`). Any other byte is an offset,
/// which a size follows.
const END: u8 = 0xff;
const START_AGGREGATE: u8 = 0xfe;
const END_AGGREGATE: u8 = 0xfd;
const DOTDOTDOT: u8 = 0xfc;
const OFFSET_TOO_LARGE: u8 = 0xfb;
/// `abi.TraceArgsMaxLen`: longest program that the compiler emits.
const MAX_PROGRAM: usize = 171;

/// What is printed for the arguments of a function at one pc.
#[derive(Debug, Default)]
pub(super) struct ArgProgram(Box<[Piece]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    Text(&'static str),
    Value {
        /// Bytes from the first argument.
        offset: u8,
        /// Bytes of the value; at most eight are printed.
        size: u8,
        /// Whether the memory holds the argument. If its register was not spilled it may not, and a traceback prints
        /// `?`.
        live: bool,
    },
}

impl ArgProgram {
    /// The program of `function`, with the liveness at the link-time address `lookup` (for a frame that made a call, an
    /// address within the call).
    pub(super) fn compile(functions: &Pclntab, function: &Function<'_>, lookup: u64) -> ArgProgram {
        let Some(info) = functions.funcdata(function, FuncData::ArgInfo) else {
            return ArgProgram::default();
        };
        let index = functions.pcdata(function, PcData::ArgLiveIndex, lookup).unwrap_or(-1);
        let liveness = Liveness { info: functions.funcdata(function, FuncData::ArgLiveInfo), index };
        ArgProgram(translate(info, &liveness))
    }

    /// Appends the text between the parentheses of a traceback. `argp` is the address of the first argument. Nothing
    /// outside `stack` is read; `_` stands for a value that cannot be read.
    pub(super) fn print(&self, memory: &dyn Memory, argp: u64, stack: (u64, u64), out: &mut String) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value { offset, size, live } => {
                    let Some(word) = word(memory, argp.wrapping_add(u64::from(*offset)), stack) else {
                        out.push('_');
                        continue;
                    };
                    let bits = 8 * u32::from(*size).min(8);
                    // `checked_shr` fails for a shift by 64, which is size 0: the runtime prints 0 then.
                    let mask = u64::MAX.checked_shr(64 - bits).unwrap_or(0);
                    // Writing to a String cannot fail.
                    let _ = write!(out, "{:#x}{}", word & mask, if *live { "" } else { "?" });
                }
            }
        }
    }
}

/// The word at an address. `None`: it does not lie within `stack`, or cannot be read.
pub(super) fn word(memory: &dyn Memory, addr: u64, stack: (u64, u64)) -> Option<u64> {
    let inside = addr >= stack.0 && addr.checked_add(8).is_some_and(|end| end <= stack.1);
    inside.then(|| memory.word(addr).ok())?
}

/// Which arguments that came in registers have been spilled at a pc (`FUNCDATA_ArgLiveInfo`).
struct Liveness<'a> {
    /// The table; its first byte is the offset of the first argument that came in a register.
    info: Option<&'a [u8]>,
    /// Offset in the table of the bits for the pc; 0 or less: all arguments are live.
    index: i32,
}

impl Liveness<'_> {
    fn start(&self) -> u8 {
        self.info.and_then(|info| info.first()).copied().unwrap_or(u8::MAX)
    }

    fn is_live(&self, offset: u8, slot: u8) -> bool {
        let bits = || {
            let at = usize::try_from(self.index).ok().filter(|index| *index > 0)?;
            self.info?.get(at + usize::from(slot / 8)).copied()
        };
        offset < self.start() || bits().is_none_or(|bits| bits & (1 << (slot % 8)) != 0)
    }
}

fn translate(program: &[u8], liveness: &Liveness<'_>) -> Box<[Piece]> {
    let mut pieces = Vec::new();
    let mut bytes = program.iter().copied().take(MAX_PROGRAM);
    let (mut first, mut slot) = (true, 0u8);
    while let Some(operator) = bytes.next() {
        if operator == END {
            break;
        }
        if !first && operator != END_AGGREGATE {
            pieces.push(Piece::Text(", "));
        }
        pieces.push(match operator {
            START_AGGREGATE => Piece::Text("{"),
            END_AGGREGATE => Piece::Text("}"),
            DOTDOTDOT => Piece::Text("..."),
            OFFSET_TOO_LARGE => Piece::Text("_"),
            offset => {
                let Some(size) = bytes.next() else { break };
                let live = liveness.is_live(offset, slot);
                if offset >= liveness.start() {
                    slot = slot.wrapping_add(1);
                }
                Piece::Value { offset, size, live }
            }
        });
        // A separator follows everything but the beginning of an aggregate.
        first = operator == START_AGGREGATE;
    }
    pieces.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Fault;

    /// Words at 0x1000, 0x1008, …
    struct Words(Vec<u64>);

    impl Memory for Words {
        fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
            let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
            let at = addr.checked_sub(0x1000).ok_or(Fault::Unmapped(addr))? as usize;
            let from = bytes.get(at..at + buffer.len()).ok_or(Fault::Unmapped(addr))?;
            buffer.copy_from_slice(from);
            Ok(())
        }
    }

    fn printed(program: &[u8], info: Option<&[u8]>, index: i32) -> String {
        let program = ArgProgram(translate(program, &Liveness { info, index }));
        let memory = Words(vec![0x1122_3344_5566_7788, 2, 3, 4, 5]);
        let mut out = String::new();
        program.print(&memory, 0x1000, (0x1000, 0x1018), &mut out);
        out
    }

    #[test]
    fn values_are_as_wide_as_their_types() {
        assert_eq!(printed(&[0, 8, END], None, -1), "0x1122334455667788");
        assert_eq!(printed(&[0, 4, 0, 1, 4, 2, 0, 0, END], None, -1), "0x55667788, 0x88, 0x3344, 0x0");
    }

    #[test]
    fn aggregates_and_what_is_left_out() {
        let program = [
            START_AGGREGATE,
            0,
            1,
            START_AGGREGATE,
            8,
            8,
            END_AGGREGATE,
            END_AGGREGATE,
            16,
            8,
            DOTDOTDOT,
            END,
        ];
        assert_eq!(printed(&program, None, -1), "{0x88, {0x2}}, 0x3, ...");
        assert_eq!(printed(&[START_AGGREGATE, END_AGGREGATE, 8, 8, END], None, -1), "{}, 0x2");
        assert_eq!(printed(&[OFFSET_TOO_LARGE, OFFSET_TOO_LARGE, END], None, -1), "_, _");
    }

    #[test]
    fn what_was_not_spilled_is_doubtful() {
        // The first argument that came in a register lies at 8; of the two slots the second is live.
        let (program, info) = ([0, 8, 8, 8, 16, 8, END], [8, 0b10]);
        assert_eq!(printed(&program, Some(&info), 1), "0x1122334455667788, 0x2?, 0x3");
        assert_eq!(printed(&program, Some(&info), 0), "0x1122334455667788, 0x2, 0x3");
        assert_eq!(printed(&program, Some(&info), -1), "0x1122334455667788, 0x2, 0x3");
        assert_eq!(printed(&program, Some(&info), i32::MAX), "0x1122334455667788, 0x2, 0x3");
        assert_eq!(printed(&program, Some(&[]), 1), "0x1122334455667788, 0x2, 0x3");
    }

    #[test]
    fn nothing_outside_the_stack_is_read() {
        // 24 is within the memory, and behind the stack.
        assert_eq!(printed(&[16, 8, 17, 8, 24, 8, 250, 8, END], None, -1), "0x3, _, _, _");
    }

    #[test]
    fn programs_end() {
        assert_eq!(printed(&[], None, -1), "");
        assert_eq!(printed(&[8], None, -1), "");
        assert_eq!(printed(&[DOTDOTDOT; 1000], None, -1).matches("...").count(), MAX_PROGRAM);
        for byte in 0..=u8::MAX {
            printed(&[byte; 300], Some(&[byte; 3]), i32::from(byte));
        }
    }
}

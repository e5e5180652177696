//! Which words of a frame are live pointers: what the compiler left for the collector, in every binary.
//!
//! `src/runtime/stkframe.go: getStackMap` (1.21 to 1.27; `stack.go`/`mgcmark.go` before): a bitmap of the
//! local variables, one of the arguments, both by the call that the frame stands at, and the variables
//! on the stack whose address is taken, which live as long as something live points at them.

use crate::binary::bytes::{i32_at, u64_at};
use crate::binary::{Arch, FuncData, Function, GoBinary, PcData};
use crate::snapshot::Pc;

/// Words of one bitmap; a frame of 8 MiB has as many.
const MAX_BITS: usize = 1 << 20;
/// Variables on the stack of one function.
const MAX_OBJECTS: usize = 1 << 12;
/// Bytes of a `stackObjectRecord`.
const RECORD: usize = 16;
/// Functions whose arguments only the method value knows that they were called with (`argMapInternal`).
const REFLECTED: [&str; 2] = ["reflect.makeFuncStub", "reflect.methodValueCall"];
/// Functions that a signal handler put on the stack: in what they interrupted any register may have been saved
/// anywhere.
const INJECTED: [&str; 3] = ["runtime.asyncPreempt", "runtime.debugCallV2", "runtime.sigpanic"];

/// What is live in a frame at one pc.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FrameMap {
    /// Nothing is known: all of it may be.
    pub(super) unknown: bool,
    /// The caller's frame is not known either.
    pub(super) injected: bool,
    /// How its arguments look, only the method value knows that it keeps at its stack pointer.
    pub(super) reflected: bool,
    /// Pointers among the local variables: bytes below [`FrameMap::locals_end`].
    pub(super) locals: Box<[u32]>,
    /// Pointers among the arguments: bytes from the first one.
    pub(super) args: Box<[u32]>,
    /// Bytes of the arguments.
    pub(super) args_size: u64,
    /// Variables whose address is taken.
    pub(super) objects: Box<[StackObject]>,
    /// No function called this one: the stack ends here.
    pub(super) top: bool,
}

/// A variable on the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StackObject {
    /// From the end of the local variables if negative, else from the first argument.
    pub(super) offset: i32,
    /// Bytes.
    pub(super) size: u32,
    /// Where in it pointers may be: first byte, and the one behind.
    pub(super) pointers: (u32, u32),
}

impl StackObject {
    /// The arguments in registers of a function that reflection made: an `abi.RegArgs` at the end of its
    /// frame (`methodValueCallFrameObjs`): `{ Ints, Floats, Ptrs, ReturnIsPtr }`, nine, fifteen and nine on
    /// amd64, sixteen each on arm64 (`src/internal/abi/abi.go`).
    fn reg_args(arch: Arch) -> StackObject {
        let (ints, floats, bitmap) = match arch {
            Arch::Amd64 => (9_u32, 15_u32, 2_u32),
            Arch::Arm64 => (16, 16, 2),
        };
        let pointers = (ints + floats) * 8;
        let behind = pointers + ints * 8;
        let size = (behind + bitmap).next_multiple_of(8);
        StackObject { offset: -size.cast_signed(), size, pointers: (pointers, behind) }
    }
}

impl FrameMap {
    /// The map for a frame that goes on at `pc`, which the kernel moved by `bias`. `None`: there is no such
    /// function.
    pub(super) fn of(binary: &GoBinary, bias: u64, pc: Pc) -> Option<FrameMap> {
        let functions = binary.functions();
        let linked = pc.addr().wrapping_sub(bias);
        let function = functions.function_at(linked)?;
        let args_size = functions.args_size(&function);
        let mut map = FrameMap {
            injected: INJECTED.contains(&function.name),
            reflected: REFLECTED.contains(&function.name),
            args_size: args_size.unwrap_or(0).min(MAX_BITS as u64),
            top: functions.is_top_frame(&function),
            ..FrameMap::default()
        };
        map.unknown = map.injected;
        if map.reflected {
            map.objects = Box::new([StackObject::reg_args(binary.arch())]);
            return Some(map);
        }
        if !map.unknown {
            map.unknown = map.fill(binary, &function, linked).is_none();
        }
        Some(map)
    }

    /// `None`: the tables do not say.
    fn fill(&mut self, binary: &GoBinary, function: &Function<'_>, linked: u64) -> Option<()> {
        let functions = binary.functions();
        let at_entry = linked == function.entry;
        let index = (!at_entry)
            .then(|| functions.pcdata(function, PcData::StackMapIndex, linked.wrapping_sub(1)))
            .flatten();
        // No value: the runtime takes the function's prologue for it.
        let index = usize::try_from(index.unwrap_or(-1).max(0)).ok()?;
        let frame = u64::try_from(functions.sp_delta(function, linked)?).ok()?;
        // Below this there are no variables, only the saved frame pointer or link register.
        let least = if binary.arch() == Arch::Arm64 { 16 } else { 8 };
        self.locals = match functions.funcdata(function, FuncData::LocalsPointerMaps) {
            Some(table) => {
                let (bits, count) = bitmap(table, index)?;
                bits.map(|bit| (count - bit) as u32 * 8).collect()
            }
            None if frame <= least => Box::default(),
            None => return None,
        };
        self.args = match functions.funcdata(function, FuncData::ArgsPointerMaps) {
            Some(table) if self.args_size > 0 => bitmap(table, index)?.0.map(|bit| bit as u32 * 8).collect(),
            None if self.args_size > 0 => return None,
            _ => Box::default(),
        };
        if let Some(table) = functions.funcdata(function, FuncData::StackObjects) {
            let count = usize::try_from(u64_at(table, 0)?).ok().filter(|count| *count <= MAX_OBJECTS)?;
            let records = table.get(8..)?.chunks_exact(RECORD).take(count);
            self.objects = records
                .map(|record| {
                    let size = u32::try_from(i32_at(record, 4)?).ok()?;
                    Some(StackObject { offset: i32_at(record, 0)?, size, pointers: (0, size) })
                })
                .collect::<Option<_>>()?;
        }
        Some(())
    }
}

/// The bits that are set in bitmap number `index` of a `stackmap` (`{ n, nbit int32; bytedata }`), and how
/// many bits it has.
fn bitmap(table: &[u8], index: usize) -> Option<(impl Iterator<Item = usize>, usize)> {
    let maps = usize::try_from(i32_at(table, 0)?).ok()?;
    let bits = usize::try_from(i32_at(table, 4)?).ok().filter(|bits| *bits <= MAX_BITS)?;
    let bytes = bits.div_ceil(8);
    let map = if bits == 0 {
        &[]
    } else {
        (index < maps).then_some(())?;
        table.get(8usize.checked_add(index.checked_mul(bytes)?)?..)?.get(..bytes)?
    };
    let is_set = |bit: &usize| map.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 != 0);
    Some(((0..bits).filter(is_set), bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `stackmap` of `n` bitmaps.
    fn table(n: i32, bits: i32, bytes: &[u8]) -> Vec<u8> {
        [&n.to_le_bytes()[..], &bits.to_le_bytes(), bytes].concat()
    }

    fn set(table: &[u8], index: usize) -> Option<(Vec<usize>, usize)> {
        bitmap(table, index).map(|(set, bits)| (set.collect(), bits))
    }

    #[test]
    fn bitmaps_lie_one_behind_the_other() {
        let two = table(2, 10, &[0b101, 0b10, 0xff, 0xff]);
        assert_eq!(set(&two, 0), Some((vec![0, 2, 9], 10)));
        assert_eq!(set(&two, 1), Some(((0..10).collect(), 10)), "bits behind the last one mean nothing");
        assert_eq!(set(&two, 2), None);
        assert_eq!(set(&table(1, 0, &[]), 7), Some((vec![], 0)), "without pointers there is one for all");
    }

    #[test]
    fn tables_that_lie_are_none() {
        for lie in [&[][..], &[1, 0, 0], &table(1, -1, &[0]), &table(-1, 8, &[0]), &table(1, i32::MAX, &[0])]
        {
            assert_eq!(set(lie, 0), None, "{lie:?}");
        }
        assert_eq!(set(&table(i32::MAX, 8, &[1]), usize::MAX / 2), None);
    }

    #[test]
    fn arguments_in_registers_have_the_size_of_the_runtimes() {
        // unsafe.Sizeof(abi.RegArgs{}) of Go 1.19 to 1.27.
        let amd64 = StackObject::reg_args(Arch::Amd64);
        assert_eq!((amd64.offset, amd64.pointers), (-272, (192, 264)));
        let arm64 = StackObject::reg_args(Arch::Arm64);
        assert_eq!((arm64.offset, arm64.pointers), (-392, (256, 384)));
    }
}

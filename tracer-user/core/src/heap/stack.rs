//! The live pointers of a goroutine's stack.
//!
//! The compiler leaves maps for the collector in every binary, also in a stripped one (`src/runtime/stkframe.go:
//! getStackMap`, 1.21 to 1.27; `stack.go` and `mgcmark.go` before). For each call there is a bitmap of the local
//! variables and one of the arguments. Variables whose address is taken are listed once for a function; they live as
//! long as something live points at them. If a stack cannot be walked by these maps, every word of its used part
//! counts.

use super::spans::words;
use crate::binary::bytes::{i32_at, u64_at, uvarint};
use crate::binary::{Arch, FuncData, Function, GoBinary, PcData};
use crate::goruntime::Release;
use crate::memory::{Fault, Memory};
use crate::snapshot::{Frame, Pc, Registers, Unwinder, View};
use hashbrown::HashMap;
use std::rc::Rc;

/// Most pcs whose [`FrameMap`] is cached; a hostile stack can name any number of pcs.
const MAX_MAPS: usize = 1 << 14;
/// Most bytes of the arguments of a function that reflection made.
const MAX_REFLECTED: u64 = 1 << 12;
/// Most words of one bitmap: a frame of 8 MiB.
const MAX_BITS: usize = 1 << 20;
/// Most variables of one function whose address is taken.
const MAX_OBJECTS: usize = 1 << 12;
/// Most deferred calls that a frame keeps in variables (`maxOpenDefers`).
const MAX_OPEN_DEFERS: u64 = 8;
/// Bytes of a `stackObjectRecord` (`src/runtime/stack.go`).
const RECORD: usize = 16;
/// Functions that reflection calls with any arguments. Only the method value at their stack pointer says which
/// (`argMapInternal`), so no map of the compiler does.
const REFLECTED: [&str; 2] = ["reflect.makeFuncStub", "reflect.methodValueCall"];
/// Functions that a signal handler puts on the stack. They save all registers of the code they interrupt, at any of its
/// instructions, so no map holds for their frame or for the interrupted one.
const INJECTED: [&str; 3] = ["runtime.asyncPreempt", "runtime.debugCallV2", "runtime.sigpanic"];

/// The used part of a stack as it was read: from the stack pointer to the end of the stack.
pub(super) struct Used<'a> {
    base: u64,
    bytes: &'a [u8],
    /// `g.stack.lo`. A pointer into the unused part is a pointer into the stack, not into the heap.
    lo: u64,
}

impl<'a> Used<'a> {
    pub(super) fn new(base: u64, bytes: &'a [u8], lo: u64) -> Used<'a> {
        Used { base, bytes, lo }
    }

    fn contains(&self, addr: u64) -> bool {
        (self.lo..self.end()).contains(&addr)
    }

    pub(super) fn word(&self, addr: u64) -> Option<u64> {
        u64_at(self.bytes, usize::try_from(addr.checked_sub(self.base)?).ok()?)
    }

    fn byte(&self, addr: u64) -> Option<u8> {
        self.bytes.get(usize::try_from(addr.checked_sub(self.base)?).ok()?).copied()
    }

    fn end(&self) -> u64 {
        self.base.saturating_add(self.bytes.len() as u64)
    }

    /// The aligned words from one address up to another, as far as they were read.
    fn between(&self, from: u64, to: u64) -> impl Iterator<Item = u64> {
        let into = |addr: u64| (addr.clamp(self.base, self.end()) - self.base) as usize;
        words(self.bytes.get(into(from.next_multiple_of(8))..into(to)).unwrap_or_default())
    }
}

/// Finds the live pointers of stacks of one binary.
pub(super) struct LiveWords<'a> {
    memory: &'a (dyn Memory + Sync),
    binary: &'a GoBinary,
    bias: u64,
    unwinder: Unwinder<'a>,
    maps: HashMap<Pc, Option<Rc<FrameMap>>>,
    frames: Vec<Frame>,
    /// Variables of the present stack whose address is taken: first address, description, whether something live points
    /// at them.
    objects: Vec<(u64, StackObject, bool)>,
    /// Live pointers into the stack itself whose variable was not scanned yet.
    own: Vec<u64>,
}

impl<'a> LiveWords<'a> {
    pub(super) fn new(view: &View<'a>) -> LiveWords<'a> {
        LiveWords {
            memory: view.memory,
            binary: view.binary,
            bias: view.bias,
            unwinder: Unwinder::new(view.binary, view.bias),
            maps: HashMap::new(),
            frames: Vec::new(),
            objects: Vec::new(),
            own: Vec::new(),
        }
    }

    /// Hands each live word of a stack to `live`. `registers` are those of the innermost frame. `also` are words from
    /// elsewhere that may point into the stack (deferred calls). A pointer into the stack itself is not handed over,
    /// but the variable that it points at is scanned.
    pub(super) fn each(
        &mut self,
        registers: Registers,
        used: &Used<'_>,
        also: &[u64],
        mut live: impl FnMut(u64),
    ) {
        self.frames.clear();
        let mut frames = std::mem::take(&mut self.frames);
        let walked = self.unwinder.frames(&Bytes(used), registers, &mut frames);
        let known = walked.is_ok() && self.precise(&frames, used, also, &mut live).is_some();
        self.frames = frames;
        if !known {
            used.between(used.base, used.end()).for_each(live);
        }
    }

    /// The innermost frame with a word that lies in a range, and the address of the word.
    pub(super) fn place(
        &mut self,
        registers: Registers,
        used: &Used<'_>,
        to: &std::ops::Range<u64>,
    ) -> Option<(Pc, u64)> {
        let mut frames = Vec::new();
        // Frames up to a broken one count.
        let _ = self.unwinder.frames(&Bytes(used), registers, &mut frames);
        frames.iter().find_map(|frame| {
            let end = frame.fp.max(frame.sp).min(used.end());
            let from = frame.sp.next_multiple_of(8);
            let mut words = used.between(from, end).zip((from..).step_by(8));
            words.find(|(word, _)| to.contains(word)).map(|(_, at)| (frame.pc, at))
        })
    }

    /// The deferred calls that frames keep in their own variables and have still to make: where the frame goes on, and
    /// the closure that is called. Calls that are deferred in loops, and all where there are many, are listed in the `g`.
    /// `used` is the stack of the last [`LiveWords::each`], which has walked it; frames up to a broken one count.
    pub(super) fn pending(&self, used: &Used<'_>) -> Vec<(Pc, u64)> {
        let mut found = Vec::new();
        for frame in &self.frames {
            let functions = self.binary.functions();
            let function = functions.function_at(frame.pc.lookup().wrapping_sub(self.bias));
            let table = function.and_then(|function| functions.funcdata(&function, FuncData::OpenDefers));
            let slots = table.and_then(|table| OpenDefers::parse(table, self.binary.version().release));
            let Some(OpenDefers { bits, slots }) = slots else { continue };
            let end = self.locals_end(frame);
            let bits = used.byte(end.wrapping_sub(bits)).unwrap_or(0);
            let pending = slots.iter().enumerate().filter(|(index, _)| bits >> index & 1 != 0);
            // The last one is called first.
            found.extend(
                pending.rev().filter_map(|(_, slot)| Some((frame.pc, used.word(end.wrapping_sub(*slot))?))),
            );
        }
        found
    }

    /// As [`LiveWords::each`], by the maps of the frames. `None`: a frame belongs to no function.
    fn precise(
        &mut self,
        frames: &[Frame],
        used: &Used<'_>,
        also: &[u64],
        live: &mut impl FnMut(u64),
    ) -> Option<()> {
        let above = if self.binary.arch() == Arch::Arm64 { 8 } else { 0 };
        self.objects.clear();
        self.own.clear();
        let mut own = std::mem::take(&mut self.own);
        let mut found = |word: u64| if used.contains(word) { own.push(word) } else { live(word) };
        let mut interrupted = false;
        for (number, frame) in frames.iter().enumerate() {
            let map = self.map(frame.pc)?;
            let args = frame.fp.wrapping_add(above);
            if map.unknown || interrupted {
                // No map: the whole frame, and its own arguments in the frame above.
                used.between(frame.sp, args.saturating_add(map.args_size)).for_each(&mut found);
            } else {
                if map.reflected {
                    let size = self.reflected_args(frame, used);
                    used.between(args, args.saturating_add(size)).for_each(&mut found);
                }
                let locals = self.locals_end(frame);
                let local = map.locals.iter().map(|below| locals.wrapping_sub(u64::from(*below)));
                let arg = map.args.iter().map(|offset| args.wrapping_add(u64::from(*offset)));
                local.chain(arg).filter_map(|addr| used.word(addr)).for_each(&mut found);
                for object in &map.objects {
                    let from = if object.offset < 0 { locals } else { args };
                    let addr = from.wrapping_add_signed(i64::from(object.offset));
                    self.objects.push((addr, *object, false));
                }
            }
            interrupted = map.injected;
            if number + 1 == frames.len() && !map.top {
                // The walk ended before the outermost function (at assembly that writes the stack pointer, or at a
                // return address of 0), so the rest of the stack may hold frames that were not seen.
                used.between(frame.sp, used.end()).for_each(&mut found);
            }
        }
        also.iter().copied().for_each(&mut found);
        // As the collector does (`scanstack`): the first live pointer to a variable makes it live, and a word of it may
        // be the first pointer to the next one.
        self.objects.sort_unstable_by_key(|(start, ..)| *start);
        while let Some(addr) = own.pop() {
            let behind = self.objects.partition_point(|(start, ..)| *start <= addr);
            let Some((start, object, reached)) =
                behind.checked_sub(1).and_then(|at| self.objects.get_mut(at))
            else {
                continue;
            };
            if addr - *start >= u64::from(object.size) || std::mem::replace(reached, true) {
                continue;
            }
            let (from, to) = object.pointers;
            let within = |at: u32| start.saturating_add(u64::from(at));
            for word in used.between(within(from), within(to)) {
                if used.contains(word) { own.push(word) } else { live(word) }
            }
        }
        self.own = own;
        Some(())
    }

    /// Bytes of the arguments of a function that reflection made (`src/runtime/stkframe.go: argMapInternal`). The frame
    /// begins with a pointer to `{ fn; stack *bitvector; … }`, and the bitvector with its number of words. The maximum
    /// if these cannot be read.
    fn reflected_args(&self, frame: &Frame, used: &Used<'_>) -> u64 {
        let above = if self.binary.arch() == Arch::Arm64 { 8 } else { 0 };
        let words = || {
            let value = used.word(frame.sp.wrapping_add(above))?;
            let bits = self.memory.word(value.wrapping_add(8)).ok()?;
            Some(self.memory.word(bits).ok()? & u64::from(u32::MAX))
        };
        words().map_or(MAX_REFLECTED, |words| words.saturating_mul(8)).min(MAX_REFLECTED)
    }

    /// `stkframe.varp`: the end of the local variables, below the return address (amd64) and the saved frame pointer.
    /// An empty frame has no saved frame pointer.
    fn locals_end(&self, frame: &Frame) -> u64 {
        let return_address = if self.binary.arch() == Arch::Arm64 { 0 } else { 8 };
        let end = frame.fp.wrapping_sub(return_address);
        if end > frame.sp { end.wrapping_sub(8) } else { end }
    }

    fn map(&mut self, pc: Pc) -> Option<Rc<FrameMap>> {
        if let Some(map) = self.maps.get(&pc) {
            return map.clone();
        }
        if self.maps.len() >= MAX_MAPS {
            self.maps.clear();
        }
        let map = FrameMap::of(self.binary, self.bias, pc).map(Rc::new);
        self.maps.insert(pc, map.clone());
        map
    }
}

/// Where a frame keeps its deferred calls, in bytes below [`LiveWords::locals_end`] (`FUNCDATA_OpenCodedDeferInfo`,
/// `src/cmd/compile/internal/ssagen/ssa.go: emitOpenDeferInfo`).
#[derive(Debug, PartialEq, Eq)]
struct OpenDefers {
    /// The byte with a bit for each deferred call that is still to come.
    bits: u64,
    /// The pointers to the closures.
    slots: Vec<u64>,
}

impl OpenDefers {
    /// `None`: the table makes no sense.
    fn parse(table: &[u8], release: Release) -> Option<OpenDefers> {
        let mut at = 0;
        let bits = uvarint(table, &mut at)?;
        if release.lists_open_defers() {
            let count = uvarint(table, &mut at).filter(|count| *count <= MAX_OPEN_DEFERS)?;
            let mut slots = (0..count).map(|_| uvarint(table, &mut at)).collect::<Option<Vec<u64>>>()?;
            // The last deferred call stands first.
            slots.reverse();
            return Some(OpenDefers { bits, slots });
        }
        let first = uvarint(table, &mut at)?;
        let slots = (0..MAX_OPEN_DEFERS).map(|index| first.wrapping_sub(index * 8)).collect();
        Some(OpenDefers { bits, slots })
    }
}

/// A [`Used`] stack as memory, so that the unwinder reads the copy and not the target.
struct Bytes<'a, 'b>(&'a Used<'b>);

impl Memory for Bytes<'_, '_> {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let from = addr.checked_sub(self.0.base).and_then(|at| usize::try_from(at).ok());
        let bytes = from.and_then(|from| self.0.bytes.get(from..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(Fault::Unmapped(addr))?);
        Ok(())
    }
}

/// What is live in a frame at one pc.
#[derive(Debug, Default, PartialEq, Eq)]
struct FrameMap {
    /// Whether the tables say nothing, so that every word of the frame may be live.
    unknown: bool,
    /// Whether the function is one of [`INJECTED`]: no map holds for the interrupted frame either.
    injected: bool,
    /// Whether the function is one of [`REFLECTED`].
    reflected: bool,
    /// Pointers among the local variables, in bytes below [`LiveWords::locals_end`].
    locals: Box<[u32]>,
    /// Pointers among the arguments, in bytes from the first argument.
    args: Box<[u32]>,
    args_size: u64,
    objects: Box<[StackObject]>,
    /// Whether the stack ends with this function, which none called.
    top: bool,
}

/// A variable on the stack whose address is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StackObject {
    /// Bytes from the end of the local variables if negative, else from the first argument.
    offset: i32,
    size: u32,
    /// Range of its bytes that may hold pointers.
    pointers: (u32, u32),
}

impl StackObject {
    /// The register arguments of a function that reflection made: an `abi.RegArgs` at the end of its frame
    /// (`methodValueCallFrameObjs`). It is `{ Ints, Floats, Ptrs, ReturnIsPtr }` with nine, fifteen and nine words on
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
    /// The map of a frame that goes on at `pc` in memory; `bias` is that minus the link-time address. `None`: no
    /// function contains `pc`.
    fn of(binary: &GoBinary, bias: u64, pc: Pc) -> Option<FrameMap> {
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

    /// Reads the tables of the function. `None`: they are missing or make no sense, so the map stays unknown.
    fn fill(&mut self, binary: &GoBinary, function: &Function<'_>, linked: u64) -> Option<()> {
        let functions = binary.functions();
        let at_entry = linked == function.entry;
        let index = (!at_entry)
            .then(|| functions.pcdata(function, PcData::StackMapIndex, linked.wrapping_sub(1)))
            .flatten();
        // Without a value the runtime takes map 0, that of the function's entry.
        let index = usize::try_from(index.unwrap_or(-1).max(0)).ok()?;
        let frame = u64::try_from(functions.sp_delta(function, linked)?).ok()?;
        // A frame of this size has no variables, only the saved frame pointer and (arm64) the link register.
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

/// The set bits of bitmap number `index` of a `stackmap` (`{ n, nbit int32; bytedata }`), and the number of all its
/// bits.
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

    /// As Go 1.19 writes them and as Go 1.22 does: the second call has the lower slot.
    #[test]
    fn where_frames_keep_deferred_calls() {
        let old = OpenDefers::parse(&[0x11, 2, 0x20, 0x18], Release::new(21)).unwrap();
        assert_eq!(old, OpenDefers { bits: 0x11, slots: vec![0x18, 0x20] });
        let new = OpenDefers::parse(&[0x11, 0x28], Release::new(22)).unwrap();
        assert_eq!((new.bits, &new.slots[..2]), (0x11, &[0x28, 0x20][..]));
        assert_eq!(OpenDefers::parse(&[0x11, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1], Release::new(21)), None);
        assert_eq!(OpenDefers::parse(&[0x80], Release::new(27)), None);
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

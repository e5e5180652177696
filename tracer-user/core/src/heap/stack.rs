//! The pointers on a goroutine's stack that are live: precisely, where it stood still, all words that are
//! there, where it moved, runs, or its stack makes no sense.

use super::frame_map::{FrameMap, StackObject};
use super::spans::words;
use crate::binary::bytes::u64_at;
use crate::binary::{Arch, GoBinary};
use crate::memory::{Fault, Memory};
use crate::snapshot::{Frame, Pc, Unwinder, View};
use hashbrown::HashMap;
use std::rc::Rc;

/// How many pcs are remembered; a hostile stack can name any number of them.
const MAX_MAPS: usize = 1 << 14;
/// Bytes of arguments of a function that reflection made.
const MAX_REFLECTED: u64 = 1 << 12;

/// The used part of a stack as it was read.
pub(super) struct Used<'a> {
    /// Its first address.
    pub(super) base: u64,
    /// What is there, up to the end of the stack.
    pub(super) bytes: &'a [u8],
    /// `g.stack.lo`.
    pub(super) lo: u64,
}

impl Used<'_> {
    fn word(&self, addr: u64) -> Option<u64> {
        u64_at(self.bytes, usize::try_from(addr.checked_sub(self.base)?).ok()?)
    }

    fn end(&self) -> u64 {
        self.base.saturating_add(self.bytes.len() as u64)
    }

    /// The words from one address up to another, as far as they are here.
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
    /// Variables whose address is taken: first address, what they are, whether something live points there.
    objects: Vec<(u64, StackObject, bool)>,
    /// Pointers into the stack that were not followed yet.
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

    /// Hands over each live word of a stack, the innermost frame of which has these registers. `also` are
    /// words from elsewhere that may point into it (deferred calls). What points into the stack itself is
    /// followed, not handed over.
    pub(super) fn each(
        &mut self,
        registers: crate::snapshot::Registers,
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

    /// `None`: a frame is of no function.
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
        let mut found =
            |word: u64| if (used.lo..used.end()).contains(&word) { own.push(word) } else { live(word) };
        let mut interrupted = false;
        for (number, frame) in frames.iter().enumerate() {
            let map = self.map(frame.pc)?;
            let args = frame.fp.wrapping_add(above);
            if map.unknown || interrupted {
                // With what it was about to pass to another one.
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
                // The walk ended where it need not: the rest may belong to anybody.
                used.between(frame.sp, used.end()).for_each(&mut found);
            }
        }
        also.iter().copied().for_each(&mut found);
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
                if (used.lo..used.end()).contains(&word) { own.push(word) } else { live(word) }
            }
        }
        self.own = own;
        Some(())
    }

    /// Bytes of the arguments of a function that reflection made (`src/runtime/stkframe.go: argMapInternal`):
    /// the frame begins with a pointer to `{ fn; stack *bitvector; … }`, and the bitvector with its number of
    /// words.
    fn reflected_args(&self, frame: &Frame, used: &Used<'_>) -> u64 {
        let above = if self.binary.arch() == Arch::Arm64 { 8 } else { 0 };
        let words = || {
            let value = used.word(frame.sp.wrapping_add(above))?;
            let bits = self.memory.word(value.wrapping_add(8)).ok()?;
            Some(self.memory.word(bits).ok()? & u64::from(u32::MAX))
        };
        words().map_or(MAX_REFLECTED, |words| words.saturating_mul(8)).min(MAX_REFLECTED)
    }

    /// `stkframe.varp`: where the local variables end. Below the return address (amd64) and the saved frame pointer.
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

/// Serves reads from a stack that was read.
struct Bytes<'a, 'b>(&'a Used<'b>);

impl Memory for Bytes<'_, '_> {
    fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let from = addr.checked_sub(self.0.base).and_then(|at| usize::try_from(at).ok());
        let bytes = from.and_then(|from| self.0.bytes.get(from..)?.get(..buffer.len()));
        buffer.copy_from_slice(bytes.ok_or(Fault::Unmapped(addr))?);
        Ok(())
    }
}

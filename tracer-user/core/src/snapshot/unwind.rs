//! The physical frames of a goroutine, from its saved registers and its stack.
//!
//! The walk is that of the runtime's own unwinder (`src/runtime/traceback.go`: `gentraceback` up to 1.20, `unwinder`
//! since 1.21; alike in what is done here). Each function's pc table says how far the stack pointer lies below the
//! caller's. The walk needs no frame pointers, so it also works in system calls, where up to Go 1.22 none is saved, and
//! in assembly.

use super::args::{ArgProgram, word};
use super::types::Pc;
use crate::memory::{Fault, Memory};
use crate::{
    binary::{Arch, Function, GoBinary},
    goruntime::tracebacks,
};
use std::cell::RefCell;
use std::rc::Rc;

/// Most frames of one stack. Deeper ones are legal, up to 1 GB of stack, but a traceback shows only a hundred.
const MAX_FRAMES: usize = 10_000;
/// Most pcs whose [`Site`] is cached; a hostile stack can name any number of pcs.
const MAX_SITES: usize = 1 << 14;
/// Bytes that a signal handler on arm64 reserves to save LR before it makes the goroutine call `sigpanic` or
/// `asyncPreempt`: `alignUp(sys.MinFrameSize, sys.StackAlign)`.
const INJECTED_FRAME: u64 = 16;

/// Bytes that [`Window`] reads at once beyond what it was given.
const REFILL: usize = 4096;
/// Most outer frames of a running goroutine, and words that are searched for the return address of each: frames of up
/// to 32 KiB.
const MAX_OUTER: usize = 64;
const MAX_WORDS: u64 = 4096;
/// Opcode of amd64's `CALL rel32`, a five-byte instruction that names its target.
const CALL: u8 = 0xe8;

/// Why a stack could not be walked to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// The pc lies in no function of the pclntab.
    #[error("0x{0:x} is no address in the program's code")]
    Pc(u64),
    /// The word at this address lies outside the stack, or cannot be read.
    #[error("0x{0:x} is not on the stack")]
    Stack(u64),
    /// The frame at this stack pointer is its own caller, or lies above it.
    #[error("the frame at 0x{0:x} has no end")]
    Stuck(u64),
    #[error("it has more than {MAX_FRAMES} frames")]
    TooDeep,
}

/// The words of a `g` that say where the goroutine stopped.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Saved {
    /// `g.sched.pc`, `.sp` and `.lr` (which is 0 on amd64).
    pub sched: (u64, u64, u64),
    /// `g.syscallpc` and `g.syscallsp`; the second is 0 outside of system calls.
    pub syscall: (u64, u64),
    /// `g.stack.lo` and `.hi`: the lowest address, and the one behind the end.
    pub stack: (u64, u64),
}

impl Saved {
    /// The registers to begin with. As in `unwinder.initAt`, those of the system call go first as long as `syscallsp`
    /// is set, even if the state is no longer "syscall".
    pub(crate) fn registers(&self) -> Registers {
        let (pc, sp) = self.syscall;
        if sp != 0 {
            return Registers { pc, sp, lr: 0, syscall: true, stack: self.stack };
        }
        let (pc, sp, lr) = self.sched;
        Registers { pc, sp, lr, syscall: false, stack: self.stack }
    }
}

/// Where a walk begins. The pc is one that the goroutine itself saved: a return address, unless it is the entry of a
/// function, which has then not begun to execute (`symPC`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    pub pc: u64,
    pub sp: u64,
    /// arm64's link register; 0: none, or not known.
    pub lr: u64,
    /// Whether `entersyscall` saved them, so that the function at `pc` has not yet written its stack pointer.
    pub syscall: bool,
    /// Lowest address of the stack, and the one behind its end. Nothing else is read.
    pub stack: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub pc: Pc,
    /// The lowest address of the frame.
    pub sp: u64,
    /// The caller's stack pointer at the call (`stkframe.fp`). The frame with its return address lies from `sp` up to
    /// here.
    pub fp: u64,
}

/// What the pclntab says of a pc.
struct Site {
    pc: Pc,
    /// Bytes from the stack pointer up to its value at the function's entry; `None`: not a Go function.
    delta: Option<u64>,
    /// Whether the stack ends with this function (flag `TOPFRAME`).
    last: bool,
    /// Whether the function writes its stack pointer (flag `SPWRITE`). The walk then ends here, because `delta` only
    /// holds until the function has done so.
    writes_sp: bool,
    /// Whether a signal handler put the function on the stack, so that the caller's pc is exact and no return address.
    injected: bool,
    shown: Shown,
    args: ArgProgram,
}

/// Whether a traceback prints the function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Yes,
    /// Depending on the frames around it (wrappers, `gopanic`).
    Perhaps,
    /// Only in a stack that would show nothing else.
    No,
}

/// Walks the stacks of one target. Caches a [`Site`] for each pc, because a million goroutines share few pcs.
pub(crate) struct Unwinder<'a> {
    binary: &'a GoBinary,
    bias: u64,
    sites: hashbrown::HashMap<Pc, Option<Rc<Site>>>,
    /// Buffer for [`Unwinder::frames`], kept to save an allocation for each stack.
    pcs: Vec<Pc>,
}

impl<'a> Unwinder<'a> {
    /// `bias`: an address in memory minus the link-time address.
    pub(crate) fn new(binary: &'a GoBinary, bias: u64) -> Unwinder<'a> {
        Unwinder { binary, bias, sites: hashbrown::HashMap::new(), pcs: Vec::new() }
    }

    /// Appends the frames to `pcs`, innermost first, and to `args` (if given) a line for each: what a traceback prints
    /// between the parentheses, empty for functions that the traceback hides.
    ///
    /// # Errors
    /// The stack makes no sense; the frames appended before that hold.
    pub(super) fn unwind(
        &mut self,
        memory: &dyn Memory,
        from: Registers,
        pcs: &mut Vec<Pc>,
        mut args: Option<&mut String>,
    ) -> Result<(), Broken> {
        let (frames, text) = (pcs.len(), args.as_ref().map_or(0, |args| args.len()));
        let mut walk =
            Walk { memory, from, pcs, args: args.as_deref_mut(), frames: None, all: false, any_shown: false };
        let end = self.walk(&mut walk);
        // The runtime prints all frames of a stack that would show none, so walk again with all arguments.
        if walk.any_shown || args.is_none() {
            return end;
        }
        pcs.truncate(frames);
        if let Some(args) = args.as_deref_mut() {
            args.truncate(text);
        }
        self.walk(&mut Walk { memory, from, pcs, args, frames: None, all: true, any_shown: false })
    }

    /// Appends the frames with their addresses, innermost first.
    ///
    /// # Errors
    /// As [`Unwinder::unwind`].
    pub(crate) fn frames(
        &mut self,
        memory: &dyn Memory,
        from: Registers,
        frames: &mut Vec<Frame>,
    ) -> Result<(), Broken> {
        let mut pcs = std::mem::take(&mut self.pcs);
        pcs.clear();
        let walk = &mut Walk {
            memory,
            from,
            pcs: &mut pcs,
            args: None,
            frames: Some(frames),
            all: false,
            any_shown: false,
        };
        let end = self.walk(walk);
        self.pcs = pcs;
        end
    }

    fn walk(&mut self, walk: &mut Walk<'_>) -> Result<(), Broken> {
        let link_register = self.binary.arch() == Arch::Arm64;
        let limit = walk.pcs.len() + MAX_FRAMES;
        let Registers { mut pc, mut sp, mut lr, syscall, .. } = walk.from;
        if pc == 0 {
            // A call of a nil function: only its return address is on the stack, so begin with the caller.
            (pc, lr) = (walk.word(sp)?, 0);
            sp = sp.wrapping_add(if link_register { 0 } else { 8 });
        }
        let (mut innermost, mut injected) = (true, false);
        loop {
            let site = self.site(pc, injected).ok_or(Broken::Pc(pc))?;
            let Some(delta) = site.delta else { return Ok(()) };
            let caller_sp = sp.checked_add(delta + if link_register { 0 } else { 8 });
            let caller_sp = caller_sp.ok_or(Broken::Stuck(sp))?;
            if walk.pcs.len() >= limit {
                return Err(Broken::TooDeep);
            }
            // arm64 keeps a word for LR between the caller's stack pointer and the arguments (sys.MinFrameSize).
            walk.frame(&site, (sp, caller_sp), if link_register { 8 } else { 0 });
            if site.last || site.writes_sp && !(innermost && syscall) {
                return Ok(());
            }
            let caller = if !link_register {
                walk.word(caller_sp.wrapping_sub(8))?
            } else if lr == 0 || innermost && delta > 0 {
                walk.word(sp)?
            } else {
                lr
            };
            // Stacks that do not begin in a `TOPFRAME` function end with a return address of 0.
            if caller == 0 {
                return Ok(());
            }
            if caller == pc && caller_sp == sp {
                return Err(Broken::Stuck(sp));
            }
            (pc, sp, lr) = (caller, caller_sp, 0);
            (innermost, injected) = (false, site.injected);
            // On arm64 the handler saved the LR of what it interrupted: a leaf function returns by that LR, because it
            // never stored it itself.
            if injected && link_register {
                let saved = walk.word(sp)?;
                sp = sp.wrapping_add(INJECTED_FRAME);
                match self.site(pc, true) {
                    None => pc = saved,
                    Some(site) if site.delta == Some(0) => lr = saved,
                    Some(_) => {}
                }
            }
        }
    }

    /// The cached [`Site`] of a pc. `exact`: the callee was injected, so `addr` is no return address. `None`: no
    /// function.
    fn site(&mut self, addr: u64, exact: bool) -> Option<Rc<Site>> {
        let key = if exact { Pc::exact(addr) } else { Pc::of_return(addr) };
        if let Some(site) = self.sites.get(&key) {
            return site.clone();
        }
        if self.sites.len() >= MAX_SITES {
            self.sites.clear();
        }
        let site = self.look_up(key).map(Rc::new);
        self.sites.insert(key, site.clone());
        site
    }

    fn look_up(&self, pc: Pc) -> Option<Site> {
        let functions = self.binary.functions();
        let linked = pc.addr().wrapping_sub(self.bias);
        let function = functions.function_at(linked)?;
        let pc = if linked == function.entry { Pc::exact(pc.addr()) } else { pc };
        let lookup = pc.lookup().wrapping_sub(self.bias);
        let delta = functions.sp_delta(&function, linked);
        Some(Site {
            pc,
            delta: delta.and_then(|delta| u64::try_from(delta).ok()),
            last: functions.is_top_frame(&function),
            // `cgocallback` switches from the thread's stack to the goroutine's and has a frame on both, so the walk
            // goes on.
            writes_sp: functions.writes_sp(&function) && function.name != "runtime.cgocallback",
            injected: is_injected(function.name),
            shown: self.shown(&function),
            args: ArgProgram::compile(functions, &function, self.liveness_pc(lookup)),
        })
    }

    /// The link-time address at which the runtime asks which arguments are live: that of the call. Up to 1.20 it is,
    /// within inlined calls, that of the outermost one (`gentraceback` moves `tracepc` there).
    fn liveness_pc(&self, lookup: u64) -> u64 {
        if self.binary.version().release.unwinds_inlined_calls() {
            return lookup;
        }
        self.binary.symbolize(lookup).last().map_or(lookup, |outermost| outermost.pc)
    }

    fn shown(&self, function: &Function<'_>) -> Shown {
        if !tracebacks::shows(function.name, self.binary.version().release) {
            // A traceback shows `gopanic` unless it is the innermost frame.
            return if function.name == tracebacks::PANIC { Shown::Perhaps } else { Shown::No };
        }
        if self.binary.functions().is_wrapper(function) { Shown::Perhaps } else { Shown::Yes }
    }
}

/// `isInjectedCall` of `src/runtime/traceback.go`. (Up to 1.20 the runtime takes the pc below `asyncPreempt` for a
/// return address and may so print the line before; sfgi does not.)
fn is_injected(function: &str) -> bool {
    matches!(function, "runtime.sigpanic" | "runtime.asyncPreempt" | "runtime.debugCallV2")
}

/// One walk: its input and its outputs.
struct Walk<'a> {
    memory: &'a dyn Memory,
    from: Registers,
    pcs: &'a mut Vec<Pc>,
    args: Option<&'a mut String>,
    frames: Option<&'a mut Vec<Frame>>,
    /// Whether to print the arguments of frames that a traceback hides, too.
    all: bool,
    /// Whether a frame was met that every traceback shows.
    any_shown: bool,
}

impl Walk<'_> {
    fn word(&self, addr: u64) -> Result<u64, Broken> {
        word(self.memory, addr, self.from.stack).ok_or(Broken::Stack(addr))
    }

    /// Writes one frame. `above`: bytes from the caller's stack pointer to the arguments.
    fn frame(&mut self, site: &Site, (sp, fp): (u64, u64), above: u64) {
        self.pcs.push(site.pc);
        if let Some(frames) = self.frames.as_deref_mut() {
            frames.push(Frame { pc: site.pc, sp, fp });
        }
        self.any_shown |= site.shown == Shown::Yes;
        if let Some(args) = self.args.as_deref_mut() {
            if self.all || site.shown != Shown::No {
                site.args.print(self.memory, fp.wrapping_add(above), self.from.stack, args);
            }
            args.push('\n');
        }
    }
}

/// The outer frames, innermost first, of a running goroutine that started at `startpc` and whose stack begins at `top`
/// (`g.stktopsp`). Its registers cannot be read without stopping it. But `top` is known, and from there each frame's
/// size says where the return address of the next call would lie. A call that has returned leaves its bytes behind, so
/// the inner frames may be stale: the result is a best effort, which [`Trust::Running`] says.
///
/// The function that the goroutine started with is always there, at its entry if no return address was found in it.
/// Empty on arm64, where a return address need not lie on the stack.
///
/// [`Trust::Running`]: super::Trust::Running
pub(super) fn outer_frames(
    memory: &dyn Memory,
    binary: &GoBinary,
    bias: u64,
    startpc: u64,
    top: u64,
) -> Vec<Pc> {
    let mut frames = Vec::new();
    if binary.arch() != Arch::Amd64 {
        return frames;
    }
    let functions = binary.functions();
    let (mut function, mut frame) = (functions.function_at(startpc.wrapping_sub(bias)), top);
    while let Some(of) = function
        && frames.len() < MAX_OUTER
    {
        let Some((slot, pc)) = return_address(memory, binary, bias, &of, frame) else {
            frames.push(Pc::exact(of.entry.wrapping_add(bias)));
            break;
        };
        frames.push(Pc::of_return(pc.wrapping_add(bias)));
        // The called function's stack pointer, before its call pushed the return address.
        frame = slot + 8;
        function = callee(binary, pc);
    }
    frames.reverse();
    frames
}

/// The return address (link-time) of a call that the function `of` made, and its place on the stack. `frame` is the
/// stack pointer before `of` itself was called.
fn return_address(
    memory: &dyn Memory,
    binary: &GoBinary,
    bias: u64,
    of: &Function<'_>,
    frame: u64,
) -> Option<(u64, u64)> {
    // Downwards: the return address of `of`, its frame, then the return address of its own call. A word counts only if
    // the frame size at that pc fits the distance.
    let own = frame.checked_sub(8)?;
    (1..=MAX_WORDS).map_while(|words| own.checked_sub(8 * words)).find_map(|slot| {
        let pc = memory.word(slot).ok()?.wrapping_sub(bias);
        let inside = of.entry < pc && pc < of.end;
        let delta = inside.then(|| binary.functions().sp_delta(of, pc)).flatten()?;
        (u64::try_from(delta) == Ok(own - slot - 8)).then_some((slot, pc))
    })
}

/// The function that the call instruction before `pc` calls. `None`: an indirect call.
fn callee(binary: &GoBinary, pc: u64) -> Option<Function<'_>> {
    let code = binary.image().read(pc.checked_sub(5)?, 5)?;
    let (first, offset) = code.split_first()?;
    let offset = i32::from_le_bytes(*offset.first_chunk()?);
    let entry = (*first == CALL).then(|| pc.wrapping_add_signed(i64::from(offset)))?;
    binary.functions().function_at(entry).filter(|function| function.entry == entry)
}

/// A stack as memory: the innermost part was read already, the rest comes from the target, [`REFILL`] bytes at once.
pub(super) struct Window<'a> {
    memory: &'a dyn Memory,
    base: u64,
    bytes: &'a [u8],
    /// End of the stack; nothing at or behind this address is read.
    end: u64,
    /// Address and bytes of the last read from the target.
    beyond: RefCell<(u64, Vec<u8>)>,
}

impl<'a> Window<'a> {
    /// `bytes` were read at `base`; the stack ends at `end`.
    pub(super) fn new(memory: &'a dyn Memory, base: u64, bytes: &'a [u8], end: u64) -> Window<'a> {
        Window { memory, base, bytes, end, beyond: RefCell::default() }
    }

    /// Whether anything was read from the target, later than `bytes`.
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
        // A walk only goes up the stack, so the bytes behind `addr` serve the next frames.
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
    use crate::testing::binary::{FOREIGN, FRAME, FUNCTION, SP_WRITER, TOP};
    use crate::testing::binary::{entry_of, small_binary};

    /// Where the stack lies, and how large it is.
    const LO: u64 = 0x7000;
    const SIZE: usize = 0x1000;
    const BIAS: u64 = 0x1000_0000;

    struct Stack(Vec<u8>);

    impl Stack {
        /// Frames of [`FRAME`] bytes with these return addresses, the first one at `LO`.
        fn of(returns: &[u64]) -> Stack {
            let mut stack = Stack(vec![0; SIZE]);
            for (index, pc) in returns.iter().enumerate() {
                stack.put((index as u64 + 1) * (FRAME + 8) - 8, *pc);
            }
            stack
        }

        fn put(&mut self, at: u64, word: u64) {
            self.0[at as usize..][..8].copy_from_slice(&word.to_le_bytes());
        }
    }

    impl Memory for Stack {
        fn read(&self, addr: u64, buffer: &mut [u8]) -> Result<(), Fault> {
            assert!(addr >= LO && addr + buffer.len() as u64 <= LO + SIZE as u64, "outside the stack");
            let from = addr.checked_sub(LO).and_then(|at| self.0.get(at as usize..)?.get(..buffer.len()));
            buffer.copy_from_slice(from.ok_or(Fault::Unmapped(addr))?);
            Ok(())
        }
    }

    /// An address within a function, behind the place where it makes its frame.
    fn within(function: &str) -> u64 {
        entry_of(function) + BIAS + 20
    }

    fn registers(pc: u64) -> Registers {
        Registers { pc, sp: LO, lr: 0, syscall: false, stack: (LO, LO + SIZE as u64) }
    }

    fn unwound(stack: &Stack, from: Registers) -> (Vec<Pc>, String, Result<(), Broken>) {
        let binary = small_binary();
        let (mut pcs, mut args) = (Vec::new(), String::new());
        let end = Unwinder::new(&binary, BIAS).unwind(stack, from, &mut pcs, Some(&mut args));
        assert_eq!(args.lines().count(), pcs.len());
        (pcs, args, end)
    }

    #[test]
    fn frames_up_to_the_top() {
        let (main, top) = (within("main.main"), within(TOP));
        let (pcs, _, end) = unwound(&Stack::of(&[main, top, main]), registers(main));
        assert_eq!((pcs, end), (vec![Pc::of_return(main), Pc::of_return(main), Pc::of_return(top)], Ok(())));
    }

    #[test]
    fn a_function_that_has_not_begun_has_no_frame() {
        let (entry, top) = (entry_of("main.main") + BIAS, within(TOP));
        let mut stack = Stack::of(&[]);
        stack.put(0, top);
        let (pcs, _, end) = unwound(&stack, registers(entry));
        assert_eq!((pcs, end), (vec![Pc::exact(entry), Pc::of_return(top)], Ok(())));
        // A nil function was called: its caller is at the stack pointer.
        let (pcs, _, end) = unwound(&stack, registers(0));
        assert_eq!((pcs, end), (vec![Pc::of_return(top)], Ok(())));
    }

    #[test]
    fn stacks_that_cannot_be_told_further_end() {
        let main = within("main.main");
        let frames = |pc| unwound(&Stack::of(&[pc, main, 0]), registers(main)).0.len();
        assert_eq!(frames(main), 3, "a return address of zero is the end");
        assert_eq!(frames(within(FOREIGN)), 1);
        let writer = within(SP_WRITER);
        assert_eq!(frames(writer), 2);
        let stack = Stack::of(&[main, 0]);
        assert_eq!(unwound(&stack, registers(writer)).0.len(), 1);
        // It enters a system call: it has not written it yet.
        let from = Registers { syscall: true, ..registers(writer) };
        assert_eq!(unwound(&stack, from).0.len(), 2);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        let main = within("main.main");
        let end = |stack: &Stack, from| unwound(stack, from).2;
        assert_eq!(end(&Stack::of(&[]), registers(7)), Err(Broken::Pc(7)));
        assert_eq!(end(&Stack::of(&[main, 7]), registers(main)), Err(Broken::Pc(7)));
        for sp in [0, LO - 32, LO + SIZE as u64, u64::MAX - 40] {
            let from = Registers { sp, ..registers(main) };
            assert!(matches!(end(&Stack::of(&[]), from), Err(Broken::Stack(_))), "{sp:#x}");
        }
        let from = Registers { sp: u64::MAX, ..registers(main) };
        assert_eq!(end(&Stack::of(&[]), from), Err(Broken::Stuck(u64::MAX)));
        // Every word is a return address: the end of the stack is the end.
        let (pcs, _, end) = unwound(&Stack::of(&[main; SIZE / 32]), registers(main));
        assert_eq!((pcs.len(), end), (SIZE / 32 + 1, Err(Broken::Stack(LO + SIZE as u64 + FRAME))));
    }

    #[test]
    fn arguments_lie_above_the_return_address() {
        let (main, top) = (within("main.main"), within(TOP));
        let mut stack = Stack::of(&[top, 0]);
        stack.put(FRAME + 8, 0xa);
        stack.put(FRAME + 16, 0xb);
        let (_, args, _) = unwound(&stack, registers(main));
        assert_eq!(args, "0xa, 0xb?\n\n");
    }

    #[test]
    fn registers_of_a_system_call_go_first() {
        let saved = Saved { sched: (1, 2, 3), syscall: (4, 5), stack: (6, 7) };
        let from = saved.registers();
        assert_eq!((from.pc, from.sp, from.lr, from.syscall, from.stack), (4, 5, 0, true, (6, 7)));
        let from = Saved { syscall: (4, 0), ..saved }.registers();
        assert_eq!((from.pc, from.sp, from.lr, from.syscall, from.stack), (1, 2, 3, false, (6, 7)));
    }

    proptest::proptest! {
        #[test]
        fn no_stack_makes_it_panic_or_read_elsewhere(
            words in proptest::collection::vec((0..SIZE / 8, 0..5 * FUNCTION + 8), 0..200),
            pc in 0..5 * FUNCTION + 8,
            sp in 0..SIZE as u64 + 64,
        ) {
            let code = entry_of(SP_WRITER) + BIAS;
            let mut stack = Stack::of(&[]);
            for (at, into) in words {
                stack.put(at as u64 * 8, code + into);
            }
            let from = Registers { sp: LO - 32 + sp, ..registers(code + pc) };
            let (pcs, _, _) = unwound(&stack, from);
            assert!(pcs.len() <= SIZE / 8 + 1);
        }
    }

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

//! The physical frames of a goroutine, told from its saved registers and its stack.
//!
//! This is the walk of the runtime's own unwinder (`src/runtime/traceback.go`: `gentraceback` up to
//! 1.20, `unwinder` since 1.21, the same in what is done here): each function's pc table says how
//! far the stack pointer lies below the caller's. It needs no frame pointers, so it holds for system
//! calls and for assembly, too.

use super::args::{ArgProgram, word};
use super::types::Pc;
use crate::memory::{Fault, Memory};
use crate::{
    binary::{Arch, Function, GoBinary},
    goruntime::tracebacks,
};
use std::cell::RefCell;
use std::rc::Rc;

/// Frames of one stack at most. Deeper ones are legal, up to 1 GiB of stack; a traceback shows a
/// hundred.
const MAX_FRAMES: usize = 10_000;
/// How many pcs are remembered; a hostile stack can name any number of them.
const MAX_SITES: usize = 1 << 14;
/// What a signal handler on arm64 reserves to save LR before it makes the goroutine call
/// `sigpanic` or `asyncPreempt`: `alignUp(sys.MinFrameSize, sys.StackAlign)`.
const INJECTED_FRAME: u64 = 16;

/// How much is read at once where the stretch does not reach.
const REFILL: usize = 4096;
/// Outer frames of a running goroutine that are looked for, and words that are searched for the return address of one:
/// frames of 32 KiB.
const MAX_OUTER: usize = 64;
const MAX_WORDS: u64 = 4096;
/// `CALL rel32` on amd64.
const CALL: u8 = 0xe8;

/// Why a stack could not be walked to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// A pc that lies in no function.
    #[error("0x{0:x} is no address in the program's code")]
    Pc(u64),
    /// A word that lies outside the stack, or cannot be read.
    #[error("0x{0:x} is not on the stack")]
    Stack(u64),
    /// The frame at this stack pointer is its own caller, or lies above it.
    #[error("the frame at 0x{0:x} has no end")]
    Stuck(u64),
    #[error("it has more than {MAX_FRAMES} frames")]
    TooDeep,
}

/// The words of a `g` that say where it stopped.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Saved {
    /// `g.sched.pc`, `.sp` and `.lr` (which is 0 on amd64).
    pub sched: (u64, u64, u64),
    /// `g.syscallpc` and `g.syscallsp`.
    pub syscall: (u64, u64),
    /// `g.stack.lo` and `.hi`.
    pub stack: (u64, u64),
}

impl Saved {
    /// The registers to begin with: those of the system call as long as it has not been left, also
    /// when the state does not say so any more (`unwinder.initAt`).
    pub(crate) fn registers(&self) -> Registers {
        let (pc, sp) = self.syscall;
        if sp != 0 {
            return Registers { pc, sp, lr: 0, syscall: true, stack: self.stack };
        }
        let (pc, sp, lr) = self.sched;
        Registers { pc, sp, lr, syscall: false, stack: self.stack }
    }
}

/// Where an unwinding begins. The pc is one that the goroutine itself saved: a return address,
/// unless it is the entry of a function, which the goroutine then has not begun (`symPC`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    pub pc: u64,
    pub sp: u64,
    /// arm64's link register; 0: none, or unknown.
    pub lr: u64,
    /// Whether they were saved on the way into a system call: before the function at `pc` moved its
    /// stack pointer.
    pub syscall: bool,
    /// Lowest address of the stack, and the one behind it.
    pub stack: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Where it goes on.
    pub pc: Pc,
    /// Its stack pointer: the lowest address of the frame.
    pub sp: u64,
    /// Its caller's stack pointer, at the call: what lies from `sp` up to here is the frame with its
    /// return address (`stkframe.fp`).
    pub fp: u64,
}

/// What the pclntab says of a pc.
struct Site {
    pc: Pc,
    /// From the stack pointer to where it was at the function's entry; `None`: not a Go function.
    delta: Option<u64>,
    /// The stack ends here, as far as can be told.
    last: bool,
    /// It writes the stack pointer, so that the stack ends here unless it has not yet done so.
    writes_sp: bool,
    /// It was not called: a signal handler put it on the stack, and the pc below it is exact.
    injected: bool,
    shown: Shown,
    args: ArgProgram,
}

/// Whether a traceback prints the function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Yes,
    /// It depends on the frames around it.
    Perhaps,
    /// Only where nothing else is to be shown.
    No,
}

/// Walks the stacks of one target; remembers what it learned of each pc.
pub(crate) struct Unwinder<'a> {
    binary: &'a GoBinary,
    bias: u64,
    sites: hashbrown::HashMap<Pc, Option<Rc<Site>>>,
    /// Used again by [`Unwinder::frames`].
    pcs: Vec<Pc>,
}

impl<'a> Unwinder<'a> {
    /// `bias`: what the kernel added to the binary's link addresses.
    pub(crate) fn new(binary: &'a GoBinary, bias: u64) -> Unwinder<'a> {
        Unwinder { binary, bias, sites: hashbrown::HashMap::new(), pcs: Vec::new() }
    }

    /// Appends the frames to `pcs`, innermost first; and to `args`, where they are asked for, a line
    /// for each with what a traceback prints between the parentheses, which is empty for functions
    /// that the traceback hides.
    ///
    /// # Errors
    /// Where the stack makes no sense; what was appended holds up to there.
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
        // A traceback that would show nothing shows everything: walk again, with all arguments.
        if walk.any_shown || args.is_none() {
            return end;
        }
        pcs.truncate(frames);
        if let Some(args) = args.as_deref_mut() {
            args.truncate(text);
        }
        self.walk(&mut Walk { memory, from, pcs, args, frames: None, all: true, any_shown: false })
    }

    /// Appends the frames with where they lie, innermost first.
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
            // A nil function was called: begin with the caller.
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
            // arm64 keeps a word for LR below the arguments (sys.MinFrameSize).
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
            // A stack that has no function without a caller ends so.
            if caller == 0 {
                return Ok(());
            }
            if caller == pc && caller_sp == sp {
                return Err(Broken::Stuck(sp));
            }
            (pc, sp, lr) = (caller, caller_sp, 0);
            (innermost, injected) = (false, site.injected);
            // On arm64 the handler saved the LR of what it interrupted below it: a leaf still returns by that.
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

    /// What is known of a pc, which is exact where the frame above it was injected.
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
            // cgocallback switches from the thread's stack to the goroutine's with a frame on either.
            writes_sp: functions.writes_sp(&function) && function.name != "runtime.cgocallback",
            injected: is_injected(function.name),
            shown: self.shown(&function),
            args: ArgProgram::compile(functions, &function, self.liveness_pc(lookup)),
        })
    }

    /// The address (link-time) at which the traceback asks which arguments are live: where the call lies, but
    /// up to 1.20, within inlined calls, where the outermost of them lies (`gentraceback`, which moves
    /// `tracepc` there).
    fn liveness_pc(&self, lookup: u64) -> u64 {
        if self.binary.version().release.unwinds_inlined_calls() {
            return lookup;
        }
        self.binary.symbolize(lookup).last().map_or(lookup, |outermost| outermost.pc)
    }

    fn shown(&self, function: &Function<'_>) -> Shown {
        if !tracebacks::shows(function.name, self.binary.version().release) {
            // A panic is shown where it is not the innermost frame.
            return if function.name == tracebacks::PANIC { Shown::Perhaps } else { Shown::No };
        }
        if self.binary.functions().is_wrapper(function) { Shown::Perhaps } else { Shown::Yes }
    }
}

/// `isInjectedCall` of `src/runtime/traceback.go`. (Up to 1.20 the traceback looks up the line of
/// the pc below `asyncPreempt` as if it were a return address, which may be the line before.)
fn is_injected(function: &str) -> bool {
    matches!(function, "runtime.sigpanic" | "runtime.asyncPreempt" | "runtime.debugCallV2")
}

/// One walk, and what it writes.
struct Walk<'a> {
    memory: &'a dyn Memory,
    from: Registers,
    pcs: &'a mut Vec<Pc>,
    args: Option<&'a mut String>,
    frames: Option<&'a mut Vec<Frame>>,
    /// Arguments also of what a traceback hides.
    all: bool,
    any_shown: bool,
}

impl Walk<'_> {
    fn word(&self, addr: u64) -> Result<u64, Broken> {
        word(self.memory, addr, self.from.stack).ok_or(Broken::Stack(addr))
    }

    /// `above`: bytes from the caller's stack pointer to the arguments.
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

/// The outer frames, innermost first, of a goroutine that runs, that started at `startpc`, and whose stack begins at
/// `top` (`g.stktopsp`). Its registers cannot be had without stopping it. But where its stack begins is known, and from
/// that on each frame's size says where the return address of the next one would lie. A frame that has returned
/// leaves its bytes behind, so the inner frames may be over: a best effort, and said to be one ([`Trust::Running`]).
///
/// At least the function that it started with is given; where in that it is may be unknown, and then it is said to be
/// at its entry. Empty on arm64, where a return address need not lie on the stack.
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
        // The frame of the called function begins above the return address.
        frame = slot + 8;
        function = callee(binary, pc);
    }
    frames.reverse();
    frames
}

/// Where below `frame`, the stack pointer before `of` was called, `of` has left the return address of
/// a call of its own; and that address, link-time.
fn return_address(
    memory: &dyn Memory,
    binary: &GoBinary,
    bias: u64,
    of: &Function<'_>,
    frame: u64,
) -> Option<(u64, u64)> {
    // Its own return address, then its frame, then the one we look for.
    let own = frame.checked_sub(8)?;
    (1..=MAX_WORDS).map_while(|words| own.checked_sub(8 * words)).find_map(|slot| {
        let pc = memory.word(slot).ok()?.wrapping_sub(bias);
        let inside = of.entry < pc && pc < of.end;
        let delta = inside.then(|| binary.functions().sp_delta(of, pc)).flatten()?;
        (u64::try_from(delta) == Ok(own - slot - 8)).then_some((slot, pc))
    })
}

/// The function that the call before `pc` calls, where the instruction names it.
fn callee(binary: &GoBinary, pc: u64) -> Option<Function<'_>> {
    let code = binary.image().read(pc.checked_sub(5)?, 5)?;
    let (first, offset) = code.split_first()?;
    let offset = i32::from_le_bytes(*offset.first_chunk()?);
    let entry = (*first == CALL).then(|| pc.wrapping_add_signed(i64::from(offset)))?;
    binary.functions().function_at(entry).filter(|function| function.entry == entry)
}

/// The innermost part of a stack that was read already, in front of the rest of it: other reads go to the target, a
/// page's worth at once.
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
        // The walk only goes up the stack, so the next frames are in the same stretch mostly.
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

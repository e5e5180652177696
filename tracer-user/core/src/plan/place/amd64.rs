//! Places on x86-64. The kernel emulates few instructions (`arch/x86/kernel/uprobes.c`); of the stack check at the
//! entry only its branch is one.

use super::{ArgUse, CostClass, PlaceError, Placement, Stack, StackFrame};
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use std::collections::HashSet;

/// Integer argument registers in the order of Go's ABI (`src/cmd/compile/abi-internal.md`).
const ARGUMENTS: [Register; 6] =
    [Register::RAX, Register::RBX, Register::RCX, Register::RDI, Register::RSI, Register::R8];
/// `g.stackguard0` and `g.stackguard1`, against which the stack pointer is checked.
const GUARDS: [u64; 2] = [16, 24];
/// Instructions among which the place is looked for. The first branch of a function comes far earlier.
const MAX_STRAIGHT: usize = 64;

pub(super) fn place(code: &[u8], entry: u64, args: ArgUse, runs_on: Stack) -> Result<Placement, PlaceError> {
    let body = Body::decode(code, entry);
    let check = StackCheck::find(&body.straight);
    let start = check.map_or(0, |check| check.instructions);
    if let Some(placement) = cheap_spot(&body, start, args) {
        return Ok(placement);
    }
    // No cheap place behind the check. The fallback is the branch of the check, which is emulated, or the first
    // instruction.
    let at = |index: usize, flags_test| {
        let instruction = body.straight.get(index).ok_or(PlaceError::Undecodable)?;
        let class =
            if emulated(body.bytes(instruction)) { CostClass::Emulated } else { CostClass::SingleStepped };
        if !accepted(body.bytes(instruction)) {
            return Err(PlaceError::Refused);
        }
        Ok(body.placement(instruction, class, flags_test, StackFrame::Callers))
    };
    match check {
        // On g0 the check never fails, so every hit counts without a look at the flags.
        Some(check) => at(check.instructions - 1, runs_on == Stack::User),
        None => at(0, false),
    }
}

/// The instructions of a function from its entry to its first branch behind the stack check, and the targets of all
/// its branches.
struct Body<'a> {
    code: &'a [u8],
    entry: u64,
    straight: Vec<Instruction>,
    targets: HashSet<u64>,
}

impl<'a> Body<'a> {
    fn decode(code: &'a [u8], entry: u64) -> Body<'a> {
        let mut straight = Vec::new();
        let mut targets = HashSet::new();
        let mut open = true;
        for instruction in Decoder::with_ip(64, code, entry, DecoderOptions::NONE) {
            let branches = matches!(
                instruction.flow_control(),
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
            );
            // Of the whole body: a loop may jump back to an instruction of the straight line, which would be hit more
            // than once a call.
            if branches && is_near(&instruction) {
                targets.insert(instruction.near_branch_target());
            }
            if open && !instruction.is_invalid() && straight.len() < MAX_STRAIGHT {
                straight.push(instruction);
                // The branches of the stack check do not end the straight line: the program runs behind them in
                // every call.
                open = instruction.flow_control() == FlowControl::Next || StackCheck::ends_with(&straight);
            } else {
                open = false;
            }
        }
        Body { code, entry, straight, targets }
    }

    fn bytes(&self, instruction: &Instruction) -> &'a [u8] {
        let start = usize::try_from(instruction.ip().wrapping_sub(self.entry)).unwrap_or(usize::MAX);
        self.code.get(start..).and_then(|rest| rest.get(..instruction.len())).unwrap_or_default()
    }

    fn placement(
        &self,
        instruction: &Instruction,
        class: CostClass,
        flags_test: bool,
        frame: StackFrame,
    ) -> Placement {
        Placement { vaddr: instruction.ip(), class, flags_test, frame, instruction: describe(instruction) }
    }
}

fn is_near(instruction: &Instruction) -> bool {
    matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16)
}

/// The stack check at the start of a function (`src/cmd/internal/obj/x86/obj6.go`, `stacksplit`). It compares the stack
/// pointer, or its value after the frame is made, with a guard of the g in R14, and branches to `morestack` if it is
/// not above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StackCheck {
    /// The number of its instructions; the last one is the branch.
    instructions: usize,
}

impl StackCheck {
    fn find(straight: &[Instruction]) -> Option<StackCheck> {
        // Two instructions for small frames, three for large ones, five for very large ones.
        (2..=straight.len().min(5))
            .find(|count| straight.get(..*count).is_some_and(StackCheck::is_whole))
            .map(|instructions| StackCheck { instructions })
    }

    /// Whether these instructions, the start of a function, end with a branch of its check.
    fn ends_with(start: &[Instruction]) -> bool {
        StackCheck::is_whole(start) || StackCheck::is_wrap_test(start)
    }

    fn is_whole(start: &[Instruction]) -> bool {
        let [before @ .., compare, branch] = start else { return false };
        if branch.mnemonic() != Mnemonic::Jbe || compare.mnemonic() != Mnemonic::Cmp {
            return false;
        }
        // Another offset from R14 is another field: an ordinary comparison of the function.
        let guard = compare.op1_kind() == OpKind::Memory
            && compare.memory_base() == Register::R14
            && compare.memory_index() == Register::None
            && GUARDS.contains(&compare.memory_displacement64());
        let pointer = match before {
            [] => Register::RSP,
            [lea] if is_lea_of_rsp(lea) => Register::R12,
            [rest @ .., _] if StackCheck::is_wrap_test(before) && !rest.is_empty() => Register::R12,
            _ => return false,
        };
        guard && compare.op0_register() == pointer
    }

    /// `mov r12, rsp; sub r12, size; jb`, in front of the check of a very large frame.
    fn is_wrap_test(start: &[Instruction]) -> bool {
        let [copy, sub, branch] = start else { return false };
        copy.mnemonic() == Mnemonic::Mov
            && copy.op0_register() == Register::R12
            && copy.op1_register() == Register::RSP
            && sub.mnemonic() == Mnemonic::Sub
            && sub.op0_register() == Register::R12
            && branch.mnemonic() == Mnemonic::Jb
    }
}

fn is_lea_of_rsp(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Lea
        && instruction.op0_register() == Register::R12
        && instruction.memory_base() == Register::RSP
        && instruction.memory_index() == Register::None
}

/// The first instruction from `start` on that the kernel emulates, that no branch leads to, and before which no
/// register that the probe reads was overwritten.
fn cheap_spot(body: &Body<'_>, start: usize, args: ArgUse) -> Option<Placement> {
    let needed = ARGUMENTS.get(..args.integers)?;
    let mut factory = InstructionInfoFactory::new();
    let mut frame = FrameTracker::new();
    for instruction in body.straight.get(start..)? {
        let cheap = emulated(body.bytes(instruction)) && !body.targets.contains(&instruction.ip());
        if cheap && !(args.frames && frame.state() == StackFrame::Between) {
            return Some(body.placement(instruction, CostClass::Emulated, false, frame.state()));
        }
        let overwrites = factory.info(instruction).used_registers().iter().any(|used| {
            let written = !matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead);
            let register = used.register().full_register();
            written && (register == Register::R14 || needed.contains(&register))
        });
        // R14 counts always: every program reads the current g.
        if overwrites || !frame.step(instruction) {
            return None;
        }
    }
    None
}

/// Follows RSP and RBP through a prologue. Go up to 1.20 makes the frame with `sub rsp`, `mov [rsp+N-8],rbp`, `lea
/// rbp`; later releases with `push rbp`, `mov rbp,rsp`, `sub rsp`.
struct FrameTracker {
    /// Bytes that RSP has gone down since the entry.
    down: i64,
    /// RBP is the function's own frame pointer.
    own: bool,
}

impl FrameTracker {
    fn new() -> FrameTracker {
        FrameTracker { down: 0, own: false }
    }

    fn state(&self) -> StackFrame {
        match (self.own, self.down) {
            (true, _) => StackFrame::Own,
            (false, 0) => StackFrame::Callers,
            (false, _) => StackFrame::Between,
        }
    }

    /// Steps over an instruction. Returns false if it does something to RBP or RSP that no prologue does.
    fn step(&mut self, instruction: &Instruction) -> bool {
        let target = instruction.op0_register();
        match instruction.mnemonic() {
            Mnemonic::Push => self.down += 8,
            Mnemonic::Pop | Mnemonic::Leave => return false,
            // The assembler writes `add rsp,-128` for `sub rsp,128`.
            Mnemonic::Sub | Mnemonic::Add if target == Register::RSP => {
                let Some(size) = immediate(instruction) else { return false };
                let sign = if instruction.mnemonic() == Mnemonic::Sub { 1 } else { -1 };
                self.down = self.down.saturating_add(size.saturating_mul(sign));
            }
            // Valid only if RSP points at the saved frame pointer, one word below the return address.
            Mnemonic::Mov if target == Register::RBP => {
                self.own = instruction.op1_register() == Register::RSP && self.down == 8;
                return self.own;
            }
            Mnemonic::Lea if target == Register::RBP => {
                let into = instruction.memory_displacement64() as i64;
                self.own = instruction.memory_base() == Register::RSP && self.down.wrapping_sub(into) == 8;
                return self.own;
            }
            _ if matches!(target, Register::RSP | Register::RBP) => {
                // Compared, tested or stored, they keep their values.
                return matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
            }
            _ => {}
        }
        true
    }
}

fn immediate(instruction: &Instruction) -> Option<i64> {
    let kind = instruction.op1_kind();
    matches!(kind, OpKind::Immediate8to64 | OpKind::Immediate32to64).then(|| instruction.immediate(1) as i64)
}

/// Whether the kernel emulates this instruction: `branch_setup_xol_ops` and `push_setup_xol_ops` in
/// `arch/x86/kernel/uprobes.c`. They emulate push of a 64-bit register, the one-byte nop, relative jumps and calls.
/// With a prefix some kernels emulate them and others refuse the probe, so no prefix is accepted here but that of
/// `push r8`–`r15`.
fn emulated(bytes: &[u8]) -> bool {
    matches!(
        bytes,
        [0x50..=0x57 | 0x90]
            | [0x41, 0x50..=0x57]
            | [0x70..=0x7f | 0xeb, _]
            | [0xe8 | 0xe9, _, _, _, _]
            | [0x0f, 0x80..=0x8f, _, _, _, _]
    )
}

/// Whether the kernel accepts a probe on this instruction at all. It refuses breakpoints and bad prefixes
/// (`is_prefix_bad`: lock and the unused segments; on branches and nops also the operand size).
fn accepted(bytes: &[u8]) -> bool {
    let prefixes = bytes.iter().take_while(|byte| {
        matches!(
            byte,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3 | 0x40..=0x4f
        )
    });
    let count = prefixes.clone().count();
    let bad = prefixes.clone().any(|prefix| matches!(prefix, 0x26 | 0x2e | 0x36 | 0x3e | 0xf0));
    let short_operand = prefixes.clone().any(|prefix| *prefix == 0x66);
    let opcode = bytes.get(count).copied().unwrap_or(0xcc);
    let branch_or_nop = matches!(opcode, 0x70..=0x7f | 0x90 | 0xe8 | 0xe9 | 0xeb);
    !(bad || opcode == 0xcc || short_operand && branch_or_nop)
}

/// The instruction in Intel syntax: in full for those that the kernel emulates, of others the name only.
fn describe(instruction: &Instruction) -> String {
    let name = format!("{:?}", instruction.mnemonic()).to_lowercase();
    match instruction.code() {
        Code::Push_r64 => format!("{name} {:?}", instruction.op0_register()).to_lowercase(),
        _ if is_near(instruction) => format!("{name} {:#x}", instruction.near_branch_target()),
        _ => name,
    }
}

#[cfg(test)]
mod tests;

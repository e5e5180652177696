//! x86-64: an instruction holds its whole operand, so each is decoded by itself.

use super::{Access, Branch, Step};
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind,
    Register,
};

/// Bytes of an instruction that [`references`] finds: prefix, opcode, registers, and a distance of four.
const INSTRUCTION: usize = 7;

/// An instruction that makes an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// Link-time address of the instruction.
    pub at: u64,
    pub target: u64,
}

/// What may be such instructions in the code at `start`, `lea` into whichever register, by their bytes alone. Bytes
/// within another instruction may look the same, so the target has to make sense.
pub(super) fn references(code: &[u8], start: u64) -> impl Iterator<Item = Reference> {
    code.windows(INSTRUCTION).enumerate().filter_map(move |(into, bytes)| {
        // No displacement and base 101: relative to the next instruction.
        let &[0x48 | 0x4c, 0x8d, registers, a, b, c, d] = bytes else { return None };
        if registers & 0xc7 != 0x05 {
            return None;
        }
        let at = start.wrapping_add(into as u64);
        let distance = i64::from(i32::from_le_bytes([a, b, c, d]));
        let target = at.wrapping_add(INSTRUCTION as u64).wrapping_add_signed(distance);
        Some(Reference { at, target })
    })
}

pub(super) fn steps(code: &[u8], entry: u64) -> Vec<Step> {
    let mut facts = InstructionInfoFactory::new();
    let mut found = Vec::new();
    for instruction in Decoder::with_ip(64, code, entry, DecoderOptions::NONE) {
        found.extend(memory(&instruction, &mut facts));
        found.extend(compared(&instruction).map(Step::Compare));
    }
    found
}

pub(super) fn branches(code: &[u8], entry: u64) -> Vec<Branch> {
    let decoder = Decoder::with_ip(64, code, entry, DecoderOptions::NONE);
    let branch = |instruction: Instruction| {
        let calls = match instruction.flow_control() {
            FlowControl::Call => true,
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => false,
            _ => return None,
        };
        Some(Branch { at: instruction.ip(), to: instruction.near_branch_target(), calls })
    };
    decoder.into_iter().filter_map(branch).collect()
}

/// Whether code stores its first argument where its caller leaves room for that: in the word behind the return address
/// (`src/cmd/compile/abi-internal.md`).
pub(super) fn saves_first_argument(code: &[u8], entry: u64) -> bool {
    // Bytes between the stack pointer and the return address.
    let mut depth = 0_u64;
    for instruction in Decoder::with_ip(64, code, entry, DecoderOptions::NONE) {
        let of_stack = instruction.op0_register() == Register::RSP;
        match instruction.mnemonic() {
            Mnemonic::Push if depth == 0 => depth = 8,
            // Instead of subtracting 128 a function adds -128, which is shorter.
            Mnemonic::Sub if of_stack && depth <= 8 => depth = depth.wrapping_add(instruction.immediate(1)),
            Mnemonic::Add if of_stack && depth <= 8 => depth = depth.wrapping_sub(instruction.immediate(1)),
            // Behind the function, where it calls for a larger stack, it saves its arguments, too: there is no frame there.
            Mnemonic::Mov
                if depth > 8
                    && instruction.memory_base() == Register::RSP
                    && instruction.memory_index() == Register::None
                    && instruction.op1_register() == Register::RAX
                    && instruction.memory_displacement64() == depth + 8 =>
            {
                return true;
            }
            _ => {}
        }
    }
    false
}

fn memory(instruction: &Instruction, facts: &mut InstructionInfoFactory) -> Option<Step> {
    // Code is padded with long nops, which have a memory operand that they do not access.
    if instruction.mnemonic() == Mnemonic::Nop {
        return None;
    }
    let operand = (0..instruction.op_count()).find(|index| instruction.op_kind(*index) == OpKind::Memory)?;
    let size = u8::try_from(instruction.memory_size().size()).unwrap_or(u8::MAX);
    let access = if instruction.mnemonic() == Mnemonic::Lea {
        Access::Address
    } else {
        match facts.info(instruction).op_access(operand) {
            OpAccess::Read | OpAccess::CondRead => Access::Load(size),
            OpAccess::Write | OpAccess::CondWrite => Access::Store(size),
            OpAccess::ReadWrite | OpAccess::ReadCondWrite => Access::Update(size),
            _ => return None,
        }
    };
    match instruction.memory_base() {
        Register::RIP => Some(Step::Global(instruction.ip_rel_memory_address(), access)),
        // With an index register the offset is that of an array, not of a field.
        base if base.is_gpr64() && instruction.memory_index() == Register::None => {
            let offset = instruction.memory_displacement64().cast_signed();
            Some(Step::Field { base: u8::try_from(base.number()).ok()?, offset, access })
        }
        _ => None,
    }
}

fn compared(instruction: &Instruction) -> Option<u64> {
    let constant = matches!(
        instruction.op1_kind(),
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    );
    (instruction.mnemonic() == Mnemonic::Cmp && constant).then(|| instruction.immediate(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_instructions_tell() {
        let code = [
            0x48, 0x8b, 0x0d, 0x10, 0, 0, 0, // mov rcx,[rip+16]
            0x48, 0x8d, 0x05, 0xf0, 0xff, 0xff, 0xff, // lea rax,[rip-16]
            0xff, 0x05, 0x20, 0, 0, 0, // inc dword [rip+32]
            0x89, 0x93, 0x90, 0, 0, 0, // mov [rbx+0x90],edx
            0xf0, 0x0f, 0xb1, 0x8a, 0x98, 0, 0, 0, // lock cmpxchg [rdx+0x98],ecx
            0x3c, 0x2f, // cmp al,47
            0x0f, 0x1f, 0x44, 0, 0x40, // nop [rax+rax+0x40]
            0x48, 0x8b, 0x34, 0xcb, // mov rsi,[rbx+rcx*8]
        ];
        let field = |base, offset, access| Step::Field { base, offset, access };
        let expected = [
            Step::Global(0x1017, Access::Load(8)),
            Step::Global(0xffe, Access::Address),
            Step::Global(0x1034, Access::Update(4)),
            field(3, 0x90, Access::Store(4)),
            field(2, 0x98, Access::Update(4)),
            Step::Compare(47),
        ];
        assert_eq!(steps(&code, 0x1000), expected);
    }

    #[test]
    fn where_the_first_argument_is_saved() {
        // push %rbp; mov %rsp,%rbp; sub $0x58,%rsp; mov %rax,AT(%rsp); add $0x58,%rsp; pop %rbp; ret; mov %rax,0x8(%rsp)
        let function = |at: u8| {
            let code = [0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x58, 0x48, 0x89, 0x44, 0x24, at];
            [&code[..], &[0x48, 0x83, 0xc4, 0x58, 0x5d, 0xc3, 0x48, 0x89, 0x44, 0x24, 0x08]].concat()
        };
        assert!(saves_first_argument(&function(0x68), 0));
        assert!(!saves_first_argument(&function(0x40), 0), "it keeps it among its own variables");
        // Up to Go 1.20: sub $0x60,%rsp; mov %rbp,0x58(%rsp); mov %rax,0x68(%rsp).
        let older = [0x48, 0x83, 0xec, 0x60, 0x48, 0x89, 0x6c, 0x24, 0x58, 0x48, 0x89, 0x44, 0x24, 0x68];
        assert!(saves_first_argument(&older, 0));
        // add $0xffffffffffffff80,%rsp; mov %rax,0x88(%rsp).
        let large = [0x48, 0x83, 0xc4, 0x80, 0x48, 0x89, 0x84, 0x24, 0x88, 0, 0, 0];
        assert!(saves_first_argument(&large, 0));
    }
}

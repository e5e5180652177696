//! Which values variables of the program are loaded with and stored from, and what calls tell of those values: the
//! types of variables.
//!
//! Each function is decoded once, from its first instruction to its last. Whatever writes a register puts a new value
//! into it, but for copies. A path that the function may take is followed: from an instruction to the next one, and
//! where none leads there, from a branch before. So what is told of a value is told of it on that path, and as Go is
//! typed, it is so on all.

use super::super::elf::Image;
use super::callees::{Callees, Tells};
use super::types::{Described, WORD, note};
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register,
};
use std::ops::Range;

/// Registers that hold values.
const REGISTERS: usize = 16;
const RAX: usize = 0;
const RBX: usize = 3;
const RDI: usize = 7;
const R11: usize = 11;
/// Words from the stack pointer on that values are followed through.
const SLOTS: usize = 1024;
/// Branches whose registers are kept until their targets are reached; one more takes the place of another.
const BRANCHES: usize = 32;
/// Instructions that are decoded; a program of 25 MB of code has six million.
const MAX_INSTRUCTIONS: usize = 64 << 20;
/// What is noted of the values of one function.
const MAX_NOTED: usize = 1 << 16;

/// What a register or a slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// The value of this number: where two have the same one, they are the same.
    Value(u32),
    /// This link-time address.
    Address(u64),
}

/// What is told of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fact {
    /// It is a map with this descriptor.
    Map(u64),
    /// It points to what has this descriptor.
    Pointer(u64),
    /// It points to a type of this number, or to what begins with one.
    Receiver(u32),
    /// It is the first word of an interface.
    TypeWord,
}

/// What all functions tell.
#[derive(Default)]
pub(super) struct Told {
    /// Variables, and the descriptors of the maps that they hold.
    pub maps: Vec<(u64, u64)>,
    /// Variables, and the descriptors of what they point to.
    pub pointers: Vec<(u64, u64)>,
    /// Variables, and the types of receivers that they point to.
    pub receivers: Vec<(u64, u32)>,
    /// Variables that hold the first words of interfaces.
    pub interfaces: Vec<u64>,
    /// Types of receivers, each with another one that begins with it.
    pub within: Vec<(u32, u32)>,
    /// Types of receivers that one value pointed to: one begins with the other.
    pub same: Vec<(u32, u32)>,
    /// Types of receivers, and the descriptors of objects that were made and pointed to as such.
    pub made: Vec<(u32, u64)>,
    /// Variables that are set to a number: the length of a slice, among others.
    pub numbers: Vec<u64>,
}

impl Told {
    /// Bytes of all lists.
    pub(super) fn bytes(&self) -> usize {
        let pairs = self.maps.len() + self.pointers.len() + self.receivers.len() + self.made.len();
        let halves = self.interfaces.len() + self.numbers.len() + self.within.len() + self.same.len();
        pairs * size_of::<(u64, u64)>() + halves * size_of::<u64>()
    }
}

/// The registers at a branch.
#[derive(Clone, Copy)]
struct Branch {
    target: u64,
    registers: [Held; REGISTERS],
}

pub(super) struct Flow<'a> {
    image: &'a Image,
    types: &'a Range<u64>,
    described: &'a dyn Fn(u64) -> Option<Described>,
    callees: &'a Callees<'a>,
    told: Told,
    facts: InstructionInfoFactory,
    /// Instructions that may still be decoded.
    left: usize,
    /// The number of the next new value.
    next: u32,
    /// Link-time address behind the function.
    end: u64,
    registers: [Held; REGISTERS],
    /// By the distance from the stack pointer, which stays where it is between a function's prologue and its epilogue.
    /// `stackalloc` gives a slot to values of one type only, so what another path left there has the right type.
    slots: Vec<Held>,
    /// Bytes at the stack pointer that are for arguments and results of calls: other functions write there.
    area: u32,
    branches: [Branch; BRANCHES],
    /// The instruction before does not lead to this one.
    dead: bool,
    /// The value that the receiver has at the entry, and its type.
    entry: Option<(u32, u32)>,
    /// Values of this function, and the variables that hold them.
    places: Vec<(u32, u64)>,
    /// Values of this function, and what is told of them.
    known: Vec<(u32, Fact)>,
}

/// A word in memory.
enum Place {
    Variable(u64),
    Slot(usize),
}

impl<'a> Flow<'a> {
    pub(super) fn new(
        image: &'a Image,
        types: &'a Range<u64>,
        described: &'a dyn Fn(u64) -> Option<Described>,
        callees: &'a Callees<'a>,
    ) -> Flow<'a> {
        let registers = [Held::Value(0); REGISTERS];
        Flow {
            image,
            types,
            described,
            callees,
            told: Told::default(),
            facts: InstructionInfoFactory::new(),
            left: MAX_INSTRUCTIONS,
            next: 0,
            end: 0,
            registers,
            slots: Vec::with_capacity(SLOTS),
            area: 0,
            branches: [Branch { target: 0, registers }; BRANCHES],
            dead: false,
            entry: None,
            places: Vec::new(),
            known: Vec::new(),
        }
    }

    /// What the functions told that were followed.
    pub(super) fn told(mut self) -> Told {
        let of_values = self.told.maps.iter().chain(&self.told.pointers).map(|(variable, _)| *variable);
        let variables = of_values.chain(self.told.receivers.iter().map(|(variable, _)| *variable));
        // An interface may have its first word from the beginning, so that no code stores it.
        let before = variables.map(|variable| variable.wrapping_sub(WORD));
        let mut interfaces: Vec<u64> = before
            .filter(|word| self.image.read_ptr(*word).is_some_and(|target| self.is_type_word(target)))
            .collect();
        self.told.interfaces.append(&mut interfaces);
        self.told
    }

    /// Follows the values through a function. `None`: there is more than in any program.
    pub(super) fn follow(&mut self, code: &[u8], entry: u64) -> Option<()> {
        self.end = entry.saturating_add(code.len() as u64);
        (self.area, self.dead) = (0, false);
        self.slots.clear();
        self.forget();
        self.entry = None;
        if let (Tells::Receiver(of), Held::Value(value)) = (self.callees.at(entry).tells, self.registers[RAX])
        {
            self.entry = Some((value, of));
            self.known.push((value, Fact::Receiver(of)));
        }
        let mut decoder = Decoder::with_ip(64, code, entry, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            self.left = self.left.checked_sub(1)?;
            decoder.decode_out(&mut instruction);
            self.step(&instruction);
        }
        self.join()
    }

    fn step(&mut self, instruction: &Instruction) {
        if self.dead {
            let ip = instruction.ip();
            if let Some(branch) = self.branches.get(kept_at(ip)).filter(|branch| branch.target == ip) {
                self.registers = branch.registers;
            }
            self.dead = false;
        }
        match instruction.code() {
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 => self.copies(instruction),
            Code::Lea_r64_m => {
                let held = self.address(instruction).map_or_else(|| self.fresh(), Held::Address);
                self.set(instruction.op0_register(), held);
            }
            Code::Cmp_r64_rm64 | Code::Cmp_rm64_r64 => self.compares(instruction),
            Code::Mov_rm64_imm32 if instruction.op0_kind() == OpKind::Memory => {
                match self.place(instruction) {
                    Some(Place::Variable(at)) if instruction.immediate(1) != 0 => {
                        add(&mut self.told.numbers, at);
                    }
                    _ => self.overwrites(instruction),
                }
            }
            Code::Call_rel32_64 => self.calls(instruction.near_branch64()),
            Code::Jmp_rel8_64 | Code::Jmp_rel32_64 => {
                let target = instruction.near_branch64();
                if let Tells::Receiver(of) = self.callees.at(target).tells {
                    self.tells(RAX, Fact::Receiver(of));
                }
                self.branches_to(target, instruction.ip());
                self.ends();
            }
            _ => match instruction.flow_control() {
                FlowControl::Next => self.writes(instruction),
                FlowControl::ConditionalBranch => {
                    self.branches_to(instruction.near_branch64(), instruction.ip());
                }
                FlowControl::Call | FlowControl::IndirectCall | FlowControl::XbeginXabortXend => {
                    self.returned();
                }
                FlowControl::UnconditionalBranch
                | FlowControl::IndirectBranch
                | FlowControl::Return
                | FlowControl::Interrupt
                | FlowControl::Exception => self.ends(),
            },
        }
    }

    /// `mov` between registers of eight bytes, or between one and memory.
    fn copies(&mut self, instruction: &Instruction) {
        let to_memory = instruction.op0_kind() == OpKind::Memory;
        if !to_memory && instruction.op1_kind() != OpKind::Memory {
            if let Some(held) = self.get(instruction.op1_register()) {
                self.set(instruction.op0_register(), held);
            }
            return;
        }
        let place = self.place(instruction);
        if to_memory {
            let held = self.get(instruction.op1_register());
            match (place, held) {
                (Some(Place::Variable(at)), Some(held)) => self.stores(at, held),
                (Some(Place::Slot(at)), Some(held)) => self.keep(at, held),
                (_, _) => self.overwrites(instruction),
            }
            return;
        }
        let held = match place {
            Some(Place::Slot(at)) => match self.slots.get(at) {
                Some(held) => *held,
                None => {
                    let held = self.fresh();
                    self.keep(at, held);
                    held
                }
            },
            Some(Place::Variable(at)) => {
                let held = self.fresh();
                self.stores(at, held);
                held
            }
            None => self.fresh(),
        };
        self.set(instruction.op0_register(), held);
    }

    /// A variable holds what a register has.
    fn stores(&mut self, variable: u64, held: Held) {
        match held {
            Held::Value(value) => {
                if self.places.len() < MAX_NOTED {
                    self.places.push((value, variable));
                }
            }
            Held::Address(address) => {
                if self.is_type_word(address) {
                    add(&mut self.told.interfaces, variable);
                }
            }
        }
    }

    /// Type switches compare the first word of an interface with a descriptor or with a table of methods.
    fn compares(&mut self, instruction: &Instruction) {
        let place = self.place(instruction);
        let held =
            [instruction.op0_register(), instruction.op1_register()].map(|register| self.get(register));
        let word = held.iter().flatten().find_map(|held| match held {
            Held::Address(address) => Some(*address),
            Held::Value(_) => None,
        });
        if !word.is_some_and(|address| self.is_type_word(address)) {
            return;
        }
        if let Some(Place::Variable(at)) = place {
            self.stores(at, Held::Address(word.unwrap_or_default()));
        }
        for held in held.into_iter().flatten() {
            if let Held::Value(value) = held {
                self.noted(value, Fact::TypeWord);
            }
        }
    }

    /// Whether an address is what the first word of an interface may be: a descriptor; or an `itab`, whose first two
    /// words are descriptors (`src/internal/abi/iface.go`).
    fn is_type_word(&self, address: u64) -> bool {
        let word = |into: u64| self.image.read_ptr(address.checked_add(into)?);
        let described = |address: u64| self.described(address).is_some();
        described(address) || (word(0).is_some_and(described) && word(WORD).is_some_and(described))
    }

    fn described(&self, address: u64) -> Option<Described> {
        if self.types.contains(&address) { (self.described)(address) } else { None }
    }

    fn calls(&mut self, target: u64) {
        let callee = self.callees.at(target);
        self.area = self.area.max(callee.area.min((SLOTS as u64 * WORD) as u32));
        let map = |held: Held| match held {
            Held::Address(at) if self.described(at) == Some(Described::Map) => Some(at),
            _ => None,
        };
        let made = match callee.tells {
            Tells::Nothing => None,
            Tells::TakesMap => {
                if let Some(descriptor) = map(self.registers[RAX]) {
                    self.tells(RBX, Fact::Map(descriptor));
                }
                None
            }
            Tells::MakesMap => map(self.registers[RAX]).map(Fact::Map),
            Tells::MakesObject(of) => match self.get(of) {
                Some(Held::Address(at)) => match self.described(at) {
                    Some(Described::Map | Described::Other) => Some(Fact::Pointer(at)),
                    // A variable that holds a function may hold others, too; each says itself what it is.
                    Some(Described::Closure) | None => None,
                },
                _ => None,
            },
            Tells::Stores(from) => {
                if let (Held::Address(at), Some(held)) = (self.registers[RDI], self.get(from))
                    && self.is_variable(at)
                {
                    self.stores(at, held);
                }
                return;
            }
            Tells::Barrier => {
                self.registers[R11] = self.fresh();
                return;
            }
            Tells::Receiver(of) => {
                self.tells(RAX, Fact::Receiver(of));
                None
            }
        };
        self.returned();
        if let Some(fact) = made {
            self.tells(RAX, fact);
        }
    }

    /// Something is told of the value in a register.
    fn tells(&mut self, register: usize, fact: Fact) {
        if let Some(Held::Value(value)) = self.registers.get(register) {
            self.noted(*value, fact);
        }
    }

    fn noted(&mut self, value: u32, fact: Fact) {
        if self.known.len() < MAX_NOTED {
            self.known.push((value, fact));
        }
    }

    /// Behind a call. Go's functions keep no register (`src/cmd/compile/abi-internal.md`).
    fn returned(&mut self) {
        self.forget();
        let area = (u64::from(self.area) / WORD) as usize;
        for at in 0..area.min(self.slots.len()) {
            let held = self.fresh();
            self.keep(at, held);
        }
    }

    /// The next instruction is reached from elsewhere, if at all.
    fn ends(&mut self) {
        self.forget();
        self.dead = true;
    }

    fn branches_to(&mut self, target: u64, from: u64) {
        if target > from
            && target < self.end
            && let Some(kept) = self.branches.get_mut(kept_at(target))
        {
            *kept = Branch { target, registers: self.registers };
        }
    }

    /// What any other instruction writes.
    fn writes(&mut self, instruction: &Instruction) {
        let first = match instruction.mnemonic() {
            Mnemonic::Cmp
            | Mnemonic::Test
            | Mnemonic::Nop
            | Mnemonic::Bt
            | Mnemonic::Ucomisd
            | Mnemonic::Ucomiss => {
                return;
            }
            Mnemonic::Mov
            | Mnemonic::Movzx
            | Mnemonic::Movsx
            | Mnemonic::Movsxd
            | Mnemonic::Movups
            | Mnemonic::Movdqu
            | Mnemonic::Movss
            | Mnemonic::Movd
            | Mnemonic::Movq
            | Mnemonic::Add
            | Mnemonic::Sub
            | Mnemonic::And
            | Mnemonic::Or
            | Mnemonic::Xor
            | Mnemonic::Inc
            | Mnemonic::Dec
            | Mnemonic::Neg
            | Mnemonic::Not
            | Mnemonic::Shl
            | Mnemonic::Shr
            | Mnemonic::Sar
            | Mnemonic::Pxor
            | Mnemonic::Xorps => true,
            // `set…` and `cmov…`.
            _ => instruction.condition_code() != iced_x86::ConditionCode::None,
        };
        if instruction.op0_kind() == OpKind::Memory {
            self.overwrites(instruction);
        }
        if first {
            if instruction.op0_kind() == OpKind::Register {
                let held = self.fresh();
                self.set(instruction.op0_register(), held);
            }
            return;
        }
        let mut written = [false; REGISTERS];
        for used in self.facts.info(instruction).used_registers() {
            let read = matches!(used.access(), OpAccess::None | OpAccess::Read | OpAccess::CondRead);
            if !read && let Some(written) = number(used.register()).and_then(|number| written.get_mut(number))
            {
                *written = true;
            }
        }
        for (register, _) in written.into_iter().enumerate().filter(|(_, written)| *written) {
            self.registers[register] = self.fresh();
        }
    }

    /// The first operand is memory that is written. Slots in it have new values.
    fn overwrites(&mut self, instruction: &Instruction) {
        if instruction.memory_base() != Register::RSP || instruction.memory_index() != Register::None {
            return;
        }
        let from = instruction.memory_displacement64();
        let to = from.saturating_add(instruction.memory_size().size().max(1) as u64);
        let (first, behind) = (from / WORD, to.div_ceil(WORD).min(self.slots.len() as u64));
        for at in first..behind {
            let held = self.fresh();
            self.keep(at as usize, held);
        }
    }

    /// The address that `lea` makes.
    fn address(&self, instruction: &Instruction) -> Option<u64> {
        if instruction.memory_index() != Register::None {
            return None;
        }
        match instruction.memory_base() {
            Register::RIP => Some(instruction.ip_rel_memory_address()),
            base => match self.get(base)? {
                Held::Address(address) => Some(address.wrapping_add(instruction.memory_displacement64())),
                Held::Value(_) => None,
            },
        }
    }

    /// The word in memory that an instruction with operands of eight bytes refers to.
    fn place(&self, instruction: &Instruction) -> Option<Place> {
        if instruction.segment_prefix() != Register::None {
            return None;
        }
        if instruction.memory_base() == Register::RSP && instruction.memory_index() == Register::None {
            let into = instruction.memory_displacement64();
            let slot =
                usize::try_from(into / WORD).ok().filter(|slot| *slot < SLOTS && into.is_multiple_of(WORD));
            return slot.map(Place::Slot);
        }
        self.address(instruction).filter(|at| self.is_variable(*at)).map(Place::Variable)
    }

    fn is_variable(&self, at: u64) -> bool {
        at.is_multiple_of(WORD) && self.image.is_writable(at, WORD)
    }

    fn get(&self, register: Register) -> Option<Held> {
        self.registers.get(number(register)?).copied()
    }

    fn set(&mut self, register: Register, held: Held) {
        if let Some(kept) = number(register).and_then(|number| self.registers.get_mut(number)) {
            *kept = held;
        }
    }

    fn keep(&mut self, slot: usize, held: Held) {
        while self.slots.len() <= slot && self.slots.len() < SLOTS {
            let new = self.fresh();
            self.slots.push(new);
        }
        if let Some(kept) = self.slots.get_mut(slot) {
            *kept = held;
        }
    }

    fn fresh(&mut self) -> Held {
        let number = self.next;
        // So many are in no function.
        self.next = number.wrapping_add(1);
        Held::Value(number)
    }

    fn forget(&mut self) {
        for register in 0..REGISTERS {
            self.registers[register] = self.fresh();
        }
    }

    /// Puts together what is told of the values of a function, and which variables hold them.
    fn join(&mut self) -> Option<()> {
        let (mut known, mut places) = (std::mem::take(&mut self.known), std::mem::take(&mut self.places));
        known.sort_unstable();
        known.dedup();
        places.sort_unstable();
        places.dedup();
        for facts in known.chunk_by(|one, other| one.0 == other.0) {
            self.relate(facts)?;
        }
        let mut from = 0;
        for (value, variable) in &places {
            // Both are in order.
            from += known.get(from..)?.iter().take_while(|(other, _)| other < value).count();
            for (_, fact) in known.get(from..)?.iter().take_while(|(other, _)| other == value) {
                match fact {
                    Fact::Map(descriptor) => note(&mut self.told.maps, (*variable, *descriptor))?,
                    Fact::Pointer(descriptor) => note(&mut self.told.pointers, (*variable, *descriptor))?,
                    Fact::Receiver(of) => note(&mut self.told.receivers, (*variable, *of))?,
                    Fact::TypeWord => note(&mut self.told.interfaces, *variable)?,
                }
            }
        }
        known.clear();
        places.clear();
        (self.known, self.places) = (known, places);
        Some(())
    }

    /// A method may hand its receiver on to a method of the receiver's first field.
    fn relate(&mut self, facts: &[(u32, Fact)]) -> Option<()> {
        let (mut last, mut made) = (None, None);
        for (value, fact) in facts {
            let of = match *fact {
                Fact::Receiver(of) => of,
                // Pointers come before receivers.
                Fact::Pointer(descriptor) => {
                    made = Some(descriptor);
                    continue;
                }
                Fact::Map(_) | Fact::TypeWord => continue,
            };
            if let Some(made) = made {
                note(&mut self.told.made, (of, made))?;
            }
            match (self.entry.filter(|(entry, _)| entry == value), last) {
                (Some((_, whole)), _) => {
                    if of != whole {
                        note(&mut self.told.within, (of, whole))?;
                    }
                }
                (None, Some(last)) => note(&mut self.told.same, (last, of))?,
                (None, None) => {}
            }
            last = Some(of);
        }
        Some(())
    }
}

/// What does not fit is left out: it only makes other facts doubtful.
fn add(variables: &mut Vec<u64>, at: u64) {
    let _ = note(variables, at);
}

fn kept_at(target: u64) -> usize {
    (target % BRANCHES as u64) as usize
}

/// The number of the general register that this one is a part of.
fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

#[cfg(test)]
mod tests;

//! What code tells of locks and channels: what a deferred call unlocks, which locks in variables a function has taken
//! before a place in it, and what it does with variables and channels behind it.
//!
//! `Mutex.Lock`, `Unlock`, `RWMutex.RLock` and `RUnlock` are inlined everywhere, so the tree of inlined calls says which
//! instruction belongs to which of them; `RWMutex.Lock` and `Unlock` are called (`src/sync`, Go 1.19 to 1.27).

use super::super::elf::{Arch, Image};
use super::super::pclntab::{Function, Pclntab};
use super::{Access, Step};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use std::collections::HashMap;

/// Bytes of a function that only makes a deferred call.
const MAX_WRAPPER: u64 = 512;
/// Locks of one function that are told apart.
const MAX_LOCKS: usize = 64;
/// Offset of `RWMutex.readerCount`, which the inlined `RLock` and `RUnlock` change.
const READER_COUNT: u64 = 16;

/// How a lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Hold {
    /// By `Lock`.
    Write,
    /// By `RLock`.
    Read,
}

/// What a deferred call unlocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unlocks {
    pub how: Hold,
    /// Link-time address of the lock; `None`: it is the receiver, which the closure of the call has.
    pub variable: Option<u64>,
}

/// A method of a lock.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Method {
    takes: bool,
    how: Hold,
    /// Where the word that it changes first lies in the lock.
    word: u64,
}

impl Method {
    fn of(function: &str) -> Option<Method> {
        let method = |takes, how, word| Some(Method { takes, how, word });
        match function {
            "sync.(*Mutex).Lock" | "sync.(*RWMutex).Lock" => method(true, Hold::Write, 0),
            "sync.(*Mutex).Unlock" | "sync.(*RWMutex).Unlock" => method(false, Hold::Write, 0),
            "sync.(*RWMutex).RLock" => method(true, Hold::Read, READER_COUNT),
            "sync.(*RWMutex).RUnlock" => method(false, Hold::Read, READER_COUNT),
            _ => None,
        }
    }
}

/// The methods of locks that a function calls itself, inlined or not.
fn methods<'a>(
    image: &Image,
    functions: &'a Pclntab,
    function: Function<'a>,
) -> Option<impl Iterator<Item = Method>> {
    let called = super::calls(image.arch(), super::code_of(image, &function)?, function.entry);
    let called = called.filter_map(move |target| Some(functions.function_at(target)?.name));
    Some(functions.inlined_names(&function).into_iter().chain(called).filter_map(Method::of))
}

/// What the function at this entry unlocks, if the compiler made it only for a deferred call of one method of a lock.
pub(in crate::binary) fn unlocks(image: &Image, functions: &Pclntab, entry: u64) -> Option<Unlocks> {
    let function = functions.function_at(entry).filter(|function| function.entry == entry)?;
    if function.end - function.entry > MAX_WRAPPER || !functions.is_wrapper(&function) {
        return None;
    }
    let mut methods = methods(image, functions, function)?;
    let method = methods.next().filter(|method| !method.takes)?;
    if methods.any(|other| other != method) {
        return None;
    }
    let variables = super::steps_of(image, &function).into_iter().filter_map(|step| match step {
        Step::Global(addr, Access::Address | Access::Update(_)) if image.is_writable(addr, 8) => Some(addr),
        _ => None,
    });
    // The slow path has the address of the lock, the fast one that of a word in it.
    Some(Unlocks { how: method.how, variable: variables.min() })
}

/// Whether the function with this place unlocks something in this way itself, and not only by a deferred call. `true` as
/// well where its code cannot be read.
pub(in crate::binary) fn lets_go(image: &Image, functions: &Pclntab, pc: u64, how: Hold) -> bool {
    let methods = functions.function_at(pc).and_then(|function| methods(image, functions, function));
    methods.is_none_or(|mut methods| methods.any(|method| !method.takes && method.how == how))
}

/// The locks in variables that the function with this place still unlocks itself when it goes on there. Link-time
/// addresses; empty on arm64.
pub(in crate::binary) fn given_after(image: &Image, functions: &Pclntab, pc: u64) -> Vec<u64> {
    let rest = rest(image, functions, pc);
    rest.map_or(Vec::new(), |(code, from)| Walk::over(image, functions, code, from).given)
}

/// The locks in variables that the function with this place has taken before it and not given back, by the order of its
/// instructions: a branch is not taken, so it is a hint. Link-time addresses; empty on arm64.
pub(in crate::binary) fn taken_before(image: &Image, functions: &Pclntab, pc: u64) -> Vec<u64> {
    let before = || {
        let function = functions.function_at(pc)?;
        let code = super::code_of(image, &function)?;
        let until = usize::try_from(pc - function.entry).ok()?.min(code.len());
        Some(Walk::over(image, functions, code.get(..until)?, function.entry).taken)
    };
    before().unwrap_or_default().into_iter().map(|(lock, _)| lock).collect()
}

/// What code does with locks in variables, in the order of its instructions.
struct Walk<'a> {
    image: &'a Image,
    functions: &'a Pclntab,
    /// Registers with the address of a variable.
    known: HashMap<Register, u64>,
    taken: Vec<(u64, Hold)>,
    /// Locks that were unlocked, whoever had locked them.
    given: Vec<u64>,
}

impl<'a> Walk<'a> {
    /// Walks over code of one function at `from`. On arm64 nothing is found.
    fn over(image: &'a Image, functions: &'a Pclntab, code: &[u8], from: u64) -> Walk<'a> {
        let known = HashMap::new();
        let mut walk = Walk { image, functions, known, taken: Vec::new(), given: Vec::new() };
        if image.arch() == Arch::Amd64 {
            for instruction in Decoder::with_ip(64, code, from, DecoderOptions::NONE) {
                walk.step(&instruction);
            }
        }
        walk
    }

    fn step(&mut self, instruction: &Instruction) {
        if instruction.flow_control() == FlowControl::Call {
            let target = instruction.near_branch_target();
            let method = self.functions.function_at(target).and_then(|function| Method::of(function.name));
            if let (Some(method), Some(lock)) = (method, self.known.get(&Register::RAX).copied()) {
                self.note(method, lock);
            }
            self.known.clear();
            return;
        }
        let locked = instruction.has_lock_prefix()
            && matches!(instruction.mnemonic(), Mnemonic::Cmpxchg | Mnemonic::Xadd);
        if locked
            && let Some(word) = self.variable(instruction)
            && let Some(method) = self.inlined(instruction.ip())
        {
            self.note(method, word.wrapping_sub(method.word));
        }
        let to = instruction.op0_register();
        if instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register && to.is_gpr() {
            let full = to.full_register();
            self.known.remove(&full);
            let relative = instruction.memory_base() == Register::RIP;
            if instruction.mnemonic() == Mnemonic::Lea && relative {
                let addr = instruction.ip_rel_memory_address();
                if self.image.is_writable(addr, 8) {
                    self.known.insert(full, addr);
                }
            }
        }
    }

    /// The address of the variable that an instruction changes.
    fn variable(&self, instruction: &Instruction) -> Option<u64> {
        if instruction.memory_base() == Register::RIP {
            return Some(instruction.ip_rel_memory_address());
        }
        let base = self.known.get(&instruction.memory_base())?;
        (instruction.memory_index() == Register::None)
            .then(|| base.wrapping_add(instruction.memory_displacement64()))
    }

    /// The method of a lock that an instruction was inlined from.
    fn inlined(&self, at: u64) -> Option<Method> {
        let frames = self.functions.symbolize(at);
        frames.iter().filter(|frame| frame.inlined).find_map(|frame| Method::of(frame.func))
    }

    fn note(&mut self, method: Method, lock: u64) {
        let one = (lock, method.how);
        if !method.takes {
            self.taken.retain(|taken| *taken != one);
            if self.given.len() < MAX_LOCKS && !self.given.contains(&lock) {
                self.given.push(lock);
            }
        } else if self.taken.len() < MAX_LOCKS && !self.taken.contains(&one) {
            self.taken.push(one);
        }
    }
}

/// The code that the function with this place still executes when it goes on there, and its address: what lies behind it,
/// and in loops also before.
fn rest<'a>(image: &'a Image, functions: &Pclntab, pc: u64) -> Option<(&'a [u8], u64)> {
    let function = functions.function_at(pc)?;
    let code = super::code_of(image, &function)?;
    let jumps = super::jumps(image.arch(), code, function.entry);
    let mut from = pc;
    // A jump back from behind makes what lies between come again, and that may jump further back. Only what grows the
    // stack jumps to the entry.
    let back = |from: u64| {
        let loops = jumps.iter().filter(|(at, to)| *at >= from && (function.entry + 1..from).contains(to));
        loops.map(|(_, to)| *to).min()
    };
    while let Some(earlier) = back(from) {
        from = earlier;
    }
    Some((code.get(usize::try_from(from - function.entry).ok()?..)?, from))
}

/// What a function does with channels behind a place in it, whichever they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChannelCalls {
    pub sends: bool,
    pub receives: bool,
    pub closes: bool,
}

/// The calls of the runtime's functions for channels that the function with this place still makes itself. A select
/// may send and receive.
pub(in crate::binary) fn channel_calls(image: &Image, functions: &Pclntab, pc: u64) -> ChannelCalls {
    let mut calls = ChannelCalls::default();
    let Some((code, from)) = rest(image, functions, pc) else { return calls };
    for target in super::calls(image.arch(), code, from) {
        match functions.function_at(target).map(|function| function.name) {
            Some("runtime.chansend1" | "runtime.selectnbsend") => calls.sends = true,
            Some("runtime.chanrecv1" | "runtime.chanrecv2" | "runtime.selectnbrecv") => calls.receives = true,
            Some("runtime.closechan") => calls.closes = true,
            Some("runtime.selectgo") => (calls.sends, calls.receives) = (true, true),
            _ => {}
        }
    }
    calls
}

/// Link-time addresses of variables that the function with this place still refers to when it goes on there.
pub(in crate::binary) fn used_after(image: &Image, functions: &Pclntab, pc: u64) -> Vec<u64> {
    let Some((code, from)) = rest(image, functions, pc) else { return Vec::new() };
    let mut used: Vec<u64> = super::decoded(image.arch(), code, from)
        .into_iter()
        .filter_map(|step| match step {
            Step::Global(addr, _) if image.is_writable(addr, 8) => Some(addr),
            _ => None,
        })
        .collect();
    used.sort_unstable();
    used.dedup();
    used
}

//! Values in made-up code.

use super::super::callees::Callees;
use super::super::types::{CodeTypes, Described, put_together};
use super::Flow;
use crate::binary::GoBinary;
use crate::testing::binary::{Recipe, binary, entry};
use std::ops::Range;

/// Where descriptors are: nowhere in the file.
const TYPES: Range<u64> = 0x70_0000..0x70_1000;
const CLOSURE: u64 = 0x70_0100;
const MAP: u64 = 0x70_0200;
const OTHER_MAP: u64 = 0x70_0300;
const STRUCT: u64 = 0x70_0400;
const OTHER_STRUCT: u64 = 0x70_0500;
const NOTHING: u64 = 0x70_0600;

/// Functions of the executable, of which calls tell something.
const ASSIGN: &str = "runtime.mapassign_faststr";
const MAKE: &str = "runtime.makemap";
const NEW: &str = "runtime.newobject";
const NEW_TINY: &str = "runtime.mallocgcTinySC2";
const STORE: &str = "runtime.gcWriteBarrierCX";
const BARRIER: &str = "runtime.gcWriteBarrier2";
const OUTER: &str = "example.com/a%2eb.(*outer).get";
const INNER: &str = "example.com/a%2eb.(*inner).lock";
const LIST: &str = "example.com/a%2eb.(*list).add";
/// One of which they tell nothing.
const OTHER: &str = "runtime.main";

/// An instruction: its opcode, and the address or the function that it refers to, if it does.
#[derive(Clone, Copy)]
enum Code {
    Plain(&'static [u8]),
    To(&'static [u8], u64),
    Call(&'static str),
    Jump(&'static str),
}
use Code::{Call, Jump, Plain, To};

const COPY_RAX_TO_RBX: Code = Plain(&[0x48, 0x89, 0xc3]);
const COPY_RAX_TO_RCX: Code = Plain(&[0x48, 0x89, 0xc1]);
const COPY_RDX_TO_RBX: Code = Plain(&[0x48, 0x89, 0xd3]);
const INC_RBX: Code = Plain(&[0x48, 0xff, 0xc3]);
/// `mov [rsp+24],rax`, `mov rax,[rsp+24]`, `mov rbx,[rsp+24]`, `movups [rsp+16],xmm15`.
const KEEP_RAX: Code = Plain(&[0x48, 0x89, 0x44, 0x24, 0x18]);
const KEPT_RAX: Code = Plain(&[0x48, 0x8b, 0x44, 0x24, 0x18]);
const KEPT_RBX: Code = Plain(&[0x48, 0x8b, 0x5c, 0x24, 0x18]);
const CLEAR_KEPT: Code = Plain(&[0x44, 0x0f, 0x11, 0x7c, 0x24, 0x10]);
/// The same at `[rsp+8]`, which is for arguments.
const KEEP_LOW: Code = Plain(&[0x48, 0x89, 0x44, 0x24, 0x08]);
const KEPT_LOW: Code = Plain(&[0x48, 0x8b, 0x44, 0x24, 0x08]);
const CMP_RAX_RCX: Code = Plain(&[0x48, 0x39, 0xc8]);
const RET: Code = Plain(&[0xc3]);

fn lea_rax(target: u64) -> Code {
    To(&[0x48, 0x8d, 0x05], target)
}

fn lea_rcx(target: u64) -> Code {
    To(&[0x48, 0x8d, 0x0d], target)
}

fn lea_rbx(target: u64) -> Code {
    To(&[0x48, 0x8d, 0x1d], target)
}

fn lea_rdi(target: u64) -> Code {
    To(&[0x48, 0x8d, 0x3d], target)
}

fn load_rax(target: u64) -> Code {
    To(&[0x48, 0x8b, 0x05], target)
}

fn load_rbx(target: u64) -> Code {
    To(&[0x48, 0x8b, 0x1d], target)
}

fn load_rdx(target: u64) -> Code {
    To(&[0x48, 0x8b, 0x15], target)
}

fn store_rax(target: u64) -> Code {
    To(&[0x48, 0x89, 0x05], target)
}

fn store_rcx(target: u64) -> Code {
    To(&[0x48, 0x89, 0x0d], target)
}

fn executable() -> GoBinary {
    GoBinary::parse(binary(Recipe { version: "go1.26.6", pie: false, heap: true }).into()).unwrap()
}

/// Variables of the executable, one word each.
fn variable(index: u64) -> u64 {
    executable().globals().unwrap().allglen + index * 8
}

fn described(addr: u64) -> Option<Described> {
    match addr {
        CLOSURE => Some(Described::Closure),
        MAP | OTHER_MAP => Some(Described::Map),
        STRUCT | OTHER_STRUCT => Some(Described::Other),
        _ => None,
    }
}

/// What functions tell that have these names and consist of these instructions.
fn told_of(functions: &[(&str, &[Code])]) -> CodeTypes {
    told_with(&TYPES, &described, functions)
}

fn told_with(
    types: &Range<u64>,
    described: &dyn Fn(u64) -> Option<Described>,
    functions: &[(&str, &[Code])],
) -> CodeTypes {
    let binary = executable();
    let callees = Callees::find(binary.functions()).unwrap();
    let at = |name: &str| binary.functions().find(name).unwrap().entry;
    let mut flow = Flow::new(binary.image(), types, described, &callees);
    for (name, instructions) in functions {
        let start = at(name);
        let mut code = Vec::new();
        for instruction in *instructions {
            let (opcode, target) = match *instruction {
                Plain(opcode) => (opcode, None),
                To(opcode, target) => (opcode, Some(target)),
                Call(name) => (&[0xe8][..], Some(at(name))),
                Jump(name) => (&[0xe9][..], Some(at(name))),
            };
            code.extend(opcode);
            if let Some(target) = target {
                let end = start + code.len() as u64 + 4;
                code.extend((target.wrapping_sub(end) as u32).to_le_bytes());
            }
        }
        flow.follow(&code, start).unwrap();
    }
    put_together(&flow.told(), &callees)
}

fn told(instructions: &[Code]) -> CodeTypes {
    told_of(&[("main.main", instructions)])
}

#[test]
fn a_map_is_what_calls_take_for_one() {
    let at = variable(0);
    let taken = [(at, MAP)];
    assert_eq!(told(&[load_rbx(at), lea_rax(MAP), Call(ASSIGN)]).maps, taken);
    assert_eq!(told(&[load_rdx(at), lea_rax(MAP), COPY_RDX_TO_RBX, Call(ASSIGN)]).maps, taken);
    // Another value, another register, what is no map, another function, and what is no variable.
    assert_eq!(told(&[load_rbx(at), Call(OTHER), lea_rax(MAP), Call(ASSIGN)]).maps, []);
    assert_eq!(told(&[load_rbx(at), INC_RBX, lea_rax(MAP), Call(ASSIGN)]).maps, []);
    assert_eq!(told(&[load_rdx(at), lea_rax(MAP), Call(ASSIGN)]).maps, []);
    for other in [STRUCT, CLOSURE, NOTHING, entry(0)] {
        assert_eq!(told(&[load_rbx(at), lea_rax(other), Call(ASSIGN)]), CodeTypes::default());
    }
    assert_eq!(told(&[load_rbx(at), lea_rax(MAP), Call(OTHER)]).maps, []);
    for other in [entry(0), at + 4, 0] {
        assert_eq!(told(&[load_rbx(other), lea_rax(MAP), Call(ASSIGN)]).maps, []);
    }
}

#[test]
fn a_map_that_is_made_is_known_where_it_is_stored() {
    let at = variable(0);
    assert_eq!(told(&[lea_rax(MAP), Call(MAKE), store_rax(at)]).maps, [(at, MAP)]);
    // What is told of it before counts, through the stack and beyond calls.
    let fill = [Call(OTHER), KEEP_RAX, COPY_RAX_TO_RBX, lea_rax(MAP), Call(ASSIGN)];
    let then = |rest: &[Code]| told(&[&fill[..], rest].concat()).maps;
    assert_eq!(then(&[KEPT_RAX, store_rax(at)]), [(at, MAP)]);
    assert_eq!(then(&[KEPT_RBX, store_rax(at)]), []);
    assert_eq!(then(&[CLEAR_KEPT, KEPT_RAX, store_rax(at)]), []);
    // The write barrier: up to Go 1.20 it stores by itself, later ones keep registers.
    assert_eq!(then(&[KEPT_RAX, COPY_RAX_TO_RCX, lea_rdi(at), Call(STORE)]), [(at, MAP)]);
    assert_eq!(then(&[KEPT_RAX, lea_rdi(at), Call(STORE)]), []);
    assert_eq!(then(&[KEPT_RAX, Call(BARRIER), store_rax(at)]), [(at, MAP)]);
    assert_eq!(then(&[KEPT_RAX, Call(OTHER), store_rax(at)]), []);
}

#[test]
fn what_others_write_below_the_frame_is_theirs() {
    let at = variable(0);
    // 16 bytes of the stack are for what `ASSIGN` takes and returns.
    let low = [load_rax(at), KEEP_LOW, KEPT_LOW, COPY_RAX_TO_RBX, lea_rax(MAP), Call(ASSIGN)];
    assert_eq!(told(&low).maps, [(at, MAP)]);
    let behind =
        [load_rax(at), KEEP_LOW, Call(ASSIGN), KEPT_LOW, COPY_RAX_TO_RBX, lea_rax(MAP), Call(ASSIGN)];
    assert_eq!(told(&behind).maps, []);
    let above = [load_rax(at), KEEP_RAX, Call(ASSIGN), KEPT_RBX, lea_rax(MAP), Call(ASSIGN)];
    assert_eq!(told(&above).maps, [(at, MAP)]);
}

#[test]
fn the_registers_of_a_branch_are_those_of_its_target() {
    let at = variable(0);
    let jump_if = |over: &'static [u8]| {
        told(&[load_rbx(at), Plain(over), Call(OTHER), RET, lea_rax(MAP), Call(ASSIGN)]).maps
    };
    assert_eq!(jump_if(&[0x74, 6]), [(at, MAP)]);
    // Into the middle of an instruction, behind the function, and back.
    assert_eq!(jump_if(&[0x74, 5]), []);
    assert_eq!(jump_if(&[0x74, 0x7f]), []);
    assert_eq!(jump_if(&[0x74, 0xf7]), []);
    // Where the path goes on, its own registers count.
    let falls = [load_rbx(at), Plain(&[0x74, 5]), Call(OTHER), lea_rax(MAP), Call(ASSIGN)];
    assert_eq!(told(&falls).maps, []);
}

#[test]
fn a_variable_points_to_what_was_made_for_it() {
    let at = variable(0);
    let made = [(at, STRUCT)];
    assert_eq!(told(&[lea_rax(STRUCT), Call(NEW), store_rax(at)]).pointers, made);
    assert_eq!(told(&[lea_rbx(STRUCT), Call(NEW_TINY), store_rax(at)]).pointers, made);
    assert_eq!(told(&[lea_rax(STRUCT), Call(NEW_TINY), store_rax(at)]).pointers, []);
    for other in [CLOSURE, NOTHING] {
        assert_eq!(told(&[lea_rax(other), Call(NEW), store_rax(at)]).pointers, []);
    }
    // Through the address of another variable.
    let beside = [lea_rax(STRUCT), Call(NEW), lea_rcx(at), Plain(&[0x48, 0x89, 0x41, 0x08])];
    assert_eq!(told(&beside).pointers, [(at + 8, STRUCT)]);
}

#[test]
fn a_slice_has_another_array_later() {
    let at = variable(0);
    // `mov qword [rip+…],5`: the distance counts from behind the number.
    let number = |at: u64| [To(&[0x48, 0xc7, 0x05], at - 4), Plain(&[5, 0, 0, 0])];
    let made = [lea_rax(STRUCT), Call(NEW), store_rax(at)];
    let len = [&made[..], &number(at + 8)].concat();
    assert_eq!(told(&len).pointers, [(at, STRUCT)]);
    assert_eq!(told(&[&len[..], &number(at + 16)].concat()).pointers, []);
}

#[test]
fn the_second_word_of_an_interface_points_to_many_things() {
    let at = variable(1);
    let made = [lea_rax(STRUCT), Call(NEW), store_rax(at)];
    let and = |rest: &[Code]| told(&[&made[..], rest].concat()).pointers;
    assert_eq!(and(&[lea_rcx(NOTHING), store_rcx(at - 8)]), [(at, STRUCT)]);
    // The first word is a descriptor, or is compared with one.
    assert_eq!(and(&[lea_rcx(STRUCT), store_rcx(at - 8)]), []);
    assert_eq!(and(&[load_rax(at - 8), lea_rcx(STRUCT), CMP_RAX_RCX]), []);
    // `cmp [rip+…],rcx`
    assert_eq!(and(&[lea_rcx(STRUCT), To(&[0x48, 0x39, 0x0d], at - 8)]), []);
    assert_eq!(told(&[load_rax(at), Call(LIST)]).receivers.len(), 1);
    let switch = [load_rax(at - 8), lea_rcx(STRUCT), CMP_RAX_RCX, load_rax(at), Call(LIST)];
    assert_eq!(told(&switch).receivers, []);
    // The first word is in the file.
    let word = executable().globals().unwrap().first_module.unwrap();
    let target = executable().image().read_ptr(word).unwrap();
    let used: (&str, &[Code]) = ("main.main", &[load_rax(word + 8), Call(LIST)]);
    assert_eq!(told_of(&[used]).receivers.len(), 1);
    let described = |addr| (addr == target).then_some(Described::Other);
    assert_eq!(told_with(&(0..u64::MAX), &described, &[used]).receivers, []);
}

#[test]
fn a_receiver_has_the_type_of_its_methods() {
    let (at, other) = (variable(0), variable(1));
    let is = |name: &str| vec![(at, format!("example.com/a.b.{name}").into_boxed_str())];
    assert_eq!(told(&[load_rax(at), Call(LIST)]).receivers, is("list"));
    assert_eq!(told(&[load_rax(at), Jump(LIST)]).receivers, is("list"));
    assert_eq!(told(&[Call(OTHER), store_rax(at), Call(LIST)]).receivers, is("list"));
    assert_eq!(told(&[load_rbx(at), Call(LIST)]).receivers, []);
    // Within a method of its own.
    assert_eq!(told_of(&[(LIST, &[store_rax(at)])]).receivers, is("list"));
    // Two that have nothing to do with each other: which is within the other is not known, here and elsewhere.
    let elsewhere = [load_rax(at), Call(LIST), load_rax(at), Call(OUTER), load_rax(other), Call(LIST)];
    assert_eq!(told(&elsewhere).receivers, []);
    // One that the method of another hands its receiver to is within that.
    let handed: (&str, &[Code]) = (OUTER, &[Call(INNER)]);
    let used: [Code; 6] =
        [load_rax(at), Call(INNER), load_rax(at), Call(OUTER), load_rax(other), Call(INNER)];
    assert_eq!(told_of(&[handed, ("main.main", &used)]).receivers, is("outer"));
    // The descriptor of what was made says more.
    let made = told(&[lea_rax(STRUCT), Call(NEW), store_rax(at), Call(LIST), load_rax(other), Call(LIST)]);
    assert_eq!(made.pointers, [(at, STRUCT)]);
    assert_eq!(made.receivers, vec![(other, "example.com/a.b.list".into())]);
    // Objects of two types that begin with it.
    let twice = [lea_rax(STRUCT), Call(NEW), Call(LIST), lea_rax(OTHER_STRUCT), Call(NEW), Call(LIST)];
    assert_eq!(told(&[&twice[..], &[load_rax(at), Call(LIST)]].concat()).receivers, []);
}

#[test]
fn what_contradicts_itself_is_left_out() {
    let (one, other) = (variable(0), variable(1));
    let twice = [load_rbx(one), lea_rax(MAP), Call(ASSIGN), load_rbx(one), lea_rax(OTHER_MAP), Call(ASSIGN)];
    let once = [load_rbx(other), lea_rax(MAP), Call(ASSIGN)];
    assert_eq!(told(&[&twice[..], &once].concat()).maps, [(other, MAP)]);
    let made = [lea_rax(STRUCT), Call(NEW), store_rax(other)];
    assert_eq!(told(&[&once[..], &made].concat()), CodeTypes::default());
    let receiver = [load_rax(other), Call(LIST)];
    assert_eq!(told(&[&once[..], &receiver].concat()).receivers, []);
}

proptest::proptest! {
    #[test]
    fn no_code_is_too_strange(
        code in proptest::collection::vec(proptest::num::u8::ANY, 0..400),
        entry in proptest::num::u64::ANY,
    ) {
        let binary = executable();
        let callees = Callees::find(binary.functions()).unwrap();
        let described = |addr: u64| addr.is_multiple_of(2).then_some(Described::Other);
        let types = 0..u64::MAX;
        let mut flow = Flow::new(binary.image(), &types, &described, &callees);
        for entry in [entry, u64::MAX - 3, variable(0)] {
            flow.follow(&code, entry);
        }
        put_together(&flow.told(), &callees);
    }
}

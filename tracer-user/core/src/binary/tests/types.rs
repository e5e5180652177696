//! Closures in made-up code, and a variable that holds a map.

use super::super::*;
use crate::testing::binary::{Recipe, binary, entry};
use std::ops::Range;

/// Where descriptors are: nowhere in the file.
const TYPES: Range<u64> = 0x70_0000..0x70_1000;
const CLOSURE: u64 = 0x70_0100;
const OTHER_CLOSURE: u64 = 0x70_0140;
const MAP: u64 = 0x70_0200;
const NOTHING: u64 = 0x70_0400;

/// An instruction: its opcode, and the address that it refers to, if it does.
type Instruction<'a> = (&'a [u8], Option<u64>);

fn lea_rax(target: u64) -> Instruction<'static> {
    (&[0x48, 0x8d, 0x05], Some(target))
}

fn lea_r8(target: u64) -> Instruction<'static> {
    (&[0x4c, 0x8d, 0x05], Some(target))
}

fn mov_rbx(target: u64) -> Instruction<'static> {
    (&[0x48, 0x8b, 0x1d], Some(target))
}

const CALL: Instruction<'static> = (&[0xe8, 0, 0, 0, 0], None);

/// An executable with more code than these tests need: all of it from the fourth function on.
fn executable() -> Vec<u8> {
    binary(Recipe { version: "go1.26.6", pie: false, heap: true })
}

/// Where the fourth function is in the file.
fn start() -> usize {
    let binary = GoBinary::parse(executable().into()).unwrap();
    usize::try_from(binary.image().file_offset(entry(3)).unwrap()).unwrap()
}

/// What the code tells that consists of these instructions, from the fourth function on.
fn told(instructions: &[Instruction<'_>]) -> CodeTypes {
    let (mut data, start) = (executable(), start());
    let mut code = Vec::new();
    for (opcode, target) in instructions {
        code.extend(*opcode);
        if let Some(target) = target {
            let end = entry(3) + code.len() as u64 + 4;
            code.extend((target.wrapping_sub(end) as u32).to_le_bytes());
        }
    }
    data[start..start + code.len()].copy_from_slice(&code);
    let described = |addr| {
        assert!(TYPES.contains(&addr));
        match addr {
            CLOSURE | OTHER_CLOSURE => Some(Described::Closure),
            MAP => Some(Described::Map),
            _ => None,
        }
    };
    GoBinary::parse(data.into()).unwrap().code_types(TYPES, &described)
}

#[test]
fn a_closure_is_the_struct_that_its_maker_names() {
    // In whichever registers; what is not the entry of a function is passed over.
    let made = told(&[lea_r8(CLOSURE), CALL, lea_rax(entry(1) + 1), lea_rax(entry(1))]);
    assert_eq!(made, CodeTypes { closures: vec![(entry(1), CLOSURE)], ..CodeTypes::default() });
    // One descriptor is of one function.
    let made = told(&[lea_rax(CLOSURE), CALL, lea_rax(entry(1)), lea_rax(entry(0))]);
    assert_eq!(made.closures, [(entry(1), CLOSURE)]);
    // The last one counts.
    let made = told(&[lea_rax(CLOSURE), lea_rax(NOTHING), lea_rax(OTHER_CLOSURE), lea_rax(entry(0))]);
    assert_eq!(made.closures, [(entry(0), OTHER_CLOSURE)]);
    assert_eq!(told(&[lea_rax(NOTHING), lea_rax(entry(0))]).closures, []);
}

#[test]
fn a_function_that_comes_late_is_another_closures() {
    let made = |between: usize| {
        let nops = vec![0x90; between - 7];
        told(&[lea_rax(CLOSURE), (&nops, None), lea_rax(entry(0))]).closures
    };
    assert_eq!(made(64), [(entry(0), CLOSURE)]);
    assert_eq!(made(65), []);
}

#[test]
fn what_contradicts_itself_is_left_out() {
    let twice = [
        lea_rax(CLOSURE),
        lea_rax(entry(0)),
        lea_rax(OTHER_CLOSURE),
        lea_rax(entry(0)),
        lea_rax(OTHER_CLOSURE),
        lea_rax(entry(1)),
    ];
    assert_eq!(told(&twice).closures, [(entry(1), OTHER_CLOSURE)]);
}

#[test]
fn a_variable_holds_the_map_that_a_call_takes() {
    let binary = GoBinary::parse(executable().into()).unwrap();
    let assign = binary.functions().find("runtime.mapassign_faststr").unwrap().entry;
    let at = binary.globals().unwrap().allglen;
    let call = (&[0xe8][..], Some(assign));
    let taken = told(&[mov_rbx(at), lea_rax(MAP), call]);
    assert_eq!(taken, CodeTypes { maps: vec![(at, MAP)], ..CodeTypes::default() });
    // One function, one value.
    let nops = (&[0x90; 32 - 14][..], None);
    assert_eq!(told(&[mov_rbx(at), lea_rax(MAP), nops, call]), CodeTypes::default());
}

proptest::proptest! {
    #[test]
    fn no_code_is_too_strange(
        code in proptest::collection::vec(
            proptest::sample::select(vec![0u8, 0x48, 0x4c, 0x8b, 0x8d, 0x05, 0x1d, 0xe8, 0xff]),
            200,
        ),
    ) {
        let (mut data, start) = (executable(), start());
        data[start..start + code.len()].copy_from_slice(&code);
        let binary = GoBinary::parse(data.into()).unwrap();
        for described in [Described::Closure, Described::Map, Described::Other] {
            binary.code_types(0..u64::MAX, &|addr| (addr % 2 == 0).then_some(described));
        }
    }
}

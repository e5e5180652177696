//! Prologues of real binaries of every release, and made-up ones for cases that those do not show.

use super::*;

/// Version, function, offset and instruction of the place, and the bytes up to the first branch of the function
/// behind the stack check. The bytes are from `go build` of each release for linux/amd64, offsets and instructions
/// from GNU objdump.
const REAL: &[(&str, &str, u64, &str, &str)] = &[
    (
        "1.19.8",
        "casgstatus",
        31,
        "nop",
        "4883ec4048896c2438488d6c24384889442448895c2450894c24540fbae30c90720a",
    ),
    ("1.19.8", "casGToPreemptScan", 23, "jne", "493b661076604883ec1848896c2410488d6c241083fb02753a"),
    (
        "1.19.8",
        "newproc1",
        47,
        "jne",
        "493b66100f86860300004883ec4848896c2440488d6c244048895c2438488944245048894c24604c897424204885c07514",
    ),
    (
        "1.19.8",
        "execute",
        45,
        "je",
        "493b66100f86490100004883ec2048896c2418488d6c2418885c243048894424284c89742410803df7481300007416",
    ),
    (
        "1.19.8",
        "park_m",
        41,
        "je",
        "493b66100f864d0100004883ec2848896c2420488d6c242048894424184c89742410803de7e5130000741f",
    ),
    (
        "1.19.8",
        "injectglist",
        35,
        "je",
        "493b66100f86ec0200004883ec7848896c2470488d6c2470488b100f1f4400004885d27416",
    ),
    (
        "1.19.8",
        "goschedImpl",
        42,
        "jne",
        "493b66100f86e20100004883ec3048896c2428488d6c242848894424388b90900000000fbaf20c83fa020f859f000000",
    ),
    ("1.19.8", "entersyscall", 24, "call", "4883ec1848896c2410488d6c2410488b442418488d5c2420e86313feff"),
    (
        "1.19.8",
        "reentersyscall",
        55,
        "call",
        "4883ec3048896c2428488d6c2428488944243848895c24404c89742410498b4e30ff810801000049c74610defaffff41c686b700000001e864ffffff",
    ),
    (
        "1.19.8",
        "exitsyscall",
        36,
        "jb",
        "4883ec3848896c2430488d6c2430498b4e30ff8108010000488d4c24400f1f0049394e700f821d020000",
    ),
    (
        "1.19.8",
        "gopark",
        28,
        "nop",
        "493b66100f86e90000004883ec1848896c2410488d6c2410498b563090ff8208010000498b56304d89f04184004c8b82c000000090458b88900000000f1f40004183f902740d",
    ),
    (
        "1.19.8",
        "gcMarkTermination",
        67,
        "jne",
        "4c8da424d0feffff4d3b66100f867a0c00004881ecb00100004889ac24a8010000488dac24a8010000b802000000488d0df788180087018b05ef8818000f1f0083f8017507",
    ),
    ("1.21.13", "casgstatus", 0, "push rbp", "554889e54883ec384889442448894c2454895c24500fbae30c720b"),
    ("1.21.13", "casGToPreemptScan", 6, "push rbp", "493b6610764e554889e54883ec1083fb02752f"),
    (
        "1.21.13",
        "newproc1",
        10,
        "push rbp",
        "493b66100f866d030000554889e54883ec2848894c244848895c244048894424384885c07511",
    ),
    (
        "1.21.13",
        "execute",
        10,
        "push rbp",
        "493b66100f862e010000554889e54883ec18885c24304889442428498b56304889542410803df9cd120000741b",
    ),
    (
        "1.21.13",
        "park_m",
        10,
        "push rbp",
        "493b66100f861b010000554889e54883ec384889442430498b56304889542428803d21561300007421",
    ),
    ("1.21.13", "injectglist", 10, "push rbp", "493b66100f86a2020000554889e54883ec60488b104885d27413"),
    (
        "1.21.13",
        "goschedImpl",
        10,
        "push rbp",
        "493b66100f86e1010000554889e54883ec284889442438908b90900000000fbaf20c83fa020f859a000000",
    ),
    ("1.21.13", "entersyscall", 0, "push rbp", "554889e54883ec10488d5c2420488b442418e8890afeff"),
    (
        "1.21.13",
        "reentersyscall",
        0,
        "push rbp",
        "554889e54883ec2848895c244048894424384c89742410498b4e30ff810801000049c74610defaffff41c686b700000001e86affffff",
    ),
    (
        "1.21.13",
        "exitsyscall",
        0,
        "push rbp",
        "554889e54883ec30498b4e30ff8108010000488d4c2440660f1f84000000000049394e700f8223020000",
    ),
    (
        "1.21.13",
        "gopark",
        10,
        "push rbp",
        "493b66100f86dc000000554889e54883ec10498b563090ff8208010000498b56304c8b82c000000090458b88900000004183f9027417",
    ),
    (
        "1.21.13",
        "gcMarkTermination",
        18,
        "push rbp",
        "4c8da424c0feffff4d3b66100f86560c0000554889e54881ecb801000090b802000000488d0d1e01180087018b051601180083f8017507",
    ),
    ("1.22.10", "casgstatus", 0, "push rbp", "554889e54883ec384889442448895c2450894c24540fbae30c720b"),
    ("1.22.10", "casGToPreemptScan", 6, "push rbp", "493b6610764e554889e54883ec1083fb02752f"),
    (
        "1.22.10",
        "newproc1",
        10,
        "push rbp",
        "493b66100f86ed030000554889e54883ec48488944245848895c246048894c24684885c07511",
    ),
    (
        "1.22.10",
        "execute",
        10,
        "push rbp",
        "493b66100f867b010000554889e54883ec204889442430885c2438498b56304889542418803d3995130000741b",
    ),
    (
        "1.22.10",
        "park_m",
        10,
        "push rbp",
        "493b66100f86e8010000554889e54883ec484889442458498b56304889542440488b3529a119004885f67506",
    ),
    ("1.22.10", "injectglist", 10, "push rbp", "493b66100f861e030000554889e54883ec78488338007441"),
    (
        "1.22.10",
        "goschedImpl",
        10,
        "push rbp",
        "493b66100f86a1020000554889e54883ec404889442450885c2458488b150e9f19004885d27506",
    ),
    ("1.22.10", "entersyscall", 0, "push rbp", "554889e54883ec10488d5c2420488b442418e869e8fdff"),
    (
        "1.22.10",
        "reentersyscall",
        0,
        "push rbp",
        "554889e54883ec50488944246048895c2468488b0d379319004885c97506",
    ),
    (
        "1.22.10",
        "exitsyscall",
        0,
        "push rbp",
        "554889e54883ec60498b4e30ff8108010000488d4c2470660f1f84000000000049394e700f8230020000",
    ),
    (
        "1.22.10",
        "gopark",
        10,
        "push rbp",
        "493b66100f86dc000000554889e54883ec10498b563090ff8208010000498b56304c8b82c000000090458b88900000004183f9027417",
    ),
    (
        "1.22.10",
        "gcMarkTermination",
        18,
        "push rbp",
        "4c8da42478feffff4d3b66100f86b60d0000554889e54881ec0002000048899c24300100008844243f90b902000000488d1532fc1b00870a8b0d2afc1b00669083f9017507",
    ),
    ("1.23.9", "casgstatus", 0, "push rbp", "554889e54883ec404889442450895c2458894c245c0fbae30c720b"),
    ("1.23.9", "casGToPreemptScan", 6, "push rbp", "493b66107660554889e54883ec1083fb02753f"),
    (
        "1.23.9",
        "newproc1",
        10,
        "push rbp",
        "493b66100f861c040000554889e54883ec50488944246048895c246848894c247040887c247840887424794885c07515",
    ),
    (
        "1.23.9",
        "execute",
        10,
        "push rbp",
        "493b66100f8688010000554889e54883ec384889442448885c2450498b56304889542430803db9d91500007427",
    ),
    (
        "1.23.9",
        "park_m",
        10,
        "push rbp",
        "493b66100f86e7010000554889e54883ec484889442458498b56304889542440803db90a1600007506",
    ),
    ("1.23.9", "injectglist", 10, "push rbp", "493b66100f8607030000554889e54883ec70488b104885d27448"),
    (
        "1.23.9",
        "goschedImpl",
        10,
        "push rbp",
        "493b66100f86a1020000554889e54883ec404889442450803da20816000066907506",
    ),
    ("1.23.9", "entersyscall", 0, "push rbp", "554889e54883ec18e8b307feff"),
    (
        "1.23.9",
        "reentersyscall",
        0,
        "push rbp",
        "554889e54883ec58488944246848895c247048894c2478803dc2fc15000066907506",
    ),
    (
        "1.23.9",
        "exitsyscall",
        0,
        "push rbp",
        "554889e54883ec60498b4e30ff8108010000488d4c2470660f1f84000000000049394e700f821c020000",
    ),
    (
        "1.23.9",
        "gopark",
        10,
        "push rbp",
        "493b66100f86dc000000554889e54883ec10498b563090ff8208010000498b56304c8b82c000000090458b88980000004183f9027417",
    ),
    (
        "1.23.9",
        "gcMarkTermination",
        18,
        "push rbp",
        "4c8da42460feffff4d3b66100f86d60d0000554889e54881ec180200004889bc243801000048898c243001000048899c24280100008844243f90ba02000000488d35c65b1a0087168b15be5b1a0083fa017507",
    ),
    ("1.24.11", "casgstatus", 0, "push rbp", "554889e54883ec584889442468895c2470894c24740fbae30c720b"),
    ("1.24.11", "casGToPreemptScan", 6, "push rbp", "493b66107660554889e54883ec1083fb02753f"),
    (
        "1.24.11",
        "newproc1",
        10,
        "push rbp",
        "493b66100f865c040000554889e54883ec50488944246048895c246848894c247040887c247840887424794885c07515",
    ),
    (
        "1.24.11",
        "execute",
        10,
        "push rbp",
        "493b66100f86a0010000554889e54883ec384889442448885c2450498b56304889542430803d19751600007427",
    ),
    (
        "1.24.11",
        "park_m",
        10,
        "push rbp",
        "493b66100f8681020000554889e54883ec504889442460498b56304889542448803d09a91600007506",
    ),
    ("1.24.11", "injectglist", 10, "push rbp", "493b66100f8621030000554889e54883ec70488b104885d27448"),
    (
        "1.24.11",
        "goschedImpl",
        10,
        "push rbp",
        "493b66100f86c1020000554889e54883ec404889442450803d72a616000066907506",
    ),
    ("1.24.11", "entersyscall", 0, "push rbp", "554889e54883ec18e87324feff"),
    (
        "1.24.11",
        "reentersyscall",
        0,
        "push rbp",
        "554889e54883ec58488944246848895c247048894c2478803df29916000066907506",
    ),
    (
        "1.24.11",
        "exitsyscall",
        0,
        "push rbp",
        "554889e54883ec60498b4e30ff8108010000488d4c2470660f1f84000000000049394e700f8230020000",
    ),
    (
        "1.24.11",
        "gopark",
        10,
        "push rbp",
        "493b66100f86dc000000554889e54883ec10498b563090ff8208010000498b56304c8b82c000000090458b88980000004183f9027417",
    ),
    (
        "1.24.11",
        "gcMarkTermination",
        18,
        "push rbp",
        "4c8da42460feffff4d3b66100f86d60d0000554889e54881ec180200004889bc243801000048898c243001000048899c24280100008844243f90ba02000000488d3546fd1a0087168b153efd1a0083fa017507",
    ),
    ("1.25.5", "casgstatus", 0, "push rbp", "554889e54883ec584889442468895c2470894c24740fbae30c720b"),
    ("1.25.5", "casGToPreemptScan", 6, "push rbp", "493b66107660554889e54883ec1083fb02753f"),
    (
        "1.25.5",
        "newproc1",
        10,
        "push rbp",
        "493b66100f866d040000554889e54883ec50488944246048895c246848894c247040887c247840887424794885c07515",
    ),
    (
        "1.25.5",
        "execute",
        10,
        "push rbp",
        "493b66100f86a7010000554889e54883ec384889442448885c2450498b56304889542430803d79041700007427",
    ),
    (
        "1.25.5",
        "park_m",
        10,
        "push rbp",
        "493b66100f8681020000554889e54883ec504889442460498b56304889542440803d89391700007506",
    ),
    ("1.25.5", "injectglist", 10, "push rbp", "493b66100f8686030000554889e54883ec78488338007438"),
    (
        "1.25.5",
        "goschedImpl",
        10,
        "push rbp",
        "493b66100f86c1020000554889e54883ec404889442450803df23617000066907506",
    ),
    ("1.25.5", "entersyscall", 0, "push rbp", "554889e54883ec18e87317feff"),
    (
        "1.25.5",
        "reentersyscall",
        0,
        "push rbp",
        "554889e54883ec58488944246848895c247048894c2478803d722a17000066907506",
    ),
    (
        "1.25.5",
        "exitsyscall",
        0,
        "push rbp",
        "554889e54883ec60498b4e30ff8100010000488d4c2470660f1f84000000000049394e680f8230020000",
    ),
    (
        "1.25.5",
        "gopark",
        10,
        "push rbp",
        "493b66100f86dc000000554889e54883ec10498b563090ff8200010000498b56304c8b82b80000009090458b88900000004183f9027416",
    ),
    (
        "1.25.5",
        "gcMarkTermination",
        18,
        "push rbp",
        "4c8da42418fcffff4d3b66100f8678100000554889e54881ec600400004889bc246001000048898c245801000048899c24500100008844243f90ba02000000488d35ca9c1b0087168b15c29c1b0083fa017507",
    ),
    ("1.26.6", "casgstatus", 0, "push rbp", "554889e54883ec584889442468895c2470894c24740fbae30c720b"),
    ("1.26.6", "casGToPreemptScan", 6, "push rbp", "493b66107660554889e54883ec1083fb02753f"),
    (
        "1.26.6",
        "newproc1",
        10,
        "push rbp",
        "493b66100f86a0040000554889e54883ec50488944246048895c246848894c247040887c247840887424794885c07515",
    ),
    (
        "1.26.6",
        "execute",
        10,
        "push rbp",
        "493b66100f86e5010000554889e54883ec384889442448885c2450498b56304889542430803db9bc1700007427",
    ),
    (
        "1.26.6",
        "park_m",
        10,
        "push rbp",
        "493b66100f8681020000554889e54883ec504889442460498b56304889542440803d69f51700007506",
    ),
    ("1.26.6", "injectglist", 10, "push rbp", "493b66100f8686030000554889e54883ec78488338007438"),
    (
        "1.26.6",
        "goschedImpl",
        10,
        "push rbp",
        "493b66100f8601030000554889e54883ec484889442458885c2460488b5030488b92d00000004889542440803dbef21700007506",
    ),
    ("1.26.6", "entersyscall", 0, "push rbp", "554889e54883ec18e8d314feff"),
    (
        "1.26.6",
        "reentersyscall",
        0,
        "push rbp",
        "554889e54883ec60488944247048895c247848898c24800000004c89742428498b5630ff820801000049c74610defaffff41c686b700000001498b5630488bb2d00000008b761489b214030000498b5630488b92d0000000840283ba60350000007439",
    ),
    (
        "1.26.6",
        "exitsyscall",
        0,
        "push rbp",
        "554889e54883ec68498b5630ff8208010000488d542478660f1f840000000000493956680f824b020000",
    ),
    (
        "1.26.6",
        "gopark",
        10,
        "push rbp",
        "493b66100f86dc000000554889e54883ec10498b563090ff8208010000498b56304c8b82b80000009090458b88900000004181c9001000000f1f8400000000004181f9021000000f8587000000",
    ),
    (
        "1.26.6",
        "gcMarkTermination",
        18,
        "push rbp",
        "4c8da42440feffff4d3b66100f860d0f0000554889e54881ec380200004889bc245001000048898c244801000048899c24400100008844243f90ba02000000488d35ca801c0087168b15c2801c0083fa017507",
    ),
    ("1.27.3", "casgstatus", 0, "push rbp", "554889e54883ec584889442468895c2470894c24740fbae30c720b"),
    ("1.27.3", "casGToPreemptScan", 6, "push rbp", "493b66107664554889e54883ec1083fb027545"),
    (
        "1.27.3",
        "newproc1",
        10,
        "push rbp",
        "493b66100f8693040000554889e54883ec50488944246048895c246848894c247040887c247840887424794885c07515",
    ),
    (
        "1.27.3",
        "execute",
        10,
        "push rbp",
        "493b66100f86e1010000554889e54883ec384889442448885c2450498b56304889542430803df9951700007421",
    ),
    (
        "1.27.3",
        "park_m",
        10,
        "push rbp",
        "493b66100f8675020000554889e54883ec504889442460498b56304889542440803dc9c61700007506",
    ),
    ("1.27.3", "injectglist", 10, "push rbp", "493b66100f8675030000554889e54883ec78488338007438"),
    (
        "1.27.3",
        "goschedImpl",
        10,
        "push rbp",
        "493b66100f8601030000554889e54883ec484889442458885c2460488b5030488b92d00000004889542440803d1ec41700007506",
    ),
    ("1.27.3", "entersyscall", 0, "push rbp", "554889e54883ec18e893eefdff"),
    (
        "1.27.3",
        "reentersyscall",
        0,
        "push rbp",
        "554889e54883ec60488944247048895c247848898c24800000004c89742428498b5630ff820801000049c74610defaffff41c686b700000001498b5630488bb2d00000008b761489b214030000488b92d0000000840283ba60350000007439",
    ),
    (
        "1.27.3",
        "exitsyscall",
        0,
        "push rbp",
        "554889e54883ec68498b5630ff8208010000488d542478660f1f840000000000493956680f824b020000",
    ),
    (
        "1.27.3",
        "gopark",
        10,
        "push rbp",
        "493b66100f86dc000000554889e54883ec10498b563090ff8208010000498b56304c8b82b800000090458b88900000004181c900100000660f1f8400000000004181f9021000000f8583000000",
    ),
    (
        "1.27.3",
        "gcMarkTermination",
        18,
        "push rbp",
        "4c8da42440feffff4d3b66100f86ec0e0000554889e54881ec380200004889bc245001000048898c244801000048899c24400100008844243f90ba02000000488d350a391c0087168b1502391c0083fa017507",
    ),
];

const ENTRY: u64 = 0x43_1000;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn place_hex(hex: &str, integers: usize, frames: bool, stack: Stack) -> Placement {
    place(&bytes(hex), ENTRY, ArgUse { integers, frames }, stack).unwrap()
}

#[test]
fn every_real_function_has_a_cheap_place() {
    for (version, function, offset, instruction, hex) in REAL {
        let (integers, frames) = match *function {
            "casgstatus" | "casGToPreemptScan" | "newproc1" => (3, false),
            "entersyscall" | "reentersyscall" => (0, true),
            "exitsyscall" | "gcMarkTermination" => (0, false),
            _ => (1, false),
        };
        let found = place_hex(hex, integers, frames, Stack::User);
        let name = format!("{function} of {version}: {found:?}");
        assert_eq!(found.vaddr - ENTRY, *offset, "{name}");
        assert!(found.instruction.starts_with(instruction), "{name}");
        assert_eq!((found.class, found.flags_test), (CostClass::Emulated, false), "{name}");
        let frame = if *instruction == "push rbp" { StackFrame::Callers } else { StackFrame::Own };
        assert_eq!(found.frame, frame, "{name}");
    }
}

/// `cmp rsp,[r14+16]; jbe +0x10`, the start of most functions.
const CHECK: &str = "493b6610 7610";

fn made_up(parts: &[&str]) -> String {
    parts.concat().replace(' ', "")
}

#[test]
fn stack_checks_of_large_and_very_large_frames_and_of_the_system_stack() {
    let push = "55";
    for (check, len) in [
        ("493b6610 0f8600010000", 10),
        ("493b6618 7610", 6),
        ("4c8d6424d0 4d3b6610 7610", 11),
        ("4c8da42470ffffff 4d3b6610 0f8600010000", 18),
        ("4989e4 4981ec00200000 0f8200010000 4d3b6610 0f8600010000", 26),
    ] {
        let found = place_hex(&made_up(&[check, push]), 1, true, Stack::User);
        assert_eq!((found.vaddr - ENTRY, found.instruction.as_str()), (len, "push rbp"), "{check}");
    }
}

#[test]
fn another_comparison_is_no_stack_check() {
    // cmp rsp,[r14+0x40]; jbe: an ordinary branch, always executed.
    let found = place_hex(&made_up(&["493b6640 7610 55"]), 1, false, Stack::User);
    assert_eq!((found.vaddr - ENTRY, found.flags_test), (4, false));
}

#[test]
fn an_instruction_that_a_branch_leads_to_is_no_place() {
    // push rbp; test eax,eax; jne → push: the push is hit twice. The jne is the place.
    let looped = made_up(&["55 85c0 75fb"]);
    let found = place_hex(&looped, 1, false, Stack::System);
    assert_eq!((found.vaddr - ENTRY, found.instruction.as_str()), (3, "jne 0x431000"));
}

#[test]
fn where_an_argument_is_overwritten_the_check_s_branch_is_the_place() {
    // xor eax,eax; push rbp
    let code = made_up(&[CHECK, "31c0 55"]);
    let user = place_hex(&code, 1, false, Stack::User);
    assert_eq!((user.vaddr - ENTRY, user.flags_test, user.class), (4, true, CostClass::Emulated));
    let system = place_hex(&code, 1, false, Stack::System);
    assert_eq!((system.vaddr - ENTRY, system.flags_test), (4, false));
    let unneeded = place_hex(&code, 0, false, Stack::User);
    assert_eq!((unneeded.vaddr - ENTRY, unneeded.flags_test), (8, false));
    // The second argument is another one; a part of a register counts as the whole.
    assert!(!place_hex(&made_up(&[CHECK, "31db 55"]), 1, false, Stack::User).flags_test);
    assert!(place_hex(&made_up(&[CHECK, "b301 55"]), 2, false, Stack::User).flags_test);
    // mov r14,rax
    assert!(place_hex(&made_up(&[CHECK, "4989c6 55"]), 0, false, Stack::User).flags_test);
}

#[test]
fn without_a_check_and_without_a_cheap_place_the_entry_is_said_to_be_expensive() {
    let found = place_hex(&made_up(&["31c0 55"]), 1, false, Stack::User);
    assert_eq!(
        (found.vaddr, found.class, found.instruction.as_str()),
        (ENTRY, CostClass::SingleStepped, "xor")
    );
}

#[test]
fn frame_pointers_are_walked_only_where_they_are_in_order() {
    // sub rsp,0x18; nop; mov [rsp+0x10],rbp; lea rbp,[rsp+0x10]; nop
    let old = made_up(&["4883ec18 90 48896c2410 488d6c2410 90"]);
    let with = place_hex(&old, 0, true, Stack::User);
    assert_eq!((with.vaddr - ENTRY, with.frame), (15, StackFrame::Own));
    let without = place_hex(&old, 0, false, Stack::User);
    assert_eq!((without.vaddr - ENTRY, without.frame), (4, StackFrame::Between));
    // A frame of 128 bytes is made by adding −128.
    let add = made_up(&["4883c480 48896c2478 488d6c2478 90"]);
    assert_eq!(place_hex(&add, 0, true, Stack::User).frame, StackFrame::Own);
}

#[test]
fn the_kernel_does_not_emulate_longer_nops_nor_prefixed_ones() {
    assert!(emulated(&[0x90]) && emulated(&[0x55]) && emulated(&[0x41, 0x57]));
    assert!(emulated(&bytes("0f8600010000")) && emulated(&bytes("e800000000")) && emulated(&bytes("eb10")));
    for other in
        ["6690", "0f1f00", "f390", "4155c0", "48ffc0", "ff75f8", "6a01", "e310", "f2e900000000", "c3"]
    {
        assert!(!emulated(&bytes(other)), "{other}");
    }
}

#[test]
fn the_kernel_refuses_some_instructions() {
    for refused in ["f0ff00", "2e7510", "6690", "cc", "66e90000"] {
        assert!(!accepted(&bytes(refused)), "{refused}");
    }
    for fine in ["493b6610", "55", "64488b0425f8ffffff", "660fefc0"] {
        assert!(accepted(&bytes(fine)), "{fine}");
    }
    let args = ArgUse { integers: 0, frames: false };
    assert_eq!(place(&bytes("6690"), ENTRY, args, Stack::User), Err(PlaceError::Refused));
}

#[test]
fn no_code_is_no_place() {
    let args = ArgUse { integers: 1, frames: true };
    assert_eq!(place(&[], ENTRY, args, Stack::User), Err(PlaceError::Undecodable));
    assert_eq!(place(&[0x06], ENTRY, args, Stack::User), Err(PlaceError::Undecodable));
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(code: Vec<u8>, entry: u64, integers in 0..9usize, frames: bool) {
        if let Ok(found) = place(&code, entry, ArgUse { integers, frames }, Stack::User) {
            assert!(found.vaddr.wrapping_sub(entry) < code.len() as u64);
        }
    }
}

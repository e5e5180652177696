//! A made-up Go executable: every table that the readers need, in a few KiB, so that tests can cut it off at each
//! length and change each byte. The live tests read real binaries.

use crate::binary::{
    BuildInfo, Contents, Described, FuncData, GoBinary, GoVersion, Image, Layout, PcData, Variables, dwarf,
};
use crate::event::{Mode, Set};
use crate::plan::Plan;

/// Link-time address of the segment with the headers and the pclntab.
const HEADERS: u64 = 0x40_0000;
/// Link-time address of the code, which begins with the first of [`FUNCTIONS`].
pub const CODE: u64 = 0x50_0000;
/// Link-time address of the writable data.
const DATA: u64 = 0x60_0000;
/// Bytes of each function, all alike.
pub const FUNCTION: u64 = 32;
/// The functions, in the order of their addresses.
pub const FUNCTIONS: [&str; 5] =
    ["runtime.casgstatus", "runtime.waitReason.String", "runtime.forEachGRace", "runtime.main", "main.main"];
/// Functions whose code shows where the heap is and what the runtime keeps of it, behind [`FUNCTIONS`] if
/// [`Recipe::heap`] is set.
const HEAP_FUNCTIONS: [&str; 8] = [
    "runtime.mcommoninit",
    "runtime.mexit",
    "runtime.preemptall",
    "runtime.findfunc",
    "runtime.getempty.func1",
    "sync.poolCleanup",
    "runtime.queuefinalizer",
    "runtime.runCleanups",
];
/// Functions of which calls tell the types of values, behind those.
const TYPE_FUNCTIONS: [&str; 9] = [
    "runtime.mapassign_faststr",
    "runtime.makemap",
    "runtime.newobject",
    "runtime.mallocgcTinySC2",
    "runtime.gcWriteBarrierCX",
    "runtime.gcWriteBarrier2",
    "example.com/a%2eb.(*outer).get",
    "example.com/a%2eb.(*inner).lock",
    "example.com/a%2eb.(*list).add",
];
/// The one of them that has arguments on the stack, and their bytes.
const STACK_ARGS: (&str, u32) = (TYPE_FUNCTIONS[0], 16);
/// The function whose `funcID` is `FuncIDWrapper`, and the value of that.
pub const WRAPPER: &str = FUNCTIONS[1];
const WRAPPER_ID: u8 = 22;
/// The function with the flag `SPWRITE`.
pub const SP_WRITER: &str = FUNCTIONS[0];
/// The function without a table of frame sizes.
pub const FOREIGN: &str = FUNCTIONS[2];
/// The function with the flag `TOPFRAME`: stacks end with it.
pub const TOP: &str = FUNCTIONS[3];
/// Bytes of each function's frame, from the function's fourth byte on.
pub const FRAME: u64 = 24;
/// The calls inlined into `main.main`: the first at bytes 8 to 16, the second within it at 12 to 16.
pub const INLINED: [&str; 2] = ["main.outer", "runtime.gopark"];
/// The wait reasons of the binary, by number.
pub const REASONS: [&str; 7] =
    ["", "IO wait", "chan receive", "select", "semacquire", "sync.Mutex.Lock", "sync.Cond.Wait"];

/// What kind of binary to make.
#[derive(Clone, Copy)]
pub struct Recipe {
    /// The version in the build information; `go1.19…` also selects the older form of the pclntab.
    pub version: &'static str,
    /// Position-independent: all pointers are relative relocations.
    pub pie: bool,
    /// With the functions that show where `allm`, `allp`, the module data and the heap are.
    pub heap: bool,
}

/// One recipe for each kind that the readers tell apart: old and new tables, fixed and position-independent.
pub const RECIPES: [Recipe; 4] = [
    Recipe { version: "go1.19.8", pie: false, heap: false },
    Recipe { version: "go1.26.6", pie: false, heap: false },
    Recipe { version: "go1.19.8", pie: true, heap: false },
    Recipe { version: "go1.26.6", pie: true, heap: false },
];

impl Recipe {
    fn functions(self) -> Vec<&'static str> {
        let (heap, types): (&[&str], &[&str]) =
            if self.heap { (&HEAP_FUNCTIONS, &TYPE_FUNCTIONS) } else { (&[], &[]) };
        [&FUNCTIONS, heap, types].concat()
    }
}

/// The binary of `RECIPES[1]`, for tests of other modules.
pub fn small_binary() -> GoBinary {
    GoBinary::parse(binary(RECIPES[1]).into()).expect("the made-up binary is whole")
}

/// The file that [`small_binary`] is read from.
pub fn small_image() -> Vec<u8> {
    binary(RECIPES[1])
}

/// Link-time entry of the function of this name, one of [`FUNCTIONS`].
///
/// # Panics
/// No function has the name.
pub fn entry_of(name: &str) -> u64 {
    entry(FUNCTIONS.iter().position(|function| *function == name).expect("a function of FUNCTIONS") as u64)
}

/// Link-time entry of the function at this index of [`FUNCTIONS`].
pub fn entry(index: u64) -> u64 {
    CODE + index * FUNCTION
}

/// The bytes of a segment, and the pointers in it: their offsets and targets.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    pointers: Vec<(usize, u64)>,
}

impl Part {
    fn pad(&mut self, align: usize) -> usize {
        self.bytes.resize(self.bytes.len().next_multiple_of(align), 0);
        self.bytes.len()
    }

    fn u32(&mut self, values: &[u32]) {
        values.iter().for_each(|value| self.bytes.extend(value.to_le_bytes()));
    }

    fn u64(&mut self, values: &[u64]) {
        values.iter().for_each(|value| self.bytes.extend(value.to_le_bytes()));
    }

    fn pointer(&mut self, target: u64) {
        self.pointers.push((self.bytes.len(), target));
        self.u64(&[0]);
    }

    fn slice(&mut self, target: u64, len: u64) {
        self.pointer(target);
        self.u64(&[len, len]);
    }
}

/// The bytes of the executable.
pub fn binary(recipe: Recipe) -> Vec<u8> {
    let old = recipe.version.starts_with("go1.19");
    // Header, four program headers, and room for the dynamic section behind them.
    let mut head = Part::default();
    head.bytes.resize(0x200, 0);
    let functions = recipe.functions();
    let table = pclntab(&mut head, &functions, old);
    let mut data = Part::default();
    build_info(&mut data, recipe.version);
    let module = module_data(&mut data, &table, functions.len() as u64, old);
    let reasons = data.pad(16) as u64;
    for reason in REASONS {
        if reason.is_empty() {
            data.u64(&[0, 0]);
        } else {
            data.pointer(HEADERS + head.bytes.len() as u64);
            data.u64(&[reason.len() as u64]);
            head.bytes.extend(reason.as_bytes());
        }
    }
    // allglen, allgptr; allm, allp, and of mheap_ only the beginning; allPools, oldPools, finq, finc, allfin, gcCleanups.
    let tables = data.pad(8) as u64;
    data.u64(&[0; 18][..if recipe.heap { 18 } else { 2 }]);
    let code = code(&functions, DATA + reasons, DATA + tables, DATA + module);
    let relocations = if recipe.pie { relocate(&mut data, &mut head) } else { plant(&mut data) };
    let mut file = head.bytes;
    file.resize(file.len().next_multiple_of(16), 0);
    let (code_at, data_at) = (file.len() as u64, file.len() as u64 + code.len() as u64);
    let loads = [
        (HEADERS, 0, code_at, 4),
        (CODE, code_at, code.len() as u64, 5),
        (DATA, data_at, data.bytes.len() as u64, 6),
    ];
    file.extend(code);
    file.extend(data.bytes);
    write_headers(&mut file, &loads, relocations);
    file
}

/// Offsets of the tables from the pclntab's header; `start` is the header's link-time address.
struct Tables {
    start: u64,
    names: u64,
    cu: u64,
    files: u64,
    pcs: u64,
    functab: u64,
    functions_data: u64,
}

fn pclntab(head: &mut Part, functions: &[&str], old: bool) -> Tables {
    let start = head.pad(16);
    let at = |head: &Part| (head.bytes.len() - start) as u64;
    head.bytes.resize(start + 72, 0);
    let names = at(head);
    let name_offsets: Vec<u32> = (functions.iter().chain(&INLINED))
        .map(|name| {
            let offset = (at(head) - names) as u32;
            head.bytes.extend(name.as_bytes());
            head.bytes.push(0);
            offset
        })
        .collect();
    head.pad(8);
    let cu = at(head);
    head.u32(&[0]);
    let files = at(head);
    head.bytes.extend(b"/src/main.go\0");
    let pcs = at(head);
    // Offset 0 stands for "no table".
    head.bytes.push(0);
    let table = |head: &mut Part, bytes: &[u8]| {
        let offset = (at(head) - pcs) as u32;
        head.bytes.extend(bytes);
        offset
    };
    let file_table = table(head, &[2, 32, 0]);
    // Line 10 up to 8, then 20 up to 12, 30 up to 16, 11.
    let line_table = table(head, &[22, 8, 20, 4, 20, 4, 37, 16, 0]);
    // No inlining up to 8, then entry 0, from 12 on entry 1, from 16 on none.
    let inline_table = table(head, &[0, 8, 2, 4, 2, 4, 3, 16, 0]);
    // Nothing up to 4, then FRAME.
    let frame_table = table(head, &[2, 4, 2 * FRAME as u8, 28, 0]);
    // The byte of the liveness at 1.
    let live_table = table(head, &[4, 32, 0]);
    head.pad(8);
    let functab = at(head);
    let records = functab + (functions.len() as u64 * 8 + 4).next_multiple_of(8);
    let (base, tail) = if old { (36, 4) } else { (40, 4) };
    let record_len = base + tail + 4 * 4 + 7 * 4;
    for index in 0..functions.len() as u64 {
        head.u32(&[(index * FUNCTION) as u32, (records - functab + index * record_len) as u32]);
    }
    head.u32(&[(functions.len() as u64 * FUNCTION) as u32]);
    head.pad(8);
    for (name, index) in name_offsets.iter().zip(0..functions.len() as u32) {
        let function = functions[index as usize];
        let main = function == "main.main";
        let frames = if function == FOREIGN { 0 } else { frame_table };
        let args = if function == STACK_ARGS.0 { STACK_ARGS.1 } else { 0 };
        head.u32(&[index * FUNCTION as u32, *name, args, 0, frames, file_table, line_table, 4, 0]);
        if !old {
            head.u32(&[1]);
        }
        let id = if function == WRAPPER { WRAPPER_ID } else { 0 };
        head.bytes.extend([id, u8::from(function == TOP) | (2 * u8::from(function == SP_WRITER)), 0, 7]);
        head.u32(&[0, 0, if main { inline_table } else { 0 }, if main { live_table } else { 0 }]);
        let inlined = if old { 40 } else { 32 };
        let [tree, args, live] = if main { [0, inlined, inlined + 8] } else { [u32::MAX; 3] };
        head.u32(&[u32::MAX, u32::MAX, u32::MAX, tree, u32::MAX, args, live]);
    }
    head.pad(8);
    let functions_data = at(head);
    for (name, parent) in [(name_offsets[functions.len()], 7), (name_offsets[functions.len() + 1], 11)] {
        if old {
            head.u32(&[0, 0, 0, name, parent]);
        } else {
            head.u32(&[0, name, parent, 1]);
        }
    }
    // Two words, of which the second came in a register and was not spilled.
    head.bytes.extend([0, 8, 8, 8, 0xff, 0, 0, 0]);
    head.bytes.extend([8, 0, 0, 0, 0, 0, 0, 0]);
    let magic: u32 = if old { 0xffff_fff0 } else { 0xffff_fff1 };
    let mut header = Part::default();
    header.u32(&[magic, 0x0801_0000]);
    header.u64(&[functions.len() as u64, 1, 0, names, cu, files, pcs, functab]);
    head.bytes[start..start + 72].copy_from_slice(&header.bytes);
    Tables { start: HEADERS + start as u64, names, cu, files, pcs, functab, functions_data }
}

fn build_info(data: &mut Part, version: &str) {
    data.bytes.extend(b"\xff Go buildinf:\x08\x02");
    data.u64(&[0, 0]);
    let module =
        "0123456789abcdefpath\tmain\nmod\texample.com/m\t(devel)\t\nbuild\t-buildmode=exe\nfedcba9876543210";
    for text in [version, module] {
        data.bytes.push(text.len() as u8);
        data.bytes.extend(text.as_bytes());
    }
}

/// Appends the `moduledata` and returns its offset in the data.
fn module_data(data: &mut Part, table: &Tables, functions: u64, old: bool) -> u64 {
    let module = data.pad(16) as u64;
    data.pointer(table.start);
    for (offset, len) in [
        (table.names, 1),
        (table.cu, 1),
        (table.files, 1),
        (table.pcs, 1),
        (table.functab, 1),
        (table.functab, functions + 1),
    ] {
        data.slice(table.start + offset, len);
    }
    let end = CODE + functions * FUNCTION;
    data.u64(&[0]);
    for bound in [CODE, end, CODE, end] {
        data.pointer(bound);
    }
    // gofunc: 304 up to 1.19, 320 from 1.20 to 1.26.
    let gofunc = if old { 304 } else { 320 };
    data.bytes.resize(module as usize + gofunc, 0);
    data.pointer(table.start + table.functions_data);
    module
}

fn code(functions: &[&str], reasons: u64, tables: u64, module: u64) -> Vec<u8> {
    let mut code = vec![0xcc; functions.len() * FUNCTION as usize];
    // Three bytes of opcode, then the distance from the instruction's end.
    let mut refer = |at: usize, opcode: [u8; 3], target: u64| {
        let distance = target.wrapping_sub(CODE + at as u64 + 7) as u32;
        code[at..at + 3].copy_from_slice(&opcode);
        code[at + 3..at + 7].copy_from_slice(&distance.to_le_bytes());
    };
    // mov rcx,[rip+…]; mov rbx,[rip+…]; movups xmm0,[rip+…]; lea rdx,[rip+…]
    let (load, load_other, load_two) = ([0x48, 0x8b, 0x0d], [0x48, 0x8b, 0x1d], [0x0f, 0x10, 0x05]);
    let address = [0x48, 0x8d, 0x15];
    let at =
        |name: &str| functions.iter().position(|function| *function == name).map(|at| at * FUNCTION as usize);
    for (name, offset, opcode, target) in [
        ("runtime.waitReason.String", 4, address, reasons),
        ("runtime.forEachGRace", 0, load, tables),
        ("runtime.forEachGRace", 7, load_other, tables + 8),
        ("runtime.mcommoninit", 0, load, tables + 16),
        ("runtime.mexit", 0, load, tables + 16),
        ("runtime.preemptall", 0, load, tables + 24),
        ("runtime.getempty.func1", 0, address, tables + 48),
        ("runtime.findfunc", 0, address, module),
        ("sync.poolCleanup", 0, load, tables + 80),
        ("sync.poolCleanup", 7, load_two, tables + 56),
        ("sync.poolCleanup", 14, load, tables + 72),
        ("sync.poolCleanup", 21, load_two, tables + 88),
        ("runtime.queuefinalizer", 0, load, tables + 104),
        ("runtime.queuefinalizer", 7, load_other, tables + 112),
        ("runtime.queuefinalizer", 14, load, tables + 104),
        ("runtime.queuefinalizer", 21, load, tables + 120),
        ("runtime.runCleanups", 0, address, tables + 136),
        ("runtime.runCleanups", 7, address, tables + 128),
    ] {
        if let Some(at) = at(name) {
            refer(at + offset, opcode, target);
        }
    }
    let reason = FUNCTION as usize;
    // cmp al,…; jb
    code[reason..reason + 4].copy_from_slice(&[0x3c, REASONS.len() as u8, 0x72, 0]);
    // push rbp
    code[0] = 0x55;
    code
}

/// Writes the pointers into the data, as an executable with fixed addresses has them.
fn plant(data: &mut Part) -> Option<(u64, u64)> {
    for (at, target) in &data.pointers {
        data.bytes[*at..*at + 8].copy_from_slice(&target.to_le_bytes());
    }
    None
}

/// Leaves the pointers zero and appends relocations to the headers; returns the table's address and its bytes.
fn relocate(data: &mut Part, head: &mut Part) -> Option<(u64, u64)> {
    let start = head.pad(8) as u64;
    for (at, target) in &data.pointers {
        head.u64(&[DATA + *at as u64, 8, *target]);
    }
    Some((HEADERS + start, head.bytes.len() as u64 - start))
}

fn write_headers(file: &mut [u8], loads: &[(u64, u64, u64, u32)], relocations: Option<(u64, u64)>) {
    let mut header = Part::default();
    header.bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let (file_type, programs) = if relocations.is_some() { (3u16, 4u16) } else { (2, 3) };
    header.bytes.extend(file_type.to_le_bytes());
    header.bytes.extend(62u16.to_le_bytes());
    header.u32(&[1]);
    header.u64(&[CODE, 64, 0]);
    header.u32(&[0]);
    for field in [64u16, 56, programs, 64, 0, 0] {
        header.bytes.extend(field.to_le_bytes());
    }
    for (vaddr, offset, len, flags) in loads {
        header.u32(&[1, *flags]);
        header.u64(&[*offset, *vaddr, *vaddr, *len, *len, 16]);
    }
    if let Some((table, len)) = relocations {
        let dynamic = 64 + 4 * 56;
        header.u32(&[2, 6]);
        header.u64(&[dynamic, HEADERS + dynamic, HEADERS + dynamic, 48, 48, 8]);
        header.u64(&[7, table, 8, len, 0, 0]);
    }
    file[..header.bytes.len()].copy_from_slice(&header.bytes);
}

/// Reads a binary in every way that a trace and a snapshot do, for tests that expect no panic.
pub fn use_all(data: Vec<u8>) {
    let Ok(binary) = GoBinary::parse(data.into()) else { return };
    let functions = binary.functions();
    for function in functions.functions().take(64) {
        for pc in (function.entry..function.end).take(64) {
            binary.symbolize(pc);
            functions.sp_delta(&function, pc);
            functions.pcdata(&function, PcData::ArgLiveIndex, pc);
        }
        functions.funcdata(&function, FuncData::ArgInfo);
        functions.is_wrapper(&function);
        functions.find(function.name);
    }
    functions.inlined_callees(&INLINED);
    for variable in binary.variables(None).all() {
        binary.symbolize(variable.addr);
    }
    for described in [Described::Closure, Described::Map, Described::Other] {
        binary.code_types(0..u64::MAX, &|addr| (addr % 2 == 0).then_some(described));
    }
    for mode in [Mode::Full, Mode::Wait, Mode::Life] {
        let _ = Plan::choose(&binary, mode, None, true);
    }
    let _ = Plan::choose(&binary, Mode::Full, Some(Set::A), true);
}

/// Reads what may be an ELF file at addresses that it may not have, for fuzzing.
pub fn use_image(data: Vec<u8>) {
    let Ok(image) = Image::parse(data.into()) else { return };
    for vaddr in [0, image.entry(), image.entry().wrapping_neg(), u64::MAX] {
        image.file_offset(vaddr);
        image.read(vaddr, u64::MAX);
        image.read(vaddr, 16);
        image.read_ptr(vaddr);
    }
}

/// Looks for build information in what may be an ELF file, for fuzzing.
pub fn use_build_info(data: Vec<u8>) {
    if let Ok(image) = Image::parse(data.into()) {
        BuildInfo::find(&image);
    }
}

/// Parses a version text, for fuzzing.
pub fn use_version(text: &str) {
    GoVersion::parse(text);
}

/// Reads the text of a layout file, for fuzzing.
pub fn use_layout(text: &str) {
    if let Ok(layout) = Layout::from_json(text, String::new()) {
        let _ = layout.probe_offsets();
    }
}

/// A section: its name, bytes, and whether they are compressed.
pub type Section<'a> = (&'a str, &'a [u8], bool);

/// The made-up executable, with these sections.
pub fn with_sections(sections: &[Section<'_>]) -> Vec<u8> {
    let mut data = small_image();
    let mut names = vec![0];
    let mut table = vec![0; 64];
    let mut add = |name: &str, flags: u64, offset: usize, len: usize, names: &mut Vec<u8>| {
        table.extend([(names.len() as u32).to_le_bytes(), 1u32.to_le_bytes()].concat());
        let words = [flags, 0, offset as u64, len as u64, 0, 1, 0];
        table.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        names.extend(name.bytes().chain([0]));
    };
    for (name, bytes, compressed) in sections {
        add(name, if *compressed { 0x800 } else { 0 }, data.len(), bytes.len(), &mut names);
        data.extend(*bytes);
    }
    let at = data.len();
    names.extend(b"names\0");
    add("names", 0, at, names.len(), &mut names.clone());
    data.extend(&names);
    let start = data.len() as u64;
    data.extend(&table);
    data[40..48].copy_from_slice(&start.to_le_bytes());
    data[58..60].copy_from_slice(&64u16.to_le_bytes());
    let count = sections.len() as u16 + 2;
    data[60..64].copy_from_slice(&[count.to_le_bytes(), (count - 1).to_le_bytes()].concat().as_slice()[..4]);
    data
}

/// Looks for the layout and for variables in the DWARF of what may be an ELF file, for fuzzing.
pub fn use_dwarf(data: Vec<u8>) {
    if let Ok(image) = Image::headers(Contents::Memory(data.into())) {
        dwarf::offsets(&image);
        Variables::find(&image, &image);
    }
}

/// Reads a text as a file of rules, for fuzzing.
pub fn use_rules(text: &str) {
    let _ = crate::detect::parse_alone(text);
}

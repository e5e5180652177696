//! Core files made by hand, with every byte changed once. The live tests read real ones.

use super::*;
use crate::testing::binary::{Recipe, binary};
use proptest::prelude::*;
use std::io::Write;

/// A mapping of anonymous memory that the file has whole, and its neighbour, which it has not.
const HEAP: u64 = 0xc0_0000_0000;
const HEAP_LEN: u64 = 2 * PAGE;
/// What a position-independent executable was moved by.
const BIAS: u64 = 0x5555_0000_0000;
const PID: i32 = 4711;

fn executable(pie: bool) -> GoBinary {
    GoBinary::parse(binary(Recipe { version: "go1.26.6", pie, heap: false }).into()).unwrap()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn note(owner: &[u8], kind: u32, contents: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for number in [owner.len() as u32, contents.len() as u32, kind] {
        note.extend(number.to_le_bytes());
    }
    for part in [owner, contents] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// Notes as the kernel writes them, with the entry point at `entry`, which is in a file `name` at
/// `offset`.
fn notes(entry: u64, offset: u64, name: &str) -> Vec<u8> {
    let mut info = [0; 136];
    info[24..28].copy_from_slice(&PID.to_le_bytes());
    // The kernel counts offsets in pages; the executable here is too small to have any.
    let mut files = words(&[2, 1]);
    files.extend(words(&[0x1000, 0x2000, 0]));
    files.extend(words(&[entry - 8, entry + 8, offset - 8]));
    files.extend(format!("/lib/other.so\0{name}\0").bytes());
    [
        note(b"CORE\0", 1, &[7; 336]),
        note(b"CORE\0", 3, &info),
        note(b"CORE\0", 6, &words(&[3, 64, 9, entry, 0, 0])),
        note(b"CORE\0", 0x4649_4c45, &files),
        note(b"LINUX\0", 6, &words(&[9, 1])),
    ]
    .concat()
}

/// A core file: the notes, then stretches of (address, length in memory, bytes in the file).
fn core_file(notes: &[u8], loads: &[(u64, u64, Vec<u8>)]) -> Vec<u8> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([4, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(words(&[0, HEADER as u64, 0]));
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, loads.len() as u8 + 1, 0, 0, 0, 0, 0, 0, 0]);
    let mut at = (HEADER + PROGRAM * (loads.len() + 1)) as u64;
    let mut program = |kind: u64, addr, file_size: usize, size| {
        let program = words(&[kind, at, addr, 0, file_size as u64, size, PAGE]);
        at += file_size as u64;
        program
    };
    file.extend(program(4, 0, notes.len(), 0));
    for (addr, size, bytes) in loads {
        file.extend(program(1, *addr, bytes.len(), *size));
    }
    file.extend(notes);
    loads.iter().for_each(|(_, _, bytes)| file.extend(bytes));
    file
}

/// A core file of this program: its first page, and the heap.
fn of(binary: &GoBinary, bias: u64) -> Vec<u8> {
    let image = binary.image();
    let first = image.at_file_start().unwrap();
    let headers = image.tail(first).unwrap();
    let (entry, offset) = (image.entry(), image.file_offset(image.entry()).unwrap());
    let heap = words(&(0..HEAP_LEN / 8).map(|index| HEAP + index * 8).collect::<Vec<_>>());
    core_file(
        &notes(entry + bias, offset, "/usr/bin/prog"),
        &[
            (HEAP, HEAP_LEN, heap),
            (first + bias, PAGE, headers[..64].to_vec()),
            (HEAP + HEAP_LEN, PAGE, vec![]),
        ],
    )
}

fn read<'a>(bytes: &[u8], binary: &'a GoBinary) -> Result<Core<'a>, CoreError> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Core::read(file, binary)
}

fn refusal(bytes: &[u8], binary: &GoBinary) -> String {
    match read(bytes, binary) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_in_the_file_and_what_is_in_the_executable() {
    for (pie, bias) in [(false, 0), (true, BIAS)] {
        let binary = executable(pie);
        let core = read(&of(&binary, bias), &binary).unwrap();
        assert_eq!((core.bias(), core.pid(), core.truncated()), (bias, PID, None));
        assert_eq!(core.word(HEAP + 16), Ok(HEAP + 16));
        let behind = HEAP + HEAP_LEN;
        assert_eq!(core.word(behind), Err(Fault::Unmapped(behind)));
        assert_eq!(core.word(behind - 4), Err(Fault::Unmapped(behind)));
        assert_eq!(core.word(8), Err(Fault::Unmapped(8)));
        assert_eq!(core.word(u64::MAX), Err(Fault::Unmapped(u64::MAX)));
        // Half from the one, half from the other.
        let first = binary.image().at_file_start().unwrap();
        let ours = binary.image().tail(first).unwrap();
        let mut bytes = vec![0; 200];
        core.read(first + bias, &mut bytes).unwrap();
        assert_eq!(bytes, ours[..200]);
        let mut code = [0; 8];
        core.read(binary.image().entry() + bias, &mut code).unwrap();
        assert_eq!(binary.image().read(binary.image().entry(), 8), Some(&code[..]));
    }
}

#[test]
fn what_the_program_wrote_comes_from_the_core() {
    let binary = executable(false);
    let entry = binary.image().entry();
    let offset = binary.image().file_offset(entry).unwrap();
    let written = [(entry, PAGE, vec![0xcc; 4])];
    let core = read(&core_file(&notes(entry, offset, "x"), &written), &binary).unwrap();
    let mut bytes = [0; 8];
    core.read(entry, &mut bytes).unwrap();
    assert_eq!(bytes[..4], [0xcc; 4]);
    assert_eq!(binary.image().read(entry + 4, 4), Some(&bytes[4..]));
}

#[test]
fn a_file_that_is_cut_off_is_read_as_far_as_it_goes() {
    let binary = executable(true);
    let whole = of(&binary, BIAS);
    let cut = whole.len() - 64 - PAGE as usize;
    let core = read(&whole[..cut], &binary).unwrap();
    let sentence = core.truncated().unwrap();
    assert!(sentence.starts_with(&format!("it is cut off: it has {cut} bytes of {} ", whole.len())));
    assert_eq!(core.word(HEAP + PAGE - 8), Ok(HEAP + PAGE - 8));
    assert_eq!(core.word(HEAP + PAGE), Err(Fault::Unmapped(HEAP + PAGE)));
    // Of what cannot have changed, the executable still has all.
    assert!(core.word(binary.image().at_file_start().unwrap() + BIAS).is_ok());
    let data = [(0x60_0000 + BIAS, PAGE, vec![1; PAGE as usize])];
    let entry = binary.image().entry();
    let offset = binary.image().file_offset(entry).unwrap();
    let whole = core_file(&notes(entry + BIAS, offset, "x"), &data);
    assert!(binary.image().writable(0x60_0000));
    let core = read(&whole[..whole.len() - PAGE as usize], &binary).unwrap();
    assert_eq!(core.word(0x60_0000 + BIAS), Err(Fault::Unmapped(0x60_0000 + BIAS)));
}

#[test]
fn cores_of_other_programs_are_refused() {
    let (fixed, pie) = (executable(false), executable(true));
    let (entry, offset) = (fixed.image().entry(), fixed.image().file_offset(fixed.image().entry()).unwrap());
    let expect = |file: &[u8], binary, why: &str| {
        let refusal = refusal(file, binary);
        assert!(refusal.starts_with("it is not of this executable (") && refusal.contains(why), "{refusal}");
        assert!(refusal.contains("/usr/bin/prog"), "{refusal}");
    };
    expect(&core_file(&notes(entry + PAGE, offset, "/usr/bin/prog"), &[]), &fixed, "entry point");
    expect(&core_file(&notes(entry + 8, offset + 8, "/usr/bin/prog"), &[]), &pie, "entry point");
    expect(&core_file(&notes(entry, offset + PAGE, "/usr/bin/prog"), &[]), &fixed, "elsewhere");
    let first = fixed.image().at_file_start().unwrap();
    let mut page = fixed.image().tail(first).unwrap()[..128].to_vec();
    page[100] ^= 1;
    let other = [(first, PAGE, page)];
    expect(&core_file(&notes(entry, offset, "/usr/bin/prog"), &other), &fixed, "first page");
    let mut arm = of(&fixed, 0);
    arm[18] = 183;
    expect(&arm, &fixed, "processor");
}

#[test]
fn files_that_are_no_core_files() {
    let binary = executable(true);
    assert_eq!(refusal(b"", &binary), "it is not an ELF file");
    let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(refusal(&own, &binary).starts_with("it is not a core file but another ELF file (type 3)"));
    let whole = of(&binary, BIAS);
    assert!(refusal(&whole[..100], &binary).starts_with("it is a truncated ELF file: the program header"));
    assert!(refusal(&core_file(&[], &[]), &binary).contains("where the executable was loaded"));
    // Without position independence there is no question.
    let fixed = executable(false);
    assert_eq!(read(&core_file(&[], &[]), &fixed).unwrap().bias(), 0);
}

#[test]
fn more_segments_than_the_header_can_count() {
    let binary = executable(false);
    let mut file = of(&binary, 0);
    let count = file[56];
    file[56..58].copy_from_slice(&[0xff, 0xff]);
    let sections = file.len() as u64;
    file[40..48].copy_from_slice(&sections.to_le_bytes());
    let mut section = [0; 64];
    section[44] = count;
    file.extend(section);
    assert_eq!(read(&file, &binary).unwrap().word(HEAP), Ok(HEAP));
}

proptest! {
    #[test]
    fn any_change_is_survived(
        changes in prop::collection::vec((0..2000usize, any::<u8>()), 1..8),
        cut in 0..12_000usize,
        pie: bool,
    ) {
        let binary = executable(pie);
        let mut file = of(&binary, if pie { BIAS } else { 0 });
        for (at, value) in changes {
            file[at] = value;
        }
        file.truncate(cut.max(100));
        if let Ok(core) = read(&file, &binary) {
            for addr in [0, HEAP, HEAP + HEAP_LEN - 4, core.bias(), u64::MAX - 3] {
                let _ = core.word(addr);
                let _ = core.read(addr, &mut [0; 3 * PAGE as usize]);
            }
        }
    }
}

/// A core file of sixteen megabytes: any number of program headers that all hold the same notes.
#[test]
fn many_segments_of_the_same_notes_end() {
    let binary = executable(false);
    let count = 200_000u32;
    let notes = note(b"NONE\0", 1, &[]).repeat(200_000);
    let mut file = core_file(&[], &[]);
    file.truncate(HEADER);
    // `PN_XNUM`: the number of program headers is in the first section header.
    let sections = HEADER as u64 + u64::from(count) * PROGRAM as u64;
    file[40..48].copy_from_slice(&sections.to_le_bytes());
    file[56..58].copy_from_slice(&0xffffu16.to_le_bytes());
    let at = sections + 64;
    let program = words(&[4, at, 0, 0, notes.len() as u64, 0, 4]);
    file.extend(program.repeat(count as usize));
    let mut section = [0; 64];
    section[44..48].copy_from_slice(&count.to_le_bytes());
    file.extend(section);
    file.extend(&notes);
    let began = std::time::Instant::now();
    let (_, used) = crate::testing::peak::peak(|| read(&file, &binary).map(|core| core.pid()));
    assert!(used < 64 << 20, "{used}");
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn what_is_no_core_file_is_refused_at_once() {
    let binary = executable(false);
    for (path, why) in [("/dev/zero", "it is a device"), ("/", "it is a directory")] {
        let error = Core::open(path.as_ref(), &binary).err().unwrap().to_string();
        assert!(error.starts_with(why), "{error}");
    }
    let mut file = of(&binary, 0);
    // The address of the first segment of memory.
    file[HEADER + PROGRAM + 16] = 1;
    assert_eq!(refusal(&file, &binary), "it is a corrupt core file: a segment does not begin at a page");
}

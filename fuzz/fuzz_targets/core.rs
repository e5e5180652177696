//! The input is which executable (one byte), how a file is cut off (two bytes), changes to a valid
//! core file of it (where, two bytes, and to what, a word); and by itself it is read as a core file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::{
    binary::GoBinary,
    memory::{Core, Memory},
};
use sfgi_fuzz::executable;
use std::fs::File;
use std::io::Write;

const HEAP: u64 = 0xc0_0000_0000;
const PAGE: u64 = 4096;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A note of the owner `CORE`.
fn note(kind: u32, contents: &[u8]) -> Vec<u8> {
    let head = [5, contents.len() as u32, kind].into_iter().flat_map(u32::to_le_bytes);
    head.chain(*b"CORE\0\0\0\0").chain(contents.iter().copied()).collect()
}

/// A core file of this program: notes, and a page of the heap.
fn core_file(binary: &GoBinary) -> Vec<u8> {
    let entry = binary.image().entry();
    let offset = binary.image().file_offset(entry).unwrap_or(0);
    let mut files = words(&[1, 1, entry - 8, entry + 8, offset - 8]);
    files.extend(*b"/usr/bin/prog\0\0\0");
    let notes = [note(6, &words(&[9, entry])), note(0x4649_4c45, &files), note(3, &[7; 136])].concat();
    let mut file = [0x7f, b'E', b'L', b'F', 2, 1, 1, 0].to_vec();
    file.resize(16, 0);
    file.extend([4, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(words(&[0, 64, 0, 64 << 32 | 56 << 48, 2]));
    let at = 64 + 2 * 56;
    file.extend(words(&[4, at, 0, 0, notes.len() as u64, 0, 4]));
    file.extend(words(&[1, at + notes.len() as u64, HEAP, 0, PAGE, 2 * PAGE, PAGE]));
    file.extend(notes);
    file.resize(file.len() + PAGE as usize, 1);
    file
}

fn read(bytes: &[u8], binary: &GoBinary) -> bool {
    let Ok(fd) = rustix::fs::memfd_create("core", rustix::fs::MemfdFlags::CLOEXEC) else { return false };
    let mut file = File::from(fd);
    if file.write_all(bytes).is_err() {
        return false;
    }
    let Ok(core) = Core::read(file, binary) else { return false };
    let entry = binary.image().entry().wrapping_add(core.bias());
    for addr in [0, HEAP, HEAP + PAGE - 4, entry, core.bias(), u64::MAX - 3] {
        let _ = core.word(addr);
        let _ = core.read(addr, &mut [0; 3 * PAGE as usize]);
    }
    true
}

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let Some(([which, low, high], changes)) = input.split_first_chunk() else { return };
    let Ok(binary) = GoBinary::parse(executable(*which).into()) else { return };
    let mut file = core_file(&binary);
    for change in changes.chunks_exact(10) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % (file.len() - 8);
        file[at..at + 8].copy_from_slice(&change[2..]);
    }
    let cut = usize::from(u16::from_le_bytes([*low, *high]));
    file.truncate(file.len() - cut.min(file.len()));
    let whole = cut == 0 && changes.len() < 10;
    assert!(read(&file, &binary) || !whole, "a valid core file is refused");
    read(input, &binary);
}));

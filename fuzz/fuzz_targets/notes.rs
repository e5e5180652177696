//! The input is how many program headers of notes a core file has (two bytes), each of which holds all of the notes,
//! and how often these are repeated (one byte); then the notes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::{binary::GoBinary, memory::Core};
use sfgi_fuzz::executable;
use std::{fs::File, io::Write};

/// Bytes of the notes after they were repeated.
const MOST: usize = 1 << 20;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let [low, high, times, notes @ ..] = input else { return };
    let count = u16::from_le_bytes([*low, *high]).min(0xfffe);
    let notes = notes.repeat((usize::from(*times) * 256 + 1).min(MOST / notes.len().max(1)));
    let Ok(binary) = GoBinary::parse(executable(0).into()) else { return };
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x04\0\x3e\0\x01\0\0\0".to_vec();
    file.extend(words(&[0, 64, 0, 64 << 32 | 56 << 48, u64::from(count)]));
    let at = 64 + u64::from(count) * 56;
    for _ in 0..count {
        file.extend(words(&[4, at, 0, 0, notes.len() as u64, 0, 4]));
    }
    file.extend(notes);
    let Ok(fd) = rustix::fs::memfd_create("core", rustix::fs::MemfdFlags::CLOEXEC) else { return };
    let mut core = File::from(fd);
    if core.write_all(&file).is_ok() {
        let _ = Core::read(core, &binary);
    }
}));

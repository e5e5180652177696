//! The input is how often a piece of `.debug_info` is repeated (two bytes), how much is cut off its beginning each time
//! (one byte), whether the sections are compressed (one byte), how long the piece is (one byte), and how long a piece
//! of `.debug_abbrev` (one byte), which is repeated, too; then the two pieces, and what is left is `.debug_str`,
//! `.debug_addr`, and the symbol table with its names.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::testing::binary::{use_dwarf, with_sections};

/// Bytes of a section after it was repeated.
const MOST: usize = 2 << 20;
/// Bytes of it where it is compressed: zlib makes up to 1,032 of each.
const MOST_COMPRESSED: usize = 48 << 10;

fn repeated(piece: &[u8], times: usize, most: usize) -> Vec<u8> {
    piece.repeat(times.min(most / piece.len().max(1)))
}

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let [low, high, compressed, info, abbrev, rest @ ..] = input else { return };
    let times = usize::from(u16::from_le_bytes([*low, *high])) + 1;
    let (info, rest) = rest.split_at(usize::from(*info).min(rest.len()));
    let (abbrev, strings) = rest.split_at(usize::from(*abbrev).min(rest.len()));
    let compressed = compressed & 1 == 1;
    use_dwarf(with_sections(&[
        (".debug_info", &repeated(info, times, if compressed { MOST_COMPRESSED } else { MOST }), compressed),
        (".debug_abbrev", &repeated(abbrev, times, MOST), false),
        (".debug_str", strings, false),
        (".debug_addr", strings, false),
        (".symtab", strings, false),
        (".strtab", strings, false),
    ]));
}));

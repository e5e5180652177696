//! The input is a list of changes to the headers of a valid executable: where (two bytes) and to
//! what (a word); and by itself it is read as a file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::testing::binary::{use_all, use_image};
use sfgi_fuzz::executable;

/// Bytes of the file header, the program headers and the dynamic section.
const HEADERS: usize = 0x180;

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let mut data = executable(2);
    for change in input.chunks_exact(10) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % HEADERS;
        data[at..at + 8].copy_from_slice(&change[2..]);
    }
    use_all(data.clone());
    use_image(data);
    use_image(input.to_vec());
}));

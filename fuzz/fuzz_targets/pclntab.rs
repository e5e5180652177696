//! The input is a list of changes to a valid executable: which one, then where (two bytes) and to
//! what (one byte).
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::testing::binary::use_all;
use sfgi_fuzz::executable;

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let Some((which, changes)) = input.split_first() else { return };
    let mut data = executable(*which);
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % data.len();
        data[at] = change[2];
    }
    use_all(data);
}));

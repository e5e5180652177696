//! The input replaces the start of a valid executable: file header, program headers, dynamic
//! section, and as much behind them as it is long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_fuzz::{executable, target::Image, use_all};

fuzz_target!(|input: &[u8]| {
    let mut data = executable(2);
    let len = input.len().min(data.len());
    data[..len].copy_from_slice(&input[..len]);
    use_all(data.clone());
    let _ = Image::parse(input.to_vec().into());
    let Ok(image) = Image::parse(data.into()) else { return };
    for vaddr in [0, image.entry(), image.entry().wrapping_neg(), u64::MAX] {
        image.file_offset(vaddr);
        image.read(vaddr, u64::MAX);
        image.read(vaddr, 16);
        image.read_ptr(vaddr);
    }
});

//! The input stands where the build information of a valid executable was, behind the magic; and
//! by itself it is read as a version.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::testing::binary::{use_build_info, use_version};
use sfgi_fuzz::executable;

const MAGIC: &[u8] = b"\xff Go buildinf:";

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let mut data = executable(0);
    if let Some(start) = data.windows(MAGIC.len()).position(|bytes| bytes == MAGIC) {
        let rest = &mut data[start + MAGIC.len()..];
        let len = input.len().min(rest.len());
        rest[..len].copy_from_slice(&input[..len]);
        use_build_info(data);
    }
    if let Ok(text) = std::str::from_utf8(input) {
        use_version(text);
    }
}));

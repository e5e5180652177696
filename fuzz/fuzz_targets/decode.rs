//! The input is a record of the ring buffer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let _ = sfgi_core::event::decode(input);
}));

//! The input is the text of a file of rules.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::testing::binary::use_rules;

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    if let Ok(text) = std::str::from_utf8(input) {
        use_rules(text);
    }
}));

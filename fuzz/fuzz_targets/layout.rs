//! The input is the text of a layout that a user supplies: behind a valid beginning, and by itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::testing::binary::use_layout;

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let begun = format!(r#"{{"go": "1.27.3", "arch": "amd64", "offsets": {{"g.goid": 152, {text}"#);
    use_layout(text);
    use_layout(&begun);
}));

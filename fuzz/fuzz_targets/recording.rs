//! The input is a recording: its first frame says which process, then come frames, each a byte for
//! its kind, two for its length, and its contents; checksums and compression are put on here, so that what is behind
//! them is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_fuzz::{
    follow::{End, Followed, Observer, Round},
    recording::{Player, testing},
};
use std::io::{self, Cursor};

const HEAD: &str = r#"{"schema":"sfgi.recording/1","sfgi":"0","start_ts":0,"start_unix_ns":0,"kernel":"6",
"threads":false,"targets":[{"pid":1,"exe":"x","module":"x","go_version":"go1.26.6","minor":26,
"wait_reasons":["","chan receive"],"set":"b","mode":"full","blind":[],"from_birth":false}]}"#;

/// Resolves the names of everything.
struct Names;

impl Observer for Names {
    fn round(&mut self, targets: &mut [Followed], round: &Round) -> io::Result<()> {
        for (target, step) in round.steps().take(1000) {
            targets[target].line(step);
        }
        Ok(())
    }

    fn end(&mut self, _: &mut [Followed], _: &[End]) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|input: &[u8]| {
    let mut file = testing::file(HEAD.as_bytes());
    let mut rest = input;
    while let [kind, low, high, tail @ ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (contents, tail) = tail.split_at(len);
        file.extend(testing::frame(*kind % 6, contents));
        rest = tail;
    }
    // Also what is no frame at all.
    file.extend_from_slice(rest);
    let len = file.len() as u64;
    if let Ok(player) = Player::new(Box::new(Cursor::new(file)), len) {
        let _ = player.play(&mut [&mut Names], u64::MAX, &mut |_, _| {});
    }
});

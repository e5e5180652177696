//! The input is changes of a recording, or the frames of one behind its head: checksums and compression are put on
//! here, so that what is behind them is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sfgi_core::{
    recording::Player,
    session::{End, Observer, Round, Target},
    testing::recording as testing,
};
use std::{
    io::{self, Cursor},
    sync::LazyLock,
};

/// The frames of a real one.
static SHOP: LazyLock<Vec<(u8, Vec<u8>)>> =
    LazyLock::new(|| testing::frames(include_bytes!("../../tests/recordings/shop.sfgi")));

/// Resolves the names of everything.
struct Names;

impl Observer for Names {
    fn round(&mut self, targets: &mut [Target], round: &Round) -> io::Result<()> {
        for (target, step) in round.steps().take(1000) {
            targets[target].line(step);
        }
        Ok(())
    }

    fn end(&mut self, _: &mut [Target], _: &[End]) -> io::Result<()> {
        Ok(())
    }
}

/// Each change is a frame, two bytes that say where in it, how many bytes, and what they become.
fn changed(mut input: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = SHOP.clone();
    while let [frame, low, high, len, tail @ ..] = input {
        let (new, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        let index = usize::from(*frame) % frames.len();
        let contents = &mut frames[index].1;
        let at = usize::from(u16::from_le_bytes([*low, *high])) % (contents.len() + 1);
        let end = contents.len().min(at + new.len());
        contents.splice(at..end, new.iter().copied());
        input = tail;
    }
    frames
}

/// Behind the head of the real one: each frame a byte for its kind, two for its length, and its contents.
fn made_up(mut input: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = vec![SHOP[0].clone()];
    while let [kind, low, high, tail @ ..] = input {
        let len = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (contents, tail) = tail.split_at(len);
        frames.push((*kind % 6, contents.to_vec()));
        input = tail;
    }
    frames
}

fuzz_target!(|input: &[u8]| sfgi_fuzz::bounded(|| {
    let Some((how, input)) = input.split_first() else { return };
    let frames = if how & 1 == 0 { changed(input) } else { made_up(input) };
    let file = testing::file(&frames);
    let len = file.len() as u64;
    if let Ok(player) = Player::new(Box::new(Cursor::new(file)), len) {
        let _ = player.play(&mut [&mut Names], u64::MAX, &mut |_, _| {});
    }
}));

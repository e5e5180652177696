//! Recordings of some kilobytes that would become gigabytes. Each test has a bound on memory.

use super::bytes::Put as _;
use super::frame::{Kind, MAX_RAW};
use super::*;
use crate::{
    session::{End, Observer, Round, Target},
    testing::{peak::peak, recording as testing},
};
use std::{
    io::{self, Cursor},
    time::{Duration, Instant},
};

const MIB: usize = 1 << 20;

struct Nothing;

impl Observer for Nothing {
    fn round(&mut self, _: &mut [Target], _: &Round) -> io::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: &mut [Target], _: &[End]) -> io::Result<()> {
        Ok(())
    }
}

/// Plays the head of a real recording with these frames behind it, which must need no more than so many bytes. Says
/// what was wrong with it.
fn plays(most: usize, frames: &[(Kind, Vec<u8>)]) -> Option<Damage> {
    let shop = testing::frames(include_bytes!("../../../../tests/recordings/shop.sfgi"));
    let mut all = vec![shop[0].clone()];
    all.extend(frames.iter().map(|(kind, raw)| (kind.byte(), raw.clone())));
    let file = testing::file(&all);
    assert!(file.len() < 500 << 10, "{} KiB", file.len() >> 10);
    drop(all);
    let began = Instant::now();
    let (played, used) = peak(|| {
        let len = file.len() as u64;
        let player = Player::new(Box::new(Cursor::new(file)), len).unwrap();
        player.play(&mut [&mut Nothing], u64::MAX, &mut |_, _| {}).unwrap()
    });
    assert!(used < most, "{} MiB", used / MIB);
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    played.damage.map(|(_, damage)| damage)
}

fn numbers(numbers: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    numbers.iter().for_each(|number| out.number(*number));
    out
}

#[test]
fn names_without_end() {
    let mut text = numbers(&[0, MAX_RAW as u64 - 8]);
    text.resize(text.len() + MAX_RAW - 8, b'a');
    let frames: Vec<_> = (0..18).map(|_| (Kind::Names, text.clone())).collect();
    assert_eq!(plays(320 * MIB, &frames), Some(Damage::Senseless));
    // An address with a million places within each other.
    let mut places = numbers(&[0, 1]);
    places.push(b'a');
    places.extend(numbers(&[1, 0, 7, 1 << 20]));
    places.resize(places.len() + (3 << 20), 0);
    assert_eq!(plays(32 * MIB, &[(Kind::Names, places)]), Some(Damage::Senseless));
}

#[test]
fn more_events_in_one_item_than_anybody_writes() {
    // Lost, blurred, doubtful until, not the last, a million events.
    let mut events = numbers(&[1, 0, 0, 0, 0, 1 << 20]);
    events.resize(events.len() + (8 << 20), 0);
    assert_eq!(plays(32 * MIB, &[(Kind::Data, events)]), Some(Damage::Senseless));
}

#[test]
fn whole_stacks_of_many_goroutines() {
    let frames: Vec<_> = (0..6u64)
        .map(|frame| {
            let mut stacks = Vec::new();
            for goid in 0..900u64 {
                stacks.extend(numbers(&[3, 1, frame * 1000 + goid, 0, 0, (1 << 14) + 1]));
                stacks.resize(stacks.len() + (1 << 14), 0);
            }
            // A round is over.
            stacks.push(0);
            (Kind::Data, stacks)
        })
        .collect();
    assert_eq!(plays(400 * MIB, &frames), None);
}

#[test]
fn a_head_with_more_programs_than_any_trace() {
    let shop = testing::frames(include_bytes!("../../../../tests/recordings/shop.sfgi"));
    let mut head: serde_json::Value = serde_json::from_slice(&shop[0].1).unwrap();
    let target = head["targets"][0].clone();
    for count in [5000, 100_000] {
        head["targets"] = vec![target.clone(); count].into();
        let mut raw = serde_json::to_vec(&head).unwrap();
        raw.truncate(MAX_RAW);
        let file = testing::file(&[(shop[0].0, raw)]);
        let len = file.len() as u64;
        let (player, used) = peak(|| Player::new(Box::new(Cursor::new(file)), len).map(|_| ()));
        assert!(matches!(player, Err(OpenError::TooMany)), "{player:?}");
        assert!(used < 64 * MIB, "{} MiB", used / MIB);
    }
}

#[test]
fn what_is_no_file_is_refused() {
    for (path, why) in [("/dev/zero", "is a device"), ("/", "is a directory")] {
        let error = Player::open(path.as_ref()).err().unwrap().to_string();
        assert!(error.starts_with(why), "{error}");
    }
}

//! Files damaged at every possible place: everything that is whole before the damage is shown.

use super::*;
use sfgi_core::recording::Damage;

/// A recording with a frame for each of three seconds.
fn small() -> Vec<u8> {
    let seconds = [1, 2, 3].map(|second| vec![batch(turn(second * 1_100_000_000))]);
    recorded(seconds.into()).0
}

/// Where each frame begins, and the file ends.
fn boundaries(file: &[u8]) -> Vec<usize> {
    let all = files::boundaries(file);
    assert_eq!(all.last(), Some(&file.len()));
    all
}

/// What the first frames show; `None` where there is not even the head.
fn shown(file: &[u8]) -> Option<Vec<Vec<u8>>> {
    play(file, u64::MAX).map(|(_, shown)| shown)
}

#[test]
fn wherever_it_is_cut_off_all_whole_frames_are_played() {
    let file = small();
    let boundaries = boundaries(&file);
    let mut texts = Vec::new();
    for ends in boundaries.windows(2) {
        let whole = shown(&file[..ends[0]]);
        for len in ends[0]..ends[1] {
            let played = play(&file[..len], u64::MAX);
            let damage = played.as_ref().map(|(played, _)| played.damage);
            let cut = (len > ends[0]).then_some((ends[0] as u64, Damage::CutOff));
            assert_eq!(damage, whole.as_ref().map(|_| cut), "cut off at {len}");
            assert!(played.is_none_or(|(played, shown)| !played.whole && Some(shown) == whole), "at {len}");
        }
        texts.push(whole.map_or(0, |shown| shown[0].len()));
    }
    texts.dedup();
    assert!(texts.len() > 3, "each second adds to what is shown: {texts:?}");
}

#[test]
fn every_bit_that_flips_is_noticed_and_costs_only_what_comes_behind() {
    let file = small();
    for ends in boundaries(&file).windows(2) {
        let whole = shown(&file[..ends[0]]);
        for at in ends[0]..ends[1] {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                let played = play(&damaged, u64::MAX);
                let where_it_is = played.as_ref().map(|(played, _)| played.damage.map(|(offset, _)| offset));
                assert_eq!(where_it_is, whole.as_ref().map(|_| Some(ends[0] as u64)), "bit {bit} of {at}");
                assert!(played.map(|(_, shown)| shown) == whole, "bit {bit} of {at}");
            }
        }
    }
}

#[test]
fn the_header_is_what_it_must_be_or_the_file_is_refused() {
    let file = small();
    for at in 0..12 {
        let mut damaged = file.clone();
        damaged[at] ^= 0x10;
        assert!(play(&damaged, u64::MAX).is_none(), "byte {at} is another");
    }
    for len in 0..16 {
        assert!(play(&file[..len], u64::MAX).is_none(), "{len} bytes are no file");
    }
}

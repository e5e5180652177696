//! How much of a target is asked for, and by which probes: the words of flags, files, recordings and the API.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// How closely a target is watched; the later, the closer and the dearer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No probes: the target's memory is read now and then.
    #[default]
    Poll,
    /// Creation and end of goroutines.
    Life,
    /// As [`Mode::Life`], and blocking and waking.
    Wait,
    /// Every transition that a probe can see.
    Full,
}

impl Mode {
    /// The cheapest first.
    pub const ALL: [Mode; 4] = [Mode::Poll, Mode::Life, Mode::Wait, Mode::Full];

    /// The mode in flags, files, recordings and the API.
    pub const fn word(self) -> &'static str {
        match self {
            Mode::Poll => "poll",
            Mode::Life => "life",
            Mode::Wait => "wait",
            Mode::Full => "full",
        }
    }
}

/// The two sets of probes that see every transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Set {
    /// The scheduler's functions: holds for every build, also with PGO. An event does not tell the state before
    /// the change; that is known from the event before.
    A,
    /// `casgstatus` and what bypasses it: only where it is nowhere inlined. Each event tells both states.
    B,
}

impl Set {
    pub const ALL: [Set; 2] = [Set::A, Set::B];

    /// The set in flags, files, recordings and the API.
    pub const fn word(self) -> &'static str {
        match self {
            Set::A => "a",
            Set::B => "b",
        }
    }
}

/// A word that names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word}: {expected}")]
pub struct UnknownWord {
    word: String,
    expected: &'static str,
}

impl FromStr for Mode {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Mode, UnknownWord> {
        let expected = "a mode is poll, life, wait or full";
        let named = Mode::ALL.into_iter().find(|mode| mode.word() == word);
        named.ok_or_else(|| UnknownWord { word: word.to_owned(), expected })
    }
}

/// Capitals are accepted, because the documents write `--set A`.
impl FromStr for Set {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Set, UnknownWord> {
        let named = Set::ALL.into_iter().find(|set| set.word().eq_ignore_ascii_case(word));
        named.ok_or_else(|| UnknownWord { word: word.to_owned(), expected: "a set is a or b" })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The word, the text, the JSON and the way back are the same for each.
    fn round_trip<T>(all: &[T], word: impl Fn(T) -> &'static str)
    where
        T: Copy + fmt::Debug + fmt::Display + FromStr<Err = UnknownWord> + PartialEq,
        T: Serialize + for<'de> Deserialize<'de>,
    {
        for &one in all {
            assert_eq!(one.to_string(), word(one));
            assert_eq!(word(one).parse(), Ok(one));
            let json = serde_json::to_string(&one).expect("a word");
            assert_eq!(json, format!("{:?}", word(one)));
            assert_eq!(serde_json::from_str::<T>(&json).expect("a word"), one);
        }
    }

    #[test]
    fn words_come_back_as_what_they_name() {
        round_trip(&Mode::ALL, Mode::word);
        round_trip(&Set::ALL, Set::word);
        assert_eq!("A".parse(), Ok(Set::A));
    }

    #[test]
    fn a_wrong_word_is_named_with_the_right_ones() {
        let wrong = "Full".parse::<Mode>().expect_err("a capital");
        assert_eq!(wrong.to_string(), "Full: a mode is poll, life, wait or full");
        assert_eq!("c".parse::<Set>().expect_err("no such set").to_string(), "c: a set is a or b");
    }

    #[test]
    fn modes_are_in_the_order_of_their_cost() {
        assert!(Mode::ALL.is_sorted());
        assert_eq!(Mode::default(), Mode::Poll);
    }
}

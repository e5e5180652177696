//! What stays the same of a leak from run to run.

use std::{fmt, str::FromStr, sync::Arc};

/// A hash of the class and of the functions that a leak is made of: without addresses, lines and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(u64);

/// FNV-1a, 64 bits: nothing is secret here, and it is the same everywhere and for ever.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

impl Fingerprint {
    /// Of goroutines: their class, who made them, and their stack, innermost first. The runtime's own frames
    /// do not count, they change from release to release.
    pub(super) fn of(class: &str, creator: Option<&str>, functions: &[Arc<str>]) -> Fingerprint {
        let own = |name: &str| !name.starts_with("runtime.") && !name.starts_with("internal/");
        let stack = functions.iter().map(|name| &**name).filter(|name| own(name));
        Fingerprint::of_all([class, creator.unwrap_or("")].into_iter().chain(stack))
    }

    /// Of timers: their class and what they run.
    pub(super) fn of_timers(class: &str, function: &str) -> Fingerprint {
        Fingerprint::of_all([class, "timer", function])
    }

    /// The id of the n-th of several leaks of the same functions; of the first it is this one.
    pub(super) fn numbered(self, number: u64) -> Fingerprint {
        if number == 0 { self } else { Fingerprint((self.0 ^ number).wrapping_mul(PRIME)) }
    }

    fn of_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> Fingerprint {
        let mut hash = BASIS;
        for text in texts {
            // A byte that no name has ends each.
            for byte in text.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
            }
        }
        Fingerprint(hash)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Fingerprint, String> {
        let digits =
            Some(text).filter(|text| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number
            .map(Fingerprint)
            .ok_or_else(|| format!("{text:?} is no id of a group: those have 16 hexadecimal digits"))
    }
}

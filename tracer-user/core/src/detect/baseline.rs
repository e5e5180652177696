//! Fingerprints, which stay the same for a leak from run to run, and the file of those that are accepted
//! (`--write-baseline`).

use super::rules::Rule;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::{collections::HashSet, fmt, str::FromStr, sync::Arc};

/// A hash of the class and the functions that a leak is made of, without addresses, lines and counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(u64);

// FNV-1a, 64 bits. Baselines keep these numbers for years, so the hash must not depend on the Rust release as that of
// the standard library does; nothing is secret, so that it can be forged does not matter.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

impl Fingerprint {
    /// The fingerprint of goroutines: their class, creator and stack, innermost first. The runtime's own frames are
    /// left out, because they change from release to release.
    pub(super) fn of(class: &str, creator: Option<&str>, functions: &[Arc<str>]) -> Fingerprint {
        let own = |name: &str| !name.starts_with("runtime.") && !name.starts_with("internal/");
        let stack = functions.iter().map(|name| &**name).filter(|name| own(name));
        Fingerprint::of_all([class, creator.unwrap_or("")].into_iter().chain(stack))
    }

    /// The fingerprint of timers: their class and the function that they run.
    pub(super) fn of_timers(class: &str, function: &str) -> Fingerprint {
        Fingerprint::of_all([class, "timer", function])
    }

    /// The fingerprint of lost contexts: their class and type, and the root that keeps their parent.
    pub(super) fn of_contexts(class: &str, of: &str, root: &str) -> Fingerprint {
        Fingerprint::of_all([class, "context", of, root])
    }

    /// The fingerprint of a pool: the class, and by what the pool is known.
    pub(super) fn of_pools(class: &str, known_by: &str) -> Fingerprint {
        Fingerprint::of_all([class, "pool", known_by])
    }

    /// The fingerprint of descriptors: their class and kind, where they come from and what they are.
    pub(super) fn of_fds(class: &str, kind: &str, origin: &str, of: &str) -> Fingerprint {
        Fingerprint::of_all([class, "descriptor", kind, origin, of])
    }

    /// The fingerprint of what was found in several parts; of one part it is that of the part.
    pub(super) fn of_parts(class: &str, mut parts: Vec<Fingerprint>) -> Fingerprint {
        parts.sort_unstable();
        parts.dedup();
        match parts.as_slice() {
            [one] => *one,
            parts => {
                let texts: Vec<String> = parts.iter().map(ToString::to_string).collect();
                Fingerprint::of_all([class, "parts"].into_iter().chain(texts.iter().map(String::as_str)))
            }
        }
    }

    /// The id of one of several leaks with the same functions; the first (0) keeps this one.
    pub(super) fn numbered(self, number: u64) -> Fingerprint {
        if number == 0 { self } else { Fingerprint((self.0 ^ number).wrapping_mul(PRIME)) }
    }

    fn of_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> Fingerprint {
        let mut hash = BASIS;
        for text in texts {
            // A byte that no name contains ends each text.
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

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Fingerprint, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
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

const SCHEMA: &str = "sfgi.leaks-baseline/1";

/// Why a text is no baseline.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    #[error("it is no baseline ({0}): make one with --write-baseline")]
    Form(#[from] serde_json::Error),
    #[error("its schema is {0}, this sfgi reads {SCHEMA}: make it anew with --write-baseline")]
    Schema(String),
    #[error("{0}")]
    Id(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baseline {
    ids: HashSet<Fingerprint>,
}

#[derive(Deserialize, Serialize)]
struct Document {
    schema: String,
    accepted: Vec<Accepted>,
}

/// The id decides; class and title tell people what it stands for.
#[derive(Deserialize, Serialize)]
struct Accepted {
    id: String,
    class: String,
    #[serde(default)]
    title: String,
}

impl Baseline {
    /// The most bytes of a file: an accepted group has about a hundred.
    pub const MAX_FILE: u64 = 16 << 20;

    pub fn parse(text: &str) -> Result<Baseline, BaselineError> {
        let document: Document = serde_json::from_str(text)?;
        if document.schema != SCHEMA {
            return Err(BaselineError::Schema(document.schema));
        }
        let ids = document.accepted.iter().map(|entry| entry.id.parse());
        Ok(Baseline { ids: ids.collect::<Result<_, _>>().map_err(BaselineError::Id)? })
    }

    /// The text of a baseline with these groups, each id once, sorted: it belongs under version control.
    pub fn text<'a>(groups: impl IntoIterator<Item = (Fingerprint, &'a Rule)>) -> String {
        let entry = |(id, rule): (Fingerprint, &Rule)| Accepted {
            id: id.to_string(),
            class: rule.class.clone(),
            title: rule.title.clone(),
        };
        let mut accepted: Vec<_> = groups.into_iter().map(entry).collect();
        accepted.sort_by(|one, other| (&one.class, &one.id).cmp(&(&other.class, &other.id)));
        accepted.dedup_by(|one, other| one.id == other.id);
        let document = Document { schema: SCHEMA.to_owned(), accepted };
        let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
        text.push('\n');
        text
    }

    pub fn accepts(&self, id: Fingerprint) -> bool {
        self.ids.contains(&id)
    }
}

//! A layout that the user supplies (`--layout FILE`), as `cargo xtask layouts --one` writes it:
//! `{"go": "1.28.0", "arch": "amd64", "offsets": {"g.goid": 152, …}}`.

use serde::Deserialize;
use serde::de::{Error, MapAccess, Visitor};
use std::collections::HashMap;
use std::fmt;

/// Entries at most; Go 1.27 has 800.
const MAX_OFFSETS: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The version it is of, without `go`.
    pub go: String,
    /// Its processor, as `GOARCH` has it.
    pub arch: String,
    pub offsets: Offsets,
}

/// By `struct.field`, each once.
pub(super) struct Offsets(pub HashMap<String, u32>);

impl<'de> Deserialize<'de> for Offsets {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Offsets, D::Error> {
        deserializer.deserialize_map(Collect)
    }
}

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Offsets;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of offsets by struct.field")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Offsets, A::Error> {
        let mut found = HashMap::new();
        while let Some((name, offset)) = map.next_entry::<String, u32>()? {
            if found.len() == MAX_OFFSETS {
                return Err(A::Error::custom("there are more offsets than any version has"));
            }
            if found.contains_key(&name) {
                return Err(A::Error::custom(format!("{name} stands there twice")));
            }
            found.insert(name, offset);
        }
        Ok(Offsets(found))
    }
}

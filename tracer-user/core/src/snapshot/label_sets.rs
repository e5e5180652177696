//! Label sets, each once: a million goroutines have few different ones.

use super::{View, labels};
use std::collections::HashMap;

/// Keys and values.
type LabelSet = Vec<(String, String)>;

/// What is kept of a target that makes up label sets without end; later ones are not read.
const MAX_BYTES: usize = 1 << 28;

/// Ids of label sets: index + 1 into the list of all.
#[derive(Default)]
pub(super) struct LabelSets {
    /// Bytes of all of them.
    bytes: usize,
    by_addr: HashMap<u64, u32>,
    by_content: HashMap<LabelSet, u32>,
}

impl LabelSets {
    /// The id of the set at `addr` (`g.labels`), which is added to `all` if it is new; 0: no labels.
    pub(super) fn id(&mut self, view: &View<'_>, addr: u64, all: &mut Vec<LabelSet>) -> u32 {
        if addr == 0 {
            return 0;
        }
        if let Some(id) = self.by_addr.get(&addr) {
            return *id;
        }
        let room = self.bytes < MAX_BYTES;
        let set = room.then(|| labels::read(view, addr)).flatten().filter(|set| !set.is_empty());
        let id = set.map_or(0, |set| {
            *self.by_content.entry(set).or_insert_with_key(|set| {
                self.bytes += set.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
                all.push(set.clone());
                u32::try_from(all.len()).unwrap_or(0)
            })
        });
        self.by_addr.insert(addr, id);
        id
    }
}

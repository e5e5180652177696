//! Label sets, each once: a million goroutines have few different ones.

use super::{View, labels};
use std::collections::HashMap;

/// Keys and values.
type LabelSet = Vec<(String, String)>;

/// Ids of label sets: index + 1 into the list of all.
#[derive(Default)]
pub(super) struct LabelSets {
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
        let set = labels::read(view, addr).filter(|set| !set.is_empty());
        let id = set.map_or(0, |set| {
            *self.by_content.entry(set).or_insert_with_key(|set| {
                all.push(set.clone());
                u32::try_from(all.len()).unwrap_or(0)
            })
        });
        self.by_addr.insert(addr, id);
        id
    }
}

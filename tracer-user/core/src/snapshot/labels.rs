//! The labels of a goroutine (`runtime/pprof`: `Do`, `SetGoroutineLabels`): the `labelMap` that `g.labels` points to. A
//! `labelMap` is never changed once a goroutine has it, so it can be read while the target runs.
//!
//! Up to Go 1.23 it is a `map[string]string` (`src/runtime/pprof/label.go`, `src/runtime/map.go`: `hmap`, `bmap`),
//! since 1.24 a slice of pairs of strings.

use super::View;
use crate::binary::bytes::u64_at;
use crate::budget;
use crate::memory::{Memory, Range};
use std::collections::{BTreeMap, HashMap};

/// Most labels of one goroutine that are read; programs set a few.
const MAX_LABELS: usize = 64;
/// Most bytes of all label sets that are kept; later ones are not read. A hostile target could give each goroutine its
/// own.
const MAX_BYTES: usize = 1 << 26;
/// Bytes of a pair beside its texts, and what the budget is asked for before a set is read: it is kept twice.
const PAIR_COST: usize = 2 * size_of::<String>();
const ASK: usize = 2 * MAX_LABELS * 2 * MAX_TEXT as usize;
/// Bytes of a key or value that are read; the rest is cut off.
const MAX_TEXT: u64 = 1 << 10;

/// Bytes of a pair of Go strings (pointer and length each).
const PAIR: usize = 32;

/// Slots of a bucket (`abi.MapBucketCount`).
const SLOTS: usize = 8;
/// Offsets in a `bmap` of `map[string]string`: a byte for each slot, then the keys, then the values,
/// then the pointer to the next bucket of the chain.
const KEYS: usize = SLOTS;
const VALUES: usize = KEYS + SLOTS * 16;
const OVERFLOW: usize = VALUES + SLOTS * 16;
const BUCKET: usize = OVERFLOW + 8;
/// `minTopHash`: the least byte of a slot that holds an entry. Smaller ones mean empty, or moved to the new table.
const FILLED: u8 = 5;
/// `sameSizeGrow` in `hmap.flags`: the map is being moved to a table of the same size; without it, to one twice as
/// large.
const SAME_SIZE_GROW: u8 = 8;
/// Most buckets of a map that are read. A bucket holds 6.5 entries on average before the map grows, so these hold more
/// than [`MAX_LABELS`].
const MAX_BUCKETS: u64 = 64;

type LabelSet = Vec<(String, String)>;

/// The label sets of a snapshot by id (index + 1 into [`Snapshot::labels`](super::Snapshot::labels)), each read and
/// kept once: a million goroutines have few different ones.
#[derive(Default)]
pub(super) struct LabelSets {
    /// Bytes of all texts that are kept, bounded by [`MAX_BYTES`].
    bytes: usize,
    by_addr: HashMap<u64, u32>,
    by_content: HashMap<LabelSet, u32>,
}

impl LabelSets {
    /// The id of the set at `addr` (`g.labels`). A new set is added to `all`. 0: no labels, or none that can be read.
    pub(super) fn id(&mut self, view: &View<'_>, addr: u64, all: &mut Vec<LabelSet>) -> u32 {
        if addr == 0 {
            return 0;
        }
        // Goroutines inherit the labels of their creator, so most share an address.
        if let Some(id) = self.by_addr.get(&addr) {
            return *id;
        }
        let room = self.bytes < MAX_BYTES && budget::check(ASK).is_ok();
        let set = room.then(|| read(view, addr)).flatten().filter(|set| !set.is_empty());
        let id = set.map_or(0, |set| {
            *self.by_content.entry(set).or_insert_with_key(|set| {
                self.bytes +=
                    set.iter().map(|(key, value)| key.len() + value.len() + PAIR_COST).sum::<usize>();
                all.push(set.clone());
                u32::try_from(all.len()).unwrap_or(0)
            })
        });
        self.by_addr.insert(addr, id);
        id
    }
}

/// A key and its value, each as (address, length).
type Pair = [(u64, u64); 2];

/// The labels at `labels`, the value of a `g.labels` that is not 0. Keys ascend; there are at most [`MAX_LABELS`], and
/// texts have at most [`MAX_TEXT`] bytes. `None`: the memory cannot be read.
fn read(view: &View, labels: u64) -> Option<Vec<(String, String)>> {
    if view.binary.version().release.labels_are_a_slice() {
        texts(view.memory, slice(view.memory, labels)?)
    } else {
        texts(view.memory, map(view.memory, labels)?)
    }
}

/// The pairs of a `struct { list []struct { key, value string } }`.
fn slice(memory: &dyn Memory, labels: u64) -> Option<Vec<Pair>> {
    let mut head = [0; 16];
    memory.read(labels, &mut head).ok()?;
    let count = u64_at(&head, 8)?.min(MAX_LABELS as u64) as usize;
    let mut pairs = vec![0; count * PAIR];
    memory.read(u64_at(&head, 0)?, &mut pairs).ok()?;
    let text = |at| Some((u64_at(&pairs, at)?, u64_at(&pairs, at + 8)?));
    (0..count).map(|index| Some([text(index * PAIR)?, text(index * PAIR + 16)?])).collect()
}

/// The pairs of a map. `g.labels` points to a variable that holds the `*hmap`, so there is one pointer more to follow.
fn map(memory: &dyn Memory, labels: u64) -> Option<Vec<Pair>> {
    let mut hmap = [0; 32];
    match memory.word(labels).ok()? {
        0 => return Some(Vec::new()),
        addr => memory.read(addr, &mut hmap).ok()?,
    }
    // `hmap { count int; flags, B uint8; …; buckets, oldbuckets }`: entries of a map that grows are in either table.
    let [flags, log2, ..] = *hmap.get(8..)? else { return None };
    let count = 1u64.checked_shl(u32::from(log2)).unwrap_or(u64::MAX);
    let old_count = if flags & SAME_SIZE_GROW == 0 { count / 2 } else { count };
    let mut todo = Vec::new();
    for (table, count) in [(u64_at(&hmap, 16)?, count), (u64_at(&hmap, 24)?, old_count)] {
        let addr = |index| table.wrapping_add(index * BUCKET as u64);
        todo.extend((0..count.min(MAX_BUCKETS)).map(addr).filter(|_| table != 0));
    }
    let (mut pairs, mut bucket) = (Vec::new(), [0; BUCKET]);
    // Chains of overflow buckets may be rings in hostile memory.
    for _ in 0..4 * MAX_BUCKETS {
        let Some(addr) = todo.pop() else { break };
        memory.read(addr, &mut bucket).ok()?;
        pairs.extend(entries(&bucket));
        todo.extend(u64_at(&bucket, OVERFLOW).filter(|next| *next != 0));
    }
    Some(pairs)
}

/// The filled entries of a bucket, without those that moved to the new table of a growing map.
fn entries(bucket: &[u8]) -> impl Iterator<Item = Pair> {
    let text = |at| Some((u64_at(bucket, at)?, u64_at(bucket, at + 8)?));
    let filled = move |slot: &usize| bucket.get(*slot).is_some_and(|top| *top >= FILLED);
    (0..SLOTS)
        .filter(filled)
        .filter_map(move |slot| Some([text(KEYS + slot * 16)?, text(VALUES + slot * 16)?]))
}

fn texts(memory: &dyn Memory, pairs: Vec<Pair>) -> Option<Vec<(String, String)>> {
    let cut = |(addr, len): (u64, u64)| Range { addr, len: len.min(MAX_TEXT) as usize };
    let ranges: Vec<_> = pairs.iter().flatten().copied().map(cut).collect();
    let (mut bytes, mut whole) = (Vec::new(), Vec::new());
    memory.scatter(&ranges, &mut bytes, &mut whole).ok()?;
    if whole.contains(&false) {
        return None;
    }
    let mut rest = &bytes[..];
    let mut text = |range: &Range| {
        let (text, behind) = rest.split_at_checked(range.len)?;
        rest = behind;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let mut labels = BTreeMap::new();
    for pair in ranges.chunks_exact(2) {
        labels.insert(text(pair.first()?)?, text(pair.last()?)?);
    }
    Some(labels.into_iter().take(MAX_LABELS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::memory::Image;
    use proptest::prelude::*;

    const LABELS: u64 = 0x1000;
    const HMAP: u64 = 0x2000;
    const NEW: u64 = 0x10000;
    const OLD: u64 = 0x20000;
    const CHAINED: u64 = 0x30000;
    const TEXTS: u64 = 0x40000;

    /// Texts, each once, and where they are.
    #[derive(Default)]
    struct Texts(Vec<u8>);

    impl Texts {
        fn put(&mut self, text: &str) -> [u64; 2] {
            let at = TEXTS + self.0.len() as u64;
            self.0.extend(text.as_bytes());
            [at, text.len() as u64]
        }

        fn pair(&mut self, key: &str, value: &str) -> [u64; 4] {
            let ([a, b], [c, d]) = (self.put(key), self.put(value));
            [a, b, c, d]
        }
    }

    fn expected(labels: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_slice() {
        let (mut image, mut text) = (Image::default(), Texts::default());
        let long = "x".repeat(5000);
        let list = [text.pair("worker", "7"), text.pair("", ""), text.pair("handler", &long)];
        image.put_words(LABELS, &[NEW, 3, 4]);
        image.put_words(NEW, list.as_flattened());
        image.put(TEXTS, &text.0);
        let labels = slice(&image, LABELS).and_then(|pairs| texts(&image, pairs));
        assert_eq!(labels, expected(&[("", ""), ("handler", &long[..1024]), ("worker", "7")]));
        image.put_words(LABELS, &[NEW, 4, 4]);
        assert_eq!(slice(&image, LABELS), None, "there are only three");
    }

    /// `tops` says which slots hold an entry.
    fn bucket(tops: [u8; 8], pairs: &[(usize, [u64; 4])], overflow: u64) -> Vec<u8> {
        let mut words = [0; (BUCKET - SLOTS) / 8];
        for (slot, [key, key_len, value, value_len]) in pairs {
            words[slot * 2..][..2].copy_from_slice(&[*key, *key_len]);
            words[(SLOTS + slot) * 2..][..2].copy_from_slice(&[*value, *value_len]);
        }
        words[SLOTS * 4] = overflow;
        tops.into_iter().chain(words.iter().flat_map(|word| word.to_le_bytes())).collect()
    }

    /// A map of two old buckets, the first of which has moved to the new table of four, and whose
    /// new first bucket has an overflow bucket.
    #[test]
    fn a_map_that_grows() {
        let (mut image, mut text) = (Image::default(), Texts::default());
        let [a, b, c, d] = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")].map(|(k, v)| text.pair(k, v));
        let empty = bucket([0; 8], &[], 0);
        image.put_words(LABELS, &[HMAP]);
        image.put_words(HMAP, &[4, 2 << 8, NEW, OLD]);
        let first = bucket([1, 200, 0, 0, 0, 0, 0, 0], &[(0, d), (1, a)], CHAINED);
        let moved = bucket([1, 5, 0, 0, 0, 0, 0, 0], &[(1, b)], 0);
        image.put(NEW, &[first, empty.clone(), moved, empty.clone()].concat());
        image.put(CHAINED, &bucket([0, 0, 0, 0, 0, 0, 0, 255], &[(7, c)], 0));
        let gone = bucket([2, 3, 4, 2, 4, 4, 4, 4], &[(0, a), (1, b), (3, c)], 0);
        let stays = bucket([9, 0, 0, 0, 0, 0, 0, 0], &[(0, d)], 0);
        image.put(OLD, &[gone, stays].concat());
        image.put(TEXTS, &text.0);
        let labels = map(&image, LABELS).and_then(|pairs| texts(&image, pairs));
        assert_eq!(labels, expected(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")]));
        image.put_words(LABELS, &[0]);
        assert_eq!(map(&image, LABELS), Some(vec![]));
    }

    #[test]
    fn a_chain_of_buckets_may_be_a_ring() {
        let mut image = Image::default();
        image.put_words(LABELS, &[HMAP]);
        image.put_words(HMAP, &[1, 0, NEW, 0]);
        image.put(NEW, &bucket([9; 8], &[], NEW));
        assert_eq!(map(&image, LABELS).map(|pairs| pairs.len() / SLOTS), Some(4 * MAX_BUCKETS as usize));
    }

    proptest! {
        /// Words that point anywhere, mostly to each other.
        #[test]
        fn any_words_are_survived(words in prop::collection::vec(prop_oneof![0..600u64, any::<u64>()], 80)) {
            let mut image = Image::default();
            image.put_words(8, &words);
            for pairs in [slice(&image, 8), map(&image, 8)].into_iter().flatten() {
                let labels = texts(&image, pairs).unwrap_or_default();
                prop_assert!(labels.len() <= MAX_LABELS);
            }
        }
    }
}

//! Pools in a search: which of them something is wrong with.

use crate::{
    detect::{PoolSite, PoolTrouble},
    objects::{Objects, Pool, Pools},
};

/// Sites that are told, and bytes that oversized objects of a pool have room for before they are told of.
const MAX_SITES: usize = 64;
const LEAST_BLOAT: u64 = 1 << 20;

/// What is wrong with pools. In those of Go's own library an object that is put back with content is emptied when it is
/// taken, and nobody else can limit how large its buffers are.
pub(super) fn sites(objects: &Objects<'_>, pools: &Pools) -> Vec<PoolSite> {
    let mut sites = Vec::new();
    for pool in &pools.list {
        let site = |trouble, count, example| PoolSite {
            trouble,
            name: pool.name.clone(),
            new: pool.new.clone(),
            of: pool.types().first().map(|(of, _)| objects.types().name(*of)).unwrap_or_default().to_owned(),
            address: pool.addr,
            example,
            count,
            objects: pool.count(),
            fields: Vec::new(),
            bytes: 0,
            median: pool.median,
        };
        if let Some(first) = pool.twice.first() {
            sites.push(site(PoolTrouble::Twice, pool.twice.len() as u64, first.addr));
        }
        if pool.is_librarys {
            continue;
        }
        let dirty = pool.dirty();
        if let Some(most) = dirty.iter().max_by_key(|field| field.full) {
            let fields = dirty.iter().map(|field| match &*field.path {
                "" => "the object itself".to_owned(),
                path => path.to_owned(),
            });
            let site = site(PoolTrouble::Dirty, most.full, most.example);
            sites.push(PoolSite { fields: fields.collect(), objects: most.full + most.emptied, ..site });
        }
        if let Some((count, bytes, example)) = bloat(pool) {
            sites.push(PoolSite { bytes, ..site(PoolTrouble::Bloat, count, example) });
        }
    }
    sites.truncate(MAX_SITES);
    sites
}

/// How many oversized objects a pool has, how much room they have together, and the address of the largest.
fn bloat(pool: &Pool) -> Option<(u64, u64, u64)> {
    let mut met = hashbrown::HashSet::new();
    let oversized: Vec<_> = pool.oversized().filter(|value| met.insert(value.addr)).collect();
    let bytes = oversized.iter().map(|value| value.room).fold(0, u64::saturating_add);
    let largest = oversized.iter().max_by_key(|value| value.room)?;
    (bytes >= LEAST_BLOAT).then_some((oversized.len() as u64, bytes, largest.addr))
}

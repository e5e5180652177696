//! What is wrong with the objects of a `sync.Pool`: a finding without goroutines.

use super::{
    baseline::Fingerprint,
    report::Group,
    rules::{Rules, Verdict},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// What there is to say of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolTrouble {
    /// Objects are in it more than once.
    Twice,
    /// Most objects were emptied before they were put back, and some were not.
    Dirty,
    /// Some objects have room for far more than the others.
    Bloat,
}

/// A pool and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSite {
    pub trouble: PoolTrouble,
    /// The variable or field that it is, the function that makes its objects, and their type; empty: not known.
    pub name: String,
    pub new: String,
    #[serde(rename = "type")]
    pub of: String,
    /// Its address, and that of an object that something is wrong with.
    pub address: u64,
    pub example: u64,
    /// How many of its objects something is wrong with, and of how many.
    pub count: u64,
    pub objects: u64,
    /// Of `Dirty` the fields with something in them.
    pub fields: Vec<String>,
    /// Of `Bloat` the bytes that these objects have room for, and the median of all.
    pub bytes: u64,
    pub median: u64,
}

/// A group for each of these, which were read so long ago.
pub fn troubled_pools(sites: &[PoolSite], age: Duration, rules: &Rules) -> Vec<Group> {
    let group = |site: &PoolSite| {
        let rule = rules.iter().find(|rule| rule.condition.pool == Some(site.trouble))?;
        // Two slots of a pool that have the same object in every look are no matter of probability.
        let verdict = match site.trouble {
            PoolTrouble::Twice => Verdict::Proven,
            PoolTrouble::Dirty | PoolTrouble::Bloat => rule.gives.min(Verdict::Likely),
        };
        let mut evidence = vec![sentence(site), whose(site)];
        if age.as_secs() > 0 {
            evidence.push(format!("it was looked at {} s ago", age.as_secs()));
        }
        let known_by = [&site.new, &site.name, &site.of].into_iter().find(|name| !name.is_empty());
        Some(Group {
            id: Fingerprint::of_pools(&rule.class, known_by.map_or("", String::as_str)),
            verdict,
            rule: Arc::clone(rule),
            members: Vec::new(),
            count: site.count,
            age: None,
            growth: None,
            timers: None,
            contexts: None,
            fds: None,
            pools: Some(site.clone()),
            ring: Vec::new(),
            evidence,
        })
    };
    sites.iter().filter_map(group).collect()
}

fn sentence(site: &PoolSite) -> String {
    let PoolSite { example, count, objects, fields, bytes, median, .. } = site;
    match site.trouble {
        PoolTrouble::Twice if *count == 1 => {
            format!("{example:#x} is in two or more slots of the pool at the same time")
        }
        PoolTrouble::Twice => format!(
            "{count} objects are in two or more slots of the pool each at the same time, as {example:#x} is"
        ),
        PoolTrouble::Dirty => format!(
            "{} has something in it in {count} of {objects} objects that were used, as in {example:#x}; the others \
             were emptied before they were put back",
            fields.join(", ")
        ),
        PoolTrouble::Bloat => format!(
            "{count} of {objects} objects, such as {example:#x}, have room for {bytes} bytes together; half of them have \
             room for {median} bytes or less"
        ),
    }
}

/// Which pool it is.
fn whose(site: &PoolSite) -> String {
    let mut text = format!("the pool at {:#x}", site.address);
    for (before, part) in [(" is ", &site.name), (", of ", &site.of), (", made by ", &site.new)] {
        if !part.is_empty() {
            text += &format!("{before}{part}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(trouble: PoolTrouble) -> PoolSite {
        PoolSite {
            trouble,
            name: "main.buffers".to_owned(),
            new: "main.init.func1".to_owned(),
            of: "*bytes.Buffer".to_owned(),
            address: 0x6a_2200,
            example: 0xc000,
            count: 2,
            objects: 40,
            fields: vec![".buf".to_owned()],
            bytes: 8 << 20,
            median: 64,
        }
    }

    #[test]
    fn each_trouble_has_its_class_and_says_what_it_is() {
        let rules = Rules::built_in().unwrap();
        for (trouble, verdict, class, said) in [
            (PoolTrouble::Twice, Verdict::Proven, "pool-double-put", "2 objects are in two or more slots"),
            (
                PoolTrouble::Dirty,
                Verdict::Likely,
                "pool-dirty",
                ".buf has something in it in 2 of 40 objects",
            ),
            (
                PoolTrouble::Bloat,
                Verdict::Likely,
                "pool-bloat",
                "2 of 40 objects, such as 0xc000, have room for 8388608 bytes together",
            ),
        ] {
            let groups = troubled_pools(&[site(trouble)], Duration::from_secs(3), &rules);
            let [group] = &groups[..] else { panic!("{groups:?}") };
            assert_eq!((group.verdict, &*group.rule.class, group.count), (verdict, class, 2));
            assert!(group.evidence[0].starts_with(said), "{:?}", group.evidence);
            let whose = "the pool at 0x6a2200 is main.buffers, of *bytes.Buffer, made by main.init.func1";
            assert_eq!(group.evidence[1..], [whose.to_owned(), "it was looked at 3 s ago".to_owned()]);
            // Without symbols only the name is missing.
            let stripped = PoolSite { name: String::new(), ..site(trouble) };
            let other = troubled_pools(&[stripped], Duration::ZERO, &rules);
            assert_eq!(other[0].id, group.id);
        }
    }
}

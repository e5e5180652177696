//! Every step of every way is in the target's memory: it is read again, by other means, while the target stands still.

use std::{fs::File, ops::Range, os::unix::fs::FileExt as _};

use crate::harness::{Test, live};
use anyhow::{Context, Result, ensure};
use live_tests::{
    fixture::Variant,
    machine,
    toolchain::Go,
    why::{Hop, Object, Objects, Way, addr},
};

pub(crate) fn tests() -> Vec<Test> {
    vec![live(every_step_of_every_way_is_in_memory)]
}

/// One of each kind of maps and of descriptors.
const RELEASES: [u32; 3] = [19, 24, 27];

/// Longest row by arrays that is followed.
const MOST_BY_ARRAYS: u64 = 4;

fn every_step_of_every_way_is_in_memory() -> Result<()> {
    for go in Go::all().iter().filter(|go| RELEASES.contains(&go.minor)) {
        for variant in [Variant::Plain, Variant::PieStripped] {
            check(go, variant).with_context(|| format!("go{} {variant}", go.version))?;
        }
    }
    Ok(())
}

fn check(go: &Go, variant: Variant) -> Result<()> {
    let target = Objects::start(go, variant)?;
    let why = target.why(&[])?;
    let memory = Memory::of(&target)?;
    let mut seen = Seen::default();
    for (fact, kept) in target.beside(&why) {
        for way in &kept.ways {
            memory.has(way, &mut seen).with_context(|| format!("{}: {}", fact.name, way.way))?;
        }
    }
    machine::report(&format!("go{} {variant}: {seen:?}", go.version));
    ensure!(seen.variables > 50 && seen.stacks > 5 && seen.steps > 60 && seen.rows > 0, "only {seen:?}");
    Ok(())
}

/// How much was compared.
#[derive(Debug, Default)]
struct Seen {
    variables: usize,
    /// Words of stacks.
    stacks: usize,
    steps: usize,
    /// Steps that stand for several.
    rows: usize,
}

struct Memory(File);

impl Memory {
    fn of(target: &Objects) -> Result<Memory> {
        Ok(Memory(File::open(format!("/proc/{}/mem", target.pid()))?))
    }

    fn word(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at).with_context(|| format!("{at:#x} cannot be read"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn words(&self, object: &Object) -> Result<Vec<u64>> {
        let all = extent(object)?;
        let mut bytes = vec![0; usize::try_from(all.end - all.start)?];
        let len = self.0.read_at(&mut bytes, all.start).with_context(|| format!("{object:?}"))?;
        let words = bytes[..len].chunks_exact(8).map(|word| word.try_into().map(u64::from_le_bytes));
        Ok(words.collect::<Result<_, _>>()?)
    }

    fn has(&self, way: &Way, seen: &mut Seen) -> Result<()> {
        let first = way.hops.first().context("no hops")?;
        if let Some(at) = &way.root.address {
            let word = self.word(addr(at)?)?;
            let leads = extent(&first.object)?.contains(&word);
            ensure!(leads, "the root at {at} has {word:#x}, which is not in {:?}", first.object);
            *(if way.root.kind == "variable" { &mut seen.variables } else { &mut seen.stacks }) += 1;
        }
        ensure!(way.root.kind != "variable" || way.root.address.is_some(), "a variable without an address");
        for pair in way.hops.windows(2) {
            let [before, hop] = pair else { continue };
            seen.steps += 1;
            if hop.times == 1 {
                let to = extent(&hop.object)?;
                let leads = self.words(&before.object)?.iter().any(|word| to.contains(word));
                ensure!(leads, "no word of {:?} leads to {:?}", before.object, hop.object);
            } else {
                seen.rows += 1;
                self.has_row(&before.object, hop)?;
            }
        }
        Ok(())
    }

    /// Only the last object of a row is told. All have one type, so in each but the first the pointer is at one offset;
    /// in arrays, `[]`, it is anywhere.
    fn has_row(&self, before: &Object, hop: &Hop) -> Result<()> {
        let (to, size) = (extent(&hop.object)?, hop.object.bytes);
        let is_array = hop.via.contains("[]");
        if is_array && hop.times > MOST_BY_ARRAYS {
            return Ok(());
        }
        let leads = |first: &u64| {
            let by = |offset| {
                let last =
                    (1..hop.times).try_fold(*first, |object, _| self.word(object.wrapping_add(offset)));
                last.is_ok_and(|last| to.contains(&last))
            };
            if is_array { self.leads(*first, hop.times - 1, size, &to) } else { (0..size).step_by(8).any(by) }
        };
        let is = self.words(before)?.iter().any(leads);
        ensure!(is, "no {} steps lead from {before:?} to {:?}", hop.times, hop.object);
        Ok(())
    }

    /// Whether so many steps, by any words of objects of this size, lead from an object to one of these bytes.
    fn leads(&self, object: u64, steps: u64, size: u64, to: &Range<u64>) -> bool {
        if steps == 0 {
            return to.contains(&object);
        }
        object != 0
            && (0..size).step_by(8).any(|offset| {
                let next = self.word(object.wrapping_add(offset));
                next.is_ok_and(|next| self.leads(next, steps - 1, size, to))
            })
    }
}

/// The bytes of an object. A header of the allocator stands before its address and counts, so there may be eight too many.
fn extent(object: &Object) -> Result<Range<u64>> {
    let start = object.addr()?;
    Ok(start..start + object.bytes)
}

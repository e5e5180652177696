//! The pools of a program: as text, and as a JSON document.

use super::{bytes, count, one_line};
use serde::Serialize;
use sfgi_core::binary::{TypeId, Types};
use sfgi_core::objects::{Filled, Holds, OfP, Place, Pool, Pooled, Pools};
use std::{
    borrow::Cow,
    io::{self, Write},
    path::Path,
};

/// The schema name of the document.
const SCHEMA: &str = "sfgi.pools/1";

/// What was found, and what names it.
pub struct PoolList<'a> {
    pub pid: Option<u32>,
    pub exe: &'a Path,
    pub go_version: &'a str,
    pub types: &'a Types,
    pub pools: &'a Pools,
    /// It was measured what objects keep alive.
    pub measured: bool,
    /// Write each object, too (JSON).
    pub all: bool,
    /// Most pools, and most objects of one kind of each (text).
    pub limit: usize,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    exe: Cow<'a, str>,
    go_version: &'a str,
    objects: u64,
    /// Objects that were too many to be compared.
    not_compared: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retained_bytes: Option<u64>,
    pools: Vec<One<'a>>,
}

#[derive(Serialize)]
struct One<'a> {
    address: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    kept_by: &'a str,
    /// The function that makes objects.
    #[serde(skip_serializing_if = "str::is_empty")]
    new: &'a str,
    types: Vec<OfType<'a>>,
    objects: u64,
    private: u64,
    shared: u64,
    victim: u64,
    /// Objects that stood still and were compared.
    compared: u64,
    /// Counted, but in none of the lists.
    left_out: u64,
    /// How many Ps its arrays are for.
    procs: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retained_bytes: Option<u64>,
    /// Those Ps that have something.
    by_p: Vec<ByP>,
    twice: Vec<TwiceJson>,
    /// Paths of fields that are emptied before some objects are put back, but not before all.
    dirty: Vec<&'a str>,
    fields: Vec<Field<'a>>,
    oversized: Vec<Oversized>,
    #[serde(skip_serializing_if = "Option::is_none")]
    median_room_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<Object<'a>>>,
}

#[derive(Serialize)]
struct OfType<'a> {
    #[serde(rename = "type")]
    of: &'a str,
    objects: u64,
}

#[derive(Serialize)]
struct ByP {
    p: u32,
    private: u64,
    shared: u64,
    victim: u64,
}

#[derive(Serialize)]
struct TwiceJson {
    address: String,
    times: u64,
}

#[derive(Serialize)]
struct Field<'a> {
    #[serde(rename = "type")]
    of: &'a str,
    path: &'a str,
    holds: &'static str,
    full: u64,
    emptied: u64,
    unset: u64,
    example: String,
}

#[derive(Serialize)]
struct Oversized {
    address: String,
    room_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retained_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Object<'a> {
    address: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    of: Option<&'a str>,
    p: u32,
    place: Place,
    bytes: u64,
    room_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retained_bytes: Option<u64>,
    stands: bool,
}

fn word(holds: Holds) -> &'static str {
    match holds {
        Holds::Slice => "slice",
        Holds::Text => "string",
        Holds::Map => "map",
        Holds::Reference => "reference",
    }
}

/// A number with its noun.
fn many(number: u64, one: &str, several: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { several })
}

/// What is wrong with a pool.
fn faults(pool: &Pool) -> u64 {
    pool.twice.len() as u64 + pool.dirty().len() as u64 + pool.oversized().count() as u64
}

impl PoolList<'_> {
    fn sum(&self, of: impl Fn(&Pool) -> u64) -> u64 {
        self.pools.list.iter().map(of).sum()
    }

    fn kept(&self, bytes: u64) -> Option<u64> {
        self.measured.then_some(bytes)
    }

    fn name_of(&self, of: Option<TypeId>) -> Option<&str> {
        of.map(|of| self.types.name(of))
    }

    /// Writes one JSON document.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        let document = Document {
            schema: SCHEMA,
            pid: self.pid,
            exe: self.exe.to_string_lossy(),
            go_version: self.go_version,
            objects: self.sum(Pool::count),
            not_compared: self.pools.not_compared,
            bytes: self.sum(|pool| pool.bytes),
            retained_bytes: self.kept(self.sum(|pool| pool.keeps)),
            pools: self.pools.list.iter().map(|pool| self.one(pool)).collect(),
        };
        serde_json::to_writer(&mut out, &document)?;
        writeln!(out)?;
        out.flush()
    }

    fn one<'p>(&'p self, pool: &'p Pool) -> One<'p> {
        let of_place = |of: fn(&OfP) -> u64| pool.ps.values().map(of).sum();
        let by_p = |(p, of): (&u32, &OfP)| {
            let OfP { private, shared, victim } = *of;
            ByP { p: *p, private, shared, victim }
        };
        let field = |field: &'p Filled| Field {
            of: self.types.name(field.of),
            path: &field.path,
            holds: word(field.holds),
            full: field.full,
            emptied: field.emptied,
            unset: field.unset,
            example: format!("{:#x}", field.example),
        };
        let oversized = |value: &Pooled| Oversized {
            address: format!("{:#x}", value.addr),
            room_bytes: value.room,
            retained_bytes: self.kept(value.keeps),
        };
        let object = |value: &Pooled| Object {
            address: format!("{:#x}", value.addr),
            of: self.name_of(value.of),
            p: value.p,
            place: value.place,
            bytes: value.bytes,
            room_bytes: value.room,
            retained_bytes: self.kept(value.keeps),
            stands: value.stands,
        };
        One {
            address: format!("{:#x}", pool.addr),
            name: &pool.name,
            kept_by: &pool.kept_by,
            new: &pool.new,
            types: (pool.types().into_iter())
                .map(|(of, objects)| OfType { of: self.types.name(of), objects })
                .collect(),
            objects: pool.count(),
            private: of_place(|of| of.private),
            shared: of_place(|of| of.shared),
            victim: of_place(|of| of.victim),
            compared: pool.values.iter().filter(|value| value.stands).count() as u64,
            left_out: pool.left_out,
            procs: pool.procs,
            bytes: pool.bytes,
            retained_bytes: self.kept(pool.keeps),
            by_p: pool.ps.iter().map(by_p).collect(),
            twice: (pool.twice.iter())
                .map(|twice| TwiceJson { address: format!("{:#x}", twice.addr), times: twice.times })
                .collect(),
            dirty: pool.dirty().into_iter().map(|field| field.path.as_str()).collect(),
            fields: pool.filled.iter().map(field).collect(),
            oversized: pool.oversized().map(oversized).collect(),
            median_room_bytes: Some(pool.median).filter(|median| *median > 0),
            trouble: pool.trouble,
            list: self.all.then(|| pool.values.iter().map(object).collect()),
        }
    }

    /// Writes the pools as text, those with something wrong first, of those the largest.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_text(&self, mut out: impl Write) -> io::Result<()> {
        let mut list: Vec<&Pool> = self.pools.list.iter().collect();
        list.sort_by_key(|pool| {
            let wrong = std::cmp::Reverse(faults(pool) > 0);
            (wrong, std::cmp::Reverse(pool.keeps.max(pool.bytes)), std::cmp::Reverse(pool.count()))
        });
        for pool in list.iter().take(self.limit) {
            for line in self.lines(pool) {
                writeln!(out, "{}", one_line(&line))?;
            }
        }
        let left = list.len().saturating_sub(self.limit);
        if left > 0 {
            writeln!(out, "… {} (--limit)", many(left as u64, "more pool", "more pools"))?;
        }
        out.flush()
    }

    fn lines(&self, pool: &Pool) -> Vec<String> {
        let mut head = vec![
            if pool.name.is_empty() { "a pool without a name".to_owned() } else { pool.name.clone() },
            format!("{:#x}", pool.addr),
        ];
        match &pool.types()[..] {
            [] => {}
            [(of, _)] => head.push(self.types.name(*of).to_owned()),
            [(of, _), more @ ..] => {
                head.push(format!(
                    "{} and {}",
                    self.types.name(*of),
                    many(more.len() as u64, "other type", "other types")
                ));
            }
        }
        if !pool.new.is_empty() {
            head.push(format!("New {}", pool.new));
        }
        let mut lines = vec![head.join(" · "), format!("  {}", self.totals(pool))];
        if !pool.ps.is_empty() {
            lines.push(format!("  {}", self.by_p(pool)));
        }
        if !pool.kept_by.is_empty() {
            lines.push(format!("  kept by {}", pool.kept_by));
        }
        if let Some(trouble) = pool.trouble {
            lines.push(format!("  not all is known: {trouble}"));
        }
        self.faulty(pool, &mut lines);
        lines
    }

    fn totals(&self, pool: &Pool) -> String {
        let sum = |of: fn(&OfP) -> u64| count(pool.ps.values().map(of).sum());
        let keeps = if self.measured && pool.keeps > pool.bytes {
            format!(", keep {} alive", bytes(pool.keeps))
        } else {
            String::new()
        };
        let left = if pool.left_out > 0 {
            format!("; {} of them were not looked at", count(pool.left_out))
        } else {
            String::new()
        };
        format!(
            "{} (private {}, shared {}, victim {}) · {}{keeps}{left}",
            many(pool.count(), "object", "objects"),
            sum(|of| of.private),
            sum(|of| of.shared),
            sum(|of| of.victim),
            bytes(pool.bytes),
        )
    }

    fn by_p(&self, pool: &Pool) -> String {
        let shown = pool.ps.iter().take(self.limit).map(|(p, of)| {
            let victim = if of.victim > 0 { format!(", victim {}", of.victim) } else { String::new() };
            format!("P{p} {}+{}{victim}", of.private, of.shared)
        });
        let left = pool.ps.len().saturating_sub(self.limit);
        let more = (left > 0).then(|| format!("{} more", count(left as u64)));
        let shown: Vec<String> = shown.chain(more).collect();
        format!("by P, private+shared: {}", shown.join(" · "))
    }

    /// Adds what is wrong with a pool, and what else its objects have in them.
    fn faulty(&self, pool: &Pool, lines: &mut Vec<String>) {
        for twice in pool.twice.iter().take(self.limit) {
            lines.push(format!(
                "  TWICE: {:#x} is in the pool {} times: it was put back more than once (proven)",
                twice.addr, twice.times
            ));
        }
        let dirty = pool.dirty();
        for field in &dirty {
            lines.push(format!(
                "  DIRTY: {} has something in it in {} of {} that were used, as in {:#x}: not every Put comes after a reset",
                place(field),
                count(field.full),
                many(field.full + field.emptied, "object", "objects"),
                field.example
            ));
        }
        let of_types: u64 = pool.values.iter().filter(|value| value.stands).count() as u64;
        for field in pool.filled.iter().filter(|field| !dirty.contains(field)).take(self.limit) {
            // What all have, as a buffer of a fixed length, tells nothing.
            if field.full < field.full + field.emptied + field.unset || field.varies {
                let all = field.full + field.emptied + field.unset;
                lines.push(format!(
                    "  filled: {} in {} of {}",
                    place(field),
                    count(field.full),
                    many(all.max(1), "object", "objects")
                ));
            }
        }
        for value in pool.oversized().take(self.limit) {
            let keeps = if self.measured {
                format!(", and keeps {} alive", bytes(value.keeps))
            } else {
                String::new()
            };
            lines.push(format!(
                "  BLOAT: {:#x} has room for {}, {} times as much as the median ({}){keeps}",
                value.addr,
                bytes(value.room),
                count(value.room / pool.median.max(1)),
                bytes(pool.median),
            ));
        }
        let moved = pool.values.len() as u64 - of_types;
        if moved > 0 {
            lines.push(format!("  {} in motion: not compared", many(moved, "object was", "objects were")));
        }
    }

    /// A line that sums up.
    pub fn closing(&self) -> String {
        let sum = |of: fn(&Pool) -> u64| self.sum(of);
        let mut text = format!(
            "{}, {}, {}",
            many(self.pools.list.len() as u64, "pool", "pools"),
            many(sum(Pool::count), "object", "objects"),
            bytes(sum(|pool| pool.bytes)),
        );
        if self.measured {
            text += &format!(", which keep {} alive", bytes(sum(|pool| pool.keeps)));
        }
        let twice = sum(|pool| pool.twice.len() as u64);
        let dirty = sum(|pool| pool.dirty().len() as u64);
        let bloat = sum(|pool| pool.oversized().count() as u64);
        text += &format!("; {} twice, {} dirty, {} oversized", count(twice), count(dirty), count(bloat));
        if self.pools.not_compared > 0 {
            text += &format!("; {} were not compared", many(self.pools.not_compared, "object", "objects"));
        }
        text
    }
}

/// A field, or the value itself.
fn place(field: &Filled) -> &str {
    if field.path.is_empty() { "the object itself" } else { &field.path }
}

//! What keeps objects alive: as text, JSON and a graph for Graphviz.

use super::{bytes, count, one_line};
use serde::Serialize;
use sfgi_core::{
    leaks::{Turn, TurnJson},
    objects::{Described, Hop, Root, RootKind, Share, Way},
};
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write},
    path::Path,
};

/// The schema name of the document.
const SCHEMA: &str = "sfgi.why/1";

/// Objects that are shown as text; a group of leaked goroutines may wait for thousands.
const MAX_TEXT: usize = 20;

/// What was asked, and what was found.
pub struct Why<'a> {
    pub pid: Option<u32>,
    pub exe: &'a Path,
    pub go_version: &'a str,
    /// The goroutine whose awaited objects these are.
    pub goid: Option<u64>,
    /// Who could end the waits of the goroutines that were asked about.
    pub holders: Vec<Turn>,
    pub found: Vec<Kept>,
    pub share: Share,
    /// Nanoseconds that the program was stopped; `None`: it ran.
    pub frozen_ns: Option<u64>,
    /// What limits the answer, in sentences without a full stop.
    pub notes: Vec<String>,
}

/// An object, and what keeps it alive.
pub struct Kept {
    pub object: Described,
    /// Objects and bytes that only this one keeps alive, itself included; `None`: it was not measured.
    pub retained: Option<(u64, u64)>,
    pub ways: Vec<Way>,
    /// Why there are no ways, as a clause; empty where there are.
    pub unkept: String,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    exe: std::borrow::Cow<'a, str>,
    go_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    goid: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frozen_ns: Option<u64>,
    typed: Share,
    notes: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    holders: Vec<TurnJson<'a>>,
    objects: Vec<JsonKept<'a>>,
}

#[derive(Serialize)]
struct JsonKept<'a> {
    #[serde(flatten)]
    object: &'a Described,
    #[serde(skip_serializing_if = "Option::is_none")]
    retained: Option<Retained>,
    #[serde(skip_serializing_if = "str::is_empty")]
    unkept: &'a str,
    ways: Vec<JsonWay<'a>>,
}

#[derive(Serialize)]
struct Retained {
    objects: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct JsonWay<'a> {
    way: String,
    root: JsonRoot<'a>,
    hops: &'a [Hop],
}

#[derive(Serialize)]
struct JsonRoot<'a> {
    kind: RootKind,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    goid: Option<u64>,
}

impl<'a> JsonRoot<'a> {
    fn of(root: &'a Root) -> JsonRoot<'a> {
        JsonRoot {
            kind: root.kind,
            name: &root.name,
            address: (root.addr != 0).then(|| format!("{:#x}", root.addr)),
            goid: (root.goid != 0).then_some(root.goid),
        }
    }
}

impl Why<'_> {
    /// Writes one JSON document.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        let way = |way: &'_ Way| way.to_string();
        let objects = self.found.iter().map(|kept| JsonKept {
            object: &kept.object,
            retained: kept.retained.map(|(objects, bytes)| Retained { objects, bytes }),
            unkept: &kept.unkept,
            ways: (kept.ways.iter())
                .map(|one| JsonWay { way: way(one), root: JsonRoot::of(&one.root), hops: &one.hops })
                .collect(),
        });
        let document = Document {
            schema: SCHEMA,
            pid: self.pid,
            exe: self.exe.to_string_lossy(),
            go_version: self.go_version,
            goid: self.goid,
            frozen_ns: self.frozen_ns,
            typed: self.share,
            notes: &self.notes,
            holders: self.holders.iter().map(TurnJson::of).collect(),
            objects: objects.collect(),
        };
        serde_json::to_writer(&mut out, &document)?;
        writeln!(out)?;
        out.flush()
    }

    /// Writes text: for each object its ways, and each step of the first.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_text(&self, mut out: impl Write) -> io::Result<()> {
        for turn in &self.holders {
            writeln!(out, "{}", one_line(&turn.sentence()))?;
        }
        if !self.holders.is_empty() {
            writeln!(out)?;
        }
        for kept in self.found.iter().take(MAX_TEXT) {
            writeln!(out, "{}", heading(kept))?;
            if kept.ways.is_empty() {
                writeln!(out, "  {}", one_line(&kept.unkept))?;
            }
            for way in &kept.ways {
                writeln!(out, "  {}", one_line(&way.to_string()))?;
                let (first, last) = way.shown();
                for (hop, number) in way.hops.iter().zip(0..) {
                    if number == first && last > first {
                        writeln!(
                            out,
                            "      … {} more, which --format json has",
                            count((last - first) as u64)
                        )?;
                    }
                    if !(first..last).contains(&number) {
                        writeln!(out, "      {}", one_line(&step(hop)))?;
                    }
                }
            }
            writeln!(out)?;
        }
        match self.found.len().saturating_sub(MAX_TEXT) {
            0 => {}
            more => writeln!(out, "and {} more, which --format json has\n", count(more as u64))?,
        }
        out.flush()
    }

    /// Writes a graph in the DOT language, an object once.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_dot(&self, mut out: impl Write) -> io::Result<()> {
        writeln!(out, "digraph why {{\n  rankdir=LR;\n  node [shape=box, fontname=monospace];")?;
        let mut edges = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        for kept in &self.found {
            nodes.insert(kept.object.address, (label(&kept.object), true));
            for (way, number) in kept.ways.iter().zip(1..) {
                let root = format!("root_{}_{number}", kept.object.address);
                let name = Way { root: way.root.clone(), hops: Vec::new() }.to_string();
                writeln!(out, "  {root} [shape=ellipse, label=\"{}\"];", quoted(&name))?;
                let mut before = root;
                for hop in &way.hops {
                    nodes.entry(hop.object.address).or_insert_with(|| (label(&hop.object), false));
                    let times = if hop.times > 1 { format!(" × {}", hop.times) } else { String::new() };
                    let node = format!("object_{}", hop.object.address);
                    edges.insert((before, node.clone()), format!("{}{times}", hop.via));
                    before = node;
                }
            }
        }
        for (addr, (label, asked)) in nodes {
            let style = if asked { ", style=bold" } else { "" };
            writeln!(out, "  object_{addr} [label=\"{}\"{style}];", quoted(&label))?;
        }
        for ((from, to), via) in edges {
            writeln!(out, "  {from} -> {to} [label=\"{}\"];", quoted(&via))?;
        }
        writeln!(out, "}}")?;
        out.flush()
    }

    /// A line that says how sure the answer is.
    pub fn closing(&self) -> String {
        let share = self.share;
        let percent = |part: u64, all: u64| part as f64 * 100.0 / all.max(1) as f64;
        let mut text = format!(
            "{} objects ({}) are kept alive; the types of {:.0} % of them are known ({:.0} % of the bytes)",
            count(share.objects),
            bytes(share.bytes),
            percent(share.typed_objects, share.objects),
            percent(share.typed_bytes, share.bytes),
        );
        for note in &self.notes {
            text += "; ";
            text += note;
        }
        text
    }
}

fn heading(kept: &Kept) -> String {
    let object = &kept.object;
    let mut text = format!("{:#x}  {}", object.address, label_of(object));
    if object.bytes > 0 {
        let _ = write!(text, " · {}", bytes(object.bytes));
    }
    if let Some((objects, size)) = kept.retained {
        let _ = write!(text, " · keeps about {} in {} objects alive", bytes(size), count(objects));
    }
    one_line(&text)
}

fn label_of(object: &Described) -> String {
    object.type_name().unwrap_or_else(|| "type not known".to_owned())
}

fn label(object: &Described) -> String {
    format!("{}\n{:#x} · {}", label_of(object), object.address, bytes(object.bytes))
}

fn step(hop: &Hop) -> String {
    let via = if hop.via.is_empty() { "·" } else { &hop.via };
    let times = if hop.times > 1 { format!(" × {}", count(hop.times)) } else { String::new() };
    format!("{via}{times}  {:#x}  {}  {}", hop.object.address, label_of(&hop.object), bytes(hop.object.bytes))
}

/// As it stands between quotes in DOT.
fn quoted(text: &str) -> String {
    let mut quoted = String::new();
    for line in text.split('\n') {
        if !quoted.is_empty() {
            quoted.push_str("\\n");
        }
        quoted.push_str(&one_line(line).replace('\\', "\\\\").replace('"', "\\\""));
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a hostile executable may call a type, a field, a function and a variable.
    const HOSTILE: &str = "a\"b\\c\nd\r\x1b[31me\u{9b}2J\u{202e}\t\0\\";

    fn described(address: u64) -> Described {
        let name = || HOSTILE.to_owned();
        Described { address, bytes: 48, of: Some(name()), package: name(), function: None, count: 0 }
    }

    fn way(times: u64) -> Way {
        let name = HOSTILE.to_owned();
        let root = Root { kind: RootKind::Variable, name: name.clone(), addr: 0x1000, goid: 0, pc: None };
        let hop = |via: &str, address, times| Hop { via: via.to_owned(), object: described(address), times };
        Way { root, hops: vec![hop("", 0x2000, 1), hop(&name, 0x3000, times)] }
    }

    fn hostile(exe: &Path) -> Why<'_> {
        let closure = Described { function: Some(HOSTILE.to_owned()), of: None, ..described(0x4000) };
        let kept = |object, ways, unkept: &str| Kept {
            object,
            retained: Some((2, 96)),
            ways,
            unkept: unkept.to_owned(),
        };
        Why {
            holders: Vec::new(),
            pid: Some(7),
            exe,
            go_version: HOSTILE,
            goid: None,
            found: vec![
                kept(described(0x3000), vec![way(1), way(1000)], ""),
                kept(closure, Vec::new(), HOSTILE),
            ],
            share: Share::default(),
            frozen_ns: None,
            notes: vec![HOSTILE.to_owned()],
        }
    }

    fn written(write: impl Fn(&Why<'_>, &mut Vec<u8>) -> io::Result<()>) -> String {
        let mut bytes = Vec::new();
        write(&hostile(Path::new(HOSTILE)), &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn has_no_controls(text: &str) -> bool {
        text.chars().all(|char| char == '\n' || !char.is_control() && char != '\u{202e}')
    }

    #[test]
    fn names_end_no_line_of_text() {
        let text = written(|why, out| why.write_text(out));
        assert!(has_no_controls(&text), "{text:?}");
        let lines: Vec<_> = text.lines().collect();
        // Each object, its ways or why it has none, each step, and an empty line behind each object.
        assert_eq!(lines.len(), (1 + 2 * (1 + 2) + 1) + (1 + 1 + 1), "{text}");
        assert!(
            lines.iter().all(|line| line.starts_with("0x") || line.starts_with("  ") || line.is_empty()),
            "{text}"
        );
    }

    #[test]
    fn a_graph_has_a_statement_on_each_line_and_its_quotes_balance() {
        let graph = written(|why, out| why.write_dot(out));
        assert!(has_no_controls(&graph), "{graph:?}");
        let lines: Vec<_> = graph.lines().collect();
        assert_eq!((lines.first(), lines.last()), (Some(&"digraph why {"), Some(&"}")));
        for line in lines.get(1..lines.len() - 1).unwrap() {
            assert!(line.starts_with("  ") && line.ends_with(';'), "{line:?}");
            let (mut within, mut chars) = (false, line.chars());
            while let Some(char) = chars.next() {
                match char {
                    '"' => within = !within,
                    '\\' if within => {
                        assert!(chars.next().is_some_and(|char| "n\\\"".contains(char)), "{line:?}");
                    }
                    _ => {}
                }
            }
            assert!(!within, "{line:?}");
        }
        let nodes = lines.iter().filter(|line| line.starts_with("  object_") && !line.contains("->")).count();
        assert_eq!(nodes, 3, "{graph}");
    }

    #[test]
    fn json_keeps_names_as_they_are() {
        let document: serde_json::Value =
            serde_json::from_str(&written(|why, out| why.write_json(out))).unwrap();
        let object = &document["objects"][0];
        assert_eq!(object["type"], HOSTILE);
        assert_eq!(object["ways"][1]["hops"][1]["times"], 1000);
        assert_eq!(object["ways"][0]["root"]["name"], HOSTILE);
        assert_eq!(document["objects"][1]["unkept"], HOSTILE);
    }

    #[test]
    fn the_closing_line_has_all_notes() {
        let exe = Path::new("server");
        let why = Why { notes: vec!["one".to_owned(), "two".to_owned()], ..hostile(exe) };
        assert!(why.closing().ends_with("; one; two"), "{}", why.closing());
    }
}

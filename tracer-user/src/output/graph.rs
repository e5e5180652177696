//! Who waits for whom: as a graph for Graphviz, for Mermaid, and as JSON.

use super::{count, one_line};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sfgi_core::{
    heap::Waits,
    leaks::{Place, Turn, TurnJson},
    names::{Names, Site},
    snapshot::{Goroutine, Snapshot},
};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::{self, Write},
    path::Path,
};
use utoipa::ToSchema;

/// The schema name of the document.
const SCHEMA: &str = "sfgi.graph/1";
/// Waits in a picture: of more nobody sees anything.
const MAX_DRAWN: usize = 2000;
/// Goroutines that are named as those who could end one wait; a lock may have a thousand readers.
const MAX_HOLDERS: usize = 16;

/// The languages of graphs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GraphFormat {
    /// For Graphviz
    Dot,
    /// For Markdown pages
    Mermaid,
    #[default]
    Json,
}

/// The goroutines that wait for others, and their waits.
pub struct Graph<'a> {
    pub pid: Option<u32>,
    pub exe: &'a Path,
    /// Why goroutines are missing, as a clause; `None`: none is.
    pub incomplete: Option<String>,
    nodes: Vec<Node>,
    waits: Vec<Turn>,
    /// How many who could end a wait are left out.
    left_out: u64,
}

struct Node {
    goid: u64,
    state: String,
    reason: String,
    at: Option<Site>,
    stuck: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    exe: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete: Option<&'a str>,
    goroutines: Vec<JsonNode<'a>>,
    waits: Vec<TurnJson<'a>>,
}

#[derive(Serialize)]
struct JsonNode<'a> {
    goid: u64,
    status: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    wait_reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Place<'a>>,
    /// Everybody who could end its wait is stuck, too.
    stuck: bool,
}

impl JsonNode<'_> {
    fn of(node: &Node) -> JsonNode<'_> {
        JsonNode {
            goid: node.goid,
            status: &node.state,
            wait_reason: &node.reason,
            at: node.at.as_ref().map(Place::of),
            stuck: node.stuck,
        }
    }
}

impl<'a> Graph<'a> {
    /// The waits of these goroutines (indices into the snapshot), and who could end them.
    pub fn new(
        (pid, exe): (Option<u32>, &'a Path),
        snapshot: &Snapshot,
        waits: &Waits,
        chosen: &[u32],
        names: &mut Names,
    ) -> Graph<'a> {
        let chosen: HashSet<u32> = chosen.iter().copied().collect();
        let mut named: HashMap<(u32, u32), usize> = HashMap::new();
        let mut left_out = 0;
        let mut edges = Vec::new();
        for edge in waits.edges.iter().filter(|edge| chosen.contains(&edge.waiter)) {
            let holders = named.entry((edge.waiter, edge.object)).or_default();
            *holders += 1;
            if *holders > MAX_HOLDERS {
                left_out += 1;
            } else {
                edges.push(*edge);
            }
        }
        // What is stuck comes first, for a picture that has no room for all.
        edges.sort_by_key(|edge| !(waits.is_stuck(edge.waiter) && waits.is_stuck(edge.holder)));
        let members: BTreeSet<u32> = edges.iter().flat_map(|edge| [edge.waiter, edge.holder]).collect();
        let of = |index: &u32| Some((*index, snapshot.goroutines.get(*index as usize)?));
        let node = |(index, goroutine): (u32, &Goroutine)| Node {
            goid: goroutine.goid,
            state: goroutine.state.to_string(),
            reason: names.reason(goroutine).to_owned(),
            at: names.wait_site(snapshot.stacks.get(goroutine.stack)),
            stuck: waits.is_stuck(index),
        };
        let nodes = members.iter().filter_map(of).map(node).collect();
        let turns = edges.iter().filter_map(|edge| Turn::of(edge, snapshot, names)).collect();
        let cut = waits.cut.then(|| "there are more goroutines or waits than are looked at".to_owned());
        Graph { pid, exe, incomplete: snapshot.lacks().or(cut), nodes, waits: turns, left_out }
    }

    /// Writes it in this language.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write(&self, format: GraphFormat, out: impl Write) -> io::Result<()> {
        match format {
            GraphFormat::Dot => self.write_dot(out),
            GraphFormat::Mermaid => self.write_mermaid(out),
            GraphFormat::Json => self.write_json(out),
        }
    }

    /// Writes one JSON document.
    fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        let document = Document {
            schema: SCHEMA,
            pid: self.pid,
            exe: self.exe.to_string_lossy(),
            incomplete: self.incomplete.as_deref(),
            goroutines: self.nodes.iter().map(JsonNode::of).collect(),
            waits: self.waits.iter().map(TurnJson::of).collect(),
        };
        serde_json::to_writer(&mut out, &document)?;
        writeln!(out)
    }

    /// Writes a graph in the DOT language.
    fn write_dot(&self, mut out: impl Write) -> io::Result<()> {
        writeln!(out, "digraph waits {{\n  node [shape=box, fontname=monospace];")?;
        let (nodes, waits) = self.drawn();
        for node in nodes {
            let style = if node.stuck { ", style=filled, fillcolor=mistyrose, color=red" } else { "" };
            writeln!(out, "  g{} [label=\"{}\"{style}];", node.goid, quoted(&node.lines(), "\\n"))?;
        }
        for turn in waits {
            let style = if turn.sign.is_hint() { ", style=dashed" } else { "" };
            let label = quoted(&label(turn), "\\n");
            writeln!(out, "  g{} -> g{} [label=\"{label}\"{style}];", turn.waiter, turn.holder)?;
        }
        writeln!(out, "}}")
    }

    /// Writes a flowchart in the language of Mermaid.
    fn write_mermaid(&self, mut out: impl Write) -> io::Result<()> {
        writeln!(out, "flowchart LR")?;
        let (nodes, waits) = self.drawn();
        for node in nodes {
            let style = if node.stuck { ":::stuck" } else { "" };
            writeln!(out, "  g{}[\"{}\"]{style}", node.goid, quoted(&node.lines(), "<br>"))?;
        }
        for turn in waits {
            let arrow = if turn.sign.is_hint() { "-.->" } else { "-->" };
            let label = quoted(&label(turn), "<br>");
            writeln!(out, "  g{} {arrow}|\"{label}\"| g{}", turn.waiter, turn.holder)?;
        }
        writeln!(out, "  classDef stuck fill:#fdd,stroke:#c00")
    }

    /// What a picture has room for.
    fn drawn(&self) -> (impl Iterator<Item = &Node>, &[Turn]) {
        let waits = self.waits.get(..MAX_DRAWN).unwrap_or(&self.waits);
        let shown: HashSet<u64> = waits.iter().flat_map(|turn| [turn.waiter, turn.holder]).collect();
        (self.nodes.iter().filter(move |node| shown.contains(&node.goid)), waits)
    }

    /// A line that says what the graph shows. `picture`: not all of it need be drawn.
    pub fn closing(&self, picture: bool) -> String {
        let stuck = self.nodes.iter().filter(|node| node.stuck).count() as u64;
        let mut text = match self.nodes.len() as u64 {
            0 => "nobody is known to wait for somebody else".to_owned(),
            nodes => format!("{} goroutines wait for, or hold up, others; ", count(nodes)),
        };
        match stuck {
            _ if self.nodes.is_empty() => {}
            0 => text += "none of them is stuck",
            stuck => {
                text += &format!(
                    "{} of them are stuck: everybody who could end their wait is, too",
                    count(stuck)
                );
            }
        }
        if self.left_out > 0 {
            text += &format!("; {} more who could end a wait are left out", count(self.left_out));
        }
        let more = self.waits.len().saturating_sub(MAX_DRAWN) as u64;
        if picture && more > 0 {
            text += &format!("; {} more waits are not drawn, which --graph json has", count(more));
        }
        if let Some(why) = &self.incomplete {
            text += &format!("; incomplete: {why}");
        }
        text
    }
}

impl Node {
    fn lines(&self) -> [String; 2] {
        let what = if self.reason.is_empty() { &self.state } else { &self.reason };
        let at = self.at.as_ref().map(|site| format!("{}:{}", site.func, site.line)).unwrap_or_default();
        [format!("goroutine {} [{what}]", self.goid), at]
    }
}

/// What a wait is for, and how it is known who could end it.
fn label(turn: &Turn) -> [String; 2] {
    [format!("waits {} {}", turn.wants.verb(), turn.object), format!("by {}", turn.by())]
}

/// As it stands between quotes: both languages know backslashes and the entities of HTML.
fn quoted(lines: &[String; 2], between: &str) -> String {
    let line =
        |line: &String| one_line(line).replace('\\', "/").replace('"', "'").replace(['<', '>', '|'], "");
    let lines: Vec<String> = lines.iter().filter(|one| !one.is_empty()).map(line).collect();
    lines.join(between)
}

//! The contexts of a program: as a tree in text, and as a JSON document.

use super::{bytes, count, duration, one_line};
use serde::Serialize;
use sfgi_core::binary::{TypeId, Types};
use sfgi_core::objects::{Above, Context, ContextKind, Contexts};
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write},
    path::Path,
};

/// The schema name of the document.
const SCHEMA: &str = "sfgi.contexts/1";
/// Levels of the tree that are shown; a chain of more is cut, and that is shown.
const MAX_DEPTH: usize = 64;

/// What was found, and what names it.
pub struct ContextTree<'a> {
    pub pid: Option<u32>,
    pub exe: &'a Path,
    pub go_version: &'a str,
    pub types: &'a Types,
    pub contexts: &'a Contexts,
    /// By address of an `hchan`, how many goroutines wait for it.
    pub waiting: &'a HashMap<u64, u64>,
    /// Nanoseconds since 1970; 0: not known, as of a core file.
    pub now_unix_ns: i64,
    /// Write each context, not only how many there are of a kind (JSON).
    pub all: bool,
    /// Most lines of one level (text).
    pub limit: usize,
}

/// Contexts that lie at the same place in the tree and are the same in all that is told.
#[derive(Serialize)]
struct Node {
    #[serde(rename = "type")]
    of: String,
    kind: ContextKind,
    count: u64,
    /// Of the first.
    address: String,
    /// Bytes of all of them.
    bytes: u64,
    /// Children as their own maps count them.
    children: u64,
    /// How many are registered with a parent.
    registered: u64,
    ended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    lost: bool,
    /// The first deadline, nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_unix_ns: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// Goroutines whose stacks refer to them, and those that wait for their end.
    goroutines: u64,
    waiting: u64,
    /// What was made of them.
    below: Vec<Node>,
    /// There is more below than is shown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

#[derive(Serialize)]
struct One<'a> {
    address: String,
    #[serde(rename = "type")]
    of: &'a str,
    kind: ContextKind,
    /// Address of the context that it was made of, or `background`, `todo`, `unknown`.
    parent: String,
    registered: bool,
    children: u64,
    ended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_unix_ns: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    held: bool,
    goroutines: u32,
    waiting: u64,
    lost: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    exe: std::borrow::Cow<'a, str>,
    go_version: &'a str,
    contexts: u64,
    left_out: u64,
    ended: u64,
    lost: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    doubt: Option<&'a str>,
    tree: Vec<Root>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<One<'a>>>,
}

#[derive(Serialize)]
struct Root {
    /// `background`, `todo`, `unknown` or `circle`: of one another.
    root: &'static str,
    below: Vec<Node>,
}

/// What contexts have in common that are shown as one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    lost: std::cmp::Reverse<bool>,
    of: TypeId,
    ended: bool,
    error: Option<TypeId>,
    key: Option<TypeId>,
    value: Option<TypeId>,
}

impl Key {
    fn of(context: &Context) -> Key {
        Key {
            lost: std::cmp::Reverse(context.lost),
            of: context.of,
            ended: context.ended,
            error: context.error,
            key: context.key,
            value: context.value,
        }
    }
}

/// A number with its noun.
fn many(number: u64, one: &str, several: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { several })
}

/// Whether it is lost, or one below it is: those come first.
fn holds_lost(node: &Node) -> bool {
    node.lost || node.below.first().is_some_and(holds_lost)
}

impl ContextTree<'_> {
    fn roots(&self) -> Vec<Root> {
        let list = &self.contexts.list;
        let mut below: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut roots: [(&'static str, Vec<u32>); 3] =
            [("background", Vec::new()), ("todo", Vec::new()), ("unknown", Vec::new())];
        for (context, index) in list.iter().zip(0_u32..) {
            let root = match context.above {
                Above::Context(parent) => {
                    below.entry(parent).or_default().push(index);
                    continue;
                }
                Above::Background => 0,
                Above::Todo => 1,
                Above::Unknown => 2,
            };
            if let Some((_, list)) = roots.get_mut(root) {
                list.push(index);
            }
        }
        // What no root leads to is made of itself, which only memory that lies can be.
        let mut met = vec![false; list.len()];
        let mut todo: Vec<u32> = roots.iter().flat_map(|(_, members)| members).copied().collect();
        let mut circles = Vec::new();
        let mut rest = 0..list.len() as u32;
        loop {
            while let Some(index) = todo.pop() {
                let new = met.get_mut(index as usize).is_some_and(|met| !std::mem::replace(met, true));
                todo.extend(below.get(&index).into_iter().flatten().filter(|_| new));
            }
            let Some(index) = rest.find(|index| !met.get(*index as usize).copied().unwrap_or(true)) else {
                break;
            };
            if let Some(Above::Context(parent)) = list.get(index as usize).map(|context| context.above)
                && let Some(of_parent) = below.get_mut(&parent)
            {
                of_parent.retain(|child| *child != index);
            }
            circles.push(index);
            todo.push(index);
        }
        let roots = roots.into_iter().chain([("circle", circles)]).filter(|(_, members)| !members.is_empty());
        roots.map(|(root, members)| Root { root, below: self.nodes(members, &below, 0) }).collect()
    }

    fn nodes(&self, members: Vec<u32>, below: &HashMap<u32, Vec<u32>>, depth: usize) -> Vec<Node> {
        let mut groups: BTreeMap<Key, Vec<u32>> = BTreeMap::new();
        for member in members {
            if let Some(context) = self.contexts.list.get(member as usize) {
                groups.entry(Key::of(context)).or_default().push(member);
            }
        }
        let mut nodes: Vec<Node> = groups
            .into_iter()
            .map(|(key, members)| {
                let children: Vec<u32> =
                    members.iter().filter_map(|member| below.get(member)).flatten().copied().collect();
                let cut = depth >= MAX_DEPTH && !children.is_empty();
                let below = if cut { Vec::new() } else { self.nodes(children, below, depth + 1) };
                self.node(key, &members, below, cut)
            })
            .collect();
        nodes.sort_by_key(|node| std::cmp::Reverse((holds_lost(node), node.count)));
        nodes
    }

    fn node(&self, key: Key, members: &[u32], below: Vec<Node>, cut: bool) -> Node {
        let contexts = || members.iter().filter_map(|member| self.contexts.list.get(*member as usize));
        let name = |of: Option<TypeId>| of.map(|of| self.types.name(of).to_owned());
        let deadlines = contexts().map(|context| context.deadline_unix_ns).filter(|deadline| *deadline != 0);
        Node {
            of: self.types.name(key.of).to_owned(),
            kind: contexts().next().map_or(ContextKind::Other, |context| context.kind),
            count: members.len() as u64,
            address: contexts().next().map(|context| format!("{:#x}", context.addr)).unwrap_or_default(),
            bytes: members.len() as u64 * self.types.get(key.of).size,
            children: contexts().map(|context| context.children).sum(),
            registered: contexts().filter(|context| context.registered).count() as u64,
            ended: key.ended,
            error: name(key.error),
            lost: key.lost.0,
            deadline_unix_ns: deadlines.min(),
            key: name(key.key),
            value: name(key.value),
            goroutines: contexts().map(|context| u64::from(context.goroutines)).sum(),
            waiting: contexts().map(|context| self.waiting_for(context)).sum(),
            below,
            cut,
        }
    }

    fn waiting_for(&self, context: &Context) -> u64 {
        if context.done == 0 { 0 } else { self.waiting.get(&context.done).copied().unwrap_or(0) }
    }

    fn count_of(&self, what: impl Fn(&Context) -> bool) -> u64 {
        self.contexts.list.iter().filter(|context| context.kind.counts() && what(context)).count() as u64
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
            contexts: self.count_of(|_| true) + self.contexts.left_out,
            left_out: self.contexts.left_out,
            ended: self.count_of(|context| context.ended),
            lost: self.count_of(|context| context.lost),
            doubt: self.contexts.doubt.as_deref(),
            tree: self.roots(),
            list: self.all.then(|| self.contexts.list.iter().map(|context| self.one(context)).collect()),
        };
        serde_json::to_writer(&mut out, &document)?;
        writeln!(out)?;
        out.flush()
    }

    fn one(&self, context: &Context) -> One<'_> {
        let name = |of: Option<TypeId>| of.map(|of| self.types.name(of));
        let parent = match context.above {
            Above::Context(index) => {
                let parent = self.contexts.list.get(index as usize);
                parent.map(|parent| format!("{:#x}", parent.addr)).unwrap_or_default()
            }
            Above::Background => "background".to_owned(),
            Above::Todo => "todo".to_owned(),
            Above::Unknown => "unknown".to_owned(),
        };
        One {
            address: format!("{:#x}", context.addr),
            of: self.types.name(context.of),
            kind: context.kind,
            parent,
            registered: context.registered,
            children: context.children,
            ended: context.ended,
            error: name(context.error),
            deadline_unix_ns: (context.deadline_unix_ns != 0).then_some(context.deadline_unix_ns),
            key: name(context.key),
            value: name(context.value),
            held: context.held,
            goroutines: context.goroutines,
            waiting: self.waiting_for(context),
            lost: context.lost,
        }
    }

    /// Writes the tree as text.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write_text(&self, mut out: impl Write) -> io::Result<()> {
        for root in self.roots() {
            let name = match root.root {
                "background" => "context.Background",
                "todo" => "context.TODO",
                "circle" => "made of one another",
                _ => "made of what is not known",
            };
            writeln!(out, "{name}")?;
            self.lines(&mut out, &root.below, "")?;
        }
        out.flush()
    }

    fn lines(&self, out: &mut impl Write, nodes: &[Node], before: &str) -> io::Result<()> {
        let shown = nodes.get(..self.limit).unwrap_or(nodes);
        let left = nodes.len() - shown.len();
        for (node, number) in shown.iter().zip(1..) {
            let last = number == shown.len() && left == 0;
            writeln!(out, "{before}{} {}", if last { "└─" } else { "├─" }, one_line(&self.line(node)))?;
            let deeper = format!("{before}{}", if last { "   " } else { "│  " });
            self.lines(out, &node.below, &deeper)?;
            if node.cut {
                writeln!(out, "{deeper}└─ … deeper than is shown")?;
            }
        }
        if left > 0 {
            writeln!(out, "{before}└─ … {} (--limit)", many(left as u64, "more kind", "more kinds"))?;
        }
        Ok(())
    }

    fn line(&self, node: &Node) -> String {
        let times = if node.count == 1 { String::new() } else { format!("{} × ", count(node.count)) };
        let mut parts = vec![format!("{times}{}", node.of), node.address.clone()];
        if let Some(key) = &node.key {
            parts.push(format!("{key} = {}", node.value.as_deref().unwrap_or("?")));
        }
        if node.children > 0 {
            parts.push(many(node.children, "child", "children"));
        }
        if node.ended {
            parts.push(format!("ended: {}", node.error.as_deref().unwrap_or("?")));
        }
        if let Some(deadline) = node.deadline_unix_ns.filter(|_| !node.ended && self.now_unix_ns != 0) {
            let left = deadline.saturating_sub(self.now_unix_ns);
            parts.push(match u64::try_from(left) {
                Ok(left) => format!("ends in {}", duration(left)),
                Err(_) => format!("due since {}", duration(left.unsigned_abs())),
            });
        }
        if node.goroutines > 0 {
            parts.push(match node.goroutines {
                1 => "on the stack of a goroutine".to_owned(),
                several => format!("on the stacks of {} goroutines", count(several)),
            });
        }
        if node.waiting > 0 {
            parts.push(many(node.waiting, "goroutine waits for it", "goroutines wait for it"));
        }
        if node.count > 1 {
            parts.push(bytes(node.bytes));
        }
        if node.lost {
            parts.push("LOST: nobody can cancel it, and its parent keeps it".to_owned());
        }
        parts.join(" · ")
    }

    /// A line that sums up.
    pub fn closing(&self) -> String {
        let list = &self.contexts.list;
        let mut text = format!(
            "{} contexts, {} of them ended, {} lost",
            count(self.count_of(|_| true) + self.contexts.left_out),
            count(self.count_of(|context| context.ended)),
            count(self.count_of(|context| context.lost)),
        );
        if self.contexts.left_out > 0 {
            text += &format!("; only {} of them were looked at", count(list.len() as u64));
        }
        if let Some(doubt) = &self.contexts.doubt {
            text += &format!("; which are lost cannot be told: {doubt}");
        }
        text
    }
}

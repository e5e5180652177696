//! Stacks with the same outer frames, put together.

use crate::export::profile::Profile;
use std::collections::HashMap;

/// Stacks as a tree; the first node is the root.
pub(super) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
}

struct Node<'a> {
    name: &'a str,
    /// With everything it calls.
    value: u64,
    /// In the order in which they came: those with the most first.
    callees: Vec<usize>,
}

/// A node to be drawn. What is of all is a part of 1.
pub(super) struct Box<'a> {
    pub(super) name: &'a str,
    pub(super) value: u64,
    pub(super) depth: usize,
    pub(super) from: f64,
    pub(super) share: f64,
}

impl<'a> Tree<'a> {
    /// The stacks of a profile, by what matters there.
    pub(super) fn of(profile: &'a Profile) -> Tree<'a> {
        let mut nodes = vec![Node { name: "all", value: 0, callees: Vec::new() }];
        let mut known: HashMap<(usize, &str), usize> = HashMap::new();
        for sample in &profile.samples {
            let value = sample.value(profile.kind);
            if value == 0 {
                continue;
            }
            nodes[0].value = nodes[0].value.saturating_add(value);
            let mut at = 0;
            for name in sample.frames.iter().rev().flat_map(|frame| frame.names().rev()) {
                let next = *known.entry((at, name)).or_insert(nodes.len());
                if next == nodes.len() {
                    nodes.push(Node { name, value: 0, callees: Vec::new() });
                    nodes[at].callees.push(next);
                }
                at = next;
                nodes[at].value = nodes[at].value.saturating_add(value);
            }
        }
        Tree { nodes }
    }

    /// The value of all together.
    pub(super) fn total(&self) -> u64 {
        self.nodes[0].value
    }

    /// What is to be drawn, callers before those they call, without what has a smaller share than this.
    pub(super) fn boxes(&self, smallest: f64) -> Vec<Box<'a>> {
        let all = self.total().max(1) as f64;
        let mut boxes = Vec::new();
        // Stacks can be deep: no recursion.
        let mut left = vec![(0, 0, 0.0)];
        while let Some((at, depth, from)) = left.pop() {
            let node = &self.nodes[at];
            let share = if at == 0 { 1.0 } else { node.value as f64 / all };
            if share < smallest {
                continue;
            }
            boxes.push(Box { name: node.name, value: node.value, depth, from, share });
            let mut next = from;
            for callee in &node.callees {
                left.push((*callee, depth + 1, next));
                next += self.nodes[*callee].value as f64 / all;
            }
        }
        boxes
    }
}

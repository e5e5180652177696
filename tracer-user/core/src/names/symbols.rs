//! Program counters of one process → function, file and line, remembered.

use crate::{binary::GoBinary, event::Stack, goruntime::is_plumbing};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, sync::Arc};

/// A place in the program's source, in the form of all JSON of sfgi.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Site {
    /// Full function name, as Go prints it.
    pub func: Arc<str>,
    /// File, as the compiler recorded it; empty when unknown.
    pub file: Arc<str>,
    /// Counted from 1; 0 when unknown.
    pub line: u32,
}

/// How many addresses are remembered; a hostile target can invent any number of them.
const CAPACITY: usize = 1 << 16;

/// Resolves addresses of one process.
pub struct Symbols {
    source: Source,
    bias: u64,
    cache: HashMap<u64, Arc<[Site]>>,
    /// Start of a goroutine → entry of the function that it is about.
    entries: HashMap<u64, u64>,
}

enum Source {
    Binary(Arc<GoBinary>),
    /// A recording: an address that is not in the cache has no name.
    Told,
}

impl Symbols {
    /// `bias`: what the kernel added to the binary's link addresses.
    pub fn new(binary: Arc<GoBinary>, bias: u64) -> Self {
        Symbols { source: Source::Binary(binary), bias, cache: HashMap::new(), entries: HashMap::new() }
    }

    /// Without a binary: only what [`Symbols::tell_frames`] and [`Symbols::tell_entry`] said is known.
    pub fn told() -> Self {
        Symbols { source: Source::Told, bias: 0, cache: HashMap::new(), entries: HashMap::new() }
    }

    /// Sets what [`Symbols::frames`] finds at `pc`.
    pub fn tell_frames(&mut self, pc: u64, frames: Arc<[Site]>) {
        self.cache.insert(pc, frames);
    }

    /// Sets what [`Symbols::entry`] finds for `startpc`.
    pub fn tell_entry(&mut self, startpc: u64, entry: u64) {
        self.entries.insert(startpc, entry);
    }

    /// The load bias: what the kernel added to the link-time addresses.
    pub fn bias(&self) -> u64 {
        self.bias
    }

    /// Sets the load bias, which was not known or has changed; forgets all names found with the old one.
    pub fn set_bias(&mut self, bias: u64) {
        self.bias = bias;
        self.cache.clear();
        self.entries.clear();
    }

    /// The frames at `pc`, innermost (inlined) first; empty when nothing is known there.
    pub fn frames(&mut self, pc: u64) -> Arc<[Site]> {
        if let Some(frames) = self.cache.get(&pc) {
            return Arc::clone(frames);
        }
        let Source::Binary(binary) = &self.source else { return Arc::default() };
        let frames: Arc<[Site]> = binary
            .symbolize(pc.wrapping_sub(self.bias))
            .into_iter()
            .map(|frame| Site { func: frame.func.into(), file: frame.file.into(), line: frame.line })
            .collect();
        remember(&mut self.cache, pc, frames)
    }

    /// The frames of a return address: the call is the instruction before it.
    pub fn caller(&mut self, pc: u64) -> Arc<[Site]> {
        self.frames(pc.wrapping_sub(1))
    }

    /// Where a goroutine waits: the innermost frame that is not plumbing; if all are, the
    /// outermost one seen.
    pub fn wait_site(&mut self, stack: Stack) -> Option<Site> {
        let mut last = None;
        for &pc in stack.pcs().iter() {
            for site in self.caller(pc).iter() {
                if !is_plumbing(&site.func) {
                    return Some(site.clone());
                }
                last = Some(site.clone());
            }
        }
        last
    }

    /// The `go` statement before this return address (`g.gopc`).
    pub fn go_statement(&mut self, gopc: u64) -> Option<Site> {
        self.caller(gopc).first().cloned()
    }

    /// The function a goroutine runs, by its `g.startpc`.
    pub fn function(&mut self, startpc: u64) -> Option<Site> {
        let entry = self.entry(startpc);
        // At an entry, code that is inlined at the function's beginning comes first, the function itself last.
        self.frames(entry).last().cloned()
    }

    /// The entry of the function that a goroutine is about, by its `g.startpc`: what a wrapper that the
    /// compiler made calls.
    pub fn entry(&mut self, startpc: u64) -> u64 {
        match (self.entries.get(&startpc), &self.source) {
            (Some(entry), _) => *entry,
            (None, Source::Told) => startpc,
            (None, Source::Binary(binary)) => {
                let entry = binary.goroutine_entry(startpc.wrapping_sub(self.bias));
                remember(&mut self.entries, startpc, entry.wrapping_add(self.bias))
            }
        }
    }
}

/// Keeps an answer; a full cache begins anew.
fn remember<V: Clone>(cache: &mut HashMap<u64, V>, key: u64, value: V) -> V {
    if cache.len() >= CAPACITY {
        cache.clear();
    }
    cache.insert(key, value.clone());
    value
}

//! Which types interfaces hold, by their itabs.

use crate::binary::bytes::{u32_at, u64_at};
use crate::binary::{Kind, TypeId, Types};
use crate::budget;
use crate::snapshot::View;
use hashbrown::{HashMap, HashSet};

/// The concrete types that itabs stand for, by the address of the itab.
#[derive(Debug, Default)]
pub(super) struct Itabs {
    known: HashMap<u64, Option<TypeId>>,
    /// Types of which an itab says that they are contexts, and these itabs.
    pub(super) contexts: HashSet<TypeId>,
    context_itabs: HashSet<u64>,
}

/// Most addresses that are tried and remembered.
const MAX_ITABS: usize = 1 << 18;

impl Itabs {
    /// Whether there is an itab at an address by which something is a context.
    pub(super) fn is_of_context(&mut self, view: &View<'_>, types: &Types, addr: u64) -> bool {
        self.at(view, types, addr).is_some() && self.context_itabs.contains(&addr)
    }

    /// The concrete type of the itab at an address (`abi.ITab { inter, type, hash, fun }`, the same in 1.19 to 1.27);
    /// `None`: there is no itab.
    pub(super) fn at(&mut self, view: &View<'_>, types: &Types, addr: u64) -> Option<TypeId> {
        if let Some(known) = self.known.get(&addr) {
            return *known;
        }
        if self.known.len() >= MAX_ITABS || budget::check(64).is_err() {
            return None;
        }
        let mut bytes = [0; 24];
        let read = view.memory.read(addr, &mut bytes).is_ok();
        let concrete = || {
            let inter = types.at(u64_at(&bytes, 0)?)?;
            let concrete = types.at(u64_at(&bytes, 8)?)?;
            let is = types.get(inter).kind == Kind::Interface && u32_at(&bytes, 16)? == types.hash(concrete);
            is.then_some((inter, concrete))
        };
        let found = concrete().filter(|_| read).map(|(inter, concrete)| {
            if types.name(inter) == "context.Context" && types.package(inter) == "context" {
                self.contexts.insert(concrete);
                self.context_itabs.insert(addr);
            }
            concrete
        });
        self.known.insert(addr, found);
        found
    }
}

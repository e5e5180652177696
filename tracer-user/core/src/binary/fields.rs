//! Fields of structs, and of structs within them, by `struct.field.field`.

use std::collections::HashMap;

/// Levels of structs within structs that are flattened: `g.sched.pc` has two.
const MAX_DEPTH: usize = 3;
/// Fields that are looked at: a hostile struct may hold itself.
const MAX_LOOKED_AT: usize = 1 << 18;
/// Most fields that are collected. `layouts.json` has 910 for Go 1.27.
const MAX_FIELDS: usize = 10_000;

/// A field of a struct: its name, its offset in bytes, and the struct that it is, if its parts need offsets of their
/// own. Slices, strings and atomics are the same in every version.
pub(super) type Field<'a, T> = (&'a str, u32, Option<T>);

/// Offsets in bytes, by `struct.field.field`.
pub(super) struct Fields {
    pub offsets: HashMap<String, u32>,
    /// See [`MAX_LOOKED_AT`].
    left: usize,
}

impl Fields {
    pub(super) fn new(offsets: HashMap<String, u32>) -> Fields {
        Fields { offsets, left: MAX_LOOKED_AT }
    }

    /// Adds the fields of a struct with this name, as `fields` tells them of every struct.
    pub(super) fn add<'a, T: Copy>(&mut self, name: &str, of: T, fields: &impl Fn(T) -> Vec<Field<'a, T>>) {
        self.flatten(name, of, (0, 0), fields);
    }

    fn flatten<'a, T: Copy>(
        &mut self,
        prefix: &str,
        of: T,
        (base, depth): (u32, usize),
        fields: &impl Fn(T) -> Vec<Field<'a, T>>,
    ) {
        for (field, offset, inner) in fields(of) {
            let Some(less) = self.left.checked_sub(1) else { return };
            self.left = less;
            let name = format!("{prefix}.{field}");
            let Some(offset) = base.checked_add(offset) else { continue };
            if self.offsets.len() >= MAX_FIELDS {
                return;
            }
            if let Some(inner) = inner
                && depth + 1 < MAX_DEPTH
            {
                self.flatten(&name, inner, (offset, depth + 1), fields);
            }
            // Blank fields and `noCopy` markers hold nothing, and a struct may have several blank ones.
            if !matches!(field, "_" | "noCopy") {
                self.offsets.insert(name, offset);
            }
        }
    }
}

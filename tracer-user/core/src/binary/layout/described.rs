//! The runtime's structs as the executable's own type descriptors have them: also a stripped executable of a release
//! that nobody knows describes `g`, `m`, `p`, `sudog`, `hchan`, `mspan` and others, because the runtime makes them with
//! `new`. Structs that are only variables, such as `mheap` and `schedt`, have no descriptor.

use super::super::descriptors::{Detail, Kind, MAX_TYPE_BYTES, TypeId, Types};
use super::super::dwarf::STRUCTS;
use super::super::elf::Image;
use super::super::fields::{Field, Fields};
use super::super::pclntab::Pclntab;
use std::collections::HashMap;

/// Words of `moduledata` that are looked at for `types` and `etypes`; it has 74 in Go 1.27. Both lie behind the
/// addresses of code.
const FIRST: u64 = 24;
const WORDS: u64 = 128;
/// How far behind `types` the word `etypes` may be. In Go 1.27 `typedesclen` lies between them.
const NEAR: usize = 3;

/// Offsets by `struct.field`, as in `Layout`, of the structs that have a descriptor. `None`: `runtime.g` has none.
pub(super) fn offsets(image: &Image) -> Option<HashMap<String, u32>> {
    let types = types(image)?;
    let mut found = Fields::new(HashMap::new());
    for name in STRUCTS {
        let Some(of) = runtimes(&types, name) else { continue };
        found.offsets.insert(format!("{name}._size"), u32::try_from(types.get(of).size).ok()?);
        found.add(name, of, &|of| fields(&types, of));
    }
    Some(found.offsets)
}

/// The struct of package runtime with this name, if it has a descriptor.
fn runtimes(types: &Types, name: &str) -> Option<TypeId> {
    let of = types.find("runtime", &format!("runtime.{name}"))?;
    (types.get(of).kind == Kind::Struct && !types.fields(of).is_empty()).then_some(of)
}

/// The types of the executable. The place of `types` in `moduledata` may be another one than in any known release:
/// they are right if they describe `runtime.g`.
fn types(image: &Image) -> Option<Types> {
    let mut left = MAX_TYPE_BYTES;
    for module in Pclntab::modules(image) {
        let words = (FIRST..WORDS).map_while(|word| image.read_ptr(module.checked_add(word * 8)?));
        let words: Vec<u64> = words.collect();
        for (start, behind) in words.iter().zip(1..) {
            for end in words.iter().skip(behind).take(NEAR) {
                let Some(len) = end.checked_sub(*start).filter(|len| *len > 0) else { continue };
                // Nobody makes a program whose types have no end, but somebody may make such a file.
                let Some(less) = left.checked_sub(len) else { continue };
                let Some(bytes) = image.relocated(*start, len) else { continue };
                left = less;
                let types = Types::parse(&[(*start, bytes)]).ok();
                if let Some(types) = types.filter(|types| runtimes(types, "g").is_some()) {
                    return Some(types);
                }
            }
        }
    }
    None
}

fn fields(types: &Types, of: TypeId) -> Vec<Field<'_, TypeId>> {
    let inner = |of: TypeId| {
        let is_struct = matches!(types.get(of).detail, Detail::Struct { .. });
        is_struct && !types.name(of).starts_with("atomic.")
    };
    let fields = types.fields(of).iter().filter_map(|field| {
        Some((types.field_name(field), u32::try_from(field.offset).ok()?, field.of.filter(|of| inner(*of))))
    });
    fields.collect()
}

//! What calls tell of the values in their arguments, by the name of the function that is called.

use super::super::pclntab::Pclntab;
use crate::budget;
use hashbrown::HashMap;
use iced_x86::Register;

/// Bytes of the names of all functions. Very large programs have 30 MB.
const MAX_NAMES: usize = 256 << 20;
/// Functions of the runtime whose first two arguments are the descriptor of a map and the map
/// (`mapfn` in `src/cmd/compile/internal/walk/walk.go`). Those for certain keys go on with `_fast32`, `_faststr` and so
/// on, those for large elements with `_fat`.
const TAKE_MAP: [&str; 7] =
    ["mapaccess1", "mapaccess2", "mapassign", "mapdelete", "mapiterinit", "mapIterStart", "mapclear"];
/// Functions of the runtime that return a map, and whose first argument is its descriptor. `makemap_small` has none.
const MAKE_MAP: [&str; 2] = ["makemap", "makemap64"];
/// Where `gcWriteBarrier` up to Go 1.20 takes the value from, by the end of its name (`src/runtime/asm_amd64.s`).
const BARRIERS: [(&str, Register); 8] = [
    ("", Register::RAX),
    ("CX", Register::RCX),
    ("DX", Register::RDX),
    ("BX", Register::RBX),
    ("BP", Register::RBP),
    ("SI", Register::RSI),
    ("R8", Register::R8),
    ("R9", Register::R9),
];

/// What a call tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tells {
    Nothing,
    /// RBX has a map, RAX its descriptor.
    TakesMap,
    /// RAX has the descriptor of a map, then the map.
    MakesMap,
    /// The register has a descriptor, then RAX the pointer to a new object.
    MakesObject(Register),
    /// RDI has the address of a word that will be what the register has. All registers stay.
    Stores(Register),
    /// All registers stay, but for R11.
    Barrier,
    /// RAX has a pointer to the type of this number.
    Receiver(u32),
}

/// A function, as its callers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Callee {
    pub tells: Tells,
    /// Bytes of the stack from the caller's RSP on that belong to its arguments and results.
    pub area: u32,
}

/// All functions of a program by their entries.
pub(super) struct Callees<'a> {
    by_entry: HashMap<u64, Callee>,
    /// The types of receivers by number, as [`receiver`] has them.
    receivers: Vec<&'a str>,
}

impl<'a> Callees<'a> {
    /// `None`: the budget does not allow it.
    pub(super) fn find(functions: &'a Pclntab) -> Option<Callees<'a>> {
        let most = functions.functions().size_hint().1?;
        budget::check(most.saturating_mul(2 * size_of::<(u64, Callee)>() + 2 * size_of::<(&str, u32)>()))
            .ok()?;
        let (mut by_entry, mut numbers, mut receivers) = (HashMap::new(), HashMap::new(), Vec::new());
        let mut left = MAX_NAMES;
        for function in functions.functions() {
            left = left.saturating_sub(function.name.len());
            if left == 0 {
                break;
            }
            let tells = match (function.name.strip_prefix("runtime."), receiver(function.name)) {
                // The runtime takes memory of its own for this type and for that one.
                (Some(own), _) => runtime(own),
                (None, Some(of)) => Tells::Receiver(*numbers.entry(of).or_insert_with(|| {
                    receivers.push(of);
                    // There are not so many functions.
                    u32::try_from(receivers.len() - 1).unwrap_or(u32::MAX)
                })),
                (None, None) => Tells::Nothing,
            };
            let area =
                functions.args_size(&function).and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(0);
            if tells != Tells::Nothing || area > 0 {
                by_entry.insert(function.entry, Callee { tells, area });
            }
        }
        Some(Callees { by_entry, receivers })
    }

    pub(super) fn at(&self, entry: u64) -> Callee {
        self.by_entry.get(&entry).copied().unwrap_or(Callee { tells: Tells::Nothing, area: 0 })
    }

    /// The type of receivers with this number: `path/pkg.T`.
    pub(super) fn name(&self, receiver: u32) -> Option<Box<str>> {
        let (package, own) = self.receivers.get(receiver as usize)?.split_once(".(*")?;
        Some(format!("{}.{own}", unescaped(package)).into())
    }
}

/// What a function of the package `runtime` tells.
fn runtime(name: &str) -> Tells {
    let takes =
        |of: &str| name.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with("_fa"));
    if TAKE_MAP.into_iter().any(takes) {
        return Tells::TakesMap;
    }
    if MAKE_MAP.contains(&name) {
        return Tells::MakesMap;
    }
    if name == "newobject" {
        return Tells::MakesObject(Register::RAX);
    }
    // `mallocgcSmallScanNoHeaderSC2(size, type, …)` and others, one a size class, since Go 1.27
    // (`specializedMallocSym` in `src/cmd/compile/internal/ssagen/ssa.go`).
    let class = name.strip_prefix("mallocgc").and_then(|rest| rest.rsplit_once("SC"));
    if class.is_some_and(|(_, class)| is_number(class)) {
        return Tells::MakesObject(Register::RBX);
    }
    match name.strip_prefix("gcWriteBarrier") {
        Some(words) if is_number(words) => Tells::Barrier,
        Some(from) => {
            let known = BARRIERS.iter().find(|(end, _)| *end == from);
            known.map_or(Tells::Nothing, |(_, register)| Tells::Stores(*register))
        }
        None => Tells::Nothing,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit())
}

/// Of the name of a method with a pointer for its receiver, all up to the end of the type: `net/http.(*Client` of
/// `net/http.(*Client).Do`. Functions within one have other receivers or none (`net/http.(*Client).do.func1`,
/// `….Do-fm`). Instances of generic types share their methods' code, and types that are local to functions their names.
fn receiver(name: &str) -> Option<&str> {
    let (package, rest) = name.split_once(".(*")?;
    let (own, method) = rest.split_once(").")?;
    let plain = |name: &str| !name.is_empty() && !name.contains(['.', '-', '[', '(', ')', '*', '·']);
    let last = package.rsplit('/').next().unwrap_or(package);
    if !plain(own) || !plain(method) || last.contains('.') || package.contains(['[', '(']) {
        return None;
    }
    name.get(..package.len() + ".(*".len() + own.len())
}

/// An import path as it is written in sources: the linker writes some bytes as `%` and two digits
/// (`PathToPrefix` in `src/cmd/internal/objabi/path.go`).
fn unescaped(path: &str) -> String {
    let (mut plain, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        let digits =
            behind.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8(plain).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_of_the_runtime_tell() {
        for name in ["mapaccess1", "mapaccess2_fast32", "mapassign_faststr", "mapaccess1_fat", "mapIterStart"]
        {
            assert_eq!(runtime(name), Tells::TakesMap, "{name}");
        }
        for name in ["mapiternext", "mapaccessK", "mapclone2", "makemap_small", "mallocgc", "mallocgcLarge"] {
            assert_eq!(runtime(name), Tells::Nothing, "{name}");
        }
        assert_eq!(runtime("makemap"), Tells::MakesMap);
        assert_eq!(runtime("newobject"), Tells::MakesObject(Register::RAX));
        assert_eq!(runtime("mallocgcTinySC2"), Tells::MakesObject(Register::RBX));
        assert_eq!(runtime("gcWriteBarrier"), Tells::Stores(Register::RAX));
        assert_eq!(runtime("gcWriteBarrierR8"), Tells::Stores(Register::R8));
        assert_eq!(runtime("gcWriteBarrier8"), Tells::Barrier);
        assert_eq!(runtime("gcWriteBarrierX"), Tells::Nothing);
    }

    #[test]
    fn which_names_are_methods() {
        assert_eq!(receiver("net/http.(*Client).Do"), Some("net/http.(*Client"));
        assert_eq!(receiver("gopkg.in/yaml%2ev2.(*decoder).unmarshal"), Some("gopkg.in/yaml%2ev2.(*decoder"));
        for name in [
            "net/http.Header.Get",
            "net/http.(*Client).do.func1",
            "net/http.(*Client).Do-fm",
            "main.(*list[...]).push",
            "main.run.(*local).push",
            "main.(*local·1).push",
            "main.each[go.shape.*a.(*T).x]",
            "main.(*T)",
            "main.(*).m",
        ] {
            assert_eq!(receiver(name), None, "{name}");
        }
        assert_eq!(unescaped("gopkg.in/yaml%2ev2"), "gopkg.in/yaml.v2");
        assert_eq!(unescaped("a%2"), "a%2");
        assert_eq!(unescaped("a%ff"), "a%ff");
    }
}

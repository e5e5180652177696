//! Package-level variables, by what the file says of them: its symbol table has their addresses and sizes, its DWARF
//! their types as well. A stripped program has neither.

use super::bytes::{MAX_STRING, array, c_string, u32_at, u64_at};
use super::dwarf;
use super::elf::Image;
use crate::budget;
use object::elf::{STT_OBJECT, SymbolInfo};

/// Most variables that are kept; very large programs have some ten thousand.
pub(super) const MAX_VARIABLES: usize = 1 << 18;
/// Bytes of all their names.
const MAX_NAMES: usize = 32 << 20;
/// Most members of one variable.
pub(super) const MAX_MEMBERS: usize = 256;
/// Members of all variables together, and bytes of their paths. Those of the go command have 3,000.
const MAX_ALL_MEMBERS: usize = 1 << 18;
const MAX_PATHS: usize = 8 << 20;
/// Bytes of the symbol table and of its names; programs of several hundred megabytes have 100 MB.
const MAX_SECTION: u64 = 256 << 20;
/// Bytes that are looked through for the ends of names: a hostile table has the same long name in each symbol.
const MAX_SCANNED: usize = 128 << 20;
/// `sizeof(Elf64_Sym)`: name u32, info u8, other u8, section u16, value u64, size u64.
const SYMBOL: usize = 24;
/// Bytes of a variable whose size is not known that belong to it in any case: Go aligns what has pointers to words.
const WORD: u64 = 8;

/// A package-level variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Link-time address.
    pub addr: u64,
    /// Bytes; 0: not known.
    pub size: u64,
    /// Full name, as the linker has it: `main.hub`, `net/http.DefaultClient`.
    pub name: Box<str>,
    /// The descriptor of its type, as an offset from `moduledata.types`. `None`: the binary has no descriptor of it, or
    /// does not say which.
    pub descriptor: Option<u64>,
    /// What it consists of, ordered by offset; no two overlap. Empty where it has a descriptor, and without DWARF.
    pub members: Box<[Member]>,
}

/// A part of a variable whose type has no descriptor: one whose own type has a descriptor, or a pointer. Of the two
/// descriptors it has one at most; a pointer without either names a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Path from the variable: `.current`, `.m.root.v`, `[]`; empty where the variable is a pointer itself. Elements of
    /// an array have the same one.
    pub path: Box<str>,
    /// Bytes from the beginning of the variable. Of an interface without a descriptor, that of its second word.
    pub offset: u64,
    /// As [`Variable::descriptor`].
    pub descriptor: Option<u64>,
    /// The descriptor of what it points to, where it is a pointer without a descriptor of its own: of an element, if it
    /// is a slice; of T, if it is the `unsafe.Pointer` of a `sync/atomic.Pointer[T]`.
    pub points_to: Option<u64>,
}

/// The package-level variables of a program, ordered by address; no two have the same.
#[derive(Debug, Default)]
pub struct Variables {
    sorted: Vec<Variable>,
}

impl Variables {
    /// Reads them. `sections` is the file with the section table: `image` itself, or the same file opened once more.
    pub(crate) fn find(image: &Image, sections: &Image) -> Variables {
        let of = |sections: &Image| {
            let (mut symbols, mut described) = (Collected::default(), Collected::default());
            // What was found up to a bound counts.
            let _ = read_symbols(image, sections, &mut symbols);
            dwarf::variables(sections, &mut described);
            Variables::merge(image, described, symbols)
        };
        let found = of(sections);
        if !found.sorted.is_empty() {
            return found;
        }
        dwarf::debug_file(sections).map_or(found, |(_, separate)| of(&separate))
    }

    /// Joins what DWARF and symbols say of the same addresses. DWARF knows more, but not always a size.
    fn merge(image: &Image, described: Collected, symbols: Collected) -> Variables {
        let mut sorted = described.list;
        sorted.retain(|variable| image.is_writable(variable.addr, variable.size.max(1)));
        // The order of equals stays, so DWARF comes first.
        if budget::reserve(&mut sorted, symbols.list.len()).is_ok() {
            sorted.extend(symbols.list);
        }
        sorted.sort_by_key(|variable| variable.addr);
        sorted.dedup_by(|later, kept| {
            let same = later.addr == kept.addr;
            if same && kept.size == 0 {
                kept.size = later.size;
            }
            same
        });
        Variables { sorted }
    }

    /// All of them.
    pub fn all(&self) -> &[Variable] {
        &self.sorted
    }

    /// The variable that the byte at a link-time address belongs to. Of one whose size is not known only the first word
    /// is its own for certain.
    pub fn containing(&self, addr: u64) -> Option<&Variable> {
        let behind = self.sorted.partition_point(|variable| variable.addr <= addr);
        let variable = self.sorted.get(behind.checked_sub(1)?)?;
        let size = if variable.size == 0 { WORD } else { variable.size };
        (addr - variable.addr < size).then_some(variable)
    }
}

/// Variables while they are collected, within the bounds.
#[derive(Default)]
pub(super) struct Collected {
    list: Vec<Variable>,
    /// Bytes of all names.
    names: usize,
    members: usize,
    /// Bytes of the paths of all members.
    paths: usize,
}

impl Collected {
    /// Keeps one more, without its members where there are too many. `None`: the bounds or the budget do not allow it.
    pub(super) fn add(&mut self, mut variable: Variable) -> Option<()> {
        self.names += variable.name.len();
        if self.list.len() == MAX_VARIABLES || self.names > MAX_NAMES {
            return None;
        }
        self.members += variable.members.len();
        self.paths += variable.members.iter().map(|member| member.path.len()).sum::<usize>();
        if self.members > MAX_ALL_MEMBERS || self.paths > MAX_PATHS {
            variable.members = Box::default();
        }
        budget::check(variable.name.len()).ok()?;
        budget::reserve(&mut self.list, 1).ok()?;
        self.list.push(variable);
        Some(())
    }
}

/// Adds the variables of the symbol table. `None`: there is none, or more than in any program; what was found counts.
fn read_symbols(image: &Image, sections: &Image, to: &mut Collected) -> Option<()> {
    let table = sections.contents(".symtab", MAX_SECTION)?;
    let names = sections.contents(".strtab", MAX_SECTION)?;
    let mut left = MAX_SCANNED;
    for symbol in table.chunks_exact(SYMBOL) {
        let [info] = array(symbol, 4)?;
        let (addr, size) = (u64_at(symbol, 8)?, u64_at(symbol, 16)?);
        // One of no bytes marks where something begins or ends, as `runtime.edata` does.
        if SymbolInfo(info).st_type() != STT_OBJECT || size == 0 || !image.is_writable(addr, size) {
            continue;
        }
        let name = c_string(&names, u32_at(symbol, 0)? as usize);
        left = left.checked_sub(name.map_or(MAX_STRING, <[u8]>::len))?;
        let name = name.and_then(|name| std::str::from_utf8(name).ok()).filter(|name| is_variable(name));
        if let Some(name) = name {
            to.add(Variable { addr, size, name: name.into(), descriptor: None, members: Box::default() })?;
        }
    }
    Some(())
}

/// Whether a symbol has the name of a variable: an import path, a dot and an identifier. What the compiler and the
/// linker make for themselves has more dots (`main..stmp_1`, `main..dict.f[int]`, `main.f.func1.f`) or a colon
/// (`go:main.inittasks`, `type:*`), or stands for a section of C (`runtime/cgo(.bss)`). Names of C have no dot, but for
/// a number behind that of a variable in a function (`completed.0`).
fn is_variable(name: &str) -> bool {
    // Dots in the last element of the path are written `%2e`.
    let last = name.rsplit('/').next().unwrap_or(name);
    let Some((package, own)) = last.split_once('.') else { return false };
    let identifier =
        !own.is_empty() && !own.contains('.') && !own.starts_with(|first: char| first.is_ascii_digit());
    identifier && !package.is_empty() && !name.contains([':', '[', '('])
}

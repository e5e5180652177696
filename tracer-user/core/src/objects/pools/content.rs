//! What a pooled value can still have in it: the slices, texts, maps and references of its type.

use crate::binary::bytes::u64_at;
use crate::binary::{Kind, TypeId, Types};

/// How deep structs lie in structs, and the most fields of a type that are told apart.
const MAX_DEPTH: u32 = 8;
const MAX_FIELDS: usize = 32;
/// Bytes of a value that are looked at.
const MAX_VALUE: u64 = 1 << 12;

/// What a field can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// A slice, or what reads or writes one.
    Slice,
    /// A string.
    Text,
    Map,
    /// A pointer, an interface, a channel or a function: it is nil, or it is not.
    Reference,
}

impl Holds {
    /// Whether it can be emptied and kept, so that one that is empty and has room was.
    pub fn can_be_emptied(self) -> bool {
        matches!(self, Holds::Slice | Holds::Map)
    }
}

/// How full a field is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fill {
    /// Elements that it has, or bytes; of a reference 1 if it is not nil.
    pub(super) len: u64,
    /// Elements that it has room for; of a map 1 if it is not nil.
    pub(super) cap: u64,
    /// Bytes of the room.
    pub(super) bytes: u64,
    /// Address of the array or the map; 0: none.
    pub(super) at: u64,
}

/// A field of a type, by its path in the value: `.buf`; empty where the value is one itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) path: String,
    pub(super) holds: Holds,
    at: usize,
    /// Bytes of an element.
    elem: u64,
    /// Where it says how far the slice is read, and how far it is written.
    read: Option<usize>,
    written: Option<usize>,
}

/// Where the data word of an interface leads, and what lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// The data word is the value itself: a map or a channel, which has no fields.
    pub(super) direct: bool,
    /// Bytes of the value that are read.
    pub(super) size: usize,
    pub(super) parts: Vec<Part>,
    /// The same address twice is the same value twice: the value is a pointer, a map or a channel, and what it points
    /// to has a size, so that no two have the same address.
    pub(super) is_one: bool,
    /// The value is a slice, which is the same as another one if it begins at the same element.
    pub(super) is_slice: bool,
}

impl Content {
    /// What there is in a value of the type of an interface.
    pub(super) fn of(types: &Types, of: TypeId) -> Content {
        let found = types.get(of);
        let elem = if found.kind == Kind::Pointer { types.elem(of) } else { None };
        let inner = elem.unwrap_or(of);
        let mut content = Content {
            direct: found.direct && found.kind != Kind::Pointer,
            size: 0,
            parts: Vec::new(),
            is_one: matches!(found.kind, Kind::Map | Kind::Chan)
                || elem.is_some_and(|elem| types.get(elem).size > 0),
            is_slice: found.kind == Kind::Slice,
        };
        if found.kind == Kind::Map {
            let map =
                Part { path: String::new(), holds: Holds::Map, at: 0, elem: 0, read: None, written: None };
            content.parts.push(map);
        }
        if !content.direct && (elem.is_some() || found.kind != Kind::Pointer) {
            content.size = types.get(inner).size.min(MAX_VALUE) as usize;
            content.flatten(types, inner, 0, "", 0);
        }
        content
    }

    fn flatten(&mut self, types: &Types, of: TypeId, base: u64, path: &str, depth: u32) {
        let (found, at) = (types.get(of), base as usize);
        if depth > MAX_DEPTH || self.parts.len() >= MAX_FIELDS || base.saturating_add(16) > MAX_VALUE {
            return;
        }
        let size = types.elem(of).map_or(1, |elem| types.get(elem).size);
        let (holds, elem) = match found.kind {
            Kind::Slice => (Holds::Slice, size),
            Kind::String => (Holds::Text, 1),
            Kind::Map => (Holds::Map, 0),
            Kind::Pointer | Kind::Chan | Kind::Func | Kind::UnsafePointer | Kind::Interface => {
                (Holds::Reference, 0)
            }
            Kind::Struct => return self.fields(types, of, base, path, depth),
            Kind::Array | Kind::Scalar => return,
        };
        let part = Part { path: path.to_owned(), holds, at, elem, read: None, written: None };
        self.parts.push(part);
    }

    fn fields(&mut self, types: &Types, of: TypeId, base: u64, path: &str, depth: u32) {
        let first = self.parts.len();
        for field in types.fields(of) {
            // Where a field is a type parameter's, or of a module that is not known, nothing is known of it.
            let Some(inner) = field.of else { continue };
            let name = format!("{path}.{}", types.field_name(field));
            self.flatten(types, inner, base.saturating_add(field.offset), &name, depth + 1);
        }
        // What reads from or writes to a slice of a fixed length says how far it is.
        let place = |name: &str| {
            let field = types.fields(of).iter().find(|field| types.field_name(field) == name);
            field.map(|field| (base + field.offset) as usize)
        };
        let (read, written) = match (types.package(of), types.name(of)) {
            ("bytes", "bytes.Buffer") => (place("off"), None),
            ("bufio", "bufio.Reader") => (place("r"), place("w")),
            ("bufio", "bufio.Writer") => (None, place("n")),
            _ => return,
        };
        if let Some(part) = self.parts.iter_mut().skip(first).find(|part| part.path.ends_with(".buf")) {
            (part.read, part.written) = (read, written);
        }
    }
}

impl Part {
    #[cfg(test)]
    pub(super) fn testing(path: &str, holds: Holds) -> Part {
        Part { path: path.to_owned(), holds, at: 0, elem: 1, read: None, written: None }
    }

    /// How full it is in a value of these bytes. Of a map only its address is known by them.
    pub(super) fn fill(&self, value: &[u8]) -> Fill {
        let word = |at: usize| u64_at(value, at).unwrap_or(0);
        let at = word(self.at);
        match self.holds {
            Holds::Slice => {
                let cap = word(self.at + 16);
                let end = self.written.map_or(word(self.at + 8), word).min(cap);
                let len = end.saturating_sub(self.read.map_or(0, word));
                let at = if cap == 0 { 0 } else { at };
                Fill { len, cap, bytes: cap.saturating_mul(self.elem), at }
            }
            Holds::Text => {
                let len = word(self.at + 8);
                Fill { len, cap: len, bytes: len, at: if len == 0 { 0 } else { at } }
            }
            Holds::Map => Fill { len: 0, cap: u64::from(at != 0), bytes: 0, at },
            Holds::Reference => Fill { len: u64::from(at != 0), cap: u64::from(at != 0), bytes: 0, at: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(holds: Holds, read: Option<usize>, written: Option<usize>) -> Part {
        Part { path: ".buf".to_owned(), holds, at: 8, elem: 4, read, written }
    }

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn slices_are_as_full_as_they_say() {
        let value = bytes(&[2, 0xc000, 5, 9, 7]);
        let fill = part(Holds::Slice, None, None).fill(&value);
        assert_eq!(fill, Fill { len: 5, cap: 9, bytes: 36, at: 0xc000 });
        assert_eq!(part(Holds::Slice, Some(0), None).fill(&value).len, 3, "two were read");
        assert_eq!(part(Holds::Slice, None, Some(32)).fill(&value).len, 7, "seven were written");
        assert_eq!(part(Holds::Slice, Some(32), None).fill(&value).len, 0, "more was read than there is");
        let empty = part(Holds::Slice, None, None).fill(&bytes(&[0, 0xc000, 0, 0]));
        assert_eq!(empty, Fill::default());
        // Cut off, and a length that no slice has.
        assert_eq!(part(Holds::Slice, None, None).fill(&value[..12]), Fill::default());
        let huge = part(Holds::Slice, None, None).fill(&bytes(&[0, 1, u64::MAX, u64::MAX]));
        assert_eq!((huge.len, huge.bytes), (u64::MAX, u64::MAX));
    }

    #[test]
    fn texts_maps_and_references_are_there_or_not() {
        let value = bytes(&[2, 0xc000, 5]);
        assert_eq!(part(Holds::Text, None, None).fill(&value).len, 5);
        assert_eq!(part(Holds::Map, None, None).fill(&value).at, 0xc000);
        assert_eq!(part(Holds::Reference, None, None).fill(&value).len, 1);
        assert_eq!(part(Holds::Reference, None, None).fill(&bytes(&[1, 0])).len, 0);
    }
}

//! Members of variables whose types have no descriptor, in made-up DWARF, and what hostile types cost.

use super::super::*;
use super::hostile::{MIB, cheap};
use super::variables::{GO, Info, abbreviations, data, sections, variable};
use crate::testing::binary::{Section, with_sections};

/// Kinds of Go's types.
const INT: u8 = 2;
const ARRAY: u8 = 17;
const INTERFACE: u8 = 20;
const SLICE: u8 = 23;
const STRING: u8 = 24;
const STRUCT: u8 = 25;

fn uleb(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

impl Info {
    /// A struct that has members: name, offset and type of each.
    fn members(
        &mut self,
        name: &str,
        size: u64,
        kind: u8,
        descriptor: u64,
        members: &[(&str, u64, u32)],
    ) -> u32 {
        let place = self.entry(9, name);
        uleb(size, &mut self.bytes);
        self.bytes.push(kind);
        self.bytes.extend(descriptor.to_le_bytes());
        for (name, offset, of) in members {
            self.entry(10, name);
            uleb(*offset, &mut self.bytes);
            self.bytes.extend(of.to_le_bytes());
        }
        self.bytes.push(0);
        place
    }

    fn array(&mut self, name: &str, of: u32, size: u64, descriptor: u64) -> u32 {
        let place = self.entry(11, name);
        self.bytes.extend(of.to_le_bytes());
        uleb(size, &mut self.bytes);
        self.bytes.push(ARRAY);
        self.bytes.extend(descriptor.to_le_bytes());
        place
    }

    fn pointer_to(&mut self, name: &str, of: u32, descriptor: u64) -> u32 {
        let place = self.entry(12, name);
        self.bytes.extend(of.to_le_bytes());
        self.bytes.push(22);
        self.bytes.extend(descriptor.to_le_bytes());
        place
    }

    fn slice(&mut self, name: &str, kind: u8, array: u32, int: u32, descriptor: u64) -> u32 {
        let members = [("array", 0, array), ("len", 8, int), ("cap", 16, int)];
        let (size, members) = if kind == SLICE { (24, &members[..]) } else { (16, &members[..2]) };
        self.members(name, size, kind, descriptor, members)
    }
}

/// The executable with these sections; its writable data has a megabyte.
fn file(sections: &[Section<'_>]) -> Vec<u8> {
    let mut file = with_sections(sections);
    let of_data = |header: &usize| file[header + 16..header + 24] == data().to_le_bytes();
    let header = (64..).step_by(56).take(3).find(of_data).unwrap();
    file[header + 40..header + 48].copy_from_slice(&(MIB as u64).to_le_bytes());
    file
}

fn read(sections: &[Section<'_>]) -> Variables {
    GoBinary::parse(file(sections).into()).unwrap().variables(None)
}

const INT_AT: u64 = 0x40;
const SESSION_AT: u64 = 0x80;
const POINTER_AT: u64 = 0xc0;

/// The types that the tests build others of.
struct Basic {
    /// Of eight bytes, with a descriptor; and one without.
    int: u32,
    word: u32,
    session: u32,
    /// `*session` with a descriptor; and one without.
    pointer: u32,
    bare: u32,
    /// `unsafe.Pointer`.
    unsafe_pointer: u32,
}

fn basic(info: &mut Info) -> Basic {
    let int = info.structure("int", 8, INT, INT_AT);
    let word = info.structure("main.word", 8, INT, 0);
    let session = info.structure("main.session", 24, STRUCT, SESSION_AT);
    let session = info.typedef("main.session", session);
    let pointer = info.pointer_to("*main.session", session, POINTER_AT);
    let bare = info.pointer_to("*main.session", session, 0);
    let unsafe_pointer = info.pointer("unsafe.Pointer", 0x100);
    Basic { int, word, session, pointer, bare, unsafe_pointer }
}

/// The members of the one variable whose type `build` makes: path, offset, descriptor and what it points to.
fn members_of(build: impl FnOnce(&mut Info, &Basic) -> u32) -> Vec<(String, u64, u64, u64)> {
    let (at, table) = (data(), abbreviations());
    let mut info = Info::new(4, GO);
    let basic = basic(&mut info);
    let of = build(&mut info, &basic);
    info.variable("main.x", at, of);
    let (info, _) = info.finish();
    let found = read(&sections(&info, &table, &[]));
    let [found] = found.all() else { panic!("{found:x?}") };
    let members = found.members.iter();
    let told = |known: Option<u64>| known.unwrap_or(0);
    members.map(|of| (of.path.to_string(), of.offset, told(of.descriptor), told(of.points_to))).collect()
}

fn member(path: &str, offset: u64, descriptor: u64, points_to: u64) -> (String, u64, u64, u64) {
    (path.to_owned(), offset, descriptor, points_to)
}

#[test]
fn a_struct_is_told_by_its_members() {
    let found = members_of(|info, basic| {
        let inner = [("a", 0, basic.int), ("b", 8, basic.bare)];
        let inner = info.members("main.inner", 16, STRUCT, 0, &inner);
        let inner = info.typedef("main.inner", inner);
        let empty = info.structure("struct {}", 0, STRUCT, 0x140);
        let unknown = info.pointer_to("*main.word", basic.word, 0);
        info.members(
            "struct { … }",
            104,
            STRUCT,
            0,
            &[
                ("noCopy", 0, empty),
                ("current", 0, basic.pointer),
                ("_", 8, basic.pointer),
                ("m", 16, inner),
                ("plain", 32, basic.word),
                ("whole", 40, basic.session),
                ("raw", 64, basic.unsafe_pointer),
                ("unknown", 72, unknown),
                ("again", 80, inner),
                ("untyped", 96, 0xffff),
            ],
        )
    });
    let expected = [
        member(".current", 0, POINTER_AT, 0),
        member(".m.a", 16, INT_AT, 0),
        member(".m.b", 24, 0, SESSION_AT),
        member(".whole", 40, SESSION_AT, 0),
        member(".raw", 64, 0x100, 0),
        member(".unknown", 72, 0, 0),
        member(".again.a", 80, INT_AT, 0),
        member(".again.b", 88, 0, SESSION_AT),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_type_with_a_descriptor_is_not_taken_apart() {
    let found = members_of(|info, basic| {
        info.members("main.session", 8, STRUCT, 0x200, &[("current", 0, basic.pointer)])
    });
    assert_eq!(found, []);
}

#[test]
fn pointers_are_told_by_what_they_point_to() {
    assert_eq!(members_of(|_, basic| basic.bare), [member("", 0, 0, SESSION_AT)]);
    assert_eq!(members_of(|info, basic| info.typedef("main.p", basic.bare)), [member("", 0, 0, SESSION_AT)]);
    // Of the variable as a whole, and nothing is known of it.
    assert_eq!(members_of(|info, _| info.pointer("unsafe.Pointer", 0)), []);
    assert_eq!(members_of(|info, basic| info.pointer_to("*main.word", basic.word, 0)), []);
    // To itself.
    assert_eq!(
        members_of(|info, _| {
            let at = info.place();
            info.pointer_to("main.p", at, 0)
        }),
        []
    );
}

#[test]
fn slices_and_strings_are_one_member() {
    let found = members_of(|info, basic| {
        let known = info.slice("[]main.session", SLICE, basic.bare, basic.int, 0x180);
        let other = info.slice("[]main.session", SLICE, basic.bare, basic.int, 0);
        let words = info.pointer_to("*main.word", basic.word, 0);
        let words = info.slice("[]main.word", SLICE, words, basic.int, 0);
        let bytes = info.pointer_to("*int", basic.int, 0x1c0);
        let text = info.slice("main.text", STRING, bytes, basic.int, 0);
        let list = [("known", 0, known), ("list", 24, other), ("words", 48, words), ("text", 72, text)];
        info.members("struct { … }", 88, STRUCT, 0, &list)
    });
    let expected = [
        member(".known", 0, 0x180, 0),
        member(".list", 24, 0, SESSION_AT),
        member(".words", 48, 0, 0),
        member(".text", 72, 0, INT_AT),
    ];
    assert_eq!(found, expected);
    let found = members_of(|info, basic| info.slice("[]main.session", SLICE, basic.bare, basic.int, 0));
    assert_eq!(found, [member("", 0, 0, SESSION_AT)]);
}

#[test]
fn arrays_are_told_by_their_first_elements() {
    let found = members_of(|info, basic| info.array("[40]*main.session", basic.bare, 320, 0));
    let expected: Vec<_> = (0..16).map(|index| member("[]", index * 8, 0, SESSION_AT)).collect();
    assert_eq!(found, expected);
    let found = members_of(|info, basic| {
        let of = info.members("main.s", 16, STRUCT, 0, &[("n", 0, basic.word), ("p", 8, basic.pointer)]);
        let pair = info.array("[2]main.s", of, 32, 0);
        info.members("struct { … }", 40, STRUCT, 0, &[("list", 8, pair)])
    });
    assert_eq!(found, [member(".list[].p", 16, POINTER_AT, 0), member(".list[].p", 32, POINTER_AT, 0)]);
    // Of nothing, of itself, of elements of no size.
    let found = members_of(|info, basic| {
        let none = info.array("[0]*main.session", basic.bare, 0, 0);
        info.members("struct { … }", 8, STRUCT, 0, &[("none", 0, none), ("p", 0, basic.pointer)])
    });
    assert_eq!(found, [member(".p", 0, POINTER_AT, 0)]);
    assert_eq!(
        members_of(|info, _| {
            let at = info.place();
            info.array("main.a", at, 64, 0)
        }),
        []
    );
    let found = members_of(|info, _| {
        let empty = info.structure("struct {}", 0, STRUCT, 0x140);
        info.array("[9]struct {}", empty, 64, 0)
    });
    assert_eq!(found, []);
}

/// `sync/atomic.Pointer` or one that looks like it, of a pointer to `of`.
fn atomic(info: &mut Info, name: &str, of: u32, basic: &Basic) -> u32 {
    let pointer = info.pointer_to("*main.T", of, 0);
    let none = info.array("[0]*main.T", pointer, 0, 0);
    let none = info.typedef("[0]*main.T", none);
    let copy = info.structure("sync/atomic.noCopy", 0, STRUCT, 0x140);
    let members = [("_", 0, none), ("_", 0, copy), ("v", 0, basic.unsafe_pointer)];
    let of = info.members(name, 8, STRUCT, 0, &members);
    info.typedef(name, of)
}

#[test]
fn an_atomic_pointer_says_what_it_points_to() {
    let name = "sync/atomic.Pointer[main.session]";
    let found = members_of(|info, basic| atomic(info, name, basic.session, basic));
    assert_eq!(found, [member(".v", 0, 0, SESSION_AT)]);
    let found = members_of(|info, basic| {
        let of = atomic(info, name, basic.session, basic);
        let unknown = atomic(info, "sync/atomic.Pointer[main.word]", basic.word, basic);
        let other = atomic(info, "main.Pointer[main.session]", basic.session, basic);
        info.members(
            "struct { … }",
            32,
            STRUCT,
            0,
            &[("n", 0, basic.int), ("root", 8, of), ("u", 16, unknown), ("o", 24, other)],
        )
    });
    let expected = [
        member(".n", 0, INT_AT, 0),
        member(".root.v", 8, 0, SESSION_AT),
        member(".u.v", 16, 0x100, 0),
        member(".o.v", 24, 0x100, 0),
    ];
    assert_eq!(found, expected);
}

#[test]
fn functions_and_interfaces_are_places() {
    let found = members_of(|info, basic| {
        let mut of_kind = |kind| {
            let place = info.map("main.t", basic.word, 0);
            let at = info.bytes.len() - 9;
            info.bytes[at] = kind;
            place
        };
        let (chan, interface, map) = (of_kind(18), of_kind(INTERFACE), of_kind(21));
        let function = info.structure("func()", 8, 19, 0);
        let members = [("c", 0, chan), ("i", 8, interface), ("m", 24, map), ("f", 32, function)];
        info.members("struct { … }", 40, STRUCT, 0, &members)
    });
    let expected = [(".c", 0), (".i", 16), (".m", 24), (".f", 32)];
    assert_eq!(found, expected.map(|(path, offset)| member(path, offset, 0, 0)));
}

#[test]
fn members_that_no_linker_writes() {
    let found = members_of(|info, basic| {
        let members = [
            ("a", 8, basic.pointer),
            ("before", 0, basic.pointer),
            ("same", 8, basic.pointer),
            ("overlaps", 12, basic.pointer),
            ("b", 16, basic.pointer),
            ("beyond", 60, basic.pointer),
            ("far", 0xffff_ffff, basic.pointer),
            ("further", u64::MAX, basic.pointer),
            ("inside", 24, basic.session + 1),
        ];
        info.members("struct { … }", 64, STRUCT, 0, &members)
    });
    assert_eq!(found, [member(".a", 8, POINTER_AT, 0), member(".b", 16, POINTER_AT, 0)]);
    // Sizes and offsets that overflow.
    let found = members_of(|info, basic| {
        let of = info.members("main.huge", u64::MAX, STRUCT, 0, &[("p", 8, basic.pointer)]);
        let list = info.array("[1]main.huge", of, u64::MAX, 0);
        let text = info.slice("main.text", STRING, basic.bare, basic.int, 0);
        let far = info.members("main.far", 8, STRUCT, 0, &[("p", 0xffff_ffff, text)]);
        let list_of_far = info.array("[…]main.far", far, u64::MAX, 0);
        let members = [("a", 8, list), ("b", 24, list_of_far), ("c", 0xffff_ffff, list)];
        info.members("struct { … }", 64, STRUCT, 0, &members)
    });
    assert_eq!(found, [member(".a[].p", 16, POINTER_AT, 0)]);
    // The variable itself is nowhere, then.
    let mut info = Info::new(4, GO);
    let basic = basic(&mut info);
    let of = info.members("main.huge", u64::MAX, STRUCT, 0, &[("p", 8, basic.pointer)]);
    info.variable("main.x", data(), of);
    assert_eq!(read(&sections(&info.finish().0, &abbreviations(), &[])).all(), []);
}

#[test]
fn structs_that_hold_themselves() {
    // Eight levels, and then no more.
    let found = members_of(|info, basic| {
        let at = info.place();
        info.members("main.s", 800, STRUCT, 0, &[("p", 0, basic.pointer), ("s", 8, at)])
    });
    let expected: Vec<_> =
        (0..8).map(|level| member(&(".s".repeat(level) + ".p"), 8 * level as u64, POINTER_AT, 0)).collect();
    assert_eq!(found, expected);
    // Each many times: as many as are looked at.
    let found = members_of(|info, _| {
        let at = info.place();
        info.members("main.s", 800, STRUCT, 0, &[("s", 0, at); 300])
    });
    assert_eq!(found, []);
    // More members than are kept, and a name of which no path is made.
    let found = members_of(|info, basic| {
        let members: Vec<_> = (0..300).map(|index| ("p", 8 * index, basic.pointer)).collect();
        info.members("main.s", 2400, STRUCT, 0, &members)
    });
    assert_eq!(found.len(), 256);
    let long = "a".repeat(2000);
    let found = members_of(|info, basic| {
        info.members("main.s", 16, STRUCT, 0, &[(&long, 0, basic.pointer), ("p", 8, basic.pointer)])
    });
    assert_eq!(found, [member(".p", 8, POINTER_AT, 0)]);
}

/// What many variables of types of their own cost: as many bytes as `build` adds to them, of the type it says.
fn look(most: usize, build: impl FnOnce(&mut Info, &Basic) -> Vec<u32>) -> Variables {
    let (at, table) = (data(), abbreviations());
    let mut info = Info::new(4, GO);
    let basic = basic(&mut info);
    for (index, of) in build(&mut info, &basic).into_iter().enumerate() {
        info.variable("m.x", at + index as u64 % 64, of);
    }
    let (info, _) = info.finish();
    let image = Image::parse(file(&sections(&info, &table, &[])).into()).unwrap();
    cheap(most, || Variables::find(&image, &image))
}

#[test]
fn members_without_an_end() {
    // A list that the unit ends, not an entry, in which each variable's type begins somewhere else.
    let found = look(96 * MIB, |info, basic| {
        let begins: Vec<_> = (0..100_000)
            .map(|_| {
                let place = info.entry(9, "s");
                info.bytes.extend([0x7f, STRUCT]);
                info.bytes.extend([0; 8]);
                info.entry(10, "p");
                info.bytes.push(0);
                info.bytes.extend(basic.word.to_le_bytes());
                place
            })
            .collect();
        begins
    });
    assert!(found.all().len() <= 64);
    // Each variable has as many members as are kept of one.
    let found = look(96 * MIB, |info, basic| {
        let path = "a".repeat(100);
        let members: Vec<_> = (0..300).map(|index| (&*path, 8 * index, basic.pointer)).collect();
        let of = info.members("main.s", 2400, STRUCT, 0, &members);
        vec![of; 100_000]
    });
    assert_eq!((found.all().len(), found.all()[0].members.len()), (64, 256));
    // Each looks at as many as there are: structs in structs, each of which has many.
    let found = look(96 * MIB, |info, _| {
        let at = info.place();
        let of = info.members("main.s", 8, STRUCT, 0, &[("s", 0, at); 300]);
        vec![of; 100_000]
    });
    assert!(found.all().iter().all(|variable| variable.members.is_empty()));
}

#[test]
fn descriptors_come_before_members() {
    // The members of the first ones use up all steps; the last variable has its descriptor all the same.
    let (at, table) = (data(), abbreviations());
    let mut info = Info::new(4, GO);
    let basic = basic(&mut info);
    let own = info.place();
    let of = info.members("main.s", 8, STRUCT, 0, &[("s", 0, own); 300]);
    for _ in 0..50_000 {
        info.variable("m.x", at, of);
    }
    info.variable("m.y", at + 8, basic.pointer);
    let (info, _) = info.finish();
    let found = read(&sections(&info, &table, &[]));
    assert_eq!(found.all()[1], variable(at + 8, 8, "m.y", Some(POINTER_AT)));
}

#[test]
fn cut_off_or_changed_members_do_not_panic() {
    let (at, table) = (data(), abbreviations());
    let mut info = Info::new(4, GO);
    let basic = basic(&mut info);
    let pointer = atomic(&mut info, "sync/atomic.Pointer[main.session]", basic.session, &basic);
    let list = info.slice("[]main.session", SLICE, basic.bare, basic.int, 0);
    let row = info.array("[2][]main.session", list, 48, 0);
    let members = [("p", 0, pointer), ("row", 8, row), ("s", 56, basic.session)];
    let of = info.members("struct { … }", 80, STRUCT, 0, &members);
    info.variable("main.x", at, of);
    let (info, _) = info.finish();
    let look = |info: &[u8], table: &[u8]| {
        let image = Image::parse(file(&sections(info, table, &[])).into()).unwrap();
        let found = Variables::find(&image, &image);
        let members = found.all().first().map_or(&[][..], |variable| &variable.members);
        assert!(members.is_sorted_by_key(|member| member.offset));
        assert!(members.len() <= 256);
        members.len()
    };
    assert_eq!(look(&info, &table), 4);
    for (which, whole) in [&info, &table].into_iter().enumerate() {
        let look = |changed: &[u8]| if which == 0 { look(changed, &table) } else { look(&info, changed) };
        for at in 0..whole.len() {
            look(&whole[..at]);
            for value in [0, 0xff, whole[at] ^ 0x11, whole[at].wrapping_add(1)] {
                let mut changed = whole.clone();
                changed[at] = value;
                look(&changed);
            }
        }
    }
}

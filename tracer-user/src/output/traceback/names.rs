//! How a traceback writes names, and which frames of a stack that was sent with an event it would show.

use sfgi_core::{
    event::Stack,
    goruntime::{Release, tracebacks},
    names::{Site, Symbols},
};
use std::borrow::Cow;

/// Control characters would reach a terminal, or look like the end of a line; what turns the direction of
/// writing, or is not seen at all, would make a name look like another one.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(misleads) { text.replace(misleads, "?").into() } else { text.into() }
}

fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `printFuncName` of a release of Go.
pub(crate) fn printed(name: &str, release: Release) -> String {
    if name == "runtime.gopanic" {
        return "panic".to_owned();
    }
    let name = clean(name);
    if release.shortens_type_arguments() { without_type_arguments(&name, release) } else { name.into_owned() }
}

/// `funcNamePiecesForPrint`: `[...]` instead of type arguments.
fn without_type_arguments(name: &str, release: Release) -> String {
    let Some((before, rest)) = name.split_once('[') else { return name.to_owned() };
    let Some((inside, behind)) = rest.rsplit_once(']') else { return name.to_owned() };
    if !release.methods_have_type_arguments() || !inside.contains('[') {
        return format!("{before}[...]{behind}");
    }
    match between_brackets(inside) {
        Brackets::Nested => format!("{before}[...]{behind}"),
        Brackets::Two(between) => format!("{before}[...]{between}[...]{behind}"),
        Brackets::Malformed => name.to_owned(),
    }
}

enum Brackets<'a> {
    /// All within the outer pair.
    Nested,
    /// The outer bracket is closed and another one opened; this is what stands between.
    Two(&'a str),
    Malformed,
}

fn between_brackets(inside: &str) -> Brackets<'_> {
    let mut depth = 1;
    let mut closed = None;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'[' => {
                depth += 1;
                if depth == 1 {
                    let between = closed.and_then(|closed: usize| inside.get(closed + 1..at));
                    return between.map_or(Brackets::Malformed, Brackets::Two);
                }
            }
            b']' => {
                depth -= 1;
                if depth < 0 {
                    return Brackets::Malformed;
                }
                if depth == 0 {
                    closed = Some(at);
                }
            }
            _ => {}
        }
    }
    if depth == 1 && closed.is_none() { Brackets::Nested } else { Brackets::Malformed }
}

/// Inlined frames have the same address: the number of a frame within its address goes above the bits that
/// addresses use, for formats that tell frames by address.
pub(crate) const NUMBER_SHIFT: u32 = 48;

/// A frame, and the address it is known by.
pub(crate) struct Frame {
    /// The return address, with the frame's number at [`NUMBER_SHIFT`].
    pub(crate) pc: u64,
    /// Where it is.
    pub(crate) site: Site,
}

/// The frames of a return address, innermost first.
pub(crate) fn caller_frames(symbols: &mut Symbols, pc: u64) -> Vec<Frame> {
    let numbered =
        |(at, site): (usize, &Site)| Frame { pc: pc | (at as u64) << NUMBER_SHIFT, site: site.clone() };
    symbols.caller(pc).iter().enumerate().map(numbered).collect()
}

/// The frames of a stack that a traceback of this release would show, innermost first; if it would show none, all.
pub(crate) fn shown_frames(stack: Stack, symbols: &mut Symbols, release: Release) -> Vec<Frame> {
    let mut frames: Vec<Frame> = stack.pcs().iter().flat_map(|pc| caller_frames(symbols, *pc)).collect();
    let shows = |frame: &Frame| tracebacks::shows(&frame.site.func, release);
    if frames.iter().any(shows) {
        frames.retain(shows);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(name: &str, minor: u32) -> String {
        super::printed(name, Release::new(minor))
    }

    #[test]
    fn type_arguments_are_left_out() {
        let name = "main.(*list[go.shape.[]uint16]).wait.func1";
        assert_eq!(printed(name, 26), "main.(*list[...]).wait.func1");
        assert_eq!(printed(name, 27), "main.(*list[...]).wait.func1");
        // The linker of 1.20 wrote the dots itself, and what it wrote is printed.
        assert_eq!(printed("main.f[a]", 20), "main.f[a]");
        assert_eq!(printed("main.f", 27), "main.f");
    }

    #[test]
    fn generic_methods_of_generic_types() {
        let name = "main.list[int].each[go.shape.[4]int].func1";
        assert_eq!(printed(name, 27), "main.list[...].each[...].func1");
        assert_eq!(printed(name, 26), "main.list[...].func1");
        assert_eq!(printed("main.f[a[b]]c]d[e]", 27), "main.f[a[b]]c]d[e]", "malformed");
        for name in ["[", "]", "][", "[]", "[[", "a]b[c", "f[a][b", "f[]]", "f[[]"] {
            printed(name, 27);
        }
    }

    #[test]
    fn panics_are_called_so() {
        assert_eq!(printed("runtime.gopanic", 19), "panic");
        assert_eq!(printed("runtime.gopanic", 27), "panic");
    }

    #[test]
    fn names_cannot_end_a_line() {
        assert_eq!(printed("main.f\n\x1b[31mgoroutine 1", 20), "main.f??[31mgoroutine 1");
        assert_eq!(clean("/src/ä.go"), "/src/ä.go");
        assert_eq!(clean("main.\u{202e}og.niam\u{200b}"), "main.?og.niam?");
    }
}

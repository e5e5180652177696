//! Names as a traceback writes them, and the frames that it would show of a stack which came with an event.

use sfgi_core::{
    event::Stack,
    goruntime::{Release, tracebacks},
    names::{Site, Symbols},
};
use std::borrow::Cow;

/// Replaces what may mislead. Control characters would reach the terminal or look like the end of a line; invisible
/// characters and those that turn the direction of writing make one name look like another.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains(misleads) { text.replace(misleads, "?").into() } else { text.into() }
}

fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A function's name as `printFuncName` of that release prints it.
pub(crate) fn printed(name: &str, release: Release) -> String {
    if name == "runtime.gopanic" {
        return "panic".to_owned();
    }
    let name = clean(name);
    if release.shortens_type_arguments() { without_type_arguments(&name, release) } else { name.into_owned() }
}

/// Puts `[...]` in place of type arguments, as `funcNamePiecesForPrint` does.
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
    /// All brackets are within the outer pair.
    Nested,
    /// There are two pairs; this is the text between them.
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

/// Formats that know a frame by its address need one for each inlined frame, too: the frame's number goes above the 48
/// bits that user addresses have.
pub(crate) const NUMBER_SHIFT: u32 = 48;

/// A frame with an address of its own.
pub(crate) struct Frame {
    /// The return address, with the frame's number at [`NUMBER_SHIFT`].
    pub(crate) pc: u64,
    pub(crate) site: Site,
}

/// The frames at a return address, innermost first.
pub(crate) fn caller_frames(symbols: &mut Symbols, pc: u64) -> Vec<Frame> {
    let numbered =
        |(at, site): (usize, &Site)| Frame { pc: pc | (at as u64) << NUMBER_SHIFT, site: site.clone() };
    symbols.caller(pc).iter().enumerate().map(numbered).collect()
}

/// The frames of a stack that a traceback of this release shows, innermost first; all of them if it shows none.
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

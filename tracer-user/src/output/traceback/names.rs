//! How a traceback writes names.

use sfgi_core::goruntime::Release;
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
